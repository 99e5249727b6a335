"""Brevitas layers as Tracking sees them: codes equal to Brevitas's own integers, bit for bit."""

from typing import Any

import brevitas.nn as qnn
import brevitas.quant as quants
import pytest
import torch
from torch import Tensor, nn

from stillbit.errors import PrepareError
from stillbit.integrations.brevitas import watched
from stillbit.oscillation import Annealing, Dampening, Freezing, Recording, Tracking
from stillbit.quantizers import weight_sites
from tests.integrations.digits import network
from tests.integrations.watching import MOMENTUM, check_tracking

# Brevitas 0.13 takes names off its inputs; torch 2.9 says once that names are experimental.
pytestmark = pytest.mark.filterwarnings("ignore:Named tensors and all their associated APIs are an experimental feature:UserWarning")

IMAGES = torch.randn(16, 2, 6, 6, generator=torch.Generator().manual_seed(3))

GRIDS: dict[str, dict[str, Any]] = {
    "tensor": {"weight_quant": quants.Int8WeightPerTensorFloat},
    "channel": {"weight_quant": quants.Int8WeightPerChannelFloat},
    "fixed_point": {"weight_quant": quants.Int8WeightPerTensorFixedPoint},
    "learned": {"weight_quant": quants.Int8WeightPerTensorFloat, "weight_scaling_impl_type": "parameter_from_stats"},
    "asymmetric_tensor": {"weight_quant": quants.ShiftedUint8WeightPerTensorFloat},
    "asymmetric_channel": {"weight_quant": quants.ShiftedUint8WeightPerChannelFloat},
}


def model(**settings: Any) -> nn.Sequential:
    """A convolution, a transposed one and a linear layer at 3 bits, and a linear layer at 8."""
    torch.manual_seed(1)
    low = {"weight_bit_width": 3, "bias": False, **settings}
    return nn.Sequential(
        qnn.QuantConv2d(2, 4, 3, **low), nn.ReLU(), qnn.QuantConvTranspose2d(4, 3, 2, **low), nn.ReLU(), nn.Flatten(),
        qnn.QuantLinear(75, 8, **low), nn.ReLU(), qnn.QuantLinear(8, 4, bias=False, weight_bit_width=8),
    )  # fmt: skip


def codes(layers: nn.Sequential, *names: str) -> dict[str, Tensor]:
    with torch.no_grad():
        return {name: layers.get_submodule(name).quant_weight().int().int() for name in names}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_codes_are_brevitass_own(grid: dict[str, Any], bits: int, dtype: torch.dtype) -> None:
    layer = qnn.QuantLinear(64, 32, bias=False, weight_bit_width=bits, **grid).to(dtype)
    (site,) = weight_sites(watched(nn.Sequential(layer)))
    # steps of a power of two, so that many weights are on a boundary or next to one
    with torch.no_grad():
        layer.weight.copy_(torch.randint(-64, 65, layer.weight.shape) / 256)
    own = layer.quant_weight().int()
    assert torch.equal(site.quantizer.code(site.latent()).int(), own.int())
    low, high = site.quantizer.limits
    assert low <= own.min()
    assert high in (own.max(), own.max() + 1)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_tracking_counts_what_brevitas_does(grid: dict[str, Any]) -> None:
    layers = model(**grid)
    layers(IMAGES)
    tracking = Tracking(watched(layers), ema_momentum=MOMENTUM, totals=True)
    check_tracking(layers, tracking, lambda: codes(layers, "0", "2", "5"), IMAGES)
    assert 0.0 < tracking.metrics()["oscillating"] < 1.0
    assert tracking.layer_metrics().keys() == {"0", "2", "5"}


def test_tracking_changes_nothing() -> None:
    states = []
    for tracked in (False, True):
        layers = model(**GRIDS["learned"])
        optimizer = torch.optim.SGD(layers.parameters(), lr=0.05)
        if tracked:
            Tracking(watched(layers)).attach(optimizer)
        for _ in range(3):
            layers(IMAGES).square().sum().backward()
            optimizer.step()
        states.append(layers.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_sites_say_what_they_are() -> None:
    sites = weight_sites(watched(model()))
    assert [(site.name, site.quantizer.bits, site.output_axis, site.quantizer.limits) for site in sites] == [
        ("0", 3, 0, (-3, 3)), ("2", 3, 1, (-3, 3)), ("5", 3, 0, (-3, 3)), ("7", 8, 0, (-127, 127)),
    ]  # fmt: skip
    for refused in (sites[0].gradient, lambda: sites[0].add_gradient(IMAGES), lambda: sites[0].write(IMAGES, IMAGES)):
        with pytest.raises(PrepareError, match="site 0: watched only"):
            refused()


def test_positions_can_be_recorded() -> None:
    layers = model()
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.0)
    recording = Recording(watched(layers), layers="0", weights=72, steps=1).attach(optimizer)
    optimizer.step()
    with torch.no_grad():
        position = layers[0].weight / layers[0].quant_weight().scale
    assert torch.equal(recording.positions["0"][0], position.flatten())


@pytest.mark.parametrize(
    "make",
    [lambda m: Freezing(m, threshold=0.1), lambda m: Dampening(m, weight=0.1), lambda m: Annealing(m)],
    ids=["freezing", "dampening", "annealing"],
)
def test_what_changes_weights_is_refused(make: Any) -> None:
    with pytest.raises(PrepareError, match="layer 0 is another library's and can only be watched; allowed: Tracking, or prepare"):
        make(watched(model()))


def test_own_layers_are_seen_too() -> None:
    mixed = nn.ModuleDict({"ours": network(), "theirs": model()})
    assert [site.name for site in weight_sites(watched(mixed))][:2] == ["ours.0", "ours.3"]
    assert Freezing(mixed, threshold=0.1).tracker.sites()[0].name == "ours.3"
    assert list(watched(mixed).state_dict()) == []


def test_a_model_of_several_wrappers_has_its_own_names() -> None:
    assert weight_sites(watched(nn.DataParallel(model())))[0].name == "0"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "rounding": ({"weight_float_to_int_impl_type": "floor"}, "layer 0: Brevitas rounds it by floor; allowed: ROUND"),
    "learned-width": ({"weight_bit_width_impl_type": "parameter"}, "layer 0: Brevitas learns its width"),
    "nothing": ({"weight_quant": None}, "no integer weight of Brevitas"),
    "floats": ({"weight_quant": quants.Fp8e4m3WeightPerTensorFloat}, "no integer weight of Brevitas"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_watched_is_refused(settings: dict[str, Any], message: str) -> None:
    layer = qnn.QuantLinear(8, 4, bias=False, **settings)
    with pytest.raises(PrepareError, match=message):
        watched(nn.Sequential(layer))
