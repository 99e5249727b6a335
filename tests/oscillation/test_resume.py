"""10 + 10 steps are 20 steps, bit for bit: weights, scales, pins, optimizer and method."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from stillbit.oscillation import Annealing, Dampening, Freezing, Method, Tracking
from stillbit.schedules import Cosine, Linear
from tests.oscillation.small_models import network, sgd, train

METHODS: dict[str, Callable[[nn.Module], Method]] = {
    "tracking": lambda model: Tracking(model, ema_momentum=0.2),
    "freezing": lambda model: Freezing(model, threshold=Cosine(0.2, 0.1, 20, begin=0.25, before=0.0), ema_momentum=0.2, totals=True),
    "freezing-current": lambda model: Freezing(model, threshold=0.1, ema_momentum=0.2, use_ema=False),
    "freezing-published": lambda model: Freezing(
        model, threshold=Cosine(0.2, 0.1, 20, begin=0.6, before=0.0), ema_momentum=0.2, published=True
    ),
    "dampening": lambda model: Dampening(model, weight=Linear(0.0, 1.0, 20)),
    "annealing-acting": lambda model: Annealing(model, boundary_range=0.2, begin=5),
    "annealing-about to act": lambda model: Annealing(model, boundary_range=0.2, begin=11),
    "annealing-later": lambda model: Annealing(model, boundary_range=0.2, begin=15, published=True),
}


def run(
    make: Callable[[nn.Module], Method], steps: range, saved: io.BytesIO | None = None, *, attach_first: bool = False
) -> dict[str, Any]:
    """Train a fresh model from a saved state, if there is one; return the state at the end."""
    model = network()
    optimizer = sgd(model)
    method = make(model)
    if attach_first or saved is None:
        method.attach(optimizer)
    if saved is not None:
        state = torch.load(saved)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        method.load_state_dict(state["method"])
    if not attach_first and saved is not None:
        method.attach(optimizer)
    train(model, optimizer, steps)
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "method": method.state_dict()}


def tensors(state: Any, path: str = "") -> dict[str, Any]:
    """Flattens a nested state into its leaves by path."""
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else None
    if items is None:
        return {path: state}
    return {key: leaf for name, part in items for key, leaf in tensors(part, f"{path}/{name}").items()}


@pytest.mark.parametrize("attach_first", [False, True], ids=["load-attach", "attach-load"])
@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_a_resumed_run_is_the_same_run(make: Callable[[nn.Module], Method], attach_first: bool) -> None:
    whole = tensors(run(make, range(20)))
    saved = io.BytesIO()
    torch.save(run(make, range(10)), saved)
    saved.seek(0)
    resumed = tensors(run(make, range(10, 20), saved, attach_first=attach_first))
    assert resumed.keys() == whole.keys()
    differing = [
        name
        for name, leaf in whole.items()
        if not (torch.equal(leaf, resumed[name]) if isinstance(leaf, torch.Tensor) else leaf == resumed[name])
    ]
    assert differing == []


def test_the_runs_have_something_to_lose() -> None:
    state = run(METHODS["freezing"], range(10))
    pins, history = state["model"]["0.weight_quantizer.pins"], state["method"]["sites"]["0"]
    assert 0 < (pins != -128).sum() < pins.numel()
    assert history["total"].sum() > 0
    assert not torch.equal(history["average_code"], history["previous"].float())
