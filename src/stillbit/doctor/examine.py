"""The doctor's doors: a live model, a run or checkpoint, a file."""

import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from stillbit.assembly import Trained, build_trained, trained_classes
from stillbit.doctor.finding import SEVERITIES, Examination, Finding, Unchecked
from stillbit.doctor.rules import RULES
from stillbit.doctor.subjects import FileSubject, ModelSubject, RunSubject, Subject
from stillbit.errors import CheckpointError, DataError, ExportError, StillbitError
from stillbit.export.inspect import inspect
from stillbit.oscillation import Method
from stillbit.oscillation.hooks import innermost_optimizer
from stillbit.oscillation.optimizer_rules import Unknown
from stillbit.prepare import scales, undecayed, weights
from stillbit.report.reading import RECORD, read_run
from stillbit.training.batches import calibration_batches, validation_batches
from stillbit.training.checkpoint import Checkpoint
from stillbit.training.data import load_data
from stillbit.training.optim import build_optimizer
from stillbit.training.record import read_record
from stillbit.training.saving import LAST
from stillbit.training.session import LOCAL

FILES = (".onnx", ".safetensors")
_IMAGES = 64  # of the validation split, that quantizers are looked at on
_BATCHES = 4  # of the training split, for statistics of batch norms
_ENOUGH_IMAGES = 32  # for statistics


def examine(
    model: nn.Module,
    optimizer: object = None,
    methods: Sequence[Method] = (),
    example: Any = None,
) -> Examination:
    """Look for what is wrong with a model and what trains it. Change nothing.

    Args:
        model: A prepared model, on any device.
        optimizer: What steps it: a torch optimizer, a wrapper that keeps one in `.optimizer`, or several of them in a list; None: the
            rules on optimizers are not checked.
        methods: Oscillation methods, attached or not.
        example: Its input: a batch of real images, or a tuple of positional inputs; None: the rules that need one are not checked. With
            32 images and more, the statistics of batch norms are compared, too.

    Returns:
        The findings, the worst first.

    Raises:
        PrepareError: If the example does not run through the model.
    """
    batches, why = None, "no example was given"
    if isinstance(example, Tensor):
        enough = len(example) >= _ENOUGH_IMAGES
        batches, why = ((example,), why) if enough else (None, f"the example has {len(example)} images, and it takes {_ENOUGH_IMAGES}")
    elif example is not None:
        why = "the example is no batch of images"
    subject = ModelSubject(model, _optimizers(optimizer), tuple(methods), example, batches, why)
    return check(type(model).__name__, (subject,))


def examine_run(path: Path | str, overrides: Sequence[str] = ()) -> Examination:
    """Look for what is wrong with a run: its record, and what it has trained, on a batch of its images where they are at hand.

    Args:
        path: A run folder, of which the last checkpoint counts, or a checkpoint.
        overrides: Assignments `key.path=value` to the recipe that the checkpoint holds: another data.root, for example.

    Returns:
        The findings, the worst first.

    Raises:
        CheckpointError: If there is neither a run nor a checkpoint, or it cannot be read.
        StillbitError: Whatever building meets.
    """
    path = Path(path)
    record, file = path / RECORD, path / LAST if path.is_dir() else path
    if not record.is_file() and not file.is_file():
        raise CheckpointError(f"{path}: no run folder and no checkpoint; allowed: one of them, or an exported file ({', '.join(FILES)})")
    if not record.is_file():
        return check(str(path), (_model_subject(_trained(Checkpoint.read(file), overrides)),))
    trained, unreadable = None, ""
    try:
        checkpoint = Checkpoint.read(file)
    except CheckpointError as error:
        unreadable, why = str(error) if file.is_file() else "", str(error)
    else:
        try:
            trained = _trained(checkpoint, overrides)
            model = _model_subject(trained)
        except StillbitError as error:
            trained, why = None, str(error)
    run = _run_subject(path, trained, file.is_file(), unreadable)
    if trained is None:
        return check(str(path), (run,), {ModelSubject: f"there is no network to look at ({why})"})
    return check(str(path), (run, model))


def examine_file(path: Path | str) -> Examination:
    """Look for what is wrong with an exported file: ONNX, or packed safetensors.

    Args:
        path: The file.

    Returns:
        The findings, the worst first.

    Raises:
        ExportError: If it is none of ours, cut, or ONNX Runtime refuses it.
    """
    path = Path(path)
    if path.suffix not in FILES:
        raise ExportError(f"{path}: allowed are files that end in {' or '.join(FILES)}, run folders and checkpoints")
    return check(str(path), (FileSubject(path, inspect(path)),))


def examine_path(path: Path | str, overrides: Sequence[str] = ()) -> Examination:
    """Look for what is wrong with a run folder, a checkpoint or an exported file, by what it is.

    Args:
        path: One of them.
        overrides: As of `examine_run`; none for an exported file.

    Raises:
        StillbitError: As of `examine_run` and `examine_file`.
    """
    path = Path(path)
    if path.is_dir() or path.suffix == ".pt" or not path.exists():
        return examine_run(path, overrides)
    if overrides:
        raise ExportError(f"{path}: a file has no recipe to change; allowed: no KEY.PATH=VALUE")
    return examine_file(path)


def check(name: str, subjects: Sequence[Subject], missing: Mapping[type[Subject], str] | None = None) -> Examination:
    """Check every rule on the subjects that it is for."""
    findings: list[Finding] = []
    checked, unchecked = dict[str, None](), dict[str, Unchecked]()
    for rule in RULES:
        if missing and rule.subject in missing:
            unchecked[rule.name] = Unchecked(rule.name, missing[rule.subject])
        for subject in subjects:
            if not isinstance(subject, rule.subject):
                continue
            try:
                findings += (Finding(rule.name, rule.severity, *found) for found in list(rule.find(subject)))
                checked[rule.name] = None
            except Unknown as unknown:
                unchecked[rule.name] = Unchecked(rule.name, str(unknown))
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Examination(name, tuple(findings), tuple(checked), tuple(one for one in unchecked.values() if one.rule not in checked))


def _optimizers(given: object) -> tuple[Optimizer, ...] | None:
    if given is None:
        return None
    several = given if isinstance(given, list | tuple) else (given,)
    return tuple(innermost_optimizer(one, "examine") for one in several)


def _trained(checkpoint: Checkpoint, overrides: Sequence[str]) -> Trained:
    return Trained.of(checkpoint, ("data.workers=0", *overrides))


def _run_subject(path: Path, trained: Trained | None, has_checkpoint: bool, unreadable: str) -> RunSubject:
    record = path / RECORD
    skipped = tuple(str(event["name"]) for event in read_record(record) if event["event"] == "skipped")
    has_batchnorm = None if trained is None else any(name.endswith("running_mean") for name in trained.checkpoint.model)
    classes = None if trained is None else trained_classes(trained)
    idle = max(time.time() - record.stat().st_mtime, 0.0)
    return RunSubject(read_run(path), skipped, has_batchnorm, classes, idle, has_checkpoint, unreadable)


def _model_subject(trained: Trained) -> ModelSubject:
    """Build the trained model and its optimizer, with the learning rates that the recipe begins with; the data, where it is at hand."""
    model, recipe = build_trained(trained), trained.recipe
    settings = recipe.optimizer, recipe.scale_optimizer
    optimizer = build_optimizer(weights(model), scales(model), *settings, undecayed=undecayed(model))
    example, batches, why = None, None, ""
    try:
        example, batches = _images(trained)
    except DataError as error:
        why = f"the data is not at hand ({error})"
    return ModelSubject(model, (optimizer,), (), example, batches, why, live=False)


def _images(trained: Trained) -> tuple[Tensor, tuple[Tensor, ...]]:
    data = load_data(trained.recipe.data)
    images, _ = next(iter(validation_batches(data, LOCAL)))
    training = calibration_batches(data, LOCAL, seed=trained.recipe.training.seed)
    return images[:_IMAGES], tuple(batch for batch, _ in islice(training, _BATCHES))
