"""How many scales and shifts each activation of a vision transformer gets, and which sign; docs/spec/vit.md, 3.2 and 3.3."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillbit.modules.shift import Shifted
from stillbit.prepare import QuantConfig, calibrate, prepare
from stillbit.quantizers import Quantizer
from tests.prepare.vits import MODELS, calibrated, distilled, image, vit

BLOCK = "blocks.0."
PRODUCTS = BLOCK + "attn.products."


def prepared(model: nn.Module, **settings: Any) -> nn.Module:
    prepare(model, QuantConfig.for_vit("W3A3", **settings), example=image())
    return model


def quantizer(model: nn.Module, name: str) -> Quantizer:
    found = model.get_submodule(name)
    found = found.quantizer if isinstance(found, Shifted) else found
    assert isinstance(found, Quantizer)
    return found


# Of `vit`: 17 tokens, 16 channels, 2 heads. By name: scales one per token, scales one per tensor.
SCALES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "patch_embed.proj.input_quantizer": ((1, 3, 1, 1), (1,)),
    PRODUCTS + "input_quantizer": ((1, 17, 1), (1,)),
    PRODUCTS + "product_quantizer": ((32, 1), (32, 1)),
    PRODUCTS + "value_weight_quantizer": ((16, 1), (16, 1)),
    PRODUCTS + "key_quantizer": ((1, 17, 2, 1), (1, 1, 2, 1)),
    PRODUCTS + "value_quantizer": ((1, 1, 16), (1, 1, 16)),
    PRODUCTS + "probability_quantizer": ((1, 1, 17, 1), (1,)),
    BLOCK + "attn.proj.input_quantizer": ((1, 17, 1), (1,)),
    BLOCK + "mlp.fc1.input_quantizer": ((1, 17, 1), (1,)),
    BLOCK + "mlp.fc2.input_quantizer": ((1, 17, 1), (1,)),
    "head.input_quantizer": ((1,), (1,)),
}


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("scales", ["token", "tensor"])
def test_scale_shapes(name: str, scales: str) -> None:
    model = prepared(vit(), activation_scales=scales)
    assert quantizer(model, name).scale_shape == SCALES[name][scales == "tensor"]


@pytest.mark.parametrize("name", ["query_quantizer", "key_quantizer"])
@pytest.mark.parametrize(("scales", "shape"), [("token", (1, 17, 1)), ("tensor", (1,))])
def test_scale_shapes_of_the_plain_form(name: str, scales: str, shape: tuple[int, ...]) -> None:
    model = prepared(vit(), attention="plain", activation_scales=scales)
    assert quantizer(model, PRODUCTS + name).scale_shape == shape


@pytest.mark.parametrize(
    ("name", "shape"),
    [("features.1.0.mlp.0", (1, 1, 8, 1)), ("features.2.reduction", (1, 1, 4, 1)), ("features.1.0.attn.proj", (1, 16, 1))],
    ids=["columns of an MLP", "columns of a merging", "places of a window"],
)
def test_scale_shapes_on_maps(name: str, shape: tuple[int, ...]) -> None:
    model = prepared(MODELS["swin-torchvision"]())
    assert quantizer(model, name + ".input_quantizer").scale_shape == shape


# before, behind; a value whose projection has a bias needs none before it; behind keys and probabilities none has an effect, or fits.
SHIFTS: dict[str, tuple[tuple[int, ...] | None, tuple[int, ...] | None]] = {
    "patch_embed.proj.input_quantizer": ((32, 32), (32, 32)),
    PRODUCTS + "input_quantizer": ((16,), (16,)),
    PRODUCTS + "key_quantizer": ((2, 16), None),
    PRODUCTS + "value_quantizer": (None, (16,)),
    BLOCK + "mlp.fc2.input_quantizer": ((64,), (64,)),
    "head.input_quantizer": ((16,), (16,)),
}


def shapes(module: nn.Module) -> tuple[tuple[int, ...] | None, ...]:
    assert isinstance(module, Shifted)
    return tuple(None if bias is None else tuple(bias.shape) for bias in (module.before, module.after))


@pytest.mark.parametrize("name", SHIFTS)
def test_shift_shapes(name: str) -> None:
    assert shapes(prepared(vit()).get_submodule(name)) == SHIFTS[name]


def test_probabilities_have_no_shift() -> None:
    assert isinstance(prepared(vit()).get_submodule(PRODUCTS + "probability_quantizer"), Quantizer)


@pytest.mark.parametrize("settings", [{"qkv_bias": False}, {"published": True}], ids=["projection without bias", "published"])
def test_values_get_a_shift_where_the_projection_has_no_bias_and_in_the_published_form(settings: dict[str, bool]) -> None:
    published = settings.pop("published", False)
    model = prepared(vit(**settings), published=published)
    assert shapes(model.get_submodule(PRODUCTS + "value_quantizer")) == ((16,), (16,))


def test_image_shift_under_tensor_scales_fits_any_size() -> None:
    model = prepared(vit(), activation_scales="tensor")
    assert shapes(model.get_submodule("patch_embed.proj.input_quantizer")) == ((3, 1, 1), (3, 1, 1))


def test_shifts_can_be_left_out() -> None:
    model = prepared(vit(), learned_shifts=False)
    assert not [name for name, module in model.named_modules() if isinstance(module, Shifted)]


UNSIGNED = {"mlp.fc2.input_quantizer", "products.probability_quantizer", "mlp.3.input_quantizer"}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("attention", ["plain", "qkr"])
def test_signs_follow_from_where_a_tensor_comes_from(name: str, attention: str) -> None:
    """Unsigned behind GELU and softmax, whatever the data: the calibration images make GELU's output negative, too."""
    model = calibrated(MODELS[name](), attention=attention)
    for path, module in model.named_modules():
        if isinstance(module, Quantizer):
            path = path.removesuffix(".quantizer")
            assert module.is_signed != any(path.endswith(end) for end in UNSIGNED), path


@pytest.mark.parametrize(("x", "signed"), [(image(batch=4), True), (image(batch=4).abs(), False)], ids=["normalized", "raw"])
def test_the_images_sign_is_the_datas(x: Tensor, signed: bool) -> None:
    model = prepared(vit())
    calibrate(model, [(x,)])
    assert quantizer(model, "patch_embed.proj.input_quantizer").is_signed == signed


class AddsInPlace(nn.Module):
    """A residual sum that overwrites an activation function's output, which then may be negative."""

    def __init__(self, *, adds: bool) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.activation = nn.GELU()
        self.second = nn.Linear(4, 4)
        self.last = nn.Linear(4, 4)
        self.adds = adds

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.first(x))
        if self.adds:
            y += x
        return self.last(self.second(y))


@pytest.mark.parametrize("adds", [False, True], ids=["activation's output", "overwritten by a sum"])
def test_a_sum_in_place_makes_an_activation_signed(adds: bool) -> None:
    model, x = AddsInPlace(adds=adds), torch.randn(2, 3, 4)
    prepare(model, QuantConfig.for_vit("W3A3", attention="float"), example=x)
    calibrate(model, [(x,)])
    assert quantizer(model, "second.input_quantizer").is_signed == adds


@pytest.mark.parametrize("head", ["head", "head_dist"])
def test_both_heads_of_a_distilled_model_have_8_bits(head: str) -> None:
    model = prepared(distilled())
    assert quantizer(model, head + ".input_quantizer").bits == quantizer(model, head + ".weight_quantizer").bits == 8
    assert quantizer(model, "blocks.0.mlp.fc2.weight_quantizer").bits == 3


@pytest.mark.parametrize(("scales", "factor"), [("token", 4.0), ("tensor", 2.0)])
def test_initial_scales_of_probabilities(scales: str, factor: float) -> None:
    """Rows of 17 sum to 1, so that the mean is 1/17; unsigned scales, several of them, begin twice as large (docs/spec/vit.md, 2.1)."""
    model = calibrated(vit(), activation_scales=scales)
    scale = quantizer(model, PRODUCTS + "probability_quantizer").scale
    torch.testing.assert_close(scale, torch.full_like(scale, factor / 17 / 7**0.5), rtol=1e-5, atol=0.0)  # float32 sums
