"""A small network in a row and a plain way to write it as ONNX, so that readers of files are tested without the package's own writer."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from stillbit.export import Program, capture
from stillbit.export.layers import layers_of, operation_of
from stillbit.export.manifest import KEY, Activation, Input, Layer, Manifest
from stillbit.prepare import QuantConfig
from tests.export.networks import exportable, image
from tests.prepare.networks import MINMAX


def chain(bits: str = "W4A4", **settings: Any) -> Program:
    """Four layers: a convolution, a depthwise one, one of 1x1, a linear one; no biases. The first takes the image as it is."""
    torch.manual_seed(1)
    first, second = nn.Conv2d(3, 16, 3, stride=2, bias=False), nn.Conv2d(16, 16, 3, groups=16, bias=False)
    layers = [first, nn.ReLU(), second, nn.ReLU(), nn.Conv2d(16, 16, 1, stride=2, bias=False)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 7 * 7, 5, bias=False))
    config = QuantConfig.parse(bits, weight_range=MINMAX, activation_range=MINMAX, **settings)
    return capture(exportable(network, config), image())


class Writer:
    """Writes a chain; each method may be overridden by a test that breaks something."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.tensors = {name: tensor.numpy() for name, tensor in program.tensors().items()}
        self.nodes: list[onnx.NodeProto] = []
        self.stored: dict[str, onnx.TensorProto] = {}
        self.activations: list[Activation] = []
        self.codes: dict[str, str] = {}

    def write(self) -> onnx.ModelProto:
        for node in self.program.module.graph.nodes:
            if node.op == "call_function":
                getattr(self, operation_of(node))(node, *(getattr(one, "name", one) for one in node.args))
        (output,) = (node for node in self.program.module.graph.nodes if node.op == "output")
        last = output.args[0].name
        graph = helper.make_graph(
            self.nodes,
            "chain",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *self.program.input_shape])],
            [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["batch", 5])],
            list(self.stored.values()),
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        helper.set_model_props(model, {KEY: self.manifest(last).to_json()})
        return model

    def manifest(self, output: str) -> Manifest:
        layers = [
            Layer(one.layer, one.node, one.kind, one.weight, self.codes[str(one.weight)], one.bits, one.weights, one.macs)
            for one in layers_of(self.program)
        ]
        return Manifest("0", "int8", Input("x", self.program.input_shape), output, tuple(self.activations), tuple(layers))

    def store(self, name: str, value: Any) -> str:
        self.stored[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def add(self, operation: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operation, inputs, [output], name=output, **attributes))

    def of(self, node: Any, index: int) -> np.ndarray:
        return self.tensors[node.args[index].target]

    def fake_quantize(self, node: Any, x: str, _scale: str, _zero: Any, _shift: float, low: int, high: int, _clip: Any, label: str) -> None:
        name, offset = node.name, -low
        inputs = [x, self.store(f"{name}/scale", self.of(node, 1).reshape(())), self.store(f"{name}/zero", np.uint8(offset))]
        self.add("QuantizeLinear", inputs, f"{name}/wide")
        limits = [self.store(f"{name}/{limit}", np.uint8(limit)) for limit in (0, high - low)]
        self.add("Clip", [f"{name}/wide", *limits], f"{name}/codes")
        self.add("DequantizeLinear", [f"{name}/codes", *inputs[1:]], name)
        self.activations.append(Activation(label, f"{name}/codes", offset, low, high, (high - low).bit_length()))

    def dequantize(self, node: Any, _codes: str, _scale: str, _zero: Any, _shift: float, _bits: int, label: str) -> None:
        codes, scale = self.weight_codes(label, self.of(node, 0)), self.of(node, 1)
        self.codes[label] = self.store_codes(label, codes)
        inputs = [self.codes[label], self.store(f"{node.name}/scale", scale.reshape(-1) if scale.size > 1 else scale.reshape(()))]
        self.add("DequantizeLinear", inputs, node.name, **({"axis": 0} if scale.size > 1 else {}))

    def weight_codes(self, label: str, codes: np.ndarray) -> np.ndarray:
        assert label
        return codes

    def store_codes(self, label: str, codes: np.ndarray) -> str:
        return self.store(f"{label}.codes", codes)

    def conv2d(
        self, node: Any, x: str, w: str, _bias: Any = None, stride: Any = (1, 1), pads: Any = (0, 0), _d: Any = 1, groups: int = 1
    ) -> None:
        self.add("Conv", [x, w], node.name, strides=list(stride), pads=[*pads, *pads], group=groups)

    def relu(self, node: Any, x: str) -> None:
        self.add("Relu", [x], node.name)

    def flatten(self, node: Any, x: str, axis: int = 1) -> None:
        self.add("Flatten", [x], node.name, axis=axis)

    def linear(self, node: Any, x: str, w: str) -> None:
        self.add("Gemm", [x, w], node.name, transB=1)


class Packed(Writer):
    """Codes of 4 bits, two a byte, as nibbles above 8."""

    def store_codes(self, label: str, codes: np.ndarray) -> str:
        if codes.min() < -8 or codes.max() > 7:
            return super().store_codes(label, codes)
        pairs = (codes.astype(np.int64).ravel() + 8).reshape(-1, 2).astype(np.uint8)
        packed = self.store(f"{label}.packed", pairs[:, 0] | (pairs[:, 1] << 4))
        self.add("BitwiseAnd", [packed, self.store("nibble", np.uint8(15))], f"{label}/low")
        self.add("BitShift", [packed, self.store("four", np.uint8(4))], f"{label}/high", direction="RIGHT")
        for part in ("low", "high"):
            self.add("Unsqueeze", [f"{label}/{part}", self.store("last", np.int64([-1]))], f"{label}/{part}/column")
        self.add("Concat", [f"{label}/low/column", f"{label}/high/column"], f"{label}/pairs", axis=-1)
        self.add("Cast", [f"{label}/pairs"], f"{label}/signed", to=TensorProto.INT8)
        self.add("Sub", [f"{label}/signed", self.store("eight", np.int8(8))], f"{label}/codes")
        self.add("Reshape", [f"{label}/codes", self.store(f"{label}/shape", np.int64(codes.shape))], f"{label}/whole")
        self.codes[label] = packed
        return f"{label}/whole"

    def dequantize(self, node: Any, *arguments: Any) -> None:
        super().dequantize(node, *arguments)
        label = arguments[-1]
        self.codes[label] = f"{label}.packed" if f"{label}.packed" in self.stored else self.codes[label]


class Int4(Writer):
    def store_codes(self, label: str, codes: np.ndarray) -> str:
        if codes.min() < -8 or codes.max() > 7:
            return super().store_codes(label, codes)
        name = f"{label}.int4"
        self.stored[name] = helper.make_tensor(name, TensorProto.INT4, codes.shape, codes.ravel().tolist())
        self.add("Cast", [name], f"{label}/whole", to=TensorProto.INT8)
        return f"{label}/whole"


def changed(model: onnx.ModelProto, **values: Any) -> onnx.ModelProto:
    """Return a model with another manifest."""
    from stillbit.export.manifest import manifest_in

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    helper.set_model_props(copied, {KEY: replace(manifest_in(model, "f"), **values).to_json()})
    return copied
