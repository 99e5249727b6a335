"""Pure tensor arithmetic of uniform grids."""

from stillbit.numerics.fake_quantize import fake_quantize as fake_quantize
from stillbit.numerics.grid import Grid as Grid
from stillbit.numerics.grid import grid_limits as grid_limits
from stillbit.numerics.rounding import EWGS as EWGS
from stillbit.numerics.rounding import ROUNDINGS as ROUNDINGS
from stillbit.numerics.rounding import STE as STE
from stillbit.numerics.rounding import Rounding as Rounding
from stillbit.numerics.rounding import StackedSigmoid as StackedSigmoid
from stillbit.numerics.rounding import Stochastic as Stochastic
