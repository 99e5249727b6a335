"""What a tensor of a program is in the ONNX graph: floats, or codes with the grid that gives them meaning."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stillbit.export.onnx.builder import Array, Builder

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class CodeGrid:
    """How codes in an ONNX file become values: `scale * (code - offset) + shift`.

    Attributes:
        scale: float32, with as many axes as the tensor, 1 along those where it does not vary; the batch is such an axis.
        offset: Zero point as the file has it; int32, likewise.
        low: Smallest code, as the file has it.
        high: Largest code.
        shift: Learned shift behind the quantizer, float32, likewise; None: none.
    """

    scale: Array
    offset: Array
    low: int
    high: int
    shift: Array | None = None

    @property
    def uniform(self) -> bool:
        """Whether one scale and one zero point serve the whole tensor."""
        return self.scale.size == 1 and self.offset.size == 1

    def constant_along(self, axis: int) -> bool:
        """Whether scale and zero point are the same along an axis."""
        return self.scale.shape[axis] == 1 and self.offset.size == 1

    def moved(self, before: Shape, rank: int, move: Callable[[Array], Array]) -> "CodeGrid":
        """Return the grid of the tensor after its elements have moved.

        Args:
            before: Shape of the tensor.
            rank: Number of its axes then.
            move: The movement, for a batch of one; asked only of what varies.

        Raises:
            ValueError: If what varies cannot be followed for a batch of one.
        """

        def one(part: Array) -> Array:
            if part.size == 1:
                return part.reshape((1,) * rank)
            return _narrowed(move(np.broadcast_to(part, _single(before))))

        return replace(self, scale=one(self.scale), offset=one(self.offset), shift=None if self.shift is None else one(self.shift))


@dataclass(frozen=True)
class Value:
    """A tensor in the graph.

    Attributes:
        name: Its name: of float32, or of uint8 codes.
        shape: Sizes, None where one follows from the batch's.
        grid: What codes mean; None: it holds floats.
        pads: Zeros that convolutions have to put around it: top, left, bottom, right. Nothing but these reads such a tensor.
        quantizer: Label of the quantizer that made the codes.
    """

    name: str
    shape: Shape
    grid: CodeGrid | None = None
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    quantizer: str | None = None


def as_float(builder: Builder, value: Value, where: str) -> str:
    """Return the name of the tensor's values, without padding."""
    return value.name if value.grid is None else _shifted(builder, dequantize(builder, value.name, value.grid, where), value.grid, where)


def as_unfused_float(builder: Builder, value: Value, where: str) -> str:
    """Return the name of the values of codes by operations that a runtime does not take for a dequantization to fuse; without padding."""
    assert value.grid is not None
    return _shifted(builder, _by_hand(builder, value.name, value.grid, where), value.grid, where)


def _shifted(builder: Builder, name: str, grid: CodeGrid, where: str) -> str:
    return name if grid.shift is None else builder.add("Add", [name, builder.constant(grid.shift, "shift")], f"{where}/shift")


def dequantize(builder: Builder, codes: str, grid: CodeGrid, where: str) -> str:
    """Return the name of `scale * (code - offset)`: one DequantizeLinear where ONNX has a form of it."""
    axes = [axis for axis, size in enumerate(grid.scale.shape) if size > 1]
    if grid.offset.size == 1 and len(axes) <= 1:
        scale = grid.scale.reshape(-1) if axes else grid.scale.reshape(())
        offset = np.full(scale.shape, grid.offset.reshape(()), np.uint8)
        inputs = [codes, builder.constant(scale, "scale"), builder.constant(offset, "zero_point")]
        along: dict[str, Any] = {"axis": axes[0]} if axes else {}
        return builder.add("DequantizeLinear", inputs, f"{where}/dequantize", **along)
    return _by_hand(builder, codes, grid, where)


def _by_hand(builder: Builder, codes: str, grid: CodeGrid, where: str) -> str:
    whole = builder.add("Cast", [codes], f"{where}/cast", to=1)
    centred = builder.add("Sub", [whole, builder.constant(grid.offset.astype(np.float32), "zero_point")], f"{where}/centre")
    return builder.add("Mul", [centred, builder.constant(grid.scale, "scale")], f"{where}/scale")


def _single(shape: Shape) -> tuple[int, ...]:
    """The shape for a batch of one. A size that follows from the batch's along another axis than the first is the caller's to know."""
    return tuple(1 if size is None else size for size in shape)


def _narrowed(array: Array) -> Array:
    """Cut axes along which nothing changes down to 1."""
    for axis in range(array.ndim):
        first = np.take(array, [0], axis)
        if array.shape[axis] > 1 and bool((array == first).all()):
            array = first
    return np.ascontiguousarray(array)


def constant_array(tensor: Any) -> Array:
    """Return a tensor of torch as an array."""
    array: Array = tensor.detach().cpu().numpy()
    return array
