"""What all callbacks share: methods made late, their figures and states, and a re-estimation that leaves the training's draws alone."""

import pytest
import torch
from torch.utils.data import DataLoader

from stillbit.errors import CheckpointError, PrepareError
from stillbit.integrations.riding import Riders, reestimated
from stillbit.oscillation import Freezing, Tracking
from tests.integrations.digits import FREEZING, digits, joint, network


def test_attaching_again_to_the_same_optimizer_changes_nothing() -> None:
    """A trainer that trains twice begins twice."""
    model = network()
    optimizer, riders = joint(model), Riders([Tracking])
    riders.attach(model, optimizer, 10)
    (tracking,) = riders.methods
    riders.attach(model, optimizer, 10)
    optimizer.step()
    assert riders.methods == (tracking,)
    assert tracking.step == 1


def test_a_new_optimizer_gets_new_methods() -> None:
    model = network()
    riders = Riders([Tracking])
    riders.attach(model, joint(model), 10)
    (before,) = riders.methods
    riders.attach(model, joint(model), 10)
    assert riders.methods[0] is not before


def test_the_first_methods_figure_counts() -> None:
    model = network()
    tracking = Tracking(model, oscillating_above=-1.0)  # every weight counts
    riders = Riders([tracking, FREEZING])
    riders.attach(model, joint(model), 10)
    assert riders.metrics() == {"oscillating": 1.0, "frozen": 0.0}


def test_a_schedule_knows_the_length_of_the_run() -> None:
    model = network()
    riders = Riders([FREEZING])
    riders.attach(model, joint(model), 40.0)
    (freezing,) = riders.methods
    assert isinstance(freezing, Freezing)
    assert freezing.threshold(40) == pytest.approx(0.05)
    assert freezing.threshold(30) > 0.051


@pytest.mark.parametrize("steps", [float("inf"), -1, 0], ids=["endless", "unknown", "none"])
def test_a_run_of_no_known_length_needs_none_for_a_ready_method(steps: float) -> None:
    model = network()
    Riders([Tracking(model)]).attach(model, joint(model), steps)
    with pytest.raises(PrepareError, match=f"the run has {steps} steps"):
        Riders([FREEZING]).attach(model, joint(model), steps)


def test_a_loaded_state_waits_for_the_optimizer() -> None:
    model = network()
    first, second = Riders([Tracking]), Riders([Tracking])
    optimizer = joint(model)
    first.attach(model, optimizer, 10)
    optimizer.step()
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()  # saved before training begins, it is not lost
    second.attach(model, joint(model), 10)
    assert second.methods[0].step == 1


def test_another_state_is_refused() -> None:
    model = network()
    riders = Riders([Tracking])
    with pytest.raises(CheckpointError, match=r"\['step'\] given, allowed: one with methods"):
        riders.load_state_dict({"step": 1})
    riders.load_state_dict({"methods": [{"kind": "Freezing", "state": {}}]})
    with pytest.raises(CheckpointError, match="Freezing given, allowed: Tracking"):
        riders.attach(model, joint(model), 10)


def test_reestimation_draws_nothing() -> None:
    model, drawn = network(), []
    for loader in (None, DataLoader(digits(), batch_size=16, shuffle=True)):
        torch.manual_seed(5)
        figures = reestimated(model, loader, 2)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
    assert figures["batchnorm_divergence"] > 0.0
