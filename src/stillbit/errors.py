"""Every error that a user can cause: one clear line each, with the exit code that the command line gives for it."""


class StillbitError(ValueError):
    """Base of all errors that a user can cause. The message is one line: the thing, what was given, what is allowed."""

    exit_code = 2


class RecipeError(StillbitError):
    """A recipe or configuration with an unknown key or a value out of range."""


class DataError(StillbitError):
    """A folder, image, loader or batch that cannot be used."""


class PrepareError(StillbitError):
    """A model that cannot be prepared, a quantizer without a range, or one that no forward pass reaches."""


class CheckpointError(StillbitError):
    """A checkpoint that is cut, belongs to another model, or cannot be written."""


class ReportError(StillbitError):
    """A run's record that is missing, damaged, or of something else, or a report that cannot be written."""


class DivergedError(StillbitError):
    """Training met a loss, gradient or scale that is not finite."""

    exit_code = 3


class ExportError(StillbitError):
    """A model that cannot be exported, or a file that cannot be written, read or run."""


class MismatchError(StillbitError):
    """An exported file that does not compute what was trained."""

    exit_code = 4


class DiagnosisError(StillbitError):
    """The doctor has found an error or a warning."""

    exit_code = 5


class Interrupted(StillbitError):  # noqa: N818 - not an error of anybody
    """Training was told to stop (SIGTERM or SIGINT) and has saved its state."""

    exit_code = 143
