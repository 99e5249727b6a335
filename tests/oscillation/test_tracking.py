import pytest
import torch
from torch import nn

from stillbit.errors import CheckpointError, PrepareError, RecipeError
from stillbit.oscillation import Tracking
from tests.oscillation.small_models import calibrated, linear, network, one_weight, place, sgd, train


def test_by_hand_the_first_update_begins_the_history() -> None:
    model = one_weight(0.2)
    tracking = Tracking(model)
    place(model, 0.4)
    tracking.after_step(1)
    history = tracking.tracker.histories["0"]
    assert (history.previous.item(), history.direction.item()) == (2, 0)


def test_attached_the_history_begins_at_once() -> None:
    model = one_weight(0.2)
    tracking = Tracking(model).attach(torch.optim.SGD(model.parameters()))
    place(model, 0.4)
    tracking.after_step(1)
    history = tracking.tracker.histories["0"]
    assert (history.previous.item(), history.direction.item()) == (2, -1)


def test_weights_of_more_bits_are_left_alone() -> None:
    model = network()
    Tracking(model).attach(torch.optim.SGD(model.parameters()))
    assert Tracking(model, max_bits=8).tracker.sites()[-1].name == "3"
    assert [site.name for site in Tracking(model).tracker.sites()] == ["0"]


def test_metrics_count_weights_not_layers() -> None:
    model = nn.Sequential(*[linear(torch.full((1, size), 0.2), calibrated(3, 0.2)) for size in (2, 3)])
    tracking = Tracking(model, ema_momentum=0.1)
    for weight in (0.2, 0.4, 0.2):
        place(model, weight, weight)
        tracking.after_step(1)
    assert tracking.layer_metrics() == {"0": {"oscillating": 1.0}, "1": {"oscillating": 0.0}}
    assert tracking.metrics() == {"oscillating": 0.4}
    assert {name: int(mask.sum()) for name, mask in tracking.masks()["oscillating"].items()} == {"0": 2, "1": 0}
    assert tracking.frequencies() == {name: history.frequency for name, history in tracking.tracker.histories.items()}


def test_a_weight_oscillates_above_the_limit() -> None:
    model = one_weight()
    for momentum, share in ((0.005, 0.0), (0.0051, 1.0)):
        tracking = Tracking(model, ema_momentum=momentum)
        for weight in (0.2, 0.4, 0.2):
            place(model, weight)
            tracking.after_step(1)
        assert tracking.metrics() == {"oscillating": share}


def test_a_pinned_weight_does_not_count_as_oscillating() -> None:
    model = one_weight()
    model[0].weight_quantizer.allocate_pins(model[0].weight.shape)
    tracking = Tracking(model, ema_momentum=0.1)
    for weight in (0.2, 0.4, 0.2):
        place(model, weight)
        tracking.after_step(1)
    assert tracking.metrics() == {"oscillating": 1.0}
    model[0].weight_quantizer.pins.fill_(1)
    assert tracking.metrics() == {"oscillating": 0.0}


def test_metrics_before_the_first_step() -> None:
    assert Tracking(one_weight()).metrics() == {"oscillating": 0.0}
    assert Tracking(one_weight()).layer_metrics() == {}


def test_evaluation_and_forward_passes_change_nothing() -> None:
    model = network()
    optimizer = sgd(model)
    tracking = Tracking(model).attach(optimizer)
    train(model, optimizer, range(3))
    before = {name: tensor.clone() for name, tensor in tracking.state_dict()["sites"]["0"].items()}
    for mode in (True, False):
        model.train(mode)
        model(torch.randn(8, 2, 4, 4))
    after = tracking.state_dict()["sites"]["0"]
    assert tracking.step == 3
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda state: state["sites"].update(other=state["sites"].pop("0")), "state of (0|other)", id="other-name"),
        pytest.param(lambda state: state["sites"]["0"].update(previous=torch.zeros(2)), r"state of 0: shape \[2\] given", id="shape"),
        pytest.param(lambda state: state["sites"]["0"].pop("frequency"), "state of 0: .* given", id="missing-tensor"),
        pytest.param(lambda state: state.pop("step"), "with step", id="not-a-method"),
    ],
)
def test_a_foreign_state_is_refused_by_name(spoil: object, message: str) -> None:
    tracking = Tracking(one_weight())
    tracking.after_step(1)
    state = tracking.state_dict()
    spoil(state)
    with pytest.raises(CheckpointError, match=message):
        Tracking(one_weight()).load_state_dict(state)


@pytest.mark.parametrize(("saved", "loaded"), [(True, False), (False, True)], ids=["not-counted-here", "not-counted-there"])
def test_a_state_with_totals_needs_a_method_that_counts_them(saved: bool, loaded: bool) -> None:
    tracking = Tracking(one_weight(), totals=saved)
    tracking.after_step(1)
    message = f"oscillation state of 0: saved with totals={saved}, loaded with totals={loaded}; allowed: the same option in both"
    with pytest.raises(CheckpointError, match=f"^{message}$"):
        Tracking(one_weight(), totals=loaded).load_state_dict(tracking.state_dict())


def test_totals_count_the_oscillations_of_each_weight() -> None:
    model = nn.Sequential(linear(torch.full((1, 2), 0.2), calibrated(3, 0.2)))
    tracking = Tracking(model, totals=True)
    for weights in ((0.2, 0.2), (0.4, 0.2), (0.2, 0.4), (0.4, 0.6)):
        place(model, *weights)
        tracking.after_step(1)
    assert tracking.state_dict()["sites"]["0"]["total"].tolist() == [[2, 0]]


def test_loading_copies_and_takes_the_dtype_of_the_model() -> None:
    saved = Tracking(one_weight())
    saved.after_step(1)
    loaded = Tracking(one_weight().double())
    loaded.load_state_dict(saved.state_dict())
    history = loaded.tracker.histories["0"]
    assert history.frequency.dtype == torch.float64
    assert history.previous.data_ptr() != saved.tracker.histories["0"].previous.data_ptr()


@pytest.mark.parametrize("given", [{"ema_momentum": 0.0}, {"ema_momentum": 1.1}, {"max_bits": 0}, {"max_bits": 9}], ids=str)
def test_values_out_of_range_are_refused(given: dict[str, float]) -> None:
    (name,) = given
    with pytest.raises(RecipeError, match=f"{name} is .*; allowed: "):
        Tracking(one_weight(), **given)


def test_a_float_model_is_refused() -> None:
    with pytest.raises(PrepareError, match="no quantized weight"):
        Tracking(nn.Linear(1, 1))
