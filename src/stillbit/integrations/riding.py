"""What all trainers' callbacks share: methods that are made when the optimizer is there, and their state."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, final

import torch
from torch import nn

from stillbit.errors import CheckpointError, PrepareError
from stillbit.oscillation import Method
from stillbit.oscillation.hooks import stepping_optimizer
from stillbit.prepare import reestimate_batchnorm


class MethodMaker(Protocol):
    """What makes a method when the run is known: a method's class, or a partial of it."""

    def __call__(self, model: nn.Module, /, *, steps: int) -> Method:
        """Make the method for a run of so many optimizer steps."""
        ...


@final
class Riders:
    """Oscillation methods of one training run.

    Args:
        methods: Methods, or what makes one of the model and the number of optimizer steps (`Freezing`, or a partial of it).

    Attributes:
        methods: The methods; empty before `attach`.

    Raises:
        PrepareError: If none is given.
    """

    def __init__(self, methods: Sequence[Method | MethodMaker]) -> None:
        if not methods:
            raise PrepareError("callback: 0 methods given, allowed: 1 or more, e.g. Tracking(model) or Freezing")
        self._given = tuple(methods)
        self._saved: Sequence[Mapping[str, Any]] | None = None
        self.methods: tuple[Method, ...] = ()

    def attach(self, model: nn.Module, optimizer: object, steps: float) -> None:
        """Make the methods and attach them; take up a state that was loaded before. Does nothing for an optimizer that it rides on.

        Args:
            model: The trainer's model.
            optimizer: Its optimizer.
            steps: How many optimizer steps the run has; infinity where nobody knows.

        Raises:
            PrepareError: If the optimizer cannot be ridden on, or the number of steps is needed and not finite.
            CheckpointError: If the loaded state belongs to other methods.
        """
        stepping = stepping_optimizer(optimizer)
        if not self.methods or self.methods[0].attached_to is not stepping:
            methods = tuple(self._make(given, model, steps) for given in self._given)
            for method in methods:
                method.attach(stepping)
            self.methods = methods
        self._restore()

    @staticmethod
    def _make(given: Method | MethodMaker, model: nn.Module, steps: float) -> Method:
        if isinstance(given, Method):
            return given
        if not 1 <= steps < float("inf"):
            raise PrepareError(f"callback: the run has {steps} steps and a schedule needs their number; allowed: a limit, or steps=")
        return given(model, steps=int(steps))

    def metrics(self) -> dict[str, float]:
        """Return the figures of all methods; of equal names the first method's."""
        figures: dict[str, float] = {}
        for method in self.methods:
            figures = {**method.metrics(), **figures}
        return figures

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all methods, as references; what was loaded where nothing is attached yet."""
        if not self.methods:
            return {"methods": list(self._saved or ())}
        return {"methods": [{"kind": type(method).__name__, "state": method.state_dict()} for method in self.methods]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave, now or when `attach` comes.

        Args:
            state: A state of as many methods, of the same kinds.

        Raises:
            CheckpointError: If it is another one.
        """
        if "methods" not in state:
            raise CheckpointError(f"methods' state: {sorted(state)} given, allowed: one with methods")
        self._saved = state["methods"]
        if self.methods:
            self._restore()

    def _restore(self) -> None:
        if not self._saved:
            return
        given, allowed = [str(one["kind"]) for one in self._saved], [type(method).__name__ for method in self.methods]
        if given != allowed:
            raise CheckpointError(f"methods' state: {', '.join(given)} given, allowed: {', '.join(allowed)}")
        for method, saved in zip(self.methods, self._saved, strict=True):
            method.load_state_dict(saved["state"])
        self._saved = None


def reestimated(model: nn.Module, loader: Iterable[Any] | None, batches: int) -> dict[str, float]:
    """Re-estimates batch norm, if there is a loader, and draws no random number of the training's."""
    if loader is None:
        return {}
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        divergences = reestimate_batchnorm(model, loader, batches=batches)
    return {"batchnorm_divergence": max(divergences.values(), default=0.0)}
