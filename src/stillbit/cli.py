"""The command line: each verb parses, makes one call, and prints.

Torch's ecosystem is imported inside the verbs that need it, so that help and the list of recipes come at once.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from stillbit.errors import StillbitError

app = typer.Typer(
    help="Train 2-4 bit networks whose weights hold still.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# The second is the short one; the first is for torchrun, which takes `--run` for the beginning of an option of its own.
_FOLDER = ("--folder", "--run")


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(*_FOLDER, metavar="DIR", help="Where its runs and pictures go.")] = Path("runs/demo"),
) -> None:
    """Train a small network on bundled data: float, then 3 and 2 bits by each method; a table and pictures. Minutes on two cores."""
    from stillbit.demo import demo

    demo(folder, Console())


@app.command()
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
def validate(
    run: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT", help="A run folder, or a checkpoint in one.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Values that replace the run's.")] = None,
) -> None:
    """Evaluate a trained network, as its checkpoint holds it. Nothing is written."""
    from stillbit.run import validate as validate_run

    found = validate_run(run, overrides or ())
    _print(f"top-1 {found.top1:.2%}  top-5 {found.top5:.2%}  loss {found.loss:.4f}  images {found.count}")


@app.command("import")
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
def recipes(
    name: Annotated[str | None, typer.Argument(help="Show this recipe's YAML.", show_default=False)] = None,
) -> None:
    """List the shipped recipes, or show one: copy it, edit it, and train the copy."""
    from stillbit.recipes import catalog

    console = Console()
    if name is None:
        console.print(_table(("recipe", "goal"), [(each, catalog.goal(each)) for each in catalog.names()]))
    elif console.is_terminal:
        console.print(Syntax(catalog.text(name), "yaml"))
    else:  # into a file: not a character more than the recipe has
        sys.stdout.write(catalog.text(name))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process.

    Args:
        arguments: Words of the command line; those of the process if not given.

    Raises:
        SystemExit: Always. 0 after success, 2 for what the user can put right, 3 if training diverged, 130 after
            Ctrl-C, 143 after SIGTERM.
    """
    try:
        app(args=arguments)
    except StillbitError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _print(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # torchrun numbers its processes; one speaks for all
        Console(soft_wrap=True, highlight=False).print(line)


def _table(header: tuple[str, str], rows: list[tuple[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(header[0], no_wrap=True)
    table.add_column(header[1])
    for row in rows:
        table.add_row(*row)
    return table
