"""From a recipe to its parts: model, data, optimizer and methods. It alone, with its callers, knows every room."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from stillbit.errors import CheckpointError, DataError
from stillbit.oscillation import Method, Tracking
from stillbit.prepare import Coverage, prepare, scales, undecayed, weights
from stillbit.prepare.calibrate import calibrate
from stillbit.recipes.load import resolve
from stillbit.recipes.model import build_model, pretrained_classes
from stillbit.recipes.schema import Recipe
from stillbit.recipes.section import Section
from stillbit.training.batches import calibration_batches
from stillbit.training.checkpoint import Checkpoint
from stillbit.training.data import Data, load_data
from stillbit.training.distill import Distiller
from stillbit.training.optim import JointOptimizer, build_optimizer
from stillbit.training.sampler import steps_per_epoch
from stillbit.training.saving import LAST
from stillbit.training.seeding import seed_all
from stillbit.training.session import LOCAL, Session

# What the tensors of a checkpoint mean, beyond their names and shapes.
_GRIDS = ("weight_bits", "activation_bits", "policy", "overrides", "quantizer", "attention")


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


@dataclass(frozen=True)
class Trained:
    """A checkpoint, and the recipe it was trained with, overrides laid over it."""

    checkpoint: Checkpoint
    recipe: Recipe

    @classmethod
    def read(cls, path: Path, overrides: Sequence[str] = ()) -> "Trained":
        """Read what a run has trained.

        Args:
            path: A run folder, of which the last checkpoint counts, or a checkpoint.
            overrides: Assignments `key.path=value` to the recipe that the checkpoint holds: another data.root, for example.

        Raises:
            CheckpointError: If the checkpoint cannot be read or holds no recipe.
            RecipeError: If an override does not fit.
        """
        return cls.of(Checkpoint.read(path / LAST if path.is_dir() else path), overrides)

    @classmethod
    def of(cls, checkpoint: Checkpoint, overrides: Sequence[str] = ()) -> "Trained":
        """Lay overrides over the recipe of a checkpoint, as `read` does."""
        if checkpoint.recipe is None:
            raise CheckpointError(f"checkpoint {checkpoint.file}: holds no recipe; allowed: one that a recipe was trained into")
        return cls(checkpoint, resolve(checkpoint.recipe, overrides))


def assemble(recipe: Recipe, session: Session, *, start: Checkpoint | None = None) -> Assembly:
    """Build what a recipe names. Under torchrun, call it in every process."""
    data = load_data(recipe.data)
    distiller = None if recipe.distillation is None else recipe.distillation.build(data, session, seed=recipe.training.seed)
    if start is None and recipe.start is not None:
        start = Checkpoint.read(recipe.start)
    model, coverage = build_placed(recipe, data, session, start)
    settings = recipe.optimizer, recipe.scale_optimizer
    optimizer = build_optimizer(weights(model), scales(model), *settings, undecayed=undecayed(model))
    images_per_step = recipe.data.batch_size * recipe.training.accumulation * session.world
    methods = _build_methods(recipe, model, steps_per_epoch(len(data.train), images_per_step))
    for method in methods:
        method.attach(optimizer)
    return Assembly(model, data, optimizer, methods, distiller, coverage)


def build_placed(recipe: Recipe, data: Data, session: Session, start: Checkpoint | None) -> tuple[nn.Module, Coverage | None]:
    """Build a recipe's model where it will run: its ranges found, or filled from a checkpoint.

    Returns:
        The model, and its coverage (None in full precision).
    """
    seed_all(recipe.training.seed)
    named = recipe.model if start is None else replace(recipe.model, weights="random")
    model = build_model(named, num_classes=data.num_classes, channels=recipe.data.channels)
    session.place(model)
    coverage = _prepare(recipe, model, session)
    if start is not None:
        _check_same_grids(recipe, start)
        start.fill(model)
    elif coverage is not None:
        batches = calibration_batches(data, session, seed=recipe.training.seed)
        calibrate(model, batches, batches=recipe.calibration.batches)
    return model, coverage


def build_blank(recipe: Recipe, num_classes: int) -> nn.Module:
    """Build a recipe's model on the CPU, prepared, with random weights and without ranges: a checkpoint is to fill it. Needs no data."""
    seed_all(recipe.training.seed)
    model = _random_network(recipe, num_classes)
    session = replace(LOCAL, dtype=torch.float64 if recipe.training.precision == "fp64" else torch.float32)
    session.place(model)
    _prepare(recipe, model, session)
    return model


def build_trained(trained: Trained) -> nn.Module:
    """Build a trained model on the CPU, in evaluation mode. Needs no data: the checkpoint knows the number of classes."""
    model = build_blank(trained.recipe, trained_classes(trained))
    _check_same_grids(trained.recipe, trained.checkpoint)
    trained.checkpoint.fill(model)
    return model.eval()


def trained_classes(trained: Trained) -> int:
    """Return the number of classes of a trained network, from the checkpoint alone.

    What has another length there than in a network of one class is the classifier.
    """
    if trained.recipe.model.num_classes is not None:
        return trained.recipe.model.num_classes
    for name, tensor in _random_network(trained.recipe, 1).state_dict().items():
        saved = trained.checkpoint.model.get(name)
        if saved is not None and tensor.ndim and saved.ndim == tensor.ndim and len(saved) != len(tensor):
            return len(saved)
    return 1


def example(recipe: Recipe) -> Tensor:
    """Return an input of a recipe's network: zeros (1, channels, image_size, image_size)."""
    return torch.zeros(1, recipe.data.channels, recipe.data.image_size, recipe.data.image_size)


def known_classes(recipe: Recipe) -> int:
    """Return the width of a recipe's classifier, without the data where it can be known without."""
    if recipe.model.num_classes is not None:
        return recipe.model.num_classes
    try:
        return load_data(recipe.data).num_classes
    except DataError as error:
        known = pretrained_classes(recipe.model)
        if known is None:
            raise DataError(f"{error}; or model.num_classes, with which nothing needs the data yet") from None
        return known


def _random_network(recipe: Recipe, num_classes: int) -> nn.Module:
    return build_model(replace(recipe.model, weights="random"), num_classes=num_classes, channels=recipe.data.channels)


def _check_same_grids(recipe: Recipe, start: Checkpoint) -> None:
    """Refuse a checkpoint whose scales belong to other grids: names and shapes of tensors do not show it."""
    before = None if start.recipe is None else resolve(start.recipe).quantization
    for name in _GRIDS:
        given, allowed = getattr(before, name, None), getattr(recipe.quantization, name, None)
        if None not in (before, recipe.quantization) and given != allowed:
            raise CheckpointError(
                f"checkpoint {start.file}: trained with quantization.{name} {given}; allowed: {allowed}, as in this recipe"
            )


def _prepare(recipe: Recipe, model: nn.Module, session: Session) -> Coverage | None:
    if recipe.quantization is None:
        return None
    return prepare(model, recipe.quantization, example=example(recipe).to(session.device, session.dtype))


def _build_methods(recipe: Recipe, model: nn.Module, steps_per_epoch: int) -> tuple[Method, ...]:
    """Return the recipe's methods, one that tracks among them. Their schedules end with those of the learning rates."""
    if recipe.quantization is None:
        return ()
    methods: list[Method] = []
    steps = recipe.timetable.epochs * steps_per_epoch
    if recipe.dampening is not None:
        methods.append(recipe.dampening.build(model, steps=steps))
    if recipe.annealing is not None:
        methods.append(recipe.annealing.build(model, begin=recipe.timetable.before_final_stage * steps_per_epoch + 1))
    tracks = recipe.freezing or recipe.tracking or Section.of(Tracking)
    methods.append(tracks.build(model, steps=steps or None))
    if recipe.recording is not None:
        methods.append(recipe.recording.build(model, steps=steps))
    return tuple(methods)
