"""When a run is observed, and which weights are followed."""

from typing import Any

import pytest
import torch
from torch import nn

from stillbit.oscillation import Tracking
from stillbit.prepare import QuantConfig, calibrate, prepare
from stillbit.quantizers import LSQ, weight_sites
from stillbit.training.probe import Probe


@pytest.fixture
def model() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    prepare(model, QuantConfig.parse("W3A3"), example=torch.rand(2, 4))
    calibrate(model, [(torch.rand(2, 4),)])
    return model


def times(observations: int, steps: int) -> list[int]:
    observer = Probe(LSQ(4), [], observations=observations, steps=steps)
    told = {0: list(observer.begin())} | {step: list(observer.after_step(step)) for step in range(1, steps + 1)}
    return [step for step, events in told.items() if "observation" in dict(events)]


@pytest.mark.parametrize(
    ("observations", "steps", "expected"),
    [
        pytest.param(5, 100, [0, 25, 50, 75, 100], id="even"),
        pytest.param(4, 10, [0, 3, 7, 10], id="uneven"),
        pytest.param(60, 3, [0, 1, 2, 3], id="each-step"),
        pytest.param(2, 7, [0, 7], id="both-ends"),
        pytest.param(0, 7, [], id="none"),
    ],
)
def test_observations_are_spread_over_the_run(observations: int, steps: int, expected: list[int]) -> None:
    assert times(observations, steps) == expected


def test_their_number_is_bounded() -> None:
    assert len(times(60, 5000)) == 60


@pytest.mark.parametrize(("network", "observations"), [(nn.Linear(2, 2), 5), (LSQ(4), 0)], ids=["float", "not-asked"])
def test_facts_are_told_in_any_case(network: nn.Module, observations: int) -> None:
    assert [kind for kind, _ in Probe(network, [], observations=observations, steps=9).begin()] == ["facts"]


class Walk:
    """A run of an observer over weights that move by themselves; weight 7 of the middle layer oscillates most, then 3."""

    def __init__(self, model: nn.Module, steps: int, observations: int = 2) -> None:
        self.model, self.steps = model, steps
        self.site = weight_sites(model)[1]
        self.tracking = Tracking(model)
        self.tracking.start()
        self.observer = Probe(model, [self.tracking], observations=observations, steps=steps)
        self.events: list[tuple[int, dict[str, Any]]] = []

    def take(self, *steps: int) -> "Walk":
        for step in steps:
            frequency = self.tracking.tracker.histories[self.site.name].frequency.flatten()
            frequency[7], frequency[3] = 0.5, 0.25
            with torch.no_grad():
                self.site.parameters[0].view(-1)[7] = 0.01 * step
            found = self.observer.after_step(step)
            self.events += [(step, fields) for kind, fields in found if kind == "trajectories"]
        return self


def test_windows_lie_in_the_middle_and_at_the_end(model: nn.Module) -> None:
    walk = Walk(model, 20).take(*range(1, 21))
    assert [(step, fields["first_step"]) for step, fields in walk.events] == [(13, 8), (20, 15)]


def test_windows_of_a_long_run_have_a_hundred_steps(model: nn.Module) -> None:
    walk = Walk(model, 1000).take(*range(1, 1001))
    assert [(step, fields["first_step"]) for step, fields in walk.events] == [(550, 451), (1000, 901)]


def test_the_most_restless_weights_are_followed(model: nn.Module) -> None:
    walk = Walk(model, 20).take(*range(1, 14))
    (layer,) = walk.events[0][1]["layers"]
    assert layer["name"] == "2"
    assert [(one["index"], one["frequency"]) for one in layer["weights"]] == [(7, 0.5), (3, 0.25)]
    scale = float(walk.site.quantizer.grid(walk.site.latent()).scale.detach())
    assert layer["weights"][0]["positions"] == pytest.approx([0.01 * step / scale for step in range(8, 14)], abs=1e-5)


def test_a_window_is_closed_and_opened_in_one_step(model: nn.Module) -> None:
    walk = Walk(model, 9).take(*range(1, 10))
    assert [(step, fields["first_step"]) for step, fields in walk.events] == [(6, 4), (9, 7)]


@pytest.mark.parametrize("steps", [1, 2])
def test_runs_too_short_for_a_window(model: nn.Module, steps: int) -> None:
    assert Walk(model, steps).take(*range(1, steps + 1)).events == []


def test_without_observations_nothing_is_followed(model: nn.Module) -> None:
    assert Walk(model, 20, observations=0).take(*range(1, 21)).events == []


@pytest.mark.parametrize("cut", [7, 8, 10, 13])
def test_a_window_goes_on_in_another_observer(model: nn.Module, cut: int) -> None:
    whole = Walk(model, 20).take(*range(1, 21))
    first = Walk(model, 20).take(*range(1, cut + 1))
    second = Walk(model, 20)
    second.observer.load_state_dict(first.observer.state_dict())
    second.take(*range(cut + 1, 21))
    assert first.events + second.events == whole.events


@pytest.mark.parametrize("taken", [2, 13], ids=["before", "between"])
def test_where_no_window_is_open_there_is_no_state(model: nn.Module, taken: int) -> None:
    assert Walk(model, 20).take(*range(1, taken + 1)).observer.state_dict() == {}
