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
    """Draw one column per method: trajectories of a few weights above, the histogram of all the layer's latents below.

    The weights are those that are most restless under the first method, the same in each column.
    """
    baseline = next(iter(panels.values()))
    weights = restless(baseline, _SHOWN)
    crossed = np.floor(np.median(baseline.positions[-_TAIL:, weights], axis=0)) + 0.5
    with mpl.rc_context({"font.size": 9, "axes.edgecolor": _INK, "axes.linewidth": 0.6, "text.color": _INK, "axes.labelcolor": _INK}):
        figure = Figure(figsize=(3.8 * len(panels), 6.6), layout="constrained", dpi=150)
        axes = figure.subplots(2, len(panels), squeeze=False)
        for column, (name, panel) in enumerate(panels.items()):
            _trajectories(axes[0, column], panel.positions[:, weights] - crossed)
            _histogram(axes[1, column], panel)
            axes[0, column].set_title(name)
        axes[0, 0].set_ylabel("distance from the rounding boundary, in grid steps")
        axes[1, 0].set_ylabel("share of the layer's weights")
        figure.suptitle(title)
        figure.savefig(path)


def restless(panel: Panel, count: int) -> NDArray[np.intp]:
    """Return the weights whose code changes most often over the last steps, most restless first."""
    codes = np.clip(np.round(panel.positions[-_TAIL:]), panel.low, panel.high)
    switches = (np.diff(codes, axis=0) != 0).sum(axis=0)
    return np.argsort(-switches, kind="stable")[:count]


def _trajectories(axes: Axes, distances: NDArray[np.floating]) -> None:
    """Plot distances from the boundary between two codes; at 0.5 stand the grid points. The scale is linear near 0, else logarithmic."""
    tail = distances[-_TAIL:]
    steps = np.arange(len(distances) - len(tail), len(distances))
    axes.axhline(0.0, color=_RULE, linewidth=0.8, linestyle="--", zorder=0)
    for end in (-0.5, 0.5):
        axes.axhline(end, color=_RULE, linewidth=0.8, zorder=0)
    for weight, colour in zip(tail.T, _COLOURS, strict=False):
        axes.plot(steps, weight, color=colour, linewidth=0.9)
    axes.set_yscale("symlog", linthresh=0.02)
    axes.set_ylim(-1.0, 1.0)
    ticks = (-0.5, -0.1, -0.02, 0.0, 0.02, 0.1, 0.5)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("step")


def _histogram(axes: Axes, panel: Panel) -> None:
    last = panel.positions[-1]
    _boundaries(axes, panel)
    bins = np.arange(panel.low - 1, panel.high + 1.0001, 0.05)
    axes.hist(last, bins=bins.tolist(), weights=np.full(len(last), 1 / len(last)), color=_COLOURS[0])
    axes.set_xlabel("latent weight, in grid steps")
    axes.set_xticks(range(panel.low, panel.high + 1))


def _boundaries(axes: Axes, panel: Panel) -> None:
    """Rules where rounding decides: half-way between two codes."""
    for code in range(panel.low, panel.high):
        axes.axvline(code + 0.5, color=_RULE, linewidth=0.8, linestyle="--", zorder=0)
