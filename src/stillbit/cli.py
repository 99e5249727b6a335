"""The command line: each verb parses, makes one call, and prints.

Torch's ecosystem is imported inside the verbs that need it, so that help and the list of recipes come at once.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from stillbit import __version__
from stillbit.errors import DataError, DiagnosisError, MismatchError, StillbitError, requires

app = typer.Typer(
    help="Train 2-bit to 4-bit networks whose weights hold still.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# The second is the short one; the first is for torchrun, which takes `--run` for the beginning of an option of its own.
_FOLDER = ("--folder", "--run")


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        _print(__version__)
        raise typer.Exit


@app.command()
@requires("train", "report")
def demo(
    folder: Annotated[Path, typer.Option(*_FOLDER, metavar="DIR", help="Where its runs and pictures go.")] = Path("runs/demo"),
) -> None:
    """Train a small network on bundled data: float, then 3 and 2 bits by each method; a table and pictures. Minutes on two cores."""
    from stillbit.demo import demo

    demo(folder, Console())


@app.command()
@requires("report")
def toy(
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="Where its pictures go.")] = Path("runs/toy"),
) -> None:
    """Watch one weight oscillate, and what each method does about it: an animation, two pictures, a table. Under a minute."""
    from stillbit.toy import toy

    toy(folder, Console())


@app.command()
@requires("train", "datasets")
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or path of a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Values that replace the recipe's.")] = None,
    run: Annotated[Path | None, typer.Option(*_FOLDER, metavar="DIR", help="Run folder; runs/RECIPE if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in that folder.")] = False,
) -> None:
    """Train a recipe. The run folder gets the resolved recipe, the record of metrics, and checkpoints."""
    from stillbit.recipes.load import load
    from stillbit.run import train as train_recipe

    folder = run or Path("runs") / Path(recipe).stem
    train_recipe(load(recipe, overrides or ()), folder, resume=resume, announce=_print)
    _print(f"run folder: {folder}")


@app.command()
@requires("train", "datasets")
def validate(
    run: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT", help="A run folder, or a checkpoint in one.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Values that replace the run's.")] = None,
) -> None:
    """Evaluate a trained network, as its checkpoint holds it. Nothing is written."""
    from stillbit.run import validate as validate_run

    found = validate_run(run, overrides or ())
    _print(f"top-1 {found.top1:.2%}  top-5 {found.top5:.2%}  loss {found.loss:.4f}  images {found.count}")


@app.command("import")
@requires("train")
def import_(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A file of one of the two published codebases.")],
    recipe: Annotated[str, typer.Option("--recipe", metavar="NAME", help="The recipe of its network, widths and image size.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Values that replace the recipe's.")] = None,
    run: Annotated[Path | None, typer.Option(*_FOLDER, metavar="DIR", help="Run folder; runs/RECIPE_imported if not given.")] = None,
) -> None:
    """Bring a network that a published codebase has trained. The run folder can be validated, and a recipe's start takes its last.pt."""
    from stillbit.recipes.load import load
    from stillbit.run import import_checkpoint

    folder = run or Path("runs") / f"{Path(recipe).stem}_imported"
    _print(str(import_checkpoint(load(recipe, overrides or ()), checkpoint, folder)))
    _print(f"run folder: {folder}")


@app.command()
@requires("train", "export")
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT", help="A run folder, or a checkpoint in one.")],
    format: Annotated[str, typer.Option("--format", metavar="FORMAT", help="onnx, packed (safetensors), or program (torch.export).")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Values that replace the run's.")] = None,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="The file; beside the run if not given.")] = None,
    container: Annotated[str, typer.Option("--container", help="How ONNX stores weights: auto, int8, int4, or packed.")] = "auto",
    runtime: Annotated[str | None, typer.Option("--runtime", metavar="VERSION", help="Oldest ONNX Runtime that is to run it.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Layers of ONNX that no integer kernel computes exactly run in floats.")] = False,
) -> None:
    """Write a trained network as a file that other programs run. Its data is not needed."""
    from stillbit.deploy import export as export_run

    _print(str(export_run(run, format, output, overrides or (), container=container, runtime=runtime, exact=exact)))


@app.command()
@requires("train", "export", "openvino")
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An ONNX file that export wrote.")],
    run: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT", help="What it was exported from.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Values that replace the run's.")] = None,
    batches: Annotated[int | None, typer.Option("--batches", metavar="N", help="Validation batches; all if not given.")] = None,
    runtime: Annotated[str, typer.Option("--runtime", help="onnxruntime or openvino.")] = "onnxruntime",
) -> None:
    """Compare a file with its run on validation images: codes layer by layer, and outputs. Exit code 4 beyond its bounds."""
    from stillbit.deploy import verify as verify_file

    found = verify_file(file, run, overrides or (), batches=batches, runtime=runtime)
    _print(str(found))
    if not found.ok:
        raise MismatchError(f"{file}: does not compute what {run} has trained, within its bounds")


@app.command()
@requires("export")
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that export wrote.")],
) -> None:
    """Show a file's bytes, bits and kernels by layer, and that no accumulator can overflow."""
    from stillbit.export.inspect import inspect as inspect_file

    _print(str(inspect_file(file)))


@app.command()
@requires("export")
def predict(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that export wrote, of any format.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Image files, or folders of them.")],
    top: Annotated[int, typer.Option("--top", metavar="K", min=1, help="Classes an image.")] = 5,
) -> None:
    """Classify images by an exported file. Exit code 2 after a broken image; the others are classified all the same."""
    from stillbit.export.predict import predict as predict_images

    broken = 0
    for path, found in predict_images(file, images, top):
        if isinstance(found, DataError):
            _complain(found)
            broken += 1
        else:
            _print(f"{path}\n{found}")
    if broken:
        raise DataError(f"{broken} image{'s' * (broken != 1)} cannot be read")


@app.command()
@requires("train", "export")
def doctor(
    subject: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT|FILE", help="A run folder, a checkpoint, or an exported file.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Values that replace the run's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Name what is wrong with a run or a file, and what to do. Exit code 5 after an error or a warning."""
    from stillbit.doctor import examine_path

    found = examine_path(subject, overrides or ())
    _print(json.dumps(found.as_dict()) if as_json else str(found))
    if not found.ok:
        raise DiagnosisError(f"{subject}: {found.counted()}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders; several are compared.")],
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="The page; beside what it is of if not given.")] = None,
) -> None:
    """Write a page of charts of what runs and their weights did: one HTML file, complete in itself, for any browser."""
    from stillbit.report import write_report

    _print(f"report: {write_report(runs, output)}")


@app.command()
@requires("train")
def recipes(
    name: Annotated[str | None, typer.Argument(help="Show this recipe's YAML.", show_default=False)] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema, by which editors complete and check recipes.")] = False,
) -> None:
    """List the shipped recipes, or show one: copy it, edit it, and train the copy."""
    from stillbit.recipes import catalog

    if schema:
        from stillbit.recipes.json_schema import json_schema

        sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
        return

    console = Console()
    if name is None:
        console.print(_table(("recipe", "goal"), [(each, catalog.goal(each)) for each in catalog.names()]))
    elif console.is_terminal:
        console.print(Syntax(catalog.text(name), "yaml"))
    else:  # into a file: not a character more than the recipe has
        sys.stdout.write(catalog.text(name))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process."""
    try:
        app(args=arguments)
    except StillbitError as error:
        _complain(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _print(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # torchrun numbers its processes; one speaks for all
        Console(soft_wrap=True, highlight=False, markup=False, emoji=False).print(line)


def _complain(error: StillbitError) -> None:
    sys.stderr.write(f"error: {' '.join(str(error).split())}\n")


def _table(header: tuple[str, str], rows: list[tuple[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(header[0], no_wrap=True)
    table.add_column(header[1])
    for row in rows:
        table.add_row(*row)
    return table
