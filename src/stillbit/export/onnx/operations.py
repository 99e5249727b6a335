"""Which operation is lowered how: one literal table."""

from stillbit.export.onnx import arithmetic, movements
from stillbit.export.onnx.convolutions import conv2d
from stillbit.export.onnx.linears import linear
from stillbit.export.onnx.lowering import Operation
from stillbit.export.onnx.matmul import matmul

OPERATIONS: dict[str, Operation] = {
    # products
    "aten.bmm.default": matmul,
    "aten.conv2d.default": conv2d,
    "aten.conv2d.padding": conv2d,
    "aten.linear.default": linear,
    "aten.matmul.default": matmul,
    # quantizers
    "stillbit.dequantize.default": arithmetic.dequantize,
    "stillbit.fake_quantize.default": arithmetic.fake_quantize,
    # movements of elements
    "aten.chunk.default": movements.split,
    "aten.clone.default": movements.unchanged,
    "aten.contiguous.default": movements.unchanged,
    "aten.flatten.using_ints": movements.view,
    "aten.mT.default": movements.permute,
    "aten.max_pool2d.default": movements.max_pool2d,
    "aten.pad.default": movements.pad,
    "aten.permute.default": movements.permute,
    "aten.reshape.default": movements.view,
    "aten.roll.default": movements.roll,
    "aten.select.int": movements.select,
    "aten.slice.Tensor": movements.slice_,
    "aten.split.Tensor": movements.split,
    "aten.split_with_sizes.default": movements.split,
    "aten.squeeze.default": movements.view,
    "aten.squeeze.dim": movements.view,
    "aten.squeeze.dims": movements.view,
    "aten.t.default": movements.permute,
    "aten.transpose.int": movements.permute,
    "aten.unbind.int": movements.split,
    "aten.unflatten.int": movements.view,
    "aten.unsqueeze.default": movements.view,
    "aten.view.default": movements.view,
    "operator.getitem": movements.getitem,
    # on floats
    "aten.adaptive_avg_pool2d.default": arithmetic.adaptive_avg_pool2d,
    "aten.add.Tensor": arithmetic.add,
    "aten.avg_pool2d.default": arithmetic.avg_pool2d,
    "aten.batch_norm.default": arithmetic.batch_norm,
    "aten.cat.default": arithmetic.concatenate,
    "aten.clamp.default": arithmetic.clamp,
    "aten.clamp_max.default": arithmetic.clamp,
    "aten.clamp_min.default": arithmetic.clamp,
    "aten.div.Tensor": arithmetic.binary("Div"),
    "aten.expand.default": arithmetic.expand,
    "aten.gelu.default": arithmetic.gelu,
    "aten.hardsigmoid.default": arithmetic.unary("HardSigmoid", alpha=1 / 6, beta=0.5),
    "aten.hardswish.default": arithmetic.unary("HardSwish"),
    "aten.hardtanh.default": arithmetic.hardtanh,
    "aten.index.Tensor": arithmetic.index,
    "aten.layer_norm.default": arithmetic.layer_norm,
    "aten.mean.dim": arithmetic.mean,
    "aten.mul.Tensor": arithmetic.binary("Mul"),
    "aten.relu.default": arithmetic.unary("Relu"),
    "aten.relu6.default": arithmetic.relu6,
    "aten.rsub.Scalar": arithmetic.reversed_sub,
    "aten.scaled_dot_product_attention.default": arithmetic.attention,
    "aten.sigmoid.default": arithmetic.unary("Sigmoid"),
    "aten.silu.default": arithmetic.silu,
    "aten.softmax.int": arithmetic.softmax,
    "aten.sub.Tensor": arithmetic.binary("Sub"),
    "aten.tanh.default": arithmetic.unary("Tanh"),
    # sizes
    "aten.sym_size.int": arithmetic.size,
    "operator.floordiv": arithmetic.of_sizes("Div"),
    "operator.mul": arithmetic.of_sizes("Mul"),
}
