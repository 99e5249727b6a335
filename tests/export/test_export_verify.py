"""Export, verify, inspect on small networks of each family: what is written computes what was trained, on kernels that are known."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from stillbit.export import Bounds, capture, export_onnx, inspect, verify
from stillbit.export.onnx import Container, to_onnx
from stillbit.export.runtime import open_session
from tests.export.networks import MODELS, image

# The first layer, of 8-bit codes and weights: some sums are one step off, which are some codes in a thousand of images so small.
COARSE = Bounds(equal=0.999)
# The first takes the image, which is float or has scales per channel, or its output is summed in floats too; weights of 8 bits with zero
# points a channel have no integer kernel.
FLOAT = {"mobilenet-lsq_paper": {"conv_stem"}, "mobilenet-integer": {"conv_stem"}, "resnet-asymmetric": {"conv1", "fc"}}
CASES = {
    "mobilenet-lsq_paper": "auto",
    "mobilenet-integer": "int4",
    "mobilenet-hard_swish": "packed",
    "resnet-asymmetric": "int8",
    "vit-qkr_token": "packed",
    "vit-plain_tensor": "int4",
    "swin-qkr_token": "auto",
}


@pytest.mark.parametrize("name", CASES)
def test_a_family_verifies_and_runs_on_integers(name: str, tmp_path: Path) -> None:
    program = capture(MODELS[name](), image())
    export_onnx(program, tmp_path / "f.onnx", container=CASES[name])
    found = verify(tmp_path / "f.onnx", program, [image(4)], bounds=COARSE)
    assert found.ok, str(found)
    assert not found.missing
    inspection = inspect(tmp_path / "f.onnx")
    assert all(row.kernel for row in inspection.layers), str(inspection)
    floats = {row.name for row in inspection.layers if not row.integer and row.bits != 32}
    assert floats == FLOAT.get(name, {"patch_embed.proj"} if "token" in name else set()), str(inspection)
    assert all(one.accumulator_fits for one in inspection.saturation)


def test_a_corrupted_weight_of_a_written_file_is_found(tmp_path: Path) -> None:
    program = capture(MODELS["vit-plain_tensor"](), image())
    export_onnx(program, tmp_path / "f.onnx", container="packed")
    model = onnx.load(str(tmp_path / "f.onnx"))
    (tensor,) = (one for one in model.graph.initializer if one.name.startswith("blocks.1.mlp.fc1.weight_quantizer.codes"))
    tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]
    onnx.save(model, str(tmp_path / "f.onnx"))
    problems = verify(tmp_path / "f.onnx", program, [image(4)], bounds=COARSE).problems
    assert problems[0] == "weight blocks.1.mlp.fc1.weight_quantizer: 1 of 1024 codes: codes differ"


def test_openvino_decodes_bit_planes_as_they_are(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is an extra: pip install -e '.[openvino]'")
    program = capture(MODELS["mobilenet-integer"](), image())
    export_onnx(program, tmp_path / "f.onnx", container="packed")
    found = verify(tmp_path / "f.onnx", program, [image(4)], runtime="openvino", bounds=COARSE)
    assert found.ok, str(found)


@pytest.mark.parametrize("name", ["resnet-integer", "vit-plain_tensor", "vit-qkr_token", "swin-plain_tensor"])
def test_openvino_computes_what_onnx_runtime_does(name: str) -> None:
    """Residual sums of codes, scales along tokens and heads, rows of a linear layer that become tokens again."""
    pytest.importorskip("openvino", reason="OpenVINO is an extra: pip install -e '.[openvino]'")
    proto, _ = to_onnx(capture(MODELS[name](), image()), Container("int8"))
    found, expected = (open_session(proto, runtime)(image(3).numpy())["logits"] for runtime in ("openvino", "onnxruntime"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())  # floats are summed in another order
