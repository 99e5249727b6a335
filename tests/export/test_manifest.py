"""What a file says of itself: it comes back as it was, and anything else is one line."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from stillbit.errors import ExportError
from stillbit.export.manifest import KEY, Activation, Input, Layer, Manifest, manifest_of, read_manifest

MANIFEST = Manifest(
    stillbit="0.1.0",
    container="int8",
    input=Input("x", (3, 32, 32)),
    output="logits",
    activations=(Activation("conv.input_quantizer", "conv_codes", 8, -8, 7, 4, permutation=(0, 2, 3, 1)),),
    layers=(Layer("conv", "conv_node", "conv2d", "conv.weight_quantizer", "w", 4, 216, 55296),),
    bits="W4A4",
    preprocessing={"size": 32},
    notes=("a note",),
)


def write(path: Path, **metadata: str) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [helper.make_tensor_value_info("y", 1, [1])])
    model = helper.make_model(graph)
    helper.set_model_props(model, metadata)
    onnx.save(model, str(path))
    return path


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    assert manifest_of(MANIFEST.to_json(), "f") == MANIFEST
    assert read_manifest(write(tmp_path / "f.onnx", **{KEY: MANIFEST.to_json()})) == MANIFEST


def changed(**values: Any) -> str:
    return json.dumps(json.loads(MANIFEST.to_json()) | values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "f: its description is no JSON"),
        (changed(format=2), "f: its description has format 2; allowed: 1"),
        ("[]", "f: its description has format None"),
        (changed(more=1), "description of manifest: unknown more"),
        (changed(input={"name": "x"}), "description of input: no shape"),
        (changed(output=3), "3 stands for str"),
        (changed(notes="a"), "'a' stands for tuple"),
        (changed(input={"name": "x", "shape": [True]}), "True stands for int"),
    ],
)
def test_another_text_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        manifest_of(text, "f")
    assert "\n" not in str(caught.value)


def test_a_foreign_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"none\.onnx: no such file"):
        read_manifest(tmp_path / "none.onnx")
    with pytest.raises(ExportError, match="no description of ours in its metadata; allowed: a file that stillbit exported"):
        read_manifest(write(tmp_path / "foreign.onnx"))
    (tmp_path / "text.onnx").write_text("hello, this is no network")
    with pytest.raises(ExportError, match=r"text\.onnx: not an ONNX file \(DecodeError\)"):
        read_manifest(tmp_path / "text.onnx")
    whole = write(tmp_path / "whole.onnx", **{KEY: MANIFEST.to_json()}).read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ExportError, match=r"cut\.onnx: not an ONNX file"):
        read_manifest(tmp_path / "cut.onnx")
