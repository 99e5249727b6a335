"""Operations on floats, and quantizers."""

from dataclasses import replace
from typing import Any

import numpy as np
from torch import fx

from stillbit.errors import ExportError
from stillbit.export.onnx.builder import Array
from stillbit.export.onnx.lowering import Lowering, quantize, record_codes
from stillbit.export.onnx.movements import pair
from stillbit.export.onnx.tails import tail_of
from stillbit.export.onnx.value import Value, as_float
from stillbit.export.program import arguments

_CHANNELS_LAST, _CHANNELS_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def fake_quantize(lowering: Lowering, node: fx.Node) -> Value:
    """Lower an activation quantizer: QuantizeLinear and Clip. Codes become values again where something computes with them."""
    source, label = lowering.value(node.args[0]), str(node.args[7])
    rank = len(node.meta["shape"])
    if source.grid is not None and source.grid.shift is None and source.quantizer == label:
        if node not in lowering.recorded:  # behind a max pool, a tied quantizer; else a Gemm gave its codes at once
            record_codes(lowering, source.name, node)
        return source
    name, grid = quantize(lowering, as_float(lowering.builder, source, lowering.where(node)), rank, node)
    return Value(name, node.meta["shape"], grid, quantizer=label)


def dequantize(lowering: Lowering, node: fx.Node) -> Value | None:
    """Lower a weight: the layer that reads it stores it."""
    if all(str(user.target) in _MULTIPLYING and list(user.args)[1] is node for user in node.users):
        return None
    weight = lowering.weight(node)
    if weight is None:
        raise ExportError(f"quantizer {node.args[5]}: its weight has scales along two axes; allowed: one an output channel")
    return Value(lowering.builder.constant(weight.values().astype(np.float32), weight.label), node.meta["shape"])


_MULTIPLYING = ("aten.conv2d.default", "aten.conv2d.padding", "aten.linear.default")


def unary(operation: str, **attributes: Any) -> Any:
    """Make the lowering of an operation with one operand."""

    def lower(lowering: Lowering, node: fx.Node) -> Value:
        return Value(
            lowering.builder.add(operation, [lowering.float_of(node.args[0])], lowering.where(node), **attributes), node.meta["shape"]
        )

    return lower


def binary(operation: str) -> Any:
    """Make the lowering of an operation with two operands, of which one may be a number."""

    def lower(lowering: Lowering, node: fx.Node) -> Value:
        _refuse_alpha(node)
        where = lowering.where(node)
        operands = [lowering.float_of(one, f"{where}/{side}") for one, side in zip(node.args[:2], ("left", "right"), strict=True)]
        return Value(lowering.builder.add(operation, operands, where), node.meta["shape"])

    return lower


def _refuse_alpha(node: fx.Node) -> None:
    if (alpha := arguments(node).get("alpha", 1)) != 1:
        raise ExportError(f"layer {node.meta['layer']}: a sum with alpha {alpha} has no ONNX form here; allowed: 1")


def add(lowering: Lowering, node: fx.Node) -> Value:
    """Lower a sum; a constant added to codes is kept with their grid, as a learned shift, for the product that reads them."""
    left, right = node.args[:2]
    if lowering.is_constant(right) and isinstance(left, fx.Node) and node.kwargs.get("alpha", 1) == 1:
        source = lowering.value(left)
        if source.grid is not None and tuple(node.meta["shape"]) == tuple(source.shape):
            shift = lowering.array(right).astype(np.float32)
            shift = shift.reshape((1,) * (len(source.shape) - shift.ndim) + shift.shape)
            shift = shift if source.grid.shift is None else shift + source.grid.shift
            return replace(source, grid=replace(source.grid, shift=shift))
    _refuse_alpha(node)
    where = lowering.where(node)
    operands = [_summand(lowering, node, one, f"{where}/{side}") for one, side in ((left, "left"), (right, "right"))]
    return Value(lowering.builder.add("Add", operands, where), node.meta["shape"])


def _summand(lowering: Lowering, node: fx.Node, operand: Any, where: str) -> str:
    """Return the values of what is summed. Codes that nothing else reads become values between two transposes, which ONNX Runtime cancels.

    OpenVINO (2026.4.1) would make one kernel of a convolution, its quantizer, the sum and the quantizer behind that, and leave out the
    rounding of the first quantizer.
    """
    source = lowering.value(operand) if isinstance(operand, fx.Node) else None
    if source is None or source.grid is None or len(source.shape) != 4 or list(operand.users) != [node]:
        return lowering.float_of(operand, where)
    grid = source.grid.moved(source.shape, 4, lambda array: array.transpose(_CHANNELS_LAST))
    last = lowering.builder.add("Transpose", [source.name], f"{where}/channels_last", perm=_CHANNELS_LAST)
    values = as_float(lowering.builder, replace(source, name=last, grid=grid), where)
    return lowering.builder.add("Transpose", [values], f"{where}/channels_first", perm=_CHANNELS_FIRST)


def hardtanh(lowering: Lowering, node: fx.Node) -> Value:
    """Lower hardtanh, ReLU6 among them: a Clip."""
    given = arguments(node)
    limits = [lowering.builder.constant(float(given[limit]), "limit") for limit in ("min_val", "max_val")]
    return Value(lowering.builder.add("Clip", [lowering.float_of(node.args[0]), *limits], lowering.where(node)), node.meta["shape"])


def clamp(lowering: Lowering, node: fx.Node) -> Value:
    """Lower clamp, clamp_min and clamp_max by numbers: a Clip."""
    given = arguments(node)
    limits = [given.get(name) for name in ("min", "max")]
    names = ["" if limit is None else lowering.builder.constant(float(limit), "limit") for limit in limits]
    return Value(lowering.builder.add("Clip", [lowering.float_of(node.args[0]), *names], lowering.where(node)), node.meta["shape"])


def relu6(lowering: Lowering, node: fx.Node) -> Value:
    """Lower the function ReLU6: a Clip, as the module's hardtanh is."""
    limits = [lowering.builder.constant(limit, "limit") for limit in (0.0, 6.0)]
    return Value(lowering.builder.add("Clip", [lowering.float_of(node.args[0]), *limits], lowering.where(node)), node.meta["shape"])


def reversed_sub(lowering: Lowering, node: fx.Node) -> Value:
    """Lower a number less a tensor."""
    given, where = arguments(node), lowering.where(node)
    _refuse_alpha(node)
    operands = [lowering.float_of(given["other"], f"{where}/left"), lowering.float_of(given["self"], f"{where}/right")]
    return Value(lowering.builder.add("Sub", operands, where), node.meta["shape"])


def gelu(lowering: Lowering, node: fx.Node) -> Value:
    """Lower GELU, exact or by tanh."""
    approximate = str(node.kwargs.get("approximate", "none"))
    return Value(
        lowering.builder.add("Gelu", [lowering.float_of(node.args[0])], lowering.where(node), approximate=approximate), node.meta["shape"]
    )


def silu(lowering: Lowering, node: fx.Node) -> Value:
    """Lower SiLU: x times its sigmoid."""
    source, where = lowering.float_of(node.args[0]), lowering.where(node)
    return Value(
        lowering.builder.add("Mul", [source, lowering.builder.add("Sigmoid", [source], f"{where}/sigmoid")], where), node.meta["shape"]
    )


def softmax(lowering: Lowering, node: fx.Node) -> Value:
    """Lower softmax."""
    axis = arguments(node)["dim"]
    name = lowering.builder.add("Softmax", [lowering.float_of(node.args[0])], lowering.where(node), axis=axis)
    return Value(name, node.meta["shape"])


def attention(lowering: Lowering, node: fx.Node) -> Value:
    """Lower fused attention, which stays float: two products and a softmax."""
    given, builder, where = arguments(node), lowering.builder, lowering.where(node)
    if given["is_causal"] or given["enable_gqa"] or given["dropout_p"]:
        raise ExportError(f"layer {node.meta['layer']}: causal, grouped or dropping attention has no ONNX form here; allowed: plain")
    width = lowering.value(given["query"]).shape[-1]
    assert width is not None
    scale = width**-0.5 if given["scale"] is None else given["scale"]
    query, key, value = (lowering.float_of(given[name], f"{where}/{name}") for name in ("query", "key", "value"))
    keys = builder.add("Transpose", [key], f"{where}/turned", perm=[0, 1, 3, 2])
    scores = builder.add("Mul", [builder.add("MatMul", [query, keys], f"{where}/scores"), builder.constant(float(scale), "scale")], where)
    if given["attn_mask"] is not None:
        scores = builder.add("Add", [scores, lowering.float_of(given["attn_mask"], f"{where}/mask")], where)
    probabilities = builder.add("Softmax", [scores], f"{where}/softmax", axis=-1)
    return Value(builder.add("MatMul", [probabilities, value], where), node.meta["shape"])


def layer_norm(lowering: Lowering, node: fx.Node) -> Value:
    """Lower layer normalization; a learned shift or a batch norm behind it becomes part of it."""
    given, where = arguments(node), lowering.where(node)
    shape = list(given["normalized_shape"])
    gamma: Array = np.ones(shape) if given["weight"] is None else lowering.array(given["weight"])
    beta: Array = np.zeros(shape, np.float64) if given["bias"] is None else lowering.array(given["bias"]).astype(np.float64)
    if len(shape) == 1:
        tail = tail_of(lowering.program, node, -1, shape[0])
        lowering.folded |= set(tail.folded)
        if tail.factor is not None:
            gamma, beta = gamma * tail.factor, beta * tail.factor
        beta = beta if tail.bias is None else beta + tail.bias
    constants = [lowering.builder.constant(one.astype(np.float32), wanted) for one, wanted in ((gamma, "gamma"), (beta, "beta"))]
    inputs = [lowering.float_of(given["input"]), *constants]
    name = lowering.builder.add("LayerNormalization", inputs, where, axis=-len(shape), epsilon=given["eps"])
    return Value(name, node.meta["shape"])


def batch_norm(lowering: Lowering, node: fx.Node) -> Value:
    """Lower a batch norm that follows no layer."""
    x, *parts = node.args[:5]
    mean = lowering.array(parts[2])
    filled = [
        lowering.array(part) if part is not None else np.full_like(mean, fill) for part, fill in zip(parts, (1, 0, 0, 0), strict=True)
    ]
    inputs = [lowering.float_of(x), *(lowering.builder.constant(part, "norm") for part in filled)]
    epsilon = arguments(node)["eps"]
    return Value(lowering.builder.add("BatchNormalization", inputs, lowering.where(node), epsilon=epsilon), node.meta["shape"])


def mean(lowering: Lowering, node: fx.Node) -> Value:
    """Lower a mean over axes; over both axes of images, a GlobalAveragePool, which runs on codes too."""
    given, source, builder, where = arguments(node), lowering.value(node.args[0]), lowering.builder, lowering.where(node)
    rank, keep = len(source.shape), given["keepdim"]
    places = sorted(axis % rank for axis in given["dim"])
    name = lowering.float_of(node.args[0])
    if rank == 4 and places == [2, 3]:
        name = builder.add("GlobalAveragePool", [name], where)
        if not keep:
            name = builder.add("Flatten", [name], f"{where}/flat")
    else:
        name = builder.add("ReduceMean", [name, builder.constant(np.array(places, np.int64), "axes")], where, keepdims=int(keep))
    return Value(name, node.meta["shape"])


def adaptive_avg_pool2d(lowering: Lowering, node: fx.Node) -> Value:
    """Lower average pooling to one place."""
    if any(size != 1 for size in node.meta["shape"][2:]):
        raise ExportError(f"layer {node.meta['layer']}: average pooling to {node.args[1]} has no ONNX form here; allowed: to 1 x 1")
    return Value(lowering.builder.add("GlobalAveragePool", [lowering.float_of(node.args[0])], lowering.where(node)), node.meta["shape"])


def avg_pool2d(lowering: Lowering, node: fx.Node) -> Value:
    """Lower average pooling in windows."""
    given = arguments(node)
    if given["divisor_override"] is not None:
        raise ExportError(f"layer {node.meta['layer']}: average pooling with a divisor has no ONNX form; allowed: without")
    kernel = pair(given["kernel_size"])
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": pair(given["stride"] or kernel), "pads": pair(given["padding"]) * 2}
    attributes |= {"ceil_mode": int(given["ceil_mode"]), "count_include_pad": int(given["count_include_pad"])}
    return Value(
        lowering.builder.add("AveragePool", [lowering.float_of(node.args[0])], lowering.where(node), **attributes), node.meta["shape"]
    )


def concatenate(lowering: Lowering, node: fx.Node) -> Value:
    """Lower concatenation."""
    given, where = arguments(node), lowering.where(node)
    names = [lowering.float_of(part, f"{where}/{index}") for index, part in enumerate(given["tensors"])]
    return Value(lowering.builder.add("Concat", names, where, axis=given["dim"]), node.meta["shape"])


def expand(lowering: Lowering, node: fx.Node) -> Value:
    """Lower expansion to sizes, of which one may follow from the batch's."""
    builder, where = lowering.builder, lowering.where(node)
    sizes = []
    for size in arguments(node)["size"]:
        if isinstance(size, fx.Node):
            sizes.append(lowering.values[size])
        else:
            sizes.append(builder.constant(np.array([1 if size == -1 else size], np.int64), "size"))
    shape = builder.add("Concat", sizes, f"{where}/sizes", axis=0)
    return Value(builder.add("Expand", [lowering.float_of(node.args[0]), shape], where), node.meta["shape"])


def index(lowering: Lowering, node: fx.Node) -> Value:
    """Lower a look-up of rows by a constant table: a Gather."""
    (places,) = arguments(node)["indices"]
    inputs = [lowering.float_of(node.args[0]), lowering.builder.constant(lowering.array(places), str(places))]
    return Value(lowering.builder.add("Gather", inputs, lowering.where(node), axis=0), node.meta["shape"])


def size(lowering: Lowering, node: fx.Node) -> str:
    """Lower the size of an axis."""
    source = lowering.value(node.args[0])
    axis = arguments(node)["dim"] % len(source.shape)
    return lowering.builder.add("Shape", [source.name], lowering.where(node), start=axis, end=axis + 1)


def of_sizes(operation: str) -> Any:
    """Make the lowering of an operation on sizes."""

    def lower(lowering: Lowering, node: fx.Node) -> str:
        def name(one: Any) -> str:
            return (
                str(lowering.values[one]) if isinstance(one, fx.Node) else lowering.builder.constant(np.array([int(one)], np.int64), "size")
            )

        return lowering.builder.add(operation, [name(one) for one in node.args], lowering.where(node))

    return lower
