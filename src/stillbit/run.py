"""What a recipe's parts do together: training, evaluation, and the import of what others have trained.

A run folder holds `recipe.yaml` (complete, defaults written out), `record.jsonl`, `last.pt`, `best.pt`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stillbit.assembly import Assembly as Assembly
from stillbit.assembly import Trained, build_blank, build_placed, known_classes
from stillbit.assembly import assemble as assemble
from stillbit.errors import CheckpointError, RecipeError
from stillbit.files import write_whole
from stillbit.interop import ImportReport, load_published, read_published
from stillbit.recipes.keys import CHANGE_NO_NUMBER, READ_AT_START
from stillbit.recipes.load import dump, load
from stillbit.recipes.mapping import to_mapping
from stillbit.recipes.schema import Recipe
from stillbit.training.batches import validation_batches
from stillbit.training.checkpoint import Checkpoint, write_checkpoint
from stillbit.training.data import load_data
from stillbit.training.evaluate import Evaluation, evaluate
from stillbit.training.fit import fit
from stillbit.training.optim import group_schedules
from stillbit.training.saving import BEST, LAST
from stillbit.training.session import Session

RECIPE = "recipe.yaml"


def train(recipe: Recipe, folder: Path, *, resume: bool = False, announce: Callable[[str], None] | None = None) -> dict[str, float]:
    """Train a recipe into a run folder. Under torchrun, call it in every process."""
    _check_folder(recipe, folder, resume=resume)
    saved = Checkpoint.read(folder / LAST) if resume and (folder / LAST).exists() else None
    with Session.start(recipe.training) as session:
        parts = assemble(recipe, session, start=saved)
        if session.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / RECIPE, dump(recipe))
            if announce is not None and parts.coverage is not None:
                announce(str(parts.coverage))
        state = fit(
            parts.model,
            parts.optimizer,
            parts.data,
            recipe.training,
            session,
            folder=folder,
            methods=parts.methods,
            schedules=group_schedules(parts.optimizer, recipe.optimizer, recipe.scale_optimizer),
            final_stage=recipe.final_stage,
            distiller=parts.distiller,
            recipe=to_mapping(recipe),
            resume=saved,
        )
    return dict(state.history[-1])


def validate(path: Path, overrides: Sequence[str] = ()) -> Evaluation:
    """Evaluate a trained network on its validation split. Nothing is written."""
    trained = Trained.read(path, overrides)
    with Session.start(trained.recipe.training) as session:
        data = load_data(trained.recipe.data)
        model, _ = build_placed(trained.recipe, data, session, trained.checkpoint)
        with session.autocast():
            return evaluate(model, validation_batches(data, session), data.num_classes)


def import_checkpoint(recipe: Recipe, source: Path, folder: Path) -> ImportReport:
    """Make a run folder of a published checkpoint: `validate` evaluates it, and a recipe's `start` takes its `last.pt`."""
    _check_folder(recipe, folder, resume=False)
    published = read_published(source)
    model = build_blank(recipe, known_classes(recipe))
    report = load_published(model, published)
    with _no_partial_folder(folder):
        write_checkpoint(folder / LAST, {"model": model.state_dict(), "recipe": to_mapping(recipe)})
        _write(folder / RECIPE, dump(recipe))
    return report


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
        if before.get(path) != now.get(path) and path not in CHANGE_NO_NUMBER | READ_AT_START:
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
    write_whole(path, text.encode(), name=f"run folder {path.parent}: {path.name}", kind=CheckpointError)
