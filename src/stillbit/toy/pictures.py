"""The toy's still pictures: what one weight does under each method, and how frequency and height of its saw-tooth depend on what.

Colours are those of Okabe and Ito, which people with any colour vision tell apart; lines also differ in style or marker.
"""

from collections.abc import Mapping
from io import BytesIO

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stillbit.toy.experiments import BOUNDARY, DISTANCE, LAST, STEPS, Curve, Findings
from stillbit.toy.regression import Trajectory
from stillbit.toy.setups import TREATED_FROM

INK, RULE = "#1f2933", "#9aa5b1"
LATENT, VALUE, OPTIMUM = "#0072B2", "#E69F00", "#009E73"
STYLE = {"font.size": 9, "axes.edgecolor": INK, "axes.linewidth": 0.6, "text.color": INK, "axes.labelcolor": INK, "axes.titlesize": 10}
TREATED = ("dampening", "freezing", "annealing")
LIMITS = (-0.2, 1.3)
_SHOWN = 160  # steps
_SERIES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "x"))


def draw_methods(methods: Mapping[str, Trajectory]) -> bytes:
    """Draw the latent and its value under each method, side by side."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 5.6), layout="constrained", dpi=130)
        axes = figure.subplots(2, (len(methods) + 1) // 2, sharex=True, sharey=True)
        for one, (name, trajectory) in zip(axes.flat, methods.items(), strict=False):
            grid_lines(one)
            shown = np.arange(_SHOWN)
            one.step(shown, trajectory.values[:_SHOWN, 0], where="mid", color=VALUE, linewidth=0.9, label="value of its code, q(w)")
            latents = (trajectory.positions[:, 0] * trajectory.scales)[:_SHOWN]
            one.plot(shown, latents, color=LATENT, linewidth=1.4, label="latent weight, w")
            if name in TREATED:
                mark_treatment(one)
            flips = trajectory.flips()[:, 0]
            one.set_title(f"{name}: {flips[-1] - flips[-1 - LAST]} flips")
        for one in axes[-1]:
            one.set_xlabel("step")
        figure.suptitle(f"One weight that would best be {DISTANCE:g}, and the flips of its code in the last {LAST} of {STEPS} steps")
        handles, labels = axes[1, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        return _png(figure)


def draw_laws(findings: Findings) -> bytes:
    """Draw what frequency and height depend on; lines are calculated (`laws`), marks are measured."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 7.6), layout="constrained", dpi=130)
        axes = figure.subplots(2, 2)
        _draw(
            axes[0, 0], findings.frequency_by_distance, "frequency grows with the distance", "distance of the optimum from the grid point"
        )
        _draw(axes[0, 1], findings.frequency_by_rate, "the learning rate does not change it", "learning rate")
        _draw(axes[1, 0], findings.amplitude_by_rate, "the learning rate sets the height", "learning rate")
        _draw(axes[1, 1], findings.frequency_by_dampening, "dampening slows it, then ends it", "weight of the dampening term")
        for one in axes.flat:
            one.set_ylabel("oscillations a step")
        axes[1, 0].set_ylabel("height of the saw-tooth, in grid steps")
        axes[0, 1].set(xscale="log", ylim=(0.0, 1.3))
        axes[1, 0].set(xscale="log", yscale="log")
        figure.suptitle("One weight, its optimum between two grid points: lines are calculated, marks measured")
        return _png(figure)


def grid_lines(axes: Axes) -> None:
    """Rules the two grid points, the boundary between them, and the optimum."""
    for point in (0.0, 1.0):
        axes.axhline(point, color=RULE, linewidth=0.8, zorder=0)
    axes.axhline(BOUNDARY, color=RULE, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0, label="boundary between two codes")
    axes.axhline(DISTANCE, color=OPTIMUM, linewidth=1.1, linestyle=(0, (1, 1.5)), zorder=0, label="optimum, w*")
    axes.set(ylim=LIMITS, yticks=(0.0, DISTANCE, BOUNDARY, 1.0), yticklabels=("0", "w*", "½", "1"))


def mark_treatment(axes: Axes) -> None:
    """Mark the step from which on a method acts."""
    axes.axvline(TREATED_FROM, color=INK, linewidth=0.8, linestyle=(0, (1, 2)), zorder=0, label="the method begins")


def _draw(axes: Axes, curves: Mapping[str, Curve], title: str, label: str) -> None:
    for (name, curve), (colour, marker) in zip(curves.items(), _SERIES, strict=False):
        if curve.expected:
            axes.plot(curve.x, curve.expected, color=colour, linewidth=0.8)
        size = 4.0 if curve.expected else 5.0
        axes.plot(curve.x, curve.y, color=colour, marker=marker, markersize=size, linestyle="", fillstyle="none", label=name)
    axes.set_title(title)
    axes.set_xlabel(label)
    axes.legend(frameon=False)


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
