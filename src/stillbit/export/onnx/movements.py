"""Operations that only move elements: codes stay codes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import fx

from stillbit.export.onnx.builder import Array
from stillbit.export.onnx.lowering import Lowering
from stillbit.export.onnx.value import Shape, Value, as_float
from stillbit.export.program import arguments

Emit = Callable[[str], str]

_FAR = 2**31 - 1  # behind the end of every axis


def move(lowering: Lowering, node: fx.Node, emit: Emit, on_array: Callable[[Array], Array], *, shape: Shape | None = None) -> Value:
    """Move the elements of a node's first argument."""
    source = lowering.value(node.args[0])
    result: Shape = node.meta["shape"] if shape is None else shape
    if source.grid is None:
        return Value(emit(source.name), result)
    try:
        grid = source.grid.moved(source.shape, len(result), on_array)
    except ValueError:  # scales that cannot be followed, where the batch's axis is cut
        return Value(emit(as_float(lowering.builder, source, lowering.where(node))), result)
    return Value(emit(source.name), result, grid, quantizer=source.quantizer)


def view(lowering: Lowering, node: fx.Node) -> Value:
    """Lower view, reshape, flatten, squeeze and unsqueeze: a Reshape to sizes that are known except the batch's."""
    shape: Shape = node.meta["shape"]
    sizes = np.array([-1 if size is None else size for size in shape], np.int64)
    assert (sizes == -1).sum() <= 1, "one size follows from the batch's"

    def emit(name: str) -> str:
        return lowering.builder.add("Reshape", [name, lowering.builder.constant(sizes, "shape")], lowering.where(node))

    single = tuple(1 if size is None else size for size in shape)
    return move(lowering, node, emit, lambda array: array.reshape(single))


def unchanged(lowering: Lowering, node: fx.Node) -> Value:
    """Lower what changes nothing in a graph: contiguous, clone."""
    return lowering.value(node.args[0])


def permute(lowering: Lowering, node: fx.Node) -> Value:
    """Lower permute, transpose, mT and t: a Transpose."""
    order, builder = axes_of(node), lowering.builder
    return move(
        lowering, node, lambda name: builder.add("Transpose", [name], lowering.where(node), perm=order), lambda a: a.transpose(order)
    )


def axes_of(node: fx.Node) -> list[int]:
    """Return the axes of its argument in the order in which permute, transpose, mT and t have them."""
    rank = len(node.meta["shape"])
    given, order = arguments(node), list(range(rank))
    if "dims" in given:
        return [axis % rank for axis in given["dims"]]
    first, second = given.get("dim0", -2), given.get("dim1", -1)  # mT and t turn the last two
    order[first], order[second] = order[second], order[first]
    return order


def slice_(lowering: Lowering, node: fx.Node) -> Value:
    """Lower a slice along one axis."""
    given = arguments(node)
    end = _FAR if given["end"] is None else given["end"]
    return _cut(lowering, node, given["dim"], given["start"] or 0, end, given["step"])


def select(lowering: Lowering, node: fx.Node) -> Value:
    """Lower the choice of one place along an axis: a Gather by a number."""
    given = arguments(node)
    axis, index = given["dim"], given["index"]
    rank = len(node.meta["shape"]) + 1

    def emit(name: str) -> str:
        return _chosen(lowering, name, index, axis % rank, lowering.where(node))

    return move(lowering, node, emit, lambda array: np.take(array, index, axis))


def split(lowering: Lowering, node: fx.Node) -> list[Value]:
    """Lower chunk, split and unbind: one slice or choice for each part that something reads."""
    given, source = arguments(node), lowering.value(node.args[0])
    axis = given["dim"] % len(source.shape)
    parts: dict[Any, fx.Node] = {user.args[1]: user for user in node.users}
    size = source.shape[axis]
    assert size is not None
    if "chunks" not in given and not any("split" in name for name in given):  # unbind
        return [_gathered(lowering, node, user, axis, index) for index, user in sorted(_filled(parts, size).items())]
    widths = given.get("split_sizes")
    if widths is None:
        width = -(-size // given["chunks"]) if "chunks" in given else given["split_size"]
        widths = [min(width, size - start) for start in range(0, size, width)]
    starts = np.cumsum([0, *widths]).tolist()
    return [
        _cut(lowering, node, axis, starts[index], starts[index + 1], 1, shape=(*source.shape[:axis], width, *source.shape[axis + 1 :]))
        for index, width in enumerate(widths)
    ]


def getitem(lowering: Lowering, node: fx.Node) -> Value:
    """Lower the choice of one of several results."""
    parts, index = lowering.values[node.args[0]], node.args[1]  # type: ignore[index]
    found: Value = parts[index]
    return found


def pad(lowering: Lowering, node: fx.Node) -> Value:
    """Lower zero padding of images: left to the convolution behind it."""
    source = lowering.value(node.args[0])
    given = arguments(node)
    sizes, mode, fill = list(given["pad"]), given["mode"], given["value"]
    readers = {str(user.target) for user in node.users}
    image = len(source.shape) == 4 and len(sizes) in (2, 4) and min(sizes) >= 0
    if mode == "constant" and not fill and image and readers <= {"aten.conv2d.default", "aten.conv2d.padding"}:
        left, right, top, bottom = [*sizes, 0, 0][:4]
        return replace(source, shape=node.meta["shape"], pads=(top, left, bottom, right))
    builder, where = lowering.builder, lowering.where(node)
    rank = len(source.shape)
    before, after = [0] * rank, [0] * rank
    for place in range(len(sizes) // 2):
        before[rank - 1 - place], after[rank - 1 - place] = sizes[2 * place : 2 * place + 2]
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    inputs = [as_float(builder, source, where), builder.constant(np.array(before + after, np.int64), "pads")]
    if mode == "constant" and fill:
        inputs.append(builder.constant(float(fill), "fill"))
    return Value(builder.add("Pad", inputs, where, mode=modes[mode]), node.meta["shape"])


def roll(lowering: Lowering, node: fx.Node) -> Value:
    """Lower a cyclic shift: two slices and their concatenation an axis."""
    given = arguments(node)
    shifts, axes = list(given["shifts"]), list(given["dims"])
    shape: Shape = node.meta["shape"]
    builder, where = lowering.builder, lowering.where(node)

    def emit(name: str) -> str:
        for shift, axis in zip(shifts, axes, strict=True):
            size = shape[axis]
            assert size is not None
            cut = -shift % size
            halves = [_sliced(lowering, name, axis, start, end, 1, where) for start, end in ((cut, _FAR), (0, cut))]
            name = builder.add("Concat", halves, f"{where}/roll", axis=axis) if cut else name
        return name

    return move(lowering, node, emit, lambda array: np.roll(array, shifts, axes))


def max_pool2d(lowering: Lowering, node: fx.Node) -> Value:
    """Lower max pooling, of codes too: the largest code has the largest value."""
    given, source = arguments(node), lowering.value(node.args[0])
    kernel = pair(given["kernel_size"])
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": pair(given["stride"] or kernel), "pads": pair(given["padding"]) * 2}
    attributes |= {"dilations": pair(given["dilation"]), "ceil_mode": int(given["ceil_mode"])}
    where = lowering.where(node)
    if source.grid is None or not source.grid.uniform:
        name = lowering.builder.add("MaxPool", [as_float(lowering.builder, source, where)], where, **attributes)
        return Value(name, node.meta["shape"])
    return replace(source, name=lowering.builder.add("MaxPool", [source.name], where, **attributes), shape=node.meta["shape"])


def pair(value: Any) -> list[int]:
    """Return rows and columns of what may be one number for both."""
    sizes = [value] if isinstance(value, int) else list(value)
    return [int(size) for size in (sizes * 2 if len(sizes) == 1 else sizes)]


def _filled(parts: dict[int, fx.Node], size: int) -> dict[int, fx.Node]:
    first = next(iter(parts.values()))
    return {index: parts.get(index, first) for index in range(size)}


def _gathered(lowering: Lowering, node: fx.Node, user: fx.Node, axis: int, index: int) -> Value:
    def emit(name: str) -> str:
        return _chosen(lowering, name, index, axis, lowering.where(user))

    return move(lowering, node, emit, lambda array: np.take(array, index, axis), shape=user.meta["shape"])


def _chosen(lowering: Lowering, name: str, index: int, axis: int, where: str) -> str:
    return lowering.builder.add(
        "Gather", [name, lowering.builder.constant(np.array(index, np.int64), "index")], where, named=True, axis=axis
    )


def _cut(lowering: Lowering, node: fx.Node, axis: int, start: Any, end: Any, step: Any, *, shape: Shape | None = None) -> Value:
    rank = len(node.meta.get("shape") or shape or ())
    axis %= rank

    def emit(name: str) -> str:
        return _sliced(lowering, name, axis, start, end, step, lowering.where(node))

    place = tuple(slice(start, min(end, _FAR), step) if one == axis else slice(None) for one in range(rank))
    return move(lowering, node, emit, lambda array: array[place], shape=shape)


def _sliced(lowering: Lowering, name: str, axis: int, start: int, end: int, step: int, where: str) -> str:
    bounds = [lowering.builder.constant(np.array([one], np.int64), "bound") for one in (start, min(end, _FAR), axis, step)]
    return lowering.builder.add("Slice", [name, *bounds], where, named=True)
