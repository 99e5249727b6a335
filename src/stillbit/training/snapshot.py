"""All state of a run, into a checkpoint and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stillbit.errors import CheckpointError
from stillbit.oscillation import Method
from stillbit.training import checkpoint
from stillbit.training.observer import Observer
from stillbit.training.position import Position
from stillbit.training.record import surroundings


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint is made of. Generators are no part of it: every draw follows from the seed and the position.

    Args:
        model: Unwrapped.
        optimizer: Unwrapped.
        methods: Their state goes along.
        observer: Likewise; a checkpoint of an older version has none.
        scaler: Of the loss; has state with fp16 only.
        run: What a resumed run must have in common with the saved one, by name.
        recipe: What the run was made from.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    methods: Sequence[Method]
    observer: Observer
    scaler: torch.amp.GradScaler
    run: Mapping[str, int | str]
    recipe: Mapping[str, Any] | None

    def save(self, path: Path, position: Position) -> None:
        """Write a checkpoint.

        Args:
            path: The file.
            position: How far the run is.

        Raises:
            CheckpointError: If it cannot be written.
        """
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "methods": [{"name": type(method).__name__, "state": method.state_dict()} for method in self.methods],
            "observer": self.observer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "position": position.state_dict(),
            "run": dict(self.run),
            "recipe": self.recipe,
            "surroundings": surroundings(),
        }
        checkpoint.save(path, content)

    def load(self, path: Path) -> Position:
        """Read a checkpoint and put its state into model, optimizer and methods.

        Args:
            path: The file.

        Returns:
            How far the run was.

        Raises:
            CheckpointError: If it cannot be read, or is of another model or run; then nothing is loaded.
        """
        content = checkpoint.read(path)
        self._check_same_run(path, content)
        checkpoint.put_model(self.model, path, content)
        try:
            self.optimizer.load_state_dict(content["optimizer"])
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"checkpoint {path}: of another optimizer: {error}") from error
        for method, saved in zip(self.methods, content["methods"], strict=True):
            method.load_state_dict(saved["state"])
        self.observer.load_state_dict(content.get("observer", {}))
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(content["scaler"])
        return Position(**content["position"])

    def _check_same_run(self, path: Path, content: Mapping[str, Any]) -> None:
        if "run" not in content:
            raise CheckpointError(f"checkpoint {path}: holds an imported network and no run; allowed: a new run, with start={path}")
        for name, allowed in self.run.items():
            given = content["run"].get(name)
            if given != allowed:
                raise CheckpointError(f"checkpoint {path}: of a run with {name} {given}; this one has {allowed}")
        given_methods = [saved["name"] for saved in content["methods"]]
        allowed_methods = [type(method).__name__ for method in self.methods]
        if given_methods != allowed_methods:
            raise CheckpointError(f"checkpoint {path}: of a run with methods {given_methods}, allowed: {allowed_methods}")
