"""torchao: its `quantize_` prepares a model, and its fake-quantized layers are tracked by its own integers, bit for bit."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchao.quantization import quantize_
from torchao.quantization.qat import Float8FakeQuantizeConfig, IntxFakeQuantizeConfig, QATConfig, initialize_fake_quantizers
from torchao.quantization.quant_primitives import quantize_affine

from stillbit.errors import PrepareError
from stillbit.integrations.torchao import StillbitConfig, watched, whole_model
from stillbit.oscillation import Freezing, Tracking
from stillbit.prepare import QuantConfig, calibrate, prepare
from stillbit.quantizers import weight_sites
from tests.integrations.digits import digits, float_network
from tests.integrations.watching import MOMENTUM, check_tracking

INPUTS = torch.randn(16, 32, generator=torch.Generator().manual_seed(3))

GRIDS: dict[str, dict[str, Any]] = {
    "groups": {"group_size": 8},
    "channels": {"granularity": "per_channel"},
    "asymmetric": {"group_size": 8, "is_symmetric": False},
    "learned": {"group_size": 8, "is_dynamic": False, "range_learning": True},
    "static": {"group_size": 8, "is_dynamic": False},
}


def model(dtype: torch.dtype, grid: dict[str, Any], floats: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Linear(32, 24, bias=False), nn.ReLU(), nn.Linear(24, 16, bias=False), nn.ReLU(), nn.Linear(16, 4)).to(floats)
    quantize_(
        layers, QATConfig(weight_config=IntxFakeQuantizeConfig(dtype, **grid), step="prepare"), filter_fn=lambda _, name: name in ("0", "2")
    )
    if grid.get("range_learning"):
        initialize_fake_quantizers(layers, (INPUTS.to(floats),))
    layers(INPUTS.to(floats))
    return layers


def codes(layers: nn.Sequential, *names: str) -> dict[str, Tensor]:
    """What torchao's own primitive makes of weights, scales and zero points as the forward pass leaves them."""
    found = {}
    for name in names:
        layer = layers.get_submodule(name)
        quantizer = layer.weight_fake_quantizer
        bits = int(str(quantizer.config.dtype)[-1])
        with torch.no_grad():
            quantizer(layer.weight)
            groups = (1, layer.weight.shape[1] // quantizer.scale.reshape(len(layer.weight), -1).shape[1])
            found[name] = quantize_affine(
                layer.weight, groups, quantizer.scale, quantizer.zero_point, torch.int32, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
            )
    return found


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("dtype", [torch.int2, torch.int3, torch.int4, torch.int8], ids=str)
@pytest.mark.parametrize("floats", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_codes_are_torchaos_own(grid: dict[str, Any], dtype: torch.dtype, floats: torch.dtype) -> None:
    layers = model(dtype, grid, floats)
    sites = weight_sites(watched(layers))
    # torchao's zero points are cut to integers, so they are not 0 only where weights are large
    unit = 8 if grid == GRIDS["asymmetric"] else 256
    with torch.no_grad():
        for site in sites:  # steps of a power of two, so that many weights are on a boundary or next to one
            (weight,) = site.parameters
            weight.copy_(torch.randint(-64, 65, weight.shape) / unit)
    own = codes(layers, "0", "2")
    assert own.keys() == {site.name for site in sites}
    for site in sites:
        assert torch.equal(site.quantizer.code(site.latent()).int(), own[site.name])
        fake = layers.get_submodule(site.name).weight_fake_quantizer
        scale = fake.scale.detach().reshape(len(own[site.name]), -1).repeat_interleave(site.latent().shape[1] // fake.scale.shape[-1], 1)
        offset = site.quantizer.grid(site.latent()).zero_point
        if grid == GRIDS["asymmetric"] and dtype in (torch.int2, torch.int3):
            assert int(offset.count_nonzero()) > 0
        # values of the codes are what the layer multiplies by
        assert torch.equal(((own[site.name] - offset) * scale).to(floats), fake(site.parameters[0]))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_tracking_counts_what_torchao_does(grid: dict[str, Any]) -> None:
    layers = model(torch.int3, grid)
    tracking = Tracking(watched(layers), ema_momentum=MOMENTUM, totals=True)
    check_tracking(layers, tracking, lambda: codes(layers, "0", "2"), INPUTS)
    assert 0.0 < tracking.metrics()["oscillating"] < 1.0


def test_embeddings_are_watched() -> None:
    layers = nn.Sequential(nn.Embedding(10, 16), nn.Linear(16, 4))
    config = QATConfig(weight_config=IntxFakeQuantizeConfig(torch.int4, group_size=8), step="prepare")
    quantize_(layers, config, filter_fn=lambda module, _: isinstance(module, nn.Embedding))
    (site,) = weight_sites(watched(layers))
    assert (site.name, site.quantizer.bits, site.quantizer.limits, site.output_axis) == ("0", 4, (-8, 7), 0)


def test_what_changes_weights_is_refused() -> None:
    with pytest.raises(PrepareError, match="layer 0 is another library's and can only be watched"):
        Freezing(watched(model(torch.int4, GRIDS["groups"])), threshold=0.1)


def linear(config: Any) -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(16, 4))
    quantize_(layers, QATConfig(weight_config=config, step="prepare"))
    return layers


REFUSED: dict[str, tuple[Any, str]] = {
    "learned-zero-point": (
        IntxFakeQuantizeConfig(torch.int4, group_size=8, is_symmetric=False, is_dynamic=False, range_learning=True),
        "layer 0: torchao's zero point is not an integer",
    ),
    "no-scale": (IntxFakeQuantizeConfig(torch.int4, group_size=8, is_dynamic=False), "layer 0: torchao has no scale for it yet"),
    "floats": (Float8FakeQuantizeConfig(), "no integer weight of torchao"),
}


@pytest.mark.parametrize(("config", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_watched_is_refused(config: Any, message: str) -> None:
    with pytest.raises(PrepareError, match=message):
        watched(linear(config))


@pytest.mark.parametrize("config", ["W3A3", QuantConfig.parse("W3A3")], ids=["text", "object"])
def test_quantize_prepares_the_model(config: str | QuantConfig) -> None:
    images = digits().tensors[0]
    ours, theirs = float_network(), float_network()
    prepare(ours, QuantConfig.parse("W3A3"), example=images[:1])
    quantize_(theirs, StillbitConfig(config, example=images[:1]), filter_fn=whole_model)
    for layers in (ours, theirs):
        calibrate(layers, [(images,)])
    assert torch.equal(ours(images), theirs(images))
    assert [site.quantizer.bits for site in weight_sites(theirs)] == [8, 3, 3, 8]


def test_quantize_without_the_filter_is_refused() -> None:
    layers = float_network()
    with pytest.raises(PrepareError, match=r"a single Linear, StillbitConfig needs the whole model; allowed: filter_fn=.*whole_model"):
        quantize_(layers, StillbitConfig("W3A3", example=torch.zeros(1, 1, 8, 8)))
    assert all(type(layer).__module__.startswith("torch.") for layer in layers)
