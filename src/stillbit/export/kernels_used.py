"""Which kernel ONNX Runtime runs for a layer: found in the graph that it makes of a file when it loads it.

A node that is fused keeps its name, or gets a number behind it; a convolution in blocked layout has the name of its output; what is fused
with the operation behind it has that one's output.
"""

from typing import Any

INTEGER = frozenset(
    ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "MatMulInteger", "ConvInteger", "QLinearConvTranspose")
)
_FLOAT = frozenset(("Conv", "ConvTranspose", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul", "MatMulNBits", "NhwcFusedConv"))
_BLOCKED = "_nchwc"  # follows the name of the output
_AGAIN = "_token_"  # a name that is taken gets this and a number
_REACH = 8  # operations behind a node that may be fused into it


def kernels_used(model: Any, optimized: Any, nodes: list[str]) -> dict[str, str]:
    """Find the kernels of nodes of a model, in what ONNX Runtime made of it; both are `onnx_ir.Model`."""
    multiplying = [node for node in optimized.graph if node.op_type in INTEGER | _FLOAT]
    by_name = {node.name.split(_AGAIN)[0]: node.op_type for node in multiplying}
    by_output = {_plain(name): node.op_type for node in multiplying for name in (*(one.name for one in node.outputs), node.name)}
    originals = {node.name: node for node in model.graph}
    return {name: by_name.get(name) or _behind(originals.get(name), by_output) for name in nodes}


def _plain(name: str) -> str:
    return name.split(_AGAIN)[0].removesuffix(_BLOCKED)


def _behind(node: Any, by_output: dict[str, str]) -> str:
    """Follow a node's output until one is found that a kernel gives."""
    for _ in range(_REACH):
        if node is None:
            return ""
        if node.outputs[0].name in by_output:
            return by_output[node.outputs[0].name]
        readers = node.outputs[0].consumers()
        node = readers[0] if len(readers) == 1 else None  # what several read is fused with none of them
    return ""
