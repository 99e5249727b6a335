"""The pictures of docs/evidence.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from benchmarks.evidence import OneRun

# Okabe and Ito's colours, which people with any colour vision can tell apart; the dashes differ too.
_COLOURS = ("#000000", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#e69f00")
_DASHES = ("-", "--", "-.", (0, (1, 1.2)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
_INK, _RULE = "#1f2933", "#c3c9d1"
_STYLE = {"font.size": 9, "text.color": _INK, "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK, "axes.edgecolor": _RULE}

Panel = tuple[Mapping[str, list[str]], dict[str, Sequence["OneRun"]]]


def draw_shares(panels: Mapping[str, Mapping[str, Sequence["OneRun"]]], path: Path) -> None:
    """Draw the oscillating share over time: one line per method, the mean over its seeds, in a band from smallest to largest."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        for axes, (title, methods) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
            for number, (method, runs) in enumerate(methods.items()):
                if runs:
                    _curve(axes, number, method, runs)
            _finish(axes, title, "optimizer step")
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(lambda share, _: f"{share:g} %")
        figure.axes[0].set_ylabel("weights that oscillate")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, handlelength=3.2)
        _save(figure, path)


def draw_divergences(panels: Mapping[str, Panel], path: Path) -> None:
    """Draw how far each batch norm's running averages are from the population's, in the network's order."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 4.4), layout="constrained")
        row = figure.subplots(1, len(panels), sharey=True, width_ratios=[1, 1, 1.7])
        for axes, (title, (layers, widths)) in zip(row, panels.items(), strict=True):
            for number, (bits, runs) in enumerate(widths.items()):
                if runs:
                    _divergence(axes, number, bits, runs, layers)
            axes.scatter([], [], s=16, color=_INK, label="behind a depthwise convolution")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            _finish(axes, title, "batch norm, from the image to the classifier")
            axes.set_yscale("log")
        figure.axes[0].set_ylabel("KL(population || running averages), nats")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, handlelength=3.2)
        _save(figure, path)


def _curve(axes: Axes, number: int, method: str, runs: Sequence["OneRun"]) -> None:
    steps = runs[0].figures["curve"]["steps"]
    shares = 100 * np.array([one.figures["curve"]["oscillating"] for one in runs])
    axes.fill_between(steps, shares.min(0), shares.max(0), color=_COLOURS[number], alpha=0.15, linewidth=0)
    axes.plot(steps, shares.mean(0), color=_COLOURS[number], linestyle=_DASHES[number], linewidth=1.6, label=method)


def _divergence(axes: Axes, number: int, bits: str, runs: Sequence["OneRun"], layers: Mapping[str, list[str]]) -> None:
    values = np.array([one.figures["divergence"]["before"] for one in runs])
    places, colour = np.arange(1, values.shape[1] + 1), _COLOURS[number]
    mean = np.exp(np.log(values).mean(0))
    axes.fill_between(places, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
    axes.plot(places, mean, color=colour, linestyle=_DASHES[number], linewidth=1.2, label=bits)
    depthwise = np.isin(layers["names"], layers["depthwise"])
    if depthwise.any():
        axes.scatter(places[depthwise], mean[depthwise], s=16, color=colour, zorder=3)


def _finish(axes: Axes, title: str, across: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(across)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=_RULE, linewidth=0.5)


def _save(figure: Figure, path: Path) -> None:
    settings: dict[str, Any] = {"dpi": 130, "metadata": {"Software": None}}
    figure.savefig(path, **settings)
