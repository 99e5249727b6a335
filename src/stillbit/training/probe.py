"""When the quantizers of a run are measured: at regular times, and through two windows of consecutive steps that follow single weights."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stillbit.oscillation import Method
from stillbit.oscillation.recording import Window
from stillbit.quantizers import Quantizer
from stillbit.training.quantizer_figures import facts, finite, observe, rounded

_WINDOW = 100  # steps, or a third of a run
_WEIGHTS = 4  # a layer


class Probe:
    """Yield the events of a record that are about quantizers (see `record.py`). It reads the network and changes nothing of it.

    Args:
        model: Unwrapped.
        methods: Attached; they know what oscillates.
        observations: How many there are, spread evenly over the run, before its first step and after its last among them; of a run with
            fewer steps, after each. 0, or a network without quantizers: nothing is measured but facts.
        steps: Of the whole run.
    """

    def __init__(self, model: nn.Module, methods: Sequence[Method], *, observations: int, steps: int) -> None:
        self._model = model
        self._methods = methods
        if not any(isinstance(module, Quantizer) for module in model.modules()):
            observations = 0
        self._times = {round(number * steps / (observations - 1)) for number in range(observations)}
        length = min(_WINDOW, steps // 3) if observations else 0
        self._length = length
        self._beginnings = {(steps - length) // 2, steps - length} if length else set()
        self._window: Window | None = None
        self._frequencies: dict[str, Tensor] = {}

    def begin(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the events of a new run before its first step."""
        yield "facts", facts(self._model)
        yield from self.after_step(0)

    def after_step(self, step: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the events of a step.

        Args:
            step: The step just taken, counted from 1.

        Yields:
            Kinds and fields, none at most steps.
        """
        if step in self._times:
            yield "observation", observe(self._model, self._methods)
        if self._window is not None:
            self._window.note(self._model, step)
            if step == self._window.last_step:
                yield "trajectories", self._trajectories(self._window)
                self._window = None
        if step in self._beginnings:
            self._open(step + 1)

    def state_dict(self) -> dict[str, Any]:
        """Return what an open window has seen, as references; nothing where none is open."""
        if self._window is None:
            return {}
        return {"window": self._window.state_dict(), "frequencies": dict(self._frequencies)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        if state and self._beginnings:
            self._window = Window.restored(state["window"], self._model)
            self._frequencies = dict(state["frequencies"])

    @torch.no_grad()
    def _open(self, first_step: int) -> None:
        """Choose the most restless weights of each layer."""
        frequencies = {name: found.flatten() for method in self._methods for name, found in method.frequencies().items()}
        highest = {name: found.topk(min(_WEIGHTS, len(found))) for name, found in frequencies.items()}
        if highest:
            chosen = {name: found.indices for name, found in highest.items()}
            self._window = Window(chosen, first_step=first_step, steps=self._length)
            self._frequencies = {name: found.values for name, found in highest.items()}

    def _trajectories(self, window: Window) -> dict[str, Any]:
        """Return what a window has seen of weights that did oscillate before it."""
        layers = []
        for name, kept in window.chosen.items():
            columns = zip(kept.tolist(), self._frequencies[name].tolist(), window.positions[name].T.tolist(), strict=True)
            weights = [
                {"index": index, "frequency": rounded(frequency), "positions": [finite(round(position, 5)) for position in positions]}
                for index, frequency, positions in columns
                if frequency > 0.0
            ]
            layers.append({"name": name, "weights": weights})
        return {"first_step": window.first_step, "layers": layers}
