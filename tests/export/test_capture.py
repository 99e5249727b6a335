"""What leaves PyTorch: a program that computes what the model does, of codes and grids."""

import pytest
import torch
from torch import nn

from stillbit.errors import ExportError
from stillbit.export import capture
from stillbit.export.program import operation_name
from stillbit.prepare import QuantConfig, prepare
from stillbit.quantizers import Quantizer, weight_sites
from tests.export.networks import MODELS, image
from tests.prepare.networks import small_mobilenet


@pytest.mark.parametrize("name", MODELS)
def test_output_is_the_models_bit_for_bit_at_any_batch(name: str) -> None:
    model = MODELS[name]()
    program = capture(model, image())
    with torch.no_grad():
        for batch in (1, 3):
            assert torch.equal(program(image(batch)), model(image(batch)))


@pytest.mark.parametrize("name", ["mobilenet-integer", "resnet-asymmetric", "vit-qkr_token"])
def test_codes_are_those_of_the_weight_quantizers(name: str) -> None:
    model = MODELS[name]()
    tensors = capture(model, image()).tensors()
    for site in weight_sites(model):
        codes = tensors[f"{site.quantizer.label}.codes"]
        assert codes.dtype in (torch.int8, torch.uint8)
        assert torch.equal(codes.float(), site.quantizer.code(site.latent()))


def test_no_latent_weight_is_kept() -> None:
    model = MODELS["vit-qkr_token"]()
    latents = {parameter.shape for site in weight_sites(model) for parameter in site.parameters}
    floats = [tensor for tensor in capture(model, image()).tensors().values() if tensor.is_floating_point()]
    assert not latents & {tensor.shape for tensor in floats}


def test_every_activation_quantizer_is_one_operation() -> None:
    model = MODELS["mobilenet-integer"]()
    of_weights = {site.quantizer.label for site in weight_sites(model)}
    activations = {m.label for m in model.modules() if isinstance(m, Quantizer)} - of_weights
    program = capture(model, image())
    found = [node.args[-1] for node in program.module.graph.nodes if operation_name_of(node) == "stillbit.fake_quantize.default"]
    assert sorted(found) == sorted(activations)


def operation_name_of(node: torch.fx.Node) -> str:
    return operation_name(node.target) if node.op == "call_function" else ""


def test_the_model_stays_as_it_is() -> None:
    model = MODELS["vit-qkr_token"]().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = [type(module) for module in model.modules()]
    capture(model, image())
    assert model.training
    assert modules == [type(module) for module in model.modules()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_layers_and_shapes_are_known() -> None:
    program = capture(MODELS["mobilenet-lsq_paper"](), image())
    (stem, *_) = (node for node in program.module.graph.nodes if operation_name_of(node) == "aten.conv2d.default")
    assert stem.meta["layer"] == "conv_stem"
    assert stem.meta["shape"] == (None, 8, 16, 16)


def test_bad_input_is_one_clear_line() -> None:
    with pytest.raises(ExportError, match="Linear has no quantizers; allowed: a model that prepare has quantized"):
        capture(nn.Linear(2, 2), image())
    model = small_mobilenet()
    prepare(model, QuantConfig.parse("W4A4"), example=image())
    with pytest.raises(ExportError, match=r"quantizer conv_stem.weight_quantizer has no range yet"):
        capture(model, image())
    with pytest.raises(ExportError, match=r"holds bfloat16; allowed: a model in float32"):
        capture(MODELS["mobilenet-lsq_paper"]().bfloat16(), image())


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) if x.sum() > 0 else x


def test_a_model_that_cannot_be_traced_is_one_line() -> None:
    from stillbit.prepare import calibrate

    model = Branching()
    prepare(model, QuantConfig.parse("W4A4"), example=torch.ones(1, 3))
    calibrate(model, [(torch.ones(2, 3),)])
    with pytest.raises(ExportError, match=r"Branching cannot be traced by torch\.export") as caught:
        capture(model, torch.ones(1, 3))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pin", [-126, 100])
def test_a_pin_outside_its_grid_is_refused(pin: int) -> None:
    model = MODELS["mobilenet-integer"]()
    site = next(site for site in weight_sites(model) if site.quantizer.bits <= 4)
    site.quantizer.allocate_pins(site.latent().shape)
    site.quantizer.pins.view(-1)[0] = pin
    with pytest.raises(ExportError, match=f"{site.quantizer.label}: codes .*{pin}.*: its pins are damaged"):
        capture(model, image())
