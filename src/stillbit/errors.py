"""Every error that a user can cause: one clear line each, with the command line's exit code for it."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

EXTRAS = {
    "train": ("accelerate", "PIL", "sklearn", "tensorboard", "timm", "torchvision"),
    "export": ("onnx", "onnx_ir", "onnxruntime", "PIL"),
    "report": ("matplotlib", "PIL"),
    "openvino": ("openvino",),
    "datasets": ("datasets",),
}
"""What each extra of pyproject.toml brings to a verb, by the names that Python imports."""


class StillbitError(ValueError):
    """Base of all errors that a user can cause. The message is one line: the thing, what was given, what is allowed."""

    exit_code = 2


class RecipeError(StillbitError):
    """A recipe or configuration has an unknown key, or a value out of range."""


class DataError(StillbitError):
    """A folder, image, loader or batch cannot be used."""


class PrepareError(StillbitError):
    """A model cannot be prepared, a quantizer has no range, or no forward pass reaches one."""


class CheckpointError(StillbitError):
    """A checkpoint is cut, belongs to another model, or cannot be written."""


class ReportError(StillbitError):
    """A run's record is missing, damaged or of something else, or a report cannot be written."""


class DivergedError(StillbitError):
    """Training met a loss, gradient or scale that is not finite."""

    exit_code = 3


class ExportError(StillbitError):
    """A model cannot be exported, or a file cannot be written, read or run."""


class MismatchError(StillbitError):
    """An exported file does not compute what was trained."""

    exit_code = 4


class DiagnosisError(StillbitError):
    """The doctor has found an error or a warning."""

    exit_code = 5


class MissingExtraError(StillbitError):
    """A library of one of stillbit's extras is not installed. The message says how to install it."""


class Interrupted(StillbitError):  # noqa: N818 - not an error of anybody
    """Training was told to stop (SIGTERM or SIGINT) and has saved its state."""

    exit_code = 143


@contextmanager
def requires(*extras: str) -> Iterator[None]:
    """Name the extra to install where a library of theirs is missing. A decorator, or a context."""
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        lacking = next((extra for extra in extras if library in EXTRAS[extra]), None)
        if lacking is None:
            raise
        raise MissingExtraError(f'{library} is not installed; to install it: pip install "stillbit[{lacking}]"') from None


def nearest(given: str, allowed: Iterable[str], *, most: int | None = None) -> str:
    """Say which of the allowed names is meant: `; did you mean 'x'?`, or the list where none is near, at `most` so many."""
    names = list(allowed)
    found = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    if found:
        return f"; did you mean '{found[0]}'?"
    shown = names[:most]
    return f"; allowed: {', '.join(shown)}{f' and {len(names) - len(shown)} more' if len(shown) < len(names) else ''}"
