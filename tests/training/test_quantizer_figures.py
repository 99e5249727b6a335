"""What is measured of quantizers, against what can be counted by hand."""

import pytest
import torch
from torch import Tensor, nn

from stillbit.numerics.limits import FREE
from stillbit.oscillation import Dampening, Freezing, Tracking
from stillbit.prepare import QuantConfig, calibrate, prepare
from stillbit.prepare.size import packed_bytes
from stillbit.quantizers import LSQ, weight_sites
from stillbit.training.quantizer_figures import bins, facts, finite, observe, rounded


def network(**settings: object) -> nn.Module:
    """A convolution and two linear layers of 8, 3 and 8 bits, calibrated."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))
    images = torch.rand(2, 1, 4, 4)
    prepare(model, QuantConfig.parse("W3A4", **settings), example=images)  # type: ignore[arg-type]
    calibrate(model, [(images,)])
    return model


def put(model: nn.Module, name: str, values: Tensor, scale: float = 0.5) -> None:
    """Set a layer's grid, and its first weights; all others are 0."""
    (site,) = [site for site in weight_sites(model) if site.name == name]
    with torch.no_grad():
        site.quantizer.scale.fill_(scale)  # type: ignore[operator]
        latent = torch.zeros(site.latent().numel())
        latent[: len(values)] = values * scale
        site.parameters[0].copy_(latent.reshape(site.latent().shape))


def test_facts_name_every_quantizer_in_order() -> None:
    model = network()
    found = facts(model)
    assert [(layer["name"], layer["bits"], layer["low"], layer["high"]) for layer in found["layers"]] == [
        ("0", 8, -128, 127),
        ("3", 3, -4, 3),
        ("5", 8, -128, 127),
    ]
    assert found["layers"][1] == {
        "name": "3",
        "quantizer": "LSQ",
        "bits": 3,
        "low": -4,
        "high": 3,
        "shift": 0.0,
        "shape": [6, 16],
        "num_scales": 1,
        "num_bytes": 36,
    }
    assert [one["bits"] for one in found["activations"]] == [4, 8]
    assert all(one["name"] in dict(model.named_modules()) for one in found["activations"])
    assert found["float_bytes"] == 4 * (36 + 16 * 6 + 6 + 6 * 3 + 3)
    assert found["other_bytes"] + sum(layer["num_bytes"] for layer in found["layers"]) == packed_bytes(model)


def test_facts_of_a_grid_without_zero() -> None:
    found = facts(network(quantizer="statsq", per_channel=True))["layers"][1]
    assert (found["quantizer"], found["shift"], found["num_scales"]) == ("StatsQ", 0.5, 6)


def test_a_float_network_has_sizes_alone() -> None:
    model = nn.Linear(2, 3)
    assert facts(model) == {"layers": [], "activations": [], "other_bytes": 36, "float_bytes": 36}
    assert set(map(len, observe(model, []).values())) == {0}


@pytest.mark.parametrize(
    ("bits", "width", "count"), [(2, 0.1, 51), (3, 0.1, 91), (4, 0.1, 171), (5, 0.2, 166), (6, 0.5, 131), (8, 1.0, 258)]
)
def test_bins_reach_a_step_beyond_the_grid(bits: int, width: float, count: int) -> None:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    start, found, number = bins(bits, low, high)
    assert (found, number) == (width, count)
    assert (start + width / 2, start + width * (number - 0.5)) == pytest.approx((low - 1, high + 1))


def test_latents_are_counted_in_the_bin_that_they_lie_in() -> None:
    model = network()
    put(model, "3", torch.tensor([-4.0, -0.5, 0.46, 0.54, 0.56, 99.0, -99.0, torch.nan]))
    start, width, _ = bins(3, -4, 3)
    counts = observe(model, [])["histograms"][1]
    found = {round(start + width * (place + 0.5), 3): count for place, count in enumerate(counts) if count}
    assert found == {-5.0: 2, -4.0: 1, -0.5: 1, 0.0: 6 * 16 - 8, 0.5: 2, 0.6: 1, 4.0: 1}  # NaN is put lowest


def test_an_asymmetric_grid_is_counted_on_its_codes() -> None:
    model = network(weight_symmetric=False)
    site = weight_sites(model)[1]
    start, width, _ = bins(3, 0, 7)
    counts = torch.tensor(observe(model, [])["histograms"][1])
    codes = site.quantizer.code(site.latent())
    positions = start + width * (torch.arange(len(counts)) + 0.5)
    mean = float((positions * counts).sum() / counts.sum())
    assert mean == pytest.approx(float(codes.mean()), abs=0.2)  # rounding to codes, and to bins
    assert mean > 2.0


def test_scales_of_all_kinds() -> None:
    model = network(per_channel=True)
    scale = torch.arange(1.0, 7.0).reshape(6, 1) / 8
    with torch.no_grad():
        weight_sites(model)[1].quantizer.scale.copy_(scale)  # type: ignore[operator]
    found = observe(model, [])
    assert (found["scale"][1], found["smallest_scale"][1], found["largest_scale"][1]) == (0.4375, 0.125, 0.75)
    quantizers = dict(model.named_modules())
    expected = [rounded(float(quantizers[one["name"]].scale.detach().mean())) for one in facts(model)["activations"]]  # type: ignore[union-attr, operator]
    assert found["activation_scale"] == expected


def test_a_scale_that_is_kept_as_its_logarithm_is_told_as_it_is() -> None:
    model = network(log_scale=True)
    site = weight_sites(model)[1]
    assert observe(model, [])["scale"][1] == rounded(float(site.quantizer.grid(site.latent()).scale.detach()))


def test_an_activations_scale_is_the_mean_of_its_scales() -> None:
    plain, logarithm = LSQ(4, (3,)), LSQ(4, (3,), log_scale=True)
    with torch.no_grad():
        plain.scale.copy_(torch.tensor([1.0, 2.0, 6.0]))
        logarithm.scale.copy_(torch.tensor([1.0, 2.0, 6.0]).log())
    assert observe(nn.Sequential(plain, logarithm), [])["activation_scale"] == [3.0, pytest.approx(3.0, rel=1e-5)]


def test_shares_come_from_the_methods() -> None:
    model = network()
    tracking, dampening = Tracking(model, oscillating_above=0.1), Dampening(model, weight=0.1)
    tracking.start()
    tracking.tracker.histories["3"].frequency.flatten()[:24].fill_(0.2)
    found = observe(model, [dampening, tracking])
    assert found["oscillating"] == [None, 0.25, None]
    assert found["frozen"] == [None, None, None]


def test_pinned_weights_are_frozen_and_stand_at_their_codes() -> None:
    model = network()
    freezing = Freezing(model, threshold=0.5)
    freezing.start()
    put(model, "3", torch.full((48,), 0.3))
    pins = weight_sites(model)[1].quantizer.pins
    assert pins is not None
    pins.flatten()[:48] = 1
    assert int((pins == FREE).sum()) == 48
    found = observe(model, [freezing])
    assert found["frozen"] == [None, 0.5, None]
    start, width, _ = bins(3, -4, 3)
    assert found["histograms"][1][round((1 - start) / width - 0.5)] == 48


def test_observing_changes_nothing() -> None:
    model = network()
    method = Freezing(model, threshold=0.5)
    method.start()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    observe(model, [method])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize(
    ("number", "expected"), [(0.123456789, 0.123457), (1234567.0, 1234570.0), (float("inf"), None), (float("nan"), None)]
)
def test_numbers_are_short_and_finite(number: float, expected: float | None) -> None:
    assert rounded(number) == expected
    assert finite(number) is None or expected is not None
