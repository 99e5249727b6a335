"""From a float model to a quantized one: prepare, calibrate, re-estimate."""

from stillbit.prepare.batchnorm import reestimate_batchnorm as reestimate_batchnorm
from stillbit.prepare.calibrate import calibrate as calibrate
from stillbit.prepare.coverage import Coverage as Coverage
from stillbit.prepare.layers import register_layer as register_layer
from stillbit.prepare.parameters import parameter_groups as parameter_groups
from stillbit.prepare.parameters import scales as scales
from stillbit.prepare.parameters import undecayed as undecayed
from stillbit.prepare.parameters import weights as weights
from stillbit.prepare.policy import Override as Override
from stillbit.prepare.policy import QuantConfig as QuantConfig
from stillbit.prepare.swap import prepare as prepare
