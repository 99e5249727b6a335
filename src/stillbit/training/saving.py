"""All state of a run, into a checkpoint and back. Every draw follows from seed and step, so generators are no part of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from stillbit.errors import CheckpointError
from stillbit.oscillation import Method
from stillbit.training.checkpoint import Checkpoint, write_checkpoint
from stillbit.training.probe import Probe
from stillbit.training.record import surroundings
from stillbit.training.run_state import RunState

LAST = "last.pt"
BEST = "best.pt"


@final
@dataclass(frozen=True)
class Saver:
    """Saves and restores a run.

    Attributes:
        folder: The run folder.
        model: Not wrapped.
        optimizer: Not wrapped.
        methods: Attached.
        probe: A checkpoint of an older version has none.
        scaler: Of the loss; has state with fp16 only.
        identity: What a resumed run must have in common with the saved one, by name.
        recipe: What the run was made from.
    """

    folder: Path
    model: nn.Module
    optimizer: torch.optim.Optimizer
    methods: Sequence[Method]
    probe: Probe
    scaler: torch.amp.GradScaler
    identity: Mapping[str, int | str]
    recipe: Mapping[str, Any] | None

    def save(self, name: str, state: RunState) -> None:
        """Write the checkpoint `name` of the run folder.

        Raises:
            CheckpointError: If it cannot be written.
        """
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "methods": [{"name": type(method).__name__, "state": method.state_dict()} for method in self.methods],
            "observer": self.probe.state_dict(),
            "scaler": self.scaler.state_dict(),
            "position": state.state_dict(),
            "run": dict(self.identity),
            "recipe": self.recipe,
            "surroundings": surroundings(),
        }
        write_checkpoint(self.folder / name, content)

    def restore(self, checkpoint: Checkpoint) -> RunState:
        """Put a checkpoint's state into model, optimizer and methods, and return how far its run was.

        Raises:
            CheckpointError: If it is of another model or run; then nothing is loaded.
        """
        content = checkpoint.content
        self._check_same_run(checkpoint.file, content)
        checkpoint.fill(self.model)
        try:
            self.optimizer.load_state_dict(content["optimizer"])
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"checkpoint {checkpoint.file}: of another optimizer: {error}") from error
        for method, saved in zip(self.methods, content["methods"], strict=True):
            method.load_state_dict(saved["state"])
        self.probe.load_state_dict(content.get("observer", {}))
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(content["scaler"])
        return RunState(**content["position"])

    def _check_same_run(self, file: Path, content: Mapping[str, Any]) -> None:
        if "run" not in content:
            raise CheckpointError(f"checkpoint {file}: holds an imported network and no run; allowed: a new run, with start={file}")
        for name, allowed in self.identity.items():
            given = content["run"].get(name)
            if given != allowed:
                raise CheckpointError(f"checkpoint {file}: of a run with {name} {given}; this one has {allowed}")
        given_methods = [saved["name"] for saved in content["methods"]]
        allowed_methods = [type(method).__name__ for method in self.methods]
        if given_methods != allowed_methods:
            raise CheckpointError(f"checkpoint {file}: of a run with methods {given_methods}, allowed: {allowed_methods}")
