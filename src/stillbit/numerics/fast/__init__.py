"""The one door of the fast path: what makes kernels fast, and nothing of what they compute.

No number depends on anything in here: kernels.py is the arithmetic, and each trick can be switched off (thresholds.py). Nobody outside
imports from the files of this folder.
"""

from stillbit.numerics.fast.compiling import num_compiled as num_compiled
from stillbit.numerics.fast.compiling import try_compiled as try_compiled
from stillbit.numerics.fast.passes import Part as Part
from stillbit.numerics.fast.passes import part as part
from stillbit.numerics.fast.passes import run_pass as run_pass
from stillbit.numerics.fast.recompute import Limits as Limits
from stillbit.numerics.fast.recompute import Options as Options
from stillbit.numerics.fast.recompute import canonical as canonical
from stillbit.numerics.fast.recompute import gelu_to_repeat as gelu_to_repeat
from stillbit.numerics.fast.recompute import quantized_values as quantized_values
from stillbit.numerics.fast.recompute import saved_tensors as saved_tensors
from stillbit.numerics.fast.recompute import values_recomputed as values_recomputed
from stillbit.numerics.fast.running import run as run
from stillbit.numerics.fast.running import run_into as run_into
from stillbit.numerics.fast.thresholds import NEVER as NEVER
from stillbit.numerics.fast.thresholds import settings as settings
from stillbit.numerics.fast.thresholds import tuned as tuned
