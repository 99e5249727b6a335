"""The main job on bundled data: one float network, then 3 and 2 bits by each method, a table and a picture."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn

from stillbit import run
from stillbit.assembly import Trained, build_trained
from stillbit.demo.picture import Panel, draw
from stillbit.numerics.limits import code_limits
from stillbit.oscillation import Recording
from stillbit.prepare.size import packed_bytes
from stillbit.recipes.load import load
from stillbit.recipes.schema import Recipe
from stillbit.training.checkpoint import Checkpoint
from stillbit.training.saving import LAST

METHODS = {"lsq": "baseline (LSQ)", "damp": "dampening", "freeze": "freezing"}
BITS = (3, 2)
PICTURED_LAYER = "blocks.1.1.conv_pw"


@dataclass(frozen=True)
class Row:
    """One line of the demo's table; shares are fractions of 1.

    Attributes:
        bits: As the field writes them, or "float".
        method: Its name for people.
        before: Accuracy with the running batch-norm statistics.
        after: Accuracy with re-estimated ones.
        oscillating: Share of the low-bit weights that still oscillate at the end.
        frozen: Share of them that are pinned.
        size: Bytes, each weight at its own width.
    """

    bits: str
    method: str
    before: float | None
    after: float
    oscillating: float | None
    frozen: float | None
    size: int


def demo(folder: Path, console: Console) -> None:
    """Train, print the table, draw the pictures. What the folder holds already is not trained again.

    Args:
        folder: Where run folders and pictures go.
        console: Where the table goes.
    """
    console.print("Handwritten digits (1,797 real images that scikit-learn ships), a MobileNetV2 of 58 thousand weights.")
    rows = [_float_row(folder, console)]
    rows += [_row(folder, bits, method, console) for bits in BITS for method in METHODS]
    console.print(_table(rows))
    for bits in BITS:
        path = folder / f"weights_w{bits}.png"
        draw(_panels(folder, bits), f"{PICTURED_LAYER} of a small MobileNetV2 on digits, {bits}-bit weights", path)
        console.print(f"picture: {path}", soft_wrap=True)
    console.print(f"runs: {folder} (validate one with: stillbit validate {folder / 'w3a3_freeze'})", soft_wrap=True)


def _float_row(folder: Path, console: Console) -> Row:
    figures, model = _trained(load("digits_float", ("training.tensorboard=false",)), folder / "float", "float", console)
    return Row("float", "", None, figures["val_top1"], None, None, packed_bytes(model))


def _row(folder: Path, bits: int, method: str, console: Console) -> Row:
    recipe = load(f"digits_w3a3_{method}", tuple(_overrides(folder, bits)))
    name = f"w{bits}a{bits}_{method}"
    figures, model = _trained(recipe, folder / name, f"W{bits}A{bits}, {METHODS[method]}", console)
    before, after = figures["val_top1_before_reestimation"], figures["val_top1"]
    frozen = figures.get("frozen", 0.0)
    return Row(f"W{bits}A{bits}", METHODS[method], before, after, figures["oscillating"], frozen, packed_bytes(model))


def _overrides(folder: Path, bits: int) -> Iterator[str]:
    yield f"model.weights={folder / 'float' / LAST}"
    yield f"quantization.weight_bits={bits}"
    yield f"quantization.activation_bits={bits}"
    yield f"recording.layers={PICTURED_LAYER}"
    yield "recording.weights=100000"
    yield "training.tensorboard=false"


def _trained(recipe: Recipe, folder: Path, title: str, console: Console) -> tuple[dict[str, float], nn.Module]:
    """Train, continue, or take what is there; return the last figures and the model."""
    console.rule(title, align="left", style="dim")
    figures = run.train(recipe, folder, resume=(folder / run.RECIPE).exists())
    return figures, build_trained(Trained.read(folder))


def _panels(folder: Path, bits: int) -> dict[str, Panel]:
    low, high = code_limits(bits, signed=True)
    return {name: Panel(_positions(folder / f"w{bits}a{bits}_{method}" / LAST), low, high) for method, name in METHODS.items()}


def _positions(path: Path) -> NDArray[np.float32]:
    states = {one["name"]: one["state"] for one in Checkpoint.read(path).content["methods"]}
    positions: NDArray[np.float32] = states[Recording.__name__]["positions"][PICTURED_LAYER].numpy()
    return positions


def _table(rows: list[Row]) -> Table:
    title = "Accuracy on 360 held-out digits. Oscillating, frozen: share of the low-bit weights."
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for name in ("bits", "method"):
        table.add_column(name)
    for name in ("accuracy", "BN re-estimated", "oscillating", "frozen", "size"):
        table.add_column(name, justify="right")
    for row in rows:
        shares = (row.before, row.after, row.oscillating, row.frozen)
        table.add_row(row.bits, row.method, *(_percent(share) for share in shares), f"{row.size / 1024:.1f} KiB")
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"
