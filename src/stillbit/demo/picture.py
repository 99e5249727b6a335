"""The demo's picture: what single weights do over training, and where all of a layer's weights end up on their grid."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

_SHOWN = 5  # trajectories a panel; more cannot be told apart
_TAIL = 200  # steps of each trajectory
_INK, _RULE = "#1f2933", "#c3c9d1"
_COLOURS = ("#2563eb", "#d9480f", "#2b8a3e", "#9c36b5", "#0b7285")


@dataclass(frozen=True)
class Panel:
    """What one method did to one layer.

    Attributes:
        positions: Latent weights in grid units, shape (steps, weights).
        low: Smallest code.
        high: Largest code.
    """

    positions: NDArray[np.float32]
    low: int
    high: int


def draw(panels: Mapping[str, Panel], title: str, path: Path) -> None:
    """Draws one column a method: trajectories of its most restless weights above, the histogram of all its latents below.

    Args:
        panels: By name of the method.
        title: What network and bits this is.
        path: Where the PNG goes.
    """
    with mpl.rc_context({"font.size": 9, "axes.edgecolor": _INK, "axes.linewidth": 0.6, "text.color": _INK, "axes.labelcolor": _INK}):
        figure = Figure(figsize=(3.6 * len(panels), 6.2), layout="constrained", dpi=150)
        axes = figure.subplots(2, len(panels), sharey="row", squeeze=False)
        for column, (name, panel) in enumerate(panels.items()):
            _trajectories(axes[0, column], panel)
            _histogram(axes[1, column], panel)
            axes[0, column].set_title(name)
        axes[0, 0].set_ylabel("latent weight, in steps of the grid")
        axes[1, 0].set_ylabel("share of the layer's weights")
        figure.suptitle(title)
        figure.savefig(path)


def restless(positions: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Gives the weights whose code changes most often over the last steps, most restless first.

    Args:
        positions: Shape (steps, weights).
        count: How many.

    Returns:
        Column numbers, shape (count,) or fewer.
    """
    codes = np.round(positions[-_TAIL:])
    switches = (np.diff(codes, axis=0) != 0).sum(axis=0)
    return np.argsort(-switches, kind="stable")[:count]


def _trajectories(axes: Axes, panel: Panel) -> None:
    tail = panel.positions[-_TAIL:]
    steps = np.arange(len(panel.positions) - len(tail), len(panel.positions))
    _boundaries(axes.axhline, panel)
    for weight, colour in zip(restless(panel.positions, _SHOWN), _COLOURS, strict=False):
        axes.plot(steps, tail[:, weight], color=colour, linewidth=1.0)
    axes.set_xlabel("step")
    axes.set_ylim(panel.low - 0.6, panel.high + 0.6)
    axes.set_yticks(range(panel.low, panel.high + 1))


def _histogram(axes: Axes, panel: Panel) -> None:
    last = panel.positions[-1]
    _boundaries(axes.axvline, panel)
    bins = np.arange(panel.low - 1, panel.high + 1.0001, 0.05)
    axes.hist(last, bins=bins.tolist(), weights=np.full(len(last), 1 / len(last)), color=_COLOURS[0])
    axes.set_xlabel("latent weight, in steps of the grid (dashed: where its code changes)")
    axes.set_xticks(range(panel.low, panel.high + 1))


def _boundaries(line: object, panel: Panel) -> None:
    """Rules where rounding decides: half-way between two codes."""
    assert callable(line)
    for code in range(panel.low, panel.high):
        line(code + 0.5, color=_RULE, linewidth=0.8, linestyle="--", zorder=0)
