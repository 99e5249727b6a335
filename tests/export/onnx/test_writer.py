"""ONNX files: they compute what the program does, on integers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from stillbit.errors import ExportError
from stillbit.export import Program, capture, export_onnx
from stillbit.export.manifest import KEY, manifest_of
from stillbit.export.onnx import to_onnx
from stillbit.export.onnx.containers import CONTAINERS, Container
from stillbit.prepare import QuantConfig, calibrate, prepare
from tests.export.networks import MODELS, cnn, exportable, image, vit
from tests.export.onnx.running import forced, kernels, run
from tests.prepare import vits
from tests.prepare.networks import MINMAX, small_mobilenet

NO_SHIFTS: dict[str, Any] = {"learned_shifts": False, "activation_scales": "tensor"}
MORE = {
    "vit-qkr_unshifted": vit(vits.vit, **NO_SHIFTS),
    "vit-lsq": vit(vits.vit, quantizer="lsq", per_channel=False),
    "vit-published": vit(vits.vit, published=True),
    "vit-distilled": vit(vits.distilled),
}


def assert_same(program: Program, *, optimized: bool) -> None:
    """Compare each quantizer on the file's own input to it: one step at most, and few, where a value lies next to a boundary.

    These networks are tiny: few narrow codes are summed, and a bias in units of such an accumulator is up to some hundredths of a step
    of an 8-bit output off.
    """
    proto, manifest = to_onnx(program, Container())
    found, *codes = run(proto, image(3), watch=tuple(one.codes for one in manifest.activations), optimized=optimized)
    steps, output = forced(program, manifest, image(3), codes)
    assert len(steps) == len(manifest.activations)
    assert max((one.max().item() for one in steps.values()), default=0) <= 1
    different = {call: int((one != 0).sum()) for call, one in steps.items()}
    assert not {call: count for call, count in different.items() if count > max(3, 0.03 * steps[call].numel())}
    assert sum(different.values()) <= 0.005 * sum(one.numel() for one in steps.values())
    np.testing.assert_allclose(found, output.numpy(), atol=2e-5 * output.abs().max().item() + 1e-7)


@pytest.mark.end_to_end
@pytest.mark.parametrize("optimized", [False, True], ids=["as_written", "fused"])
@pytest.mark.parametrize("name", [*MODELS, *MORE])
def test_the_graph_computes_what_the_model_does(name: str, optimized: bool) -> None:
    assert_same(capture((MODELS | MORE)[name](), image()), optimized=optimized)


def names_of(proto: onnx.ModelProto, operation: str) -> list[str]:
    return [node.output[0] for node in proto.graph.node if node.op_type == operation]


def test_codes_of_kernels_are_exact_where_a_bias_makes_them_so() -> None:
    """Of 4-bit codes always, on the file's own input and with operators as ONNX defines them."""
    program = capture(MODELS["mobilenet-lsq_paper"](), image())
    proto, manifest = to_onnx(program, Container())
    _, *codes = run(proto, image(3), watch=tuple(one.codes for one in manifest.activations), optimized=False)
    steps, _ = forced(program, manifest, image(3), codes)
    assert not any((one != 0).any() for one in steps.values())
    assert not [name for name in names_of(proto, "Mul") if name.endswith("/finer")]
    assert manifest.notes == ()


def test_narrow_codes_are_multiplied_where_no_bias_gives_exact_8_bit_codes() -> None:
    program = capture(MODELS["resnet-integer"](), image())
    proto, manifest = to_onnx(program, Container())
    finer = [name for name in names_of(proto, "Mul") if name.endswith("/finer")]
    assert [name.split(".input_quantizer")[0] for name in finer] == [f"layer{number}.0.conv2" for number in (1, 2, 3, 4)]
    _, *codes = run(proto, image(3), watch=tuple(one.codes for one in manifest.activations), optimized=False)
    steps, _ = forced(program, manifest, image(3), codes)
    different = {call for call, one in steps.items() if (one != 0).any()}
    assert different <= {"fake_quantize_1"}  # the stem's: 8-bit codes times 8-bit weights


def test_the_stem_can_be_exact_in_floats(tmp_path: Path) -> None:
    program = capture(MODELS["resnet-integer"](), image())
    integer, said = to_onnx(program, Container())
    assert any(note.startswith("conv1.weight_quantizer: no bias") for note in said.notes)
    assert "Conv" not in kernels(integer, tmp_path)
    exact, manifest = to_onnx(program, Container(), exact=True)
    assert any(note.startswith("conv1.weight_quantizer: runs in floats") for note in manifest.notes)
    assert {"Conv", "FusedConv"} & set(kernels(exact, tmp_path))
    for optimized in (False, True):
        _, *codes = run(exact, image(3), watch=tuple(one.codes for one in manifest.activations), optimized=optimized)
        steps, _ = forced(program, manifest, image(3), codes)
        assert not any((one != 0).any() for one in steps.values())


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_same_numbers(container: str) -> None:
    program = capture(MODELS["mobilenet-integer"](), image())
    wanted = run(to_onnx(program, Container("int8"))[0], image(2))[0]
    proto, manifest = to_onnx(program, Container(container))
    assert manifest.container == container
    np.testing.assert_array_equal(run(proto, image(2))[0], wanted)


def test_batches_of_any_size_go_in() -> None:
    for name in ("mobilenet-integer", "vit-qkr_token", "swin-torchvision"):
        proto, _ = to_onnx(capture(MODELS[name](), image()), Container())
        together = run(proto, image(3))[0]
        assert together.shape[0] == 3
        np.testing.assert_allclose(run(proto, image(3)[1:2])[0], together[1:2], atol=1e-6)


def test_products_run_on_integers(tmp_path: Path) -> None:
    """But for the stem under lsq_paper, whose image is float, and what learned shifts add in attention."""
    integer = {"QLinearConv", "QGemm", "MatMulIntegerToFloat", "MatMulInteger", "QLinearMatMul"}

    def of(name: str) -> list[str]:
        return kernels(to_onnx(capture((MODELS | MORE)[name](), image()), Container())[0], tmp_path)

    floats = ("Conv", "FusedConv", "MatMul", "Gemm", "FusedMatMul", "FusedGemm", "ConvInteger")
    assert [kind for kind in of("mobilenet-lsq_paper") if kind in floats] == ["Conv"]
    for name in ("mobilenet-hard_swish", "resnet-integer"):
        found = of(name)
        assert not [kind for kind in found if kind in floats]
        assert integer & set(found)
    found = of("vit-qkr_unshifted")
    assert sum(kind in integer for kind in found) == 1 + 2 * 7 + 1  # patches; each block's products; the head
    left = [kind for kind in found if kind in floats]  # what the query's bias adds to each key; fused with a transpose from 1.32 on
    assert left in (["MatMul"] * 2, ["FusedMatMul"] * 2)


def test_weights_alone_in_few_bits_run_as_floats_exactly(tmp_path: Path) -> None:
    """ONNX Runtime would make MatMulNBits of a dequantized weight, and round the input to 8 bits."""
    model = MODELS["plain-W4A32"]()
    proto, _ = to_onnx(capture(model, image()), Container())
    assert "MatMulNBits" not in kernels(proto, tmp_path)
    with torch.no_grad():
        np.testing.assert_allclose(run(proto, image(2))[0], model(image(2)).numpy(), atol=1e-6)


def test_a_norm_may_turn_channels_round_or_switch_them_off() -> None:
    """A negative gamma gives a negative scale; a gamma of 0 leaves the bias alone, which must not leave int32."""
    model = small_mobilenet()
    exportable(model, QuantConfig.parse("W4A4", policy="integer", weight_range=MINMAX, activation_range=MINMAX))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.data[0].neg_()
        norm.weight.data[1].zero_()
        norm.weight.data[2].fill_(1e-12)
    assert_same(capture(model, image()), optimized=True)


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    manifest = export_onnx(
        MODELS["mobilenet-integer"](),
        path,
        example=image(),
        recipe={"a": 1},
        preprocessing={"size": 32},
        classes=["one", "two", "three", "four", "five"],
    )
    (text,) = (entry.value for entry in onnx.load(path).metadata_props if entry.key == KEY)
    assert manifest_of(text, "net.onnx") == manifest
    assert manifest.input.shape == (3, 32, 32)
    assert manifest.classes == ("one", "two", "three", "four", "five")
    assert manifest.layers[0].name == "conv_stem"
    initializers = {tensor.name for tensor in onnx.load(path).graph.initializer}
    assert {layer.codes for layer in manifest.layers} <= initializers
    nodes = {node.name for node in onnx.load(path).graph.node}
    assert {layer.node for layer in manifest.layers} <= nodes


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.erf(self.first(x)).mean((2, 3))


def test_bad_input_is_one_clear_line_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    model = Unknown()
    prepare(model, QuantConfig.parse("W4A4"), example=image())
    calibrate(model, [(image(2),)])
    with pytest.raises(ExportError, match=r"operation aten\.special_erf\.default has no ONNX form here; allowed: .*relu"):
        export_onnx(model, path, example=image())
    good = MODELS["mobilenet-lsq_paper"]()
    with pytest.raises(ExportError, match="example is missing"):
        export_onnx(good, path)
    with pytest.raises(ExportError, match="container is 'int2'; allowed are auto, int8, int4, packed"):
        export_onnx(good, path, example=image(), container="int2")
    with pytest.raises(ExportError, match=r"runtime is '1\.x'; allowed: a version of ONNX Runtime"):
        export_onnx(good, path, example=image(), runtime="1.x")
    with pytest.raises(ExportError, match=r"runtime is 1\.12; allowed: ONNX Runtime 1\.19 or newer"):
        export_onnx(good, path, example=image(), runtime="1.12")
    with pytest.raises(ExportError, match="cannot be written"):
        export_onnx(good, tmp_path / "missing" / "net.onnx", example=image())
    assert list(tmp_path.iterdir()) == []


def test_an_old_runtime_gets_containers_that_it_knows() -> None:
    program = capture(cnn(lambda: small_mobilenet(), "W4A4")(), image())
    proto, _ = to_onnx(program, Container.parse("auto", "1.20"))
    assert onnx.TensorProto.INT4 not in {tensor.data_type for tensor in proto.graph.initializer}
    with pytest.raises(ExportError, match=r"container is 'int4' with runtime 1\.20; allowed: ONNX Runtime 1\.23 or newer"):
        Container.parse("int4", "1.20")


def test_bytes_are_shifted_where_a_runtime_cannot_multiply_them() -> None:
    program = capture(MODELS["resnet-integer"](), image())
    new, old = (to_onnx(program, Container("int8", runtime))[0] for runtime in ((1, 23), (1, 19)))
    assert len(names_of(old, "BitShift")) == 4
    assert not names_of(new, "BitShift")
    np.testing.assert_array_equal(run(old, image(2))[0], run(new, image(2))[0])


def test_weights_with_zero_points_of_their_own_at_8_bits_run_in_floats(tmp_path: Path) -> None:
    """ONNX Runtime 1.23 fails at such a QLinearConv."""
    proto, _ = to_onnx(capture(MODELS["resnet-asymmetric"](), image()), Container())
    points = [node.input[2] for node in proto.graph.node if node.op_type == "DequantizeLinear" and len(node.input) > 2]
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert all((tensors[name] == tensors[name].flat[0]).all() for name in points)
    assert [kind for kind in kernels(proto, tmp_path) if kind in ("Conv", "FusedConv")]
