"""Verification: a right file passes in each runtime, and each thing that can be wrong with one is found, in its layer."""

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from stillbit.errors import DataError, ExportError, MissingExtraError
from stillbit.export import Program, verify
from stillbit.export.findings import Bounds, Logits, Verification
from stillbit.export.manifest import manifest_in
from stillbit.export.runtime import one_line, open_session, with_outputs
from stillbit.export.written import as_written
from tests.export.chains import Int4, Packed, Writer, chain, changed
from tests.export.networks import image

TIES = Bounds(equal=0.997)  # ranges of one batch make ties of whole numbers frequent


@cache
def program(**settings: Any) -> Program:
    return chain(**settings)


def verified(path: Path, model: onnx.ModelProto, **settings: Any) -> Verification:
    onnx.save(model, str(path / "f.onnx"))
    return verify(path / "f.onnx", program(), [image(2), (image(4), "labels")], **{"bounds": TIES} | settings)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_right_file_passes(runtime: str, tmp_path: Path) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is an extra: pip install -e '.[openvino]'")
    found = verified(tmp_path, Writer(program()).write(), runtime=runtime)
    assert found.ok, str(found)
    assert [one.name for one in found.quantizers] == ["2.input_quantizer", "4.input_quantizer", "6.input_quantizer"]
    assert found.quantizers[0].count == 6 * 16 * 15 * 15
    assert [one.count for one in found.weights] == [432, 144, 256, 3920]
    assert found.logits.images == 6
    assert not found.notes
    assert str(found).endswith("\nverified")


class OneWeightChanged(Writer):
    def weight_codes(self, label: str, codes: np.ndarray) -> np.ndarray:
        codes = codes.copy()
        if label.startswith("2."):
            codes[3, 0, 1, 1] += 3
        return codes


def test_a_changed_weight_is_found_and_so_is_the_layer_behind_it(tmp_path: Path) -> None:
    found = verified(tmp_path, OneWeightChanged(program()).write())
    assert not found.ok
    assert found.problems[0] == "weight 2.weight_quantizer: 1 of 144 codes: codes differ"
    assert [line.split(":")[0] for line in found.problems[1:]] == ["4.input_quantizer"]  # those behind get the file's own codes
    behind = found.quantizers[1]
    assert behind.program_right > 0.9 * behind.different > 0
    assert behind.distance > 0.05
    assert found.quantizers[2].different_free > 0
    assert "first that differs: 4.input_quantizer" in str(found)


class LowerClip(Writer):
    def store(self, name: str, value: Any) -> str:
        return super().store(name, np.uint8(14) if name == "fake_quantize_1/15" else value)


def test_a_wrong_limit_is_found_though_it_is_one_step(tmp_path: Path) -> None:
    found = verified(tmp_path, LowerClip(program()).write())
    assert [line.split(":")[0] for line in found.problems] == ["4.input_quantizer"]
    assert found.quantizers[1].largest_step == 1
    assert found.quantizers[1].distance == pytest.approx(0.5)  # from the highest code to the end of the second highest's range


class WrongScale(Writer):
    def store(self, name: str, value: Any) -> str:
        return super().store(name, value * np.float32(1.01) if name == "dequantize_3/scale" else value)


def test_a_wrong_scale_of_the_last_layer_shows_in_the_outputs(tmp_path: Path) -> None:
    found = verified(tmp_path, WrongScale(program()).write())
    assert [line.split(" ")[:2] for line in found.problems] == [["outputs", "differ"]]
    assert found.logits.replayed == pytest.approx(0.01, rel=1e-3)


class Turned(Writer):
    """Codes of the second quantizer with channels last."""

    def add(self, operation: str, inputs: list[str], output: str, **attributes: Any) -> None:
        if output == "fake_quantize_1/codes":
            super().add("Transpose", [inputs[0]], f"{output}/wide", perm=[0, 2, 3, 1])
            super().add(operation, [f"{output}/wide", *inputs[1:]], output)
            super().add("Transpose", [output], f"{output}/back", perm=[0, 3, 1, 2])
        else:
            inputs = [f"{one}/back" if one == "fake_quantize_1/codes" else one for one in inputs]
            super().add(operation, inputs, output, **attributes)


def test_codes_with_turned_axes_are_compared(tmp_path: Path) -> None:
    model = Writer.write(Turned(program()))
    entries = list(manifest_in(model, "f").activations)
    assert not verified(tmp_path, model).ok
    entries[1] = type(entries[1])(**vars(entries[1]) | {"permutation": (0, 2, 3, 1)})
    assert verified(tmp_path, changed(model, activations=tuple(entries))).ok


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("writer", [Packed, Int4])
def test_weights_are_decoded_as_the_runtime_does(writer: type[Writer], runtime: str, tmp_path: Path) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is an extra: pip install -e '.[openvino]'")
    model = writer(program()).write()
    found = verified(tmp_path, model, runtime=runtime)
    assert found.ok, str(found)
    (stored,) = (
        one for one in model.graph.initializer if one.name.startswith("2.") and "scale" not in one.name and "shape" not in one.name
    )
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    (tensor,) = (one for one in broken.graph.initializer if one.name == stored.name)
    data = bytearray(tensor.raw_data)
    if data:
        data[5] ^= 1
        tensor.raw_data = bytes(data)
    else:
        tensor.int32_data[5] ^= 1
    assert verified(tmp_path, broken, runtime=runtime).problems[0] == "weight 2.weight_quantizer: 1 of 144 codes: codes differ"


class Multiplied(Writer):
    """Codes of each output times a factor of its own, the scale divided by it."""

    factors = 1 + np.arange(16) % 3

    def weight_codes(self, label: str, codes: np.ndarray) -> np.ndarray:
        return codes * self.factors.astype(np.int8).reshape(-1, 1, 1, 1) if label.startswith("2.") else codes

    def of(self, node: Any, index: int) -> np.ndarray:
        scaled = index == 1 and node.args[-1] == "2.weight_quantizer"
        return super().of(node, index) / self.factors.astype(np.float32) if scaled else super().of(node, index)


def test_codes_times_a_factor_an_output_are_equal(tmp_path: Path) -> None:
    found = verified(tmp_path, Multiplied(program()).write(), bounds=Bounds(equal=0.99))  # a third of a scale is not exact
    assert found.ok, str(found)


def test_a_quantizer_that_the_file_does_not_name_is_a_problem(tmp_path: Path) -> None:
    model = Writer(program()).write()
    entries = manifest_in(model, "f").activations
    found = verified(tmp_path, changed(model, activations=entries[:1] + entries[2:]))
    assert found.problems == ["4.input_quantizer: the file does not say where its codes are"]


def test_a_file_of_another_network_is_one_line(tmp_path: Path) -> None:
    model = Writer(program()).write()
    manifest = manifest_in(model, "f")
    other = type(manifest.activations[0])(**vars(manifest.activations[0]) | {"quantizer": "other"})
    with pytest.raises(ExportError, match="has quantizer other, which the network does not; is it of this network"):
        verified(tmp_path, changed(model, activations=(other,)))
    layer = type(manifest.layers[0])(**vars(manifest.layers[0]) | {"weight": "other"})
    with pytest.raises(ExportError, match="has weight other, which the network does not"):
        verified(tmp_path, changed(model, layers=(layer,)))
    wrong = type(manifest.input)("x", (3, 8, 8))
    with pytest.raises(ExportError, match=r"takes inputs of shape \(3, 8, 8\); the network takes \(3, 32, 32\)"):
        verified(tmp_path, changed(model, input=wrong))
    lost = type(manifest.layers[0])(**vars(manifest.layers[0]) | {"codes": "lost"})
    with pytest.raises(ExportError, match="its description names lost, which is no initializer of it"):
        verified(tmp_path, changed(model, layers=(lost,)))


def test_a_file_that_a_runtime_refuses_is_one_line(tmp_path: Path) -> None:
    model = Writer(program()).write()
    next(node for node in model.graph.node if node.op_type == "Conv").op_type = "NoSuchOperation"
    with pytest.raises(ExportError, match=r"f\.onnx: onnxruntime refuses it: ") as caught:
        verified(tmp_path, model)
    assert "\n" not in str(caught.value)


def test_runtimes_that_are_not_there_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Writer(program()).write()
    with pytest.raises(ExportError, match="runtime is 'tensorrt'; allowed are onnxruntime, openvino"):
        verified(tmp_path, model, runtime="tensorrt")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"openvino is not installed; to install it: pip install \"stillbit\[openvino\]\""):
        verified(tmp_path, model, runtime="openvino")


def test_a_file_with_two_outputs_is_one_line(tmp_path: Path) -> None:
    model = with_outputs(Writer(program()).write(), ["fake_quantize_1"])
    with pytest.raises(ExportError, match=r"f\.onnx: has 2 outputs; allowed: a file with one"):
        verified(tmp_path, model)


def test_no_batch_is_one_line(tmp_path: Path) -> None:
    onnx.save(Writer(program()).write(), str(tmp_path / "f.onnx"))
    with pytest.raises(DataError, match="verify got no batch; allowed: at least one"):
        verify(tmp_path / "f.onnx", program(), [])


def test_exceptions_of_top1_are_named_across_batches() -> None:
    same, other = np.float32([[0, 1], [1, 0]]), np.float32([[0, 1], [0, 1]])
    logits = Logits.of(same, same, same, same, 0)
    logits += Logits.of(same, other, same, same, logits.images)
    assert (logits.images, logits.same_top1, logits.exceptions) == (4, 3, (3,))
    assert str(logits).endswith("same top-1 on 3 of 4; not on image 3")
    assert logits.largest == 1


def test_a_runtime_that_computes_otherwise_when_watched_is_a_problem(tmp_path: Path) -> None:
    found = verified(tmp_path, Writer(program()).write())
    assert found.logits.watching == 0
    outputs, watched = np.float32([[1, 2]]), np.float32([[1, 2.5]])
    other = replace(found, logits=Logits.of(outputs, outputs, watched, watched, 0))
    assert other.problems == ["outputs differ by 0.25 of the largest once codes are outputs, too: verified is another graph"]


def test_a_runtimes_error_is_shown_without_the_places_it_passed() -> None:
    error = RuntimeError("Exception from core.cpp:1:\nException from plugin.cpp:2:\nwhile this\n\nthat is wrong\n\n")
    assert one_line(error) == "RuntimeError: while this; that is wrong"
    assert one_line(ValueError("a" * 400)) == f"ValueError: ... {'a' * 300}"


def test_the_files_own_rounding_is_told_from_a_kernels(tmp_path: Path) -> None:
    model = LowerClip(program()).write()
    found = verified(tmp_path, model).quantizers[1]
    assert found.as_written == found.program_right > 0
    x, manifest = image(2).numpy(), manifest_in(model, "f")
    watched = open_session(with_outputs(model, [one.codes for one in manifest.activations]))(x)
    watched["fake_quantize/codes"] = np.zeros_like(watched["fake_quantize/codes"])
    written = as_written(model, [one.codes for one in manifest.activations])(x, watched)
    assert written["fake_quantize/codes"].any()  # from the input, whatever is given for it
    assert not written["fake_quantize_1/codes"].any()  # from what is given


def test_a_run_that_fails_is_one_line(tmp_path: Path) -> None:
    onnx.save(Writer(program()).write(), str(tmp_path / "f.onnx"))
    session = open_session(onnx.load(str(tmp_path / "f.onnx")), where="f")
    with pytest.raises(ExportError, match="f: onnxruntime cannot run it: ") as caught:
        session(np.zeros((1, 3, 9, 9), np.float32))
    assert "\n" not in str(caught.value)


def test_float_weights_and_unused_initializers_are_left_alone(tmp_path: Path) -> None:
    model = Writer(program()).write()
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.float32), "unused"))
    assert verified(tmp_path, model).ok


def test_a_network_may_be_given_as_a_module(tmp_path: Path) -> None:
    onnx.save(Writer(program()).write(), str(tmp_path / "f.onnx"))
    with pytest.raises(ExportError, match="Linear has no quantizers"):
        verify(tmp_path / "f.onnx", torch.nn.Linear(2, 2), [image()])
