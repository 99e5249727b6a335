"""A prepared vision transformer from end to end: keys, sites, precision, methods, resolutions."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that PyTorch itself gives it

from stillbit.errors import PrepareError
from stillbit.oscillation import Annealing, Dampening, Freezing, Method, Tracking
from stillbit.prepare import QuantConfig, calibrate, prepare
from stillbit.quantizers import Quantizer, weight_sites
from tests.equality import assert_equal
from tests.prepare.vits import MODELS, calibrated, distilled, image, loss, swin, torchvision_swin, vit

FORMS = ("plain", "qkr")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("attention", FORMS)
def test_every_key_and_parameter_of_the_float_model_is_kept(name: str, attention: str) -> None:
    model = MODELS[name]()
    keys, parameters = model.state_dict().keys(), dict(model.named_parameters())
    prepare(model, QuantConfig.for_vit("W3A3", attention=attention), example=image())
    assert keys <= model.state_dict().keys()
    after = dict(model.named_parameters())
    assert all(after[key] is parameter for key, parameter in parameters.items())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("attention", FORMS)
def test_a_trained_state_loads_strictly_right_after_prepare(name: str, attention: str) -> None:
    trained, fresh = calibrated(MODELS[name](), attention=attention), MODELS[name]()
    prepare(fresh, QuantConfig.for_vit("W3A3", attention=attention), example=image())
    fresh.load_state_dict(trained.state_dict(), strict=True)
    x = image(batch=3)
    assert torch.equal(fresh.eval()(x), trained.eval()(x))


BLOCK = ("attn.qk", "attn.v", "attn.proj")
SITES = {
    "vit": ["patch_embed.proj", *(f"blocks.{i}.{site}" for i in (0, 1) for site in (*BLOCK, "mlp.fc1", "mlp.fc2")), "head"],
    "distilled": ["patch_embed.proj", *(f"blocks.0.{site}" for site in (*BLOCK, "mlp.fc1", "mlp.fc2")), "head", "head_dist"],
    "swin-timm": [
        "patch_embed.proj",
        *(f"layers.0.blocks.{i}.{site}" for i in (0, 1) for site in (*BLOCK, "mlp.fc1", "mlp.fc2")),
        "layers.1.downsample.reduction",
        *(f"layers.1.blocks.0.{site}" for site in (*BLOCK, "mlp.fc1", "mlp.fc2")),
        "head.fc",
    ],
    "swin-torchvision": [
        "features.0.0",
        *(f"features.1.{i}.{site}" for i in (0, 1) for site in (*BLOCK, "mlp.0", "mlp.3")),
        "features.2.reduction",
        *(f"features.3.0.{site}" for site in (*BLOCK, "mlp.0", "mlp.3")),
        "head",
    ],
}


@pytest.mark.parametrize("name", MODELS)
def test_sites(name: str) -> None:
    model = MODELS[name]()
    prepare(model, QuantConfig.for_vit("W3A3"), example=image())
    assert [site.name for site in weight_sites(model)] == SITES[name]


def test_sites_of_the_plain_form_are_its_layers() -> None:
    model = vit(depth=1)
    prepare(model, QuantConfig.for_vit("W3A3", attention="plain"), example=image())
    names = ["patch_embed.proj", *(f"blocks.0.{name}" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")), "head"]
    assert [site.name for site in weight_sites(model)] == names


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("attention", FORMS)
def test_every_parameter_gets_a_gradient(name: str, attention: str) -> None:
    """Of a learned shift in front of keys it is almost nothing, but it is there (docs/spec/vit.md, 4.3)."""
    model = calibrated(MODELS[name](), attention=attention).train()
    if name == "distilled":
        model.set_distilled_training(True)
    loss(model, image(batch=2)).backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.isfinite().all()] == []


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("attention", FORMS)
def test_evaluation_changes_nothing(name: str, attention: str) -> None:
    model = calibrated(MODELS[name](), attention=attention).eval()
    before = copy.deepcopy(model.state_dict())
    first = model(image(batch=2))
    assert torch.equal(model(image(batch=2)), first)
    assert_equal(dict(before), dict(model.state_dict()), "state")


@pytest.mark.parametrize("attention", FORMS)
def test_outputs_do_not_depend_on_the_batch_size(attention: str) -> None:
    model, x = calibrated(vit(), attention=attention).double().eval(), image(batch=7).double()
    # Sums of other sizes run in another order; in float64 no code flips by that.
    torch.testing.assert_close(torch.cat([model(one) for one in x.split(1)]), model(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("build", [vit, swin], ids=["vit", "swin-timm"])
@pytest.mark.parametrize("attention", FORMS)
def test_fused_attention_never_runs(build: Callable[[], nn.Module], attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("fused attention would skip the probabilities' quantizer")

    model = calibrated(build(), attention=attention)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = True
    monkeypatch.setattr(F, "scaled_dot_product_attention", forbidden)
    loss(model.train(), image(batch=2)).backward()
    model.eval()(image(batch=2))


def weights_in_use(model: nn.Module, x: Tensor, *, autocast: bool) -> dict[str, Tensor]:
    """Return the values of every quantized weight, products included, as a forward pass uses them."""
    seen: dict[str, Tensor] = {}
    handles = [
        site.quantizer.register_forward_hook(lambda _, __, value, name=site.name: seen.update({name: value}))
        for site in weight_sites(model)
    ]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss(model, x).backward()
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("attention", FORMS)
def test_autocast_keeps_weight_codes(name: str, attention: str) -> None:
    """Of products too: those that methods and exports compute outside autocast are those in use."""
    model = calibrated(MODELS[name](), attention=attention)
    plain, mixed = (weights_in_use(model, image(batch=2), autocast=autocast) for autocast in (False, True))
    for site in weight_sites(model):
        assert mixed[site.name].dtype == torch.float32
        assert torch.equal(plain[site.name], mixed[site.name]), site.name
        grid = site.quantizer.grid(site.latent())
        assert torch.equal(mixed[site.name], (site.quantizer.code(site.latent()) + grid.shift) * grid.scale), site.name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("attention", FORMS)
def test_models_of_another_dtype(dtype: torch.dtype, attention: str) -> None:
    model, x = vit().to(dtype), image(batch=2).to(dtype)
    prepare(model, QuantConfig.for_vit("W3A3", attention=attention), example=x)
    calibrate(model, [(x,)])
    output = model(x)
    output.square().mean().backward()
    assert output.dtype == dtype


TENSOR_SCALES: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: vit(dynamic_img_size=True),
    "distilled": lambda: distilled(dynamic_img_size=True),
    "swin-timm": lambda: swin(strict_img_size=False),
    "swin-torchvision": torchvision_swin,
}


@pytest.mark.parametrize("name", TENSOR_SCALES)
@pytest.mark.parametrize("attention", FORMS)
def test_scales_a_tensor_serve_any_size(name: str, attention: str) -> None:
    model = calibrated(TENSOR_SCALES[name](), attention=attention, activation_scales="tensor")
    for size in (32, 64):
        assert model(image(size)).isfinite().all()


@pytest.mark.parametrize("name", ["vit", "distilled", "swin-torchvision"])
@pytest.mark.parametrize("learned_shifts", [False, True], ids=["scales", "shifts"])
def test_scales_a_token_and_shifts_a_pixel_refuse_another_size_in_one_line(name: str, learned_shifts: bool) -> None:
    model = calibrated(TENSOR_SCALES[name](), learned_shifts=learned_shifts)
    with pytest.raises(PrepareError, match=r"^quantizer [\w.]+ has (scales|shifts) for .* \(.*\) and was given \(.*'tensor'$"):
        model(image(64))


def test_the_refusal_of_a_size_names_quantizer_and_sizes() -> None:
    """Of 64 pixels rather than 32: the image's shifts; without shifts the first block's input, 65 tokens rather than 17."""
    tail = "one image size, allowed: that size, or activation_scales 'tensor'"
    with pytest.raises(PrepareError) as caught:
        calibrated(vit(dynamic_img_size=True))(image(64))
    assert str(caught.value) == (
        "quantizer patch_embed.proj.input_quantizer.quantizer has shifts for inputs that end in (32, 32) and was given (1, 3, 64, 64); "
        f"one shift a pixel serves {tail}"
    )
    with pytest.raises(PrepareError) as caught:
        calibrated(vit(dynamic_img_size=True), learned_shifts=False)(image(64))
    assert str(caught.value) == (
        "quantizer blocks.0.attn.products.input_quantizer has scales for inputs of shape (*, 17, *) and was given (1, 65, 16); "
        f"per-token scales serve {tail}"
    )


METHODS: dict[str, Callable[[nn.Module], Method]] = {
    "tracking": lambda model: Tracking(model),
    "dampening": lambda model: Dampening(model, weight=1e-2),
    "freezing": lambda model: Freezing(model, threshold=1e-6, ema_momentum=0.5),
    "annealing": lambda model: Annealing(model, boundary_range=0.1),
    "annealing, published": lambda model: Annealing(model, boundary_range=0.1, published=True),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("build", [vit, torchvision_swin], ids=["vit", "swin-torchvision"])
def test_methods_take_steps(name: str, build: Callable[[], nn.Module]) -> None:
    """On products of weights, slices of weights, and whole weights alike; the state goes back and forth."""
    model = calibrated(build()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    method = METHODS[name](model).attach(optimizer)
    before = copy.deepcopy(model.state_dict())
    for seed in range(2):
        torch.manual_seed(seed)
        optimizer.zero_grad()
        loss(model, torch.randn(2, 3, 32, 32)).backward()
        optimizer.step()
    assert method.step == 2
    assert all(value.isfinite().all() for value in model.state_dict().values())
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert any(key.endswith("attn.qkv.weight") for key in changed)
    method.load_state_dict(method.state_dict())


def test_pins_hold_codes_of_products_in_forward() -> None:
    """No weight can hold them; the quantizer does, while the weights go on."""
    model = calibrated(vit(depth=1))
    (site,) = (site for site in weight_sites(model) if site.name == "blocks.0.attn.qk")
    assert site.quantizer.pins is not None
    free = site.quantizer.code(site.latent())
    pinned = torch.where(free > 0, free - 1, free + 1)
    site.quantizer.pins[::2] = pinned[::2].to(torch.int8)
    expected = copy.deepcopy(free)
    expected[::2] = pinned[::2]
    assert torch.equal(site.quantizer.code(site.latent()), expected)
    grid = site.quantizer.grid(site.latent())
    assert torch.equal(weights_in_use(model, image(), autocast=False)[site.name], (expected + grid.shift) * grid.scale)


def test_annealing_moves_the_value_within_its_gate_alone() -> None:
    """The rows of queries and keys move with the products; those of values are written back where the gate is shut."""
    model = calibrated(vit(depth=1)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    method = Annealing(model, boundary_range=0.1)
    method.attach(optimizer)
    value = next(site for site in weight_sites(model) if site.name == "blocks.0.attn.v")
    before = value.latent().detach().clone()
    free = value.quantizer.free(before)
    loss(model, image(batch=2)).backward()
    optimizer.step()
    moved = value.latent() != before
    assert free.any()
    assert not free.all()
    assert not (moved & ~free).any()
    assert moved.any()


def test_products_that_are_left_out_have_no_quantizer() -> None:
    model = vit(depth=1)
    prepare(model, QuantConfig.for_vit("W3A3", attention="float"), example=image())
    assert not [name for name, module in model.named_modules() if isinstance(module, Quantizer) and "products" in name]
