"""What is in a file: bytes by layer, and the kernel that runs, whatever the runtime has made of the node."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from safetensors import safe_open

from stillbit.errors import ExportError
from stillbit.export import Program, export_packed
from stillbit.export.inspect import Inspection, LayerRow, inspect
from stillbit.export.kernels_used import kernels_used
from stillbit.export.manifest import manifest_in
from stillbit.export.runtime import linked
from tests.export.chains import Int4, Packed, Writer, chain, changed
from tests.export.networks import MODELS, image


@cache
def program() -> Program:
    return chain()


def inspected(path: Path, model: onnx.ModelProto) -> Inspection:
    onnx.save(model, str(path / "f.onnx"))
    return inspect(path / "f.onnx")


def test_layers_have_their_bits_bytes_and_kernels(tmp_path: Path) -> None:
    found = inspected(tmp_path, Writer(program()).write())
    assert [(row.name, row.kind, row.bits, row.weights, row.bytes) for row in found.layers] == [
        ("0", "conv2d", 8, 432, 432),
        ("2", "conv2d", 4, 144, 144),
        ("4", "conv2d", 4, 256, 256),
        ("6", "linear", 8, 3920, 3920),
    ]
    assert [row.integer for row in found.layers] == [False, True, False, False]  # float input; codes to codes; float outputs
    assert found.layers[1].kernel == "QLinearConv"
    assert all(row.kernel for row in found.layers)
    macs = [row.macs for row in found.layers]
    assert found.integer_share == macs[1] / sum(macs)
    assert found.bytes == (tmp_path / "f.onnx").stat().st_size
    assert found.needed == 432 + 72 + 128 + 3920 + found.parameters
    assert found.float_bytes == 4 * (432 + 144 + 256 + 3920)


@pytest.mark.parametrize("writer", [Packed, Int4])
def test_bytes_are_those_stored(writer: type[Writer], tmp_path: Path) -> None:
    rows = inspected(tmp_path, writer(program()).write()).layers
    assert [row.weights for row in rows] == [432, 144, 256, 3920]
    overhead = 90 if writer is Packed else 250  # constants of the decoding; 4-bit values as a list rather than raw
    assert all(half <= row.bytes <= half + overhead for row, half in zip(rows[1:3], (72, 128), strict=True))
    assert rows[1].integer


def test_the_report_is_a_table_and_totals(tmp_path: Path) -> None:
    lines = str(inspected(tmp_path, changed(Writer(program()).write(), bits="W4A4", notes=("a note",)))).splitlines()
    assert ": 8," in lines[0]
    assert "W4A4, container int8, written by stillbit 0; kernels of ONNX Runtime" in lines[0]
    assert lines[1].split() == ["layer", "kind", "bits", "weights", "bytes", "MACs", "kernel"]
    assert lines[3].split() == ["2", "conv2d", "4", "144", "144", "24,336", "QLinearConv", "integer"]
    assert lines[6].startswith("bytes: 4,752 of weights, ")
    assert lines[7].startswith("multiplications: 17.63% of 138,000 on integer kernels; in floats: 0, 4, 6")
    assert "pair sums of 1 of 3 layers can leave 16 bits" in lines[9]
    assert lines[-1] == "note: a note"


def test_what_two_layers_share_counts_once(tmp_path: Path) -> None:
    model = Writer(program()).write()
    layers = manifest_in(model, "f").layers
    rows = inspected(tmp_path, changed(model, layers=(layers[1], replace(layers[1], name="again")))).layers
    assert [row.bytes for row in rows] == [144, 0]


def test_products_of_activations_hold_no_bytes() -> None:
    row = LayerRow("a", "matmul", None, 0, 0, 10, "")
    assert row.cells() == ("a", "matmul", "", "0", "0", "10", "?", "float")


def test_a_packed_file_shows_bytes_and_bits_and_no_kernels(tmp_path: Path) -> None:
    model = MODELS["mobilenet-integer"]()
    export_packed(model, tmp_path / "f.safetensors", example=image())
    found = inspect(tmp_path / "f.safetensors")
    assert [(row.bits, row.weights, row.bytes) for row in found.layers[:3]] == [(8, 216, 216), (3, 72, 27), (3, 64, 24)]
    assert found.weight_bytes == sum(-(-(row.bits or 0) * row.weights // 8) for row in found.layers)
    assert found.runtime is None
    with safe_open(tmp_path / "f.safetensors", framework="pt") as file:
        sizes = {name: file.get_tensor(name).nbytes for name in file.keys()}  # noqa: SIM118 - not a dict
    assert found.weight_bytes + found.parameters == sum(sizes.values()) - sizes["stillbit.document"]
    lines = str(found).splitlines()
    assert "packed EfficientNet, written by stillbit" in lines[0]
    assert lines[1].split() == ["layer", "kind", "bits", "weights", "bytes", "MACs"]
    assert any(line.startswith("multiplications: ") and line.endswith(f" {sum(row.macs for row in found.layers):,}") for line in lines)
    assert [one.layer for one in found.saturation] == [row.name for row in found.layers]


def test_a_packed_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "f.safetensors").write_bytes(b"nothing")
    with pytest.raises(ExportError, match=r"f\.safetensors: cut, or not a safetensors file"):
        inspect(tmp_path / "f.safetensors")


def graph(*nodes: tuple[str, str, str, str]) -> onnx.ModelProto:
    made = [helper.make_node(kind, [taken], [given], name=name) for kind, name, taken, given in nodes]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", nodes[-1][-1])]
    return helper.make_model(helper.make_graph(made, "g", ends[:1], ends[1:]))


def test_kernels_are_found_by_name_by_number_and_by_output() -> None:
    model = graph(
        ("Conv", "a", "x", "a:0"),
        ("Relu", "r", "a:0", "r:0"),
        ("Conv", "b", "r:0", "b:0"),
        ("Clip", "c", "b:0", "c:0"),
        ("Gemm", "d", "c:0", "d:0"),
        ("Add", "e", "d:0", "e:0"),
        ("MatMul", "f", "e:0", "f:0"),
    )
    made = graph(
        ("QLinearConv", "a_token_12", "x", "t"),
        ("Conv", "c:0_nchwc", "t", "reorder_token_3"),
        ("QGemm", "renamed", "reorder_token_3", "e:0"),
        ("Relu", "f", "e:0", "f:0"),
    )
    found = kernels_used(linked(model), linked(made), ["a", "b", "d", "f", "lost"])
    assert found == {"a": "QLinearConv", "b": "Conv", "d": "QGemm", "f": "", "lost": ""}


def test_what_several_read_is_not_followed() -> None:
    model = graph(("Conv", "a", "x", "a:0"), ("Relu", "r", "a:0", "r:0"), ("Relu", "s", "a:0", "s:0"))
    assert kernels_used(linked(model), linked(graph(("Conv", "other", "x", "r:0"))), ["a"]) == {"a": ""}


def test_a_file_that_is_none_of_ours_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "f.onnx").write_bytes(b"\x08\x07no network")
    with pytest.raises(ExportError, match=r"f\.onnx: "):
        inspect(tmp_path / "f.onnx")
    model = Writer(program()).write()
    next(node for node in model.graph.node if node.op_type == "Conv").op_type = "NoSuchOperation"
    with pytest.raises(ExportError, match=r"f\.onnx: onnxruntime refuses it: ") as caught:
        inspected(tmp_path, model)
    assert "\n" not in str(caught.value)
