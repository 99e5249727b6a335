"""What the toy compares: for one weight every method and rounding estimator, for a row of weights the quantizers that they share."""

from collections.abc import Callable

from torch import nn

from stillbit.numerics.rounding import EWGS, Rounding, StackedSigmoid, Stochastic
from stillbit.oscillation import Annealing, Dampening, Freezing
from stillbit.quantizers import LSQ, FixedRange, Quantizer, StatsQ
from stillbit.schedules import Constant, Cosine
from stillbit.toy.regression import Treatment, from_step

Setup = tuple[Callable[[], Quantizer], Treatment | None]

BITS = 3  # -4 to 3
TREATED_FROM = 60  # steps; what comes before shows what there is to treat
ROW_STEPS = 400


def whole_numbers(rounding: Rounding | None = None) -> FixedRange:
    """Return a quantizer whose grid points are whole numbers; without a rounding estimator the straight-through one."""
    quantizer = FixedRange(BITS, rounding=rounding)
    quantizer.set_range(-3.0, 3.0)
    return quantizer


def learned_scale() -> LSQ:
    """Return a quantizer whose grid points are whole numbers at the start."""
    quantizer = LSQ(BITS)
    quantizer.set_range(-3.0, 3.0)
    return quantizer


def dampened(model: nn.Module) -> Dampening:
    """Treat by a weight that rises from 0."""
    return Dampening(model, weight=from_step(TREATED_FROM, Cosine(0.0, 0.4, 2.0 * TREATED_FROM, begin=0.5)))


def frozen(model: nn.Module) -> Freezing:
    """Treat by a threshold that the oscillations of one weight exceed."""
    return Freezing(model, threshold=from_step(TREATED_FROM, Constant(0.3)), ema_momentum=0.05)


def annealed(model: nn.Module) -> Annealing:
    """Let the weight move only within 0.005 grid steps of the boundary."""
    return Annealing(model, begin=TREATED_FROM)


METHODS: dict[str, Setup] = {
    "straight-through": (whole_numbers, None),
    "EWGS": (lambda: whole_numbers(EWGS()), None),
    "stacked sigmoid": (lambda: whole_numbers(StackedSigmoid(sharpness=5.0)), None),
    "stochastic rounding": (lambda: whole_numbers(Stochastic()), None),
    "dampening": (whole_numbers, dampened),
    "freezing": (whole_numbers, frozen),
    "annealing": (whole_numbers, annealed),
    "learned scale (LSQ)": (learned_scale, None),
}


def row_learned_scale() -> LSQ:
    """Return a quantizer whose scale sums the gradients of a row, and divides them by its length."""
    return LSQ(BITS, scale_gradient="lsq")


def row_dampened(model: nn.Module) -> Dampening:
    """Treat a row as a recipe does."""
    return Dampening(model, weight=Cosine(0.0, 0.6, ROW_STEPS, begin=0.25), aggregation="sum")


def row_frozen(model: nn.Module) -> Freezing:
    """Treat a row as a recipe does."""
    return Freezing(model, threshold=Cosine(0.3, 0.02, ROW_STEPS, begin=0.25, before=0.0))


def row_annealed(model: nn.Module) -> Annealing:
    """Treat a row in the second half of training."""
    return Annealing(model, begin=ROW_STEPS // 2)


ROWS: dict[str, Setup] = {
    "fixed grid": (lambda: FixedRange(BITS), None),
    "LSQ": (row_learned_scale, None),
    "StatsQ": (lambda: StatsQ(BITS), None),
    "LSQ, dampening": (row_learned_scale, row_dampened),
    "LSQ, freezing": (row_learned_scale, row_frozen),
    "StatsQ, annealing": (lambda: StatsQ(BITS), row_annealed),
    "StatsQ, freezing": (lambda: StatsQ(BITS), row_frozen),
}
