"""Weights in the graph: integer codes, and the scales that batch norm and learned shifts leave them with."""

from dataclasses import dataclass, replace

import numpy as np

from stillbit.export.onnx.builder import Array, Builder
from stillbit.export.onnx.containers import Arrangement, Container, store_codes
from stillbit.export.onnx.requantization import Requantization

_INT32 = 2**31 - 1
_LARGEST = 127  # of int8
_PAIR = 2**15 - 1  # kernels without VNNI add two products in 16 bits, saturating
_SMALLEST_SCALE = 1e-30


@dataclass(frozen=True)
class Weight:
    """A weight's codes and grid, with output channels along axis 0.

    Attributes:
        codes: int8 or uint8, (outputs, ...).
        scale: One an output, float64; negative where a batch norm's gamma is.
        zero_point: One an output, int32, or None.
        shift: 0 or 1/2, in units of the scale.
        bits: Width of the codes.
        label: Name of the quantizer.
    """

    codes: Array
    scale: Array
    zero_point: Array | None
    shift: float
    bits: int
    label: str

    def values(self) -> Array:
        """Return the values of the codes, float64."""
        axes = (-1, *(1,) * (self.codes.ndim - 1))
        offset = 0 if self.zero_point is None else self.zero_point.reshape(axes)
        return (self.codes.astype(np.float64) - offset + self.shift) * self.scale.reshape(axes)

    def scaled(self, factor: Array) -> "Weight":
        """Return the weight whose outputs are multiplied by a factor each."""
        return replace(self, scale=self.scale * factor)


@dataclass(frozen=True)
class StoredWeight:
    """A weight in the graph: `scale * (tensor - offset)`.

    Attributes:
        name: An int8 tensor, in the shape of the codes.
        stored: The tensor that the file holds, of which it is decoded.
        scale: One an output, float32, never 0.
        offset: Zero point of the tensor, one per output or one for all.
        arrangement: How the tensor follows from the codes.
        bias: One an output, int32, in units of the accumulator; None: none.
        exact: Whether a kernel that gives codes gives the exact ones; true of one that gives floats.
    """

    name: str
    stored: str
    scale: Array
    offset: Array
    arrangement: Arrangement
    bias: Array | None = None
    exact: bool = True

    @property
    def one_offset(self) -> bool:
        """Whether one zero point serves all outputs; integer kernels fail at several (ONNX Runtime before 1.31)."""
        return bool((self.offset == self.offset[0]).all())


@dataclass(frozen=True)
class Accumulation:
    """What stands next to a weight in its accumulator.

    Attributes:
        bias: One an output, float64.
        input_scale: Scale of the input's codes as the kernel gets them.
        largest_input: Largest of these.
        times: What the file multiplies the input's codes by before.
        input_codes: Smallest and largest code of the input, its zero point taken off; 0 lies between them.
        output_scale: Scale of the codes that the kernel gives; None: it gives floats, or the bias is all that is known.
        output_codes: Smallest and largest of these, their zero point taken off.
    """

    bias: Array
    input_scale: float
    largest_input: int
    times: int = 1
    input_codes: tuple[int, int] = (0, 0)
    output_scale: float | None = None
    output_codes: tuple[int, int] = (0, 0)


def store_weight(builder: Builder, weight: Weight, container: Container, arranged: StoredWeight) -> StoredWeight:
    """Store a weight as it was arranged."""
    kind = container.choose(weight.codes.size, weight.bits)
    name, stored = store_codes(builder, weight.codes, weight.bits, kind, weight.label, arranged.arrangement)
    return replace(arranged, name=name, stored=stored)


def arrange(weight: Weight, beside: Accumulation | None = None) -> StoredWeight | None:
    """Return how to store a weight so that integer kernels take it; None where no int8 tensor with one zero point holds its grid.

    A kernel adds the bias in units of the accumulator, which are coarse where few narrow codes are summed: half a unit is then a good
    part of a step of the output. So each output channel's codes are multiplied by the whole number, and its scale divided by it, with
    which the bias is met best; the values stay as they are. All products stay below the saturation of 16-bit pair sums. Where the kernel
    gives codes, factor, bias and scale (by a thousandth) are those with which it gives the exact ones (requantization.py).
    """
    outputs, factor = weight.codes.shape[0], 2 if weight.shift else 1
    term: Array = np.full(1, int(weight.shift * 2), np.int64)
    offset: Array = np.zeros(1, np.int64)
    if weight.zero_point is not None:
        term = term - weight.zero_point.astype(np.int64) * factor
        if weight.bits == 8:  # codes less zero point would leave int8
            offset, term = weight.zero_point.astype(np.int64) - 128, np.full(1, -128, np.int64)
    arrangement = Arrangement(factor, term, np.ones(1, np.int64))
    largest = np.abs(arrangement.of(weight.codes)).reshape(outputs, -1).max(1)
    if largest.max(initial=0) > _LARGEST + 1:
        return None
    scale, bias, exact = (weight.scale / factor).astype(np.float32), None, True
    if beside is not None:
        limits = np.full(outputs, _LARGEST) if offset.any() else largest
        scale, refined, bias = _with_bias(weight.scale / factor, beside, limits)
        if beside.output_scale is not None:
            whole = (arrangement.of(weight.codes) - offset.reshape(-1, *(1,) * (weight.codes.ndim - 1))).reshape(outputs, -1)
            exact, (scale, refined, bias) = _with_exact_codes(weight.scale / factor, beside, limits, whole, (scale, refined, bias))
        arrangement = Arrangement(factor, term, refined)
    return StoredWeight("", "", scale, offset, arrangement, bias, exact)


def _limits(beside: Accumulation, largest: Array) -> Array:
    """Return the largest factor on codes whose pairs of products do not saturate."""
    bound = min(_LARGEST, _PAIR // (2 * max(beside.largest_input, 1)))
    limits: Array = np.maximum(bound // np.maximum(largest, 1), 1)
    return limits


def _with_exact_codes(
    scale: Array, beside: Accumulation, largest: Array, codes: Array, given: tuple[Array, Array, Array]
) -> tuple[bool, tuple[Array, Array, Array]]:
    """Return what `_with_bias` gives, which is `given`, with which the kernel's codes are exact, and whether they are."""
    low, high = beside.input_codes
    assert beside.output_scale is not None
    slope = beside.input_scale * beside.times * np.where(scale == 0, given[0] * given[1], scale) / beside.output_scale
    least, most = (sum(pick(codes * code, 0).sum(1) for code in (low, high)) for pick in (np.minimum, np.maximum))
    needed = Requantization(slope, beside.bias / beside.output_scale, least, most, *beside.output_codes)
    distance, factors, bias, multipliers = needed.fit(_limits(beside, largest), beside.times)
    stored = (multipliers * beside.output_scale / beside.input_scale).astype(np.float32)
    fits = np.isfinite(distance) & (np.abs(stored) > _SMALLEST_SCALE)
    found = [np.where(fits, new, old).astype(old.dtype) for new, old in zip((stored, factors, bias), given, strict=True)]
    return bool((distance >= 0).all()), (found[0], found[1], found[2])


def _with_bias(scale: Array, beside: Accumulation, largest: Array) -> tuple[Array, Array, Array]:
    """Return scales, the factors on codes, and the bias in units of the accumulator."""
    limits = _limits(beside, largest)
    # A channel that batch norm has all but switched off: its bias would leave int32. The smallest scale that holds the bias changes
    # what the channel gives by less than a thousandth of that.
    smallest = np.maximum(np.abs(beside.bias) / (beside.input_scale * _INT32 / 2), _SMALLEST_SCALE)
    scale = np.where(np.abs(scale) < smallest, np.where(scale < 0, -smallest, smallest), scale)
    best: Array = np.ones_like(limits)
    least: Array = np.full(len(scale), np.inf)
    for factor in range(1, int(limits.max(initial=1)) + 1):
        units = beside.bias / (beside.input_scale * scale) * factor
        error = np.abs(units - np.rint(units)) / factor
        better = (factor <= limits) & (error < least) & (np.abs(units) <= _INT32 / 2)
        best, least = np.where(better, factor, best), np.where(better, error, least)
    stored = (scale / best).astype(np.float32)
    units = beside.bias / (np.float32(beside.input_scale) * stored).astype(np.float64)
    return stored, best, np.rint(units).astype(np.int32)
