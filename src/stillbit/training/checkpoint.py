"""Checkpoints: written whole or not at all, read without executing anything, errors in one line."""

import os
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stillbit.errors import CheckpointError

_FORMAT = 1


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically: at every moment `path` holds the old file or the new one, whole.

    Args:
        path: The file; its folder exists.
        content: Tensors, numbers, strings, and lists and dicts of them.

    Raises:
        CheckpointError: If it cannot be written (a full disk); the old file stays.
        UnpicklingError: If the content is of other types.
    """
    # Through memory, because torch's archive writer turns a failing write into an error without a reason.
    archive = BytesIO()
    torch.save({"format": _FORMAT, **content}, archive)
    archive.seek(0)
    torch.load(archive, weights_only=True)  # what could not be read again must not replace what can
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(archive.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        size = archive.getbuffer().nbytes / 1e6
        raise CheckpointError(f"checkpoint {path}: cannot be written ({error.strerror}, {size:.1f} MB)") from error


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint, onto the CPU.

    Args:
        path: The file.

    Returns:
        What `save` was given.

    Raises:
        CheckpointError: If there is no such file, it is cut or damaged, or is no checkpoint of ours.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch itself does not compare checksums
    except zipfile.BadZipFile:
        damaged = "its table of contents"
    if damaged is not None:
        raise CheckpointError(f"checkpoint {path}: cut or damaged (at {damaged})")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch have their own errors; for the user they are one
        raise CheckpointError(f"checkpoint {path}: not readable: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(f"checkpoint {path}: not written by stillbit's trainer, or by a newer one")
    return content


def load_model(model: nn.Module, path: Path) -> dict[str, Any]:
    """Load a checkpoint's weights, buffers and quantizers into a model.

    Args:
        model: The same architecture, prepared alike.
        path: The checkpoint.

    Returns:
        The whole checkpoint.

    Raises:
        CheckpointError: If the file cannot be read, or belongs to another model; then nothing is loaded.
    """
    content = read(path)
    put_model(model, path, content)
    return content


def put_model(model: nn.Module, path: Path, content: Mapping[str, Any]) -> None:
    """Put the weights, buffers and quantizers of a checkpoint that has been read into a model.

    Args:
        model: The same architecture, prepared alike.
        path: Where the checkpoint came from, for messages.
        content: What `read` returned.

    Raises:
        CheckpointError: If it belongs to another model; then nothing is loaded.
    """
    _check_same_model(path, content["model"], model.state_dict())
    model.load_state_dict(content["model"], strict=True)


def _check_same_model(path: Path, saved: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> None:
    for name in [*present, *saved]:
        if name not in saved:
            raise CheckpointError(f"checkpoint {path}: of another model: it has no {name}")
        if name not in present:
            raise CheckpointError(f"checkpoint {path}: of another model: this one has no {name}")
        given, allowed = tuple(saved[name].shape), tuple(present[name].shape)
        if given != allowed:
            raise CheckpointError(f"checkpoint {path}: of another model: {name} is {given}, allowed: {allowed}")


def _sync_folder(folder: Path) -> None:
    # The new name itself must reach the disk. Where folders cannot be opened (Windows), there is no such call.
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
