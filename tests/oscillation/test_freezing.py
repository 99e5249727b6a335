import copy
import logging

import pytest
import torch
from torch import Tensor, nn

from stillbit.errors import CheckpointError, PrepareError, RecipeError
from stillbit.modules import QuantLinear, adopt
from stillbit.oscillation import Freezing, Tracking
from stillbit.quantizers import StatsQ
from stillbit.schedules import Constant
from tests.oscillation.small_models import calibrated, linear, network, one_weight, place, sgd, train

FREE = -128
OSCILLATION = (0.2, 0.4, 0.2)  # codes 1, 2, 1


def drive(freezing: Freezing, *weights: float) -> Tensor:
    """Drive a one-weight model by hand, and return its pin."""
    for weight in weights:
        place(freezing.model, weight)
        freezing.after_step(1)
    return freezing.model[0].weight_quantizer.pins


@pytest.mark.parametrize(("momentum", "pinned"), [pytest.param(0.1, False, id="at-the-threshold"), pytest.param(0.11, True, id="above")])
def test_the_threshold_is_strict_in_float32(momentum: float, pinned: bool) -> None:
    freezing = Freezing(one_weight(), threshold=0.1, ema_momentum=momentum)
    assert (drive(freezing, *OSCILLATION).item() != FREE) == pinned


def test_nothing_freezes_at_threshold_zero() -> None:
    assert drive(Freezing(one_weight(), threshold=Constant(0.0), ema_momentum=0.5), *OSCILLATION).item() == FREE


def test_the_threshold_is_that_of_the_step() -> None:
    freezing = Freezing(one_weight(), threshold=lambda step: 0.01 if step == 2 else 0.0, ema_momentum=0.5)
    assert drive(freezing, *OSCILLATION).item() == FREE
    freezing.after_step(2)
    assert drive(freezing).item() != FREE


@pytest.mark.parametrize(
    ("use_ema", "published", "code"),
    [
        pytest.param(True, False, 1, id="average"),
        pytest.param(False, False, 2, id="current"),
        pytest.param(True, True, 2, id="published-average-has-no-past"),
    ],
)
def test_a_weight_is_pinned_to_where_it_spends_its_time(use_ema: bool, published: bool, code: int) -> None:
    freezing = Freezing(
        one_weight(), threshold=lambda step: 0.1 if step == 2 else 0.0, ema_momentum=0.2, use_ema=use_ema, published=published
    )
    assert drive(freezing, *[0.2] * 10, 0.4, 0.2, 0.4).item() == FREE
    freezing.after_step(2)
    assert drive(freezing).item() == code


@pytest.mark.parametrize(("published", "average"), [(False, 0.25 * 2 + 0.75 * 1), (True, None)], ids=["ours", "published"])
def test_attached_the_average_begins_at_the_codes_of_now(published: bool, average: float | None) -> None:
    model = one_weight(0.2)
    freezing = Freezing(model, threshold=Constant(0.0), ema_momentum=0.25, published=published).attach(torch.optim.SGD(model.parameters()))
    drive(freezing, 0.4)
    kept = freezing.tracker.histories["0"].average_code
    assert (None if kept is None else kept.item()) == average


def test_a_pin_stays_unless_published() -> None:
    """While the frequency is high, the reference rewrites the pin; the average has moved on to the pin's other side."""
    pins = {}
    for published in (False, True):
        freezing = Freezing(one_weight(), threshold=0.1, ema_momentum=0.3, published=published)
        pins[published] = {drive(freezing, weight).item() for weight in (0.2, 0.4, 0.4) * 4} - {FREE}
    assert len(pins[False]) == 1
    assert len(pins[True]) > 1


def test_pinned_latents_are_rewritten_to_their_value() -> None:
    model = one_weight()
    freezing = Freezing(model, threshold=0.1, ema_momentum=0.2)
    drive(freezing, *OSCILLATION)
    place(model, 0.55)
    freezing.after_step(1)
    pinned = model[0].weight.detach().clone()
    output = model(torch.ones(1, 1))
    model[0].weight_quantizer.pins.fill_(FREE)
    assert pinned.item() == pytest.approx(0.2)
    assert torch.equal(model(torch.ones(1, 1)), output)


def test_published_latents_keep_moving() -> None:
    model = one_weight()
    freezing = Freezing(model, threshold=0.1, ema_momentum=0.2, published=True)
    drive(freezing, *OSCILLATION)
    place(model, 0.55)
    freezing.after_step(1)
    assert model[0].weight.item() == pytest.approx(0.55)


def test_a_grid_that_follows_from_pinned_latents_stays() -> None:
    layer = nn.Linear(64, 4, bias=False)
    model = nn.Sequential(adopt(QuantLinear, layer, weight_quantizer=StatsQ(3), input_quantizer=None))
    weight, quantizer = model[0].weight, model[0].weight_quantizer
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    Freezing(model, threshold=0.1).attach(optimizer)
    quantizer.pins.copy_(quantizer.code(weight))
    scale, codes, latent = quantizer.grid(weight).scale, quantizer.code(weight), weight.detach().clone()
    for _ in range(20):
        optimizer.zero_grad()
        model(torch.ones(1, 64)).sum().backward()
        optimizer.step()
    assert torch.equal(quantizer.grid(weight).scale, scale)
    assert torch.equal(quantizer.code(weight), codes)
    assert torch.equal(weight, latent)


def test_free_latents_are_not_touched() -> None:
    model = network()
    weight = model[0].weight.detach().clone()
    Freezing(model, threshold=0.1).after_step(1)
    assert torch.equal(model[0].weight, weight)


class Product(nn.Module):
    """A layer whose latent is a product of two parameters; nobody can write it."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.tensor([[0.2]])), nn.Parameter(torch.tensor([[1.0]]))
        self.quantizer = calibrated(3, 0.2)

    def weight_sites(self, name: str) -> tuple["ProductSite", ...]:
        return (ProductSite(name, self),)


class ProductSite:
    output_axis = 0
    writable = False

    def __init__(self, name: str, layer: Product) -> None:
        self.name, self.layer, self.quantizer, self.parameters = name, layer, layer.quantizer, (layer.left, layer.right)

    def latent(self) -> Tensor:
        return self.layer.left @ self.layer.right

    def gradient(self) -> Tensor:
        raise NotImplementedError

    def add_gradient(self, gradient: Tensor) -> None:
        raise NotImplementedError

    def write(self, mask: Tensor, value: Tensor) -> None:
        raise NotImplementedError


def test_a_derived_site_is_pinned_and_not_written() -> None:
    model = nn.Sequential(Product())
    freezing = Freezing(model, threshold=0.1, ema_momentum=0.2)
    for weight in OSCILLATION:
        with torch.no_grad():
            model[0].left.fill_(weight)
        freezing.after_step(1)
    assert model[0].quantizer.pins.item() == 1


def test_metrics() -> None:
    model = nn.Sequential(*[linear(torch.full((1, size), 0.2), calibrated(3, 0.2)) for size in (1, 3)])
    freezing = Freezing(model, threshold=0.1, ema_momentum=0.2)
    drive(freezing, *OSCILLATION)
    assert freezing.metrics() == {"oscillating": 0.0, "frozen": 0.25}
    assert freezing.layer_metrics()["0"] == {"oscillating": 0.0, "frozen": 1.0}
    assert freezing.layer_metrics()["1"] == {"oscillating": 0.0, "frozen": 0.0}
    assert freezing.masks()["frozen"]["0"].all()
    assert not freezing.masks()["oscillating"]["0"].any()


def test_a_pinned_weight_has_no_frequency() -> None:
    freezing = Freezing(one_weight(), threshold=1.0, ema_momentum=0.2)
    pins = drive(freezing, *OSCILLATION)
    assert freezing.frequencies()["0"].item() > 0.0
    pins.fill_(1)
    assert freezing.frequencies()["0"].item() == 0.0
    assert freezing.tracker.histories["0"].frequency.item() > 0.0


def test_pins_travel_in_the_model_and_the_rest_in_the_method() -> None:
    model = network()
    optimizer = sgd(model)
    freezing = Freezing(model, threshold=0.1, ema_momentum=0.2).attach(optimizer)
    train(model, optimizer, range(20))
    assert 0.0 < freezing.metrics()["frozen"] < 1.0
    assert "0.weight_quantizer.pins" in model.state_dict()
    assert set(freezing.state_dict()["sites"]["0"]) == {"previous", "direction", "frequency", "average_code"}


@pytest.mark.parametrize(("totals", "allowed"), [(False, 11), (True, 15)], ids=["plain", "with-totals"])
def test_a_tracked_weight_with_its_pin_takes_so_many_bytes(totals: bool, allowed: int) -> None:
    model = network()
    optimizer = sgd(model)
    freezing = Freezing(model, threshold=0.1, ema_momentum=0.2, totals=totals).attach(optimizer)
    train(model, optimizer, range(5))
    state = [*freezing.state_dict()["sites"]["0"].values(), model.state_dict()["0.weight_quantizer.pins"]]
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in state)
    assert sum(tensor.nbytes for tensor in state) == allowed * model[0].weight.numel()


def test_a_model_with_trackers_can_be_copied() -> None:
    model = network()
    optimizer = sgd(model)
    Freezing(model, threshold=0.1, ema_momentum=0.2).attach(optimizer)
    train(model, optimizer, range(5))
    twin, x = copy.deepcopy(model), torch.randn(8, 2, 4, 4)
    assert torch.equal(twin(x), model(x))


def test_a_state_without_averages_is_refused() -> None:
    tracking = Tracking(one_weight())
    tracking.after_step(1)
    with pytest.raises(CheckpointError, match="state of 0: no average_code"):
        Freezing(one_weight(), threshold=0.1).load_state_dict(tracking.state_dict())


def test_nothing_to_freeze_is_an_error() -> None:
    with pytest.raises(PrepareError, match="no weight of at most 4 bits"):
        Freezing(one_weight(bits=8), threshold=0.1)


@pytest.mark.parametrize(
    "given",
    [
        {"threshold": 0.0},
        {"threshold": 1.5},
        {"final_threshold": -0.1},
        {"begin": 1.1},
        {"ema_momentum": 0.0},
        {"max_bits": 8},
        {"steps": 0},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(given: dict[str, float]) -> None:
    (name,) = given
    with pytest.raises(RecipeError, match=f"^{name} is .*; allowed: "):
        Freezing(network(), **given)  # type: ignore[arg-type]


def test_a_threshold_moves_as_published_over_the_steps_of_a_run() -> None:
    freezing = Freezing(network(), steps=100, threshold=0.2, final_threshold=0.05, begin=0.5, ema_momentum=0.02)
    assert [freezing.threshold(step) for step in (1, 49, 50, 100)] == [0.0, 0.0, 0.2, 0.05]


def test_defaults_of_a_long_run_are_the_published_ones() -> None:
    freezing = Freezing(network(), steps=200_000)
    assert freezing.tracker.ema_momentum == 0.001
    assert [freezing.threshold(step) for step in (49_999, 50_000, 200_000)] == [0.0, 0.1, 0.01]


def test_defaults_of_a_short_run_freeze_what_flips_at_every_step() -> None:
    freezing = Freezing(network(), steps=80)
    assert freezing.tracker.ema_momentum == 1 / 20
    assert freezing.threshold(80) == 0.1
    frequency = 1 - (1 - freezing.tracker.ema_momentum) ** 40  # of a weight that flips at every step of half the run
    assert frequency > 0.1


def test_a_threshold_that_one_oscillation_passes_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="stillbit"):
        Freezing(network(), steps=100, final_threshold=0.01, ema_momentum=0.02)
    assert "0.01 is below ema_momentum 0.02" in caplog.text


@pytest.mark.parametrize("method", [Freezing, Tracking])
def test_a_run_that_is_too_short_for_its_window_is_told_at_the_start(
    method: type[Freezing | Tracking], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="stillbit"):
        method(network(), steps=80, ema_momentum=0.001)
        assert "ema_momentum 0.001 averages over 1000 steps, the run has 80: frequencies stay low" in caplog.text
        caplog.clear()
        method(network(), steps=80)
        method(network(), steps=1000, ema_momentum=0.001)
    assert caplog.text == ""
