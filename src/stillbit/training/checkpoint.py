"""Checkpoints: written whole or not at all, read and verified once without executing anything."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from stillbit.errors import CheckpointError
from stillbit.files import write_whole

_FORMAT = 1


@final
@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read and verified, on the CPU.

    Attributes:
        file: Where it lies.
        content: All of it, see `stillbit.training.saving`.
    """

    file: Path
    content: Mapping[str, Any]

    @classmethod
    def read(cls, file: Path) -> "Checkpoint":
        """Read a checkpoint.

        Raises:
            CheckpointError: If there is no such file, it is cut or damaged, or is no checkpoint of ours.
        """
        if not file.is_file():
            raise CheckpointError(f"checkpoint {file}: no such file")
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()  # torch itself does not compare checksums
        except zipfile.BadZipFile:
            damaged = "its table of contents"
        if damaged is not None:
            raise CheckpointError(f"checkpoint {file}: cut or damaged (at {damaged})")
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # pickle, zip and torch have their own errors; for the user they are one
            raise CheckpointError(f"checkpoint {file}: not readable: {str(error).splitlines()[0]}") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise CheckpointError(f"checkpoint {file}: not written by stillbit's trainer, or by a newer one")
        return cls(file, content)

    @property
    def recipe(self) -> Mapping[str, Any] | None:
        """The recipe it was trained with, as plain data; None where it was trained without one."""
        recipe: Mapping[str, Any] | None = self.content["recipe"]
        return recipe

    @property
    def model(self) -> Mapping[str, Tensor]:
        """The model's tensors by name."""
        tensors: Mapping[str, Tensor] = self.content["model"]
        return tensors

    def fill(self, model: nn.Module) -> None:
        """Put weights, buffers and quantizers into a model of the same architecture, prepared alike.

        Raises:
            CheckpointError: If the model is another one; then nothing is loaded.
        """
        present = model.state_dict()
        for name in [*present, *self.model]:
            if name not in self.model:
                raise CheckpointError(f"checkpoint {self.file}: of another model: it has no {name}")
            if name not in present:
                raise CheckpointError(f"checkpoint {self.file}: of another model: this one has no {name}")
            given, allowed = tuple(self.model[name].shape), tuple(present[name].shape)
            if given != allowed:
                raise CheckpointError(f"checkpoint {self.file}: of another model: {name} is {given}, allowed: {allowed}")
        model.load_state_dict(dict(self.model), strict=True)


def write_checkpoint(file: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically: at every moment `file` holds the old content or the new one, whole."""
    # Through memory, because torch's archive writer turns a failing write into an error without a reason.
    archive = BytesIO()
    torch.save({"format": _FORMAT, **content}, archive)
    archive.seek(0)
    torch.load(archive, weights_only=True)  # what could not be read again must not replace what can
    write_whole(file, archive.getvalue(), name=f"checkpoint {file}", kind=CheckpointError)
