"""A taught vision transformer at W2A2 on two gloo processes, against one that accumulates their halves as micro-batches, in float64.

No comparison has a tolerance. Halving is exact and the sum of two numbers does not depend on their order, so the mean of two gradients
is the same number wherever it is taken; there is no batch norm, and all begin from one calibration batch. This also needs equal
micro-batches: LSQ's gradient factor is of the images that a process sees at once.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from stillbit.numerics.limits import FREE
from stillbit.training.record import read_record
from tests.equality import assert_equal
from tests.launching import launch

pytestmark = pytest.mark.end_to_end

SCRIPT = ["-m", "tests.training.vit_runs"]
STEPS = 40
STAGE = STEPS // 2  # steps of each stage
PRODUCTS = ("blocks.0.attn.qk", "blocks.1.attn.qk")
METHODS = ("annealing", "freezing")

Trace = list[dict[str, dict[str, Tensor]]]  # by step: codes and free masks by site, and the model's state dict


class Runs(NamedTuple):
    """Folders of one run, by one process and by two."""

    alone: Path
    both: Path


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def runs(method: str, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folders = Runs(tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("both"))
    launch(SCRIPT, folders.alone, "--method", method, "--accumulation", 2)
    launch(SCRIPT, folders.both, "--method", method, "--accumulation", 1, ranks=2)
    return folders


def trace(folder: Path, rank: int = 0) -> Trace:
    steps: Trace = torch.load(folder / f"trace.{rank}.pt", weights_only=True)
    assert len(steps) == STEPS
    return steps


def observed(folder: Path) -> list[dict[str, Any]]:
    events = [event for event in read_record(folder / "record.jsonl") if event["event"] in ("facts", "observation", "trajectories")]
    return [{name: value for name, value in event.items() if name != "time"} for event in events]


def losses(folder: Path) -> list[float]:
    return [event["loss"] for event in read_record(folder / "record.jsonl") if event["event"] == "step"]


def test_ranks_hold_equal_codes_gates_pins_and_weights_at_every_step(runs: Runs) -> None:
    for step, (first, second) in enumerate(zip(trace(runs.both, 0), trace(runs.both, 1), strict=True), start=1):
        assert_equal(first, second, f"step {step}")


def test_losses_are_those_of_one_process(runs: Runs) -> None:
    alone, both = losses(runs.alone), losses(runs.both)
    assert len(alone) == STEPS
    assert both == alone


def test_codes_gates_pins_and_weights_are_those_of_one_process(runs: Runs) -> None:
    for step, (one, two) in enumerate(zip(trace(runs.alone), trace(runs.both), strict=True), start=1):
        assert_equal(one, two, f"step {step}")


def test_the_runs_put_it_to_the_test(runs: Runs, method: str) -> None:
    """Codes of products flip in both stages; then gates are mostly closed and boundaries moved, or pins hold products too."""
    steps = trace(runs.both)
    begin, middle, end = steps[0], steps[STAGE - 1], steps[-1]
    for product in PRODUCTS:
        assert flipped(begin, middle, product) > 0.1
        assert flipped(middle, end, product) > 0.01
    if method == "annealing":
        assert all(bool(free.all()) for step in steps[: STAGE - 1] for free in step["free"].values())
        for site in (*PRODUCTS, "blocks.0.mlp.fc1", "blocks.1.attn.v"):
            assert 0.0 < end["free"][site].double().mean() < 0.5
            assert not torch.equal(middle["free"][site], end["free"][site])
    else:
        pins = [tensor for name, tensor in end["state"].items() if name.endswith("product_quantizer.pins")]
        assert len(pins) == len(PRODUCTS)
        assert all((one != FREE).double().mean() > 0.02 for one in pins)


def flipped(before: dict[str, dict[str, Tensor]], after: dict[str, dict[str, Tensor]], site: str) -> float:
    return float((before["codes"][site] != after["codes"][site]).double().mean())


def test_one_rank_observes_and_sees_the_same(runs: Runs, method: str) -> None:
    found = observed(runs.both)
    assert found == observed(runs.alone)
    assert [event["event"] for event in found if event["event"] != "observation"] == ["facts", "trajectories", "trajectories"]
    assert set(PRODUCTS) <= {layer["name"] for layer in found[0]["layers"]}
    products = [place for place, layer in enumerate(found[0]["layers"]) if layer["name"] in PRODUCTS]
    last = [event for event in found if event["event"] == "observation"][-1]
    assert all(last["oscillating"][place] is not None and sum(last["histograms"][place]) > 0 for place in products)
    assert {None} != set(last["frozen"]) if method == "freezing" else {None} == set(last["frozen"])
