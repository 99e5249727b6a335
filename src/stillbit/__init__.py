"""Train 2-bit to 4-bit networks whose weights hold still: the public names, grouped by what they are for."""

__version__ = "0.2.0.dev0"

# Train: from a float model to a quantized one.
from stillbit.errors import StillbitError as StillbitError
from stillbit.numerics.fake_quantize import fake_quantize as fake_quantize
from stillbit.numerics.grid import Grid as Grid
from stillbit.numerics.ranges import RangeConfig as RangeConfig
from stillbit.prepare import Coverage as Coverage
from stillbit.prepare import Override as Override
from stillbit.prepare import QuantConfig as QuantConfig
from stillbit.prepare import calibrate as calibrate
from stillbit.prepare import parameter_groups as parameter_groups
from stillbit.prepare import prepare as prepare
from stillbit.prepare import register_layer as register_layer
from stillbit.prepare import scales as scales
from stillbit.prepare import weights as weights
from stillbit.quantizers import LSQ as LSQ
from stillbit.quantizers import FixedRange as FixedRange
from stillbit.quantizers import Quantizer as Quantizer
from stillbit.quantizers import StatsQ as StatsQ
from stillbit.quantizers import weight_sites as weight_sites
from stillbit.training.optim import JointOptimizer as JointOptimizer

# isort: split
# Treat: what is done about oscillation, and when.
from stillbit.oscillation import Annealing as Annealing
from stillbit.oscillation import Dampening as Dampening
from stillbit.oscillation import Freezing as Freezing
from stillbit.oscillation import Method as Method
from stillbit.oscillation import Tracking as Tracking
from stillbit.prepare import reestimate_batchnorm as reestimate_batchnorm
from stillbit.schedules import Constant as Constant
from stillbit.schedules import Cosine as Cosine
from stillbit.schedules import Linear as Linear

# isort: split
# Deploy: from a quantized model to a file.
from stillbit.export import export_onnx as export_onnx
from stillbit.export import export_packed as export_packed
from stillbit.export import export_program as export_program
from stillbit.export import inspect as inspect
from stillbit.export import load_packed as load_packed
from stillbit.export import verify as verify
