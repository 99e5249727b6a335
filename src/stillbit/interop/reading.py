"""Reads what the published codebases saved: tensors, and the options of the command line; nothing in a file is executed."""

import argparse
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from stillbit.errors import CheckpointError

# Under which key a checkpoint keeps its state dict. The average is taken only where there is nothing else.
_PLAIN = ("state_dict", "model")
_AVERAGED = ("state_dict_ema", "model_ema")
_PARALLEL = "module."  # what torch's data parallelism puts before every name


@dataclass(frozen=True)
class PublishedCheckpoint:
    """A state dict, and what stood next to it.

    Attributes:
        origin: What to call it in messages.
        state: Tensors by name, without `module.` before it.
        taken: Key of the file under which they stood; empty for a bare state dict.
        passed_over: Keys of other state dicts in the file.
        arguments: Options that the published script was called with; empty where the file has none.
    """

    origin: str
    state: Mapping[str, Tensor]
    taken: str = ""
    passed_over: tuple[str, ...] = ()
    arguments: Mapping[str, object] = field(default_factory=dict)

    def width(self, option: str) -> int | None:
        """Return a width that the published script was called with; None if the file does not tell."""
        value = self.arguments.get(option)
        return value if isinstance(value, int) else None


def read_published(source: Path | str | Mapping[str, object]) -> PublishedCheckpoint:
    """Read a checkpoint of a published codebase, onto the CPU.

    Args:
        source: A file that torch saved, or what it holds: a state dict, bare or wrapped.

    Returns:
        The state dict, and what stood next to it.

    Raises:
        CheckpointError: If there is no such file, it is cut, holds anything but data, or no state dict, or several.
    """
    if isinstance(source, Mapping):
        return _unwrap("state dict", source)
    path = Path(source)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path}: no such file")
    content = _load(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"checkpoint {path}: holds a {type(content).__name__}; allowed: a state dict, bare or wrapped")
    return _unwrap(f"checkpoint {path}", content)


def _load(path: Path) -> object:
    _check_sums(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options of timm's training script, a bag of values
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(path) or "GLOBAL" in str(error):
            raise CheckpointError(f"checkpoint {path}: holds code, or objects other than tensors and options: {_unsafe(error)}") from None
        raise CheckpointError(f"checkpoint {path}: cut or damaged, or not a file that torch saved") from None
    except Exception as error:  # zip, pickle and torch have their own errors for a damaged file
        raise CheckpointError(f"checkpoint {path}: cut or damaged, or not a file that torch saved ({type(error).__name__})") from None


def _check_sums(path: Path) -> None:
    """Refuse an archive with a damaged member: torch itself does not compare checksums."""
    if not zipfile.is_zipfile(path):
        return  # torch's older format, or none; reading will tell
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise CheckpointError(f"checkpoint {path}: cut or damaged (at {damaged})")


def _unsafe(error: Exception) -> str:
    """Return the one sentence of torch's long text that names what it refused."""
    sentences = [part.strip() for part in str(error).replace("\n", ". ").split(". ")]
    return next((part for part in sentences if "GLOBAL" in part), sentences[0])


def _unwrap(origin: str, content: Mapping[str, object]) -> PublishedCheckpoint:
    if content.get("format") is not None and "surroundings" in content:
        raise CheckpointError(f"{origin}: was written by stillbit itself; allowed: a published one (a recipe's start takes this one)")
    present = [key for key in (*_PLAIN, *_AVERAGED) if isinstance(content.get(key), Mapping)]
    if not present:
        return PublishedCheckpoint(origin, _tensors(origin, content))
    plain = [key for key in present if key in _PLAIN]
    choice = plain or present
    if len(choice) > 1:
        raise CheckpointError(f"{origin}: holds several state dicts ({', '.join(choice)}); allowed: one")
    taken = choice[0]
    inner = content[taken]
    assert isinstance(inner, Mapping)
    passed_over = tuple(key for key in present if key != taken)
    return PublishedCheckpoint(origin, _tensors(origin, inner), taken, passed_over, _arguments(content.get("args")))


def _tensors(origin: str, content: Mapping[str, object]) -> dict[str, Tensor]:
    """Check that there are tensors alone, by names, and take `module.` off."""
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{origin}: is no state dict: {name!r} is a {type(value).__name__}; allowed: tensors alone")
    if not content:
        raise CheckpointError(f"{origin}: is an empty state dict")
    prefixed = [name for name in content if name.startswith(_PARALLEL)]
    if prefixed and len(prefixed) < len(content):
        raise CheckpointError(f"{origin}: {len(prefixed)} of {len(content)} names begin with '{_PARALLEL}'; allowed: all or none")
    return {name.removeprefix(_PARALLEL): value for name, value in content.items() if isinstance(value, Tensor)}


def _arguments(given: object) -> dict[str, object]:
    if isinstance(given, argparse.Namespace):
        return vars(given)
    return dict(given) if isinstance(given, Mapping) else {}
