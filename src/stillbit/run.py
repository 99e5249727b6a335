"""The assembly root: a recipe becomes model, data, optimizer and methods, and these a run. It alone knows every room.

A run folder holds `recipe.yaml` (complete, defaults written out), `record.jsonl`, `last.pt`, `best.pt`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from stillbit.errors import CheckpointError, DataError, RecipeError
from stillbit.interop import ImportReport, load_published, read_published
from stillbit.oscillation import Method, TrackingConfig
from stillbit.prepare import Coverage, prepare, scales, undecayed, weights
from stillbit.prepare.calibrate import calibrate
from stillbit.recipes.load import dump, load, resolve
from stillbit.recipes.mapping import to_mapping
from stillbit.recipes.model import build_model, pretrained_classes
from stillbit.recipes.schema import Recipe
from stillbit.training import checkpoint
from stillbit.training.batches import calibration_batches, validation_batches
from stillbit.training.data import Data, load_data
from stillbit.training.distill import Distiller
from stillbit.training.evaluate import Evaluation, evaluate
from stillbit.training.loop import BEST, LAST, fit
from stillbit.training.optim import JointOptimizer, build_optimizer, group_schedules
from stillbit.training.processes import autocast, memory_format, place, start_processes, training_dtype
from stillbit.training.sampler import StepSampler
from stillbit.training.seeding import seed_all

RECIPE = "recipe.yaml"

# What the tensors of a checkpoint mean, beyond their names and shapes.
_GRIDS = ("weight_bits", "activation_bits", "policy", "overrides", "quantizer", "attention")

# What a resumed run may have otherwise than before: nothing of it changes a number.
_MAY_CHANGE = (
    "data.root",
    "data.download",
    "data.workers",
    "data.val_batch_size",
    "model.weights",
    "start",
    "training.checkpoint_every",
    "training.log_every",
    "training.tensorboard",
)


@dataclass(frozen=True)
class Assembly:
    """Everything that a recipe makes, ready for its first step.

    Args:
        model: On its device; prepared and calibrated, unless the recipe is one in full precision.
        data: Both splits.
        optimizer: Over weights and scales.
        methods: Attached to the optimizer.
        distiller: The teacher, placed; None without.
        coverage: What is quantized; None in full precision.
    """

    model: nn.Module
    data: Data
    optimizer: JointOptimizer
    methods: tuple[Method, ...]
    distiller: Distiller | None
    coverage: Coverage | None


def train(recipe: Recipe, folder: Path, *, resume: bool = False, announce: Callable[[str], None] | None = None) -> dict[str, float]:
    """Train a recipe into a run folder. Under torchrun, call it in every process.

    Args:
        recipe: What to train.
        folder: The run folder; made if it is missing.
        resume: Continue the run in it. A run that was stopped before its first checkpoint begins anew.
        announce: Is told, on the first process, what is quantized.

    Returns:
        Figures of the last epoch.

    Raises:
        CheckpointError: If the folder holds a run and `resume` is not asked for, or no run and it is.
        RecipeError: If the run in the folder has another recipe, or the recipe does not fit its data or device.
        StillbitError: Whatever building or training meets.
    """
    _check_folder(recipe, folder, resume=resume)
    start = folder / LAST if resume and (folder / LAST).exists() else None
    parts = assemble(recipe, start=start)
    processes = start_processes(recipe.training)
    if processes.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / RECIPE, dump(recipe))
        if announce is not None and parts.coverage is not None:
            announce(str(parts.coverage))
    position = fit(
        parts.model,
        parts.optimizer,
        parts.data,
        recipe.training,
        directory=folder,
        methods=parts.methods,
        schedules=group_schedules(parts.optimizer, recipe.optimizer, recipe.scale_optimizer),
        final_stage=recipe.final_stage,
        distiller=parts.distiller,
        recipe=to_mapping(recipe),
        resume=start is not None,
    )
    return dict(position.history[-1])


def validate(path: Path, overrides: Sequence[str] = ()) -> Evaluation:
    """Evaluate a trained network on its validation split. Nothing is written.

    Args:
        path: A run folder, of which the last checkpoint counts, or a checkpoint.
        overrides: Assignments `key.path=value` to the recipe that the checkpoint holds: another data.root, for example.

    Returns:
        Loss, accuracies and number of images.

    Raises:
        CheckpointError: If the checkpoint cannot be read or holds no recipe, or the overrides make another model of it.
        StillbitError: Whatever building or evaluating meets.
    """
    file = path / LAST if path.is_dir() else path
    kept = checkpoint.read(file)["recipe"]
    if kept is None:
        raise CheckpointError(f"checkpoint {file}: holds no recipe; allowed: one that a recipe was trained into")
    recipe = resolve(kept, overrides)
    processes = start_processes(recipe.training)
    data = load_data(recipe.data)
    model, _ = _build_model(recipe, data, start=file)
    settings = recipe.training
    batches = validation_batches(
        data,
        processes.device,
        training_dtype(settings),
        memory_format(settings),
        processes.process_index,
        processes.num_processes,
    )
    with autocast(settings, processes.device):
        return evaluate(model, batches, data.num_classes)


def import_checkpoint(recipe: Recipe, source: Path, folder: Path) -> ImportReport:
    """Make a run folder of a published checkpoint: `validate` evaluates it, and a recipe's `start` takes its `last.pt`.

    Args:
        recipe: The network, prepared as the checkpoint's was. Its data is opened only if nothing else tells the number of classes.
        source: A checkpoint of a published codebase.
        folder: The run folder; made if it is missing, and left as it was if the import fails.

    Returns:
        What went where.

    Raises:
        CheckpointError: If the checkpoint cannot be read or does not fit, or the folder holds a run or cannot be written.
        StillbitError: Whatever building meets.
    """
    _check_folder(recipe, folder, resume=False)
    published = read_published(source)
    seed_all(recipe.training.seed)
    model = build_model(replace(recipe.model, weights="random"), num_classes=_classes(recipe), channels=recipe.data.channels)
    model.to(training_dtype(recipe.training))
    _prepare(recipe, model, torch.device("cpu"))
    report = load_published(model, published)
    with _no_partial_folder(folder):
        checkpoint.save(folder / LAST, {"model": model.state_dict(), "recipe": to_mapping(recipe)})
        _write(folder / RECIPE, dump(recipe))
    return report


def assemble(recipe: Recipe, *, start: Path | None = None) -> Assembly:
    """Build what a recipe names. Under torchrun, call it in every process.

    Args:
        recipe: What to build.
        start: A checkpoint whose model takes the place of float weights and calibration; None means what the recipe says.

    Returns:
        The parts, the methods attached.

    Raises:
        StillbitError: Whatever building meets.
    """
    processes = start_processes(recipe.training)
    data = load_data(recipe.data)
    distiller = None if recipe.distillation is None else recipe.distillation.build(data, recipe.training)
    model, coverage = _build_model(recipe, data, start or recipe.start)
    settings = recipe.optimizer, recipe.scale_optimizer
    optimizer = build_optimizer(weights(model), scales(model), *settings, undecayed=undecayed(model))
    methods = _build_methods(recipe, model, _steps_per_epoch(recipe, data, processes))
    for method in methods:
        method.attach(optimizer)
    return Assembly(model, data, optimizer, methods, distiller, coverage)


def _build_model(recipe: Recipe, data: Data, start: Path | None) -> tuple[nn.Module, Coverage | None]:
    """Return the model, placed, with ranges, and its coverage."""
    seed_all(recipe.training.seed)
    named = recipe.model if start is None else replace(recipe.model, weights="random")
    model = build_model(named, num_classes=data.num_classes, channels=recipe.data.channels)
    device = place(model, recipe.training)
    coverage = _prepare(recipe, model, device)
    if start is not None:
        _check_same_grids(recipe, start, checkpoint.read(start)["recipe"])
        checkpoint.load_model(model, start)
    elif coverage is not None:
        processes = start_processes(recipe.training)
        rank, world = processes.process_index, processes.num_processes
        batches = calibration_batches(data, device, seed=recipe.training.seed, rank=rank, world=world)
        calibrate(model, batches, batches=recipe.calibration.batches)
    return model, coverage


def _check_same_grids(recipe: Recipe, start: Path, kept: Mapping[str, Any] | None) -> None:
    """Refuse a checkpoint whose scales belong to other grids: names and shapes of tensors do not show it."""
    before = None if kept is None else resolve(kept).quantization
    for name in _GRIDS:
        given, allowed = getattr(before, name, None), getattr(recipe.quantization, name, None)
        if None not in (before, recipe.quantization) and given != allowed:
            raise CheckpointError(f"checkpoint {start}: trained with quantization.{name} {given}; allowed: {allowed}, as in this recipe")


def _prepare(recipe: Recipe, model: nn.Module, device: torch.device) -> Coverage | None:
    if recipe.quantization is None:
        return None
    size = recipe.data.image_size
    example = torch.zeros(1, recipe.data.channels, size, size, device=device, dtype=training_dtype(recipe.training))
    return prepare(model, recipe.quantization, example=example)


def _classes(recipe: Recipe) -> int:
    """Return the width of the classifier, without the data where it can be known without."""
    if recipe.model.num_classes is not None:
        return recipe.model.num_classes
    try:
        return load_data(recipe.data).num_classes
    except DataError as error:
        known = pretrained_classes(recipe.model)
        if known is None:
            raise DataError(f"{error}; or model.num_classes, with which nothing needs the data yet") from None
        return known


def _build_methods(recipe: Recipe, model: nn.Module, steps_per_epoch: int) -> tuple[Method, ...]:
    """Return dampening and annealing if asked for, one method that tracks, and recording if asked for, in this order at each step.

    Annealing puts weights back before the others look at them. The schedules of the others end with those of the learning rates.
    """
    if recipe.quantization is None:
        return ()
    methods: list[Method] = []
    steps = recipe.timetable.epochs * steps_per_epoch
    if recipe.dampening is not None:
        methods.append(recipe.dampening.build(model, steps))
    if recipe.annealing is not None:
        begin = recipe.timetable.before_final_stage * steps_per_epoch + 1
        methods.append(recipe.annealing.build(model, steps, begin=begin))
    methods.append((recipe.freezing or recipe.tracking or TrackingConfig()).build(model, steps))
    if recipe.recording is not None:
        methods.append(recipe.recording.build(model, steps))
    return tuple(methods)


def _steps_per_epoch(recipe: Recipe, data: Data, processes: Accelerator) -> int:
    settings = recipe.training
    rank, world = processes.process_index, processes.num_processes
    sampler = StepSampler(len(data.train), recipe.data.batch_size, settings.seed, settings.accumulation, rank, world)
    return sampler.steps_per_epoch


def _check_folder(recipe: Recipe, folder: Path, *, resume: bool) -> None:
    """Refuse to overwrite a run, and to continue one as another."""
    if not (folder / RECIPE).exists():
        if resume:
            raise CheckpointError(f"run folder {folder}: no run to resume (it has no {RECIPE})")
        if folder.exists() and not folder.is_dir():
            raise CheckpointError(f"run folder {folder}: is a file; allowed: a new or an empty folder")
        for name in (LAST, BEST):
            if (folder / name).exists():
                raise CheckpointError(f"run folder {folder}: holds {name} already; allowed: a new or an empty folder")
        return
    if not resume:
        raise CheckpointError(f"run folder {folder}: holds a run already; continue it by --resume, or give another by --folder")
    before, now = (dict(_leaves(to_mapping(one))) for one in (load(str(folder / RECIPE)), recipe))
    for path in [*now, *before]:
        if before.get(path) != now.get(path) and path not in _MAY_CHANGE:
            raise RecipeError(f"{path} is {now.get(path)}, and {before.get(path)} in the run that {folder} holds; allowed: the same recipe")


@contextmanager
def _no_partial_folder(folder: Path) -> Iterator[None]:
    """Make a run folder, and take back what was written into it if not everything can be."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        for name in (LAST, RECIPE):
            (folder / name).unlink(missing_ok=True)
        for one in made:
            if one.exists():
                one.rmdir()
        if isinstance(error, OSError):
            raise CheckpointError(f"run folder {folder}: cannot be made ({error.strerror})") from None
        raise


def _leaves(mapping: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"run folder {path.parent}: {path.name} cannot be written ({error.strerror})") from None
