"""The toy's animation: one weight under six methods, step by step, side by side."""

from collections.abc import Iterator, Mapping
from io import BytesIO

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from stillbit.toy.experiments import DISTANCE
from stillbit.toy.pictures import INK, LATENT, STYLE, TREATED, VALUE, grid_lines, mark_treatment
from stillbit.toy.regression import Trajectory

ANIMATED = ("straight-through", "EWGS", "stochastic rounding", "dampening", "freezing", "annealing")
STEPS = 130
_FRAME, _PAUSE = 100, 3000  # milliseconds: each step, and the last before it begins again
_COLOURS = 128


class _Panel:
    """One method's axes and what moves on them.

    Args:
        axes: Where.
        name: Of the method.
        trajectory: Of one weight.
    """

    def __init__(self, axes: Axes, name: str, trajectory: Trajectory) -> None:
        self.axes = axes
        self.latents = trajectory.positions[:, 0] * trajectory.scales
        self.values = trajectory.values[:, 0]
        self.flips = trajectory.flips()[:, 0]
        grid_lines(axes)
        if name in TREATED:
            mark_treatment(axes)
        axes.set(xlim=(0, STEPS + 6), title=name)
        (self.past_values,) = axes.plot([], [], color=VALUE, linewidth=0.8, alpha=0.55, drawstyle="steps-mid", animated=True)
        (self.trail,) = axes.plot([], [], color=LATENT, linewidth=1.3, animated=True)
        (self.value,) = axes.plot([], [], color=VALUE, marker="s", markersize=9, markeredgecolor=INK, linestyle="", animated=True)
        (self.latent,) = axes.plot([], [], color=LATENT, marker="o", markersize=7, markeredgecolor=INK, linestyle="", animated=True)
        self.count = axes.text(0.98, 0.94, "", transform=axes.transAxes, ha="right", va="center", fontsize=8, animated=True)

    def at(self, step: int) -> list[Artist]:
        """Move everything to a step, and return it in the order of drawing."""
        steps = np.arange(step + 1)
        self.past_values.set_data(steps, self.values[: step + 1])
        self.trail.set_data(steps, self.latents[: step + 1])
        self.value.set_data([step], [self.values[step]])
        self.latent.set_data([step], [self.latents[step]])
        self.count.set_text(f"flips: {self.flips[step]}")
        return [self.past_values, self.trail, self.value, self.latent, self.count]


def animate(methods: Mapping[str, Trajectory]) -> bytes:
    """Draw the first steps of one weight under the methods of `ANIMATED`."""
    frames = list(_frames(methods))
    palette = frames[-1].quantize(_COLOURS, method=Image.Quantize.MAXCOVERAGE)
    drawn = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = BytesIO()
    durations = [_FRAME] * (len(drawn) - 1) + [_PAUSE]
    drawn[0].save(buffer, format="GIF", save_all=True, append_images=drawn[1:], duration=durations, loop=0, optimize=True)
    return buffer.getvalue()


def _frames(methods: Mapping[str, Trajectory]) -> Iterator[Image.Image]:
    """Draw what rests once, and what moves on a copy of it at each step."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 5.4), layout="constrained", dpi=100)
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots(2, len(ANIMATED) // 2, sharex=True, sharey=True)
        panels = [_Panel(one, name, methods[name]) for one, name in zip(axes.flat, ANIMATED, strict=True)]
        for one in axes[-1]:
            one.set_xlabel("step")
        figure.suptitle(f"One weight, on a grid of whole numbers, that would best be {DISTANCE:g}")
        _legend(figure, panels[-1])
        canvas.draw()
        resting = canvas.copy_from_bbox(figure.bbox)
        for step in range(STEPS):
            canvas.restore_region(resting)
            for panel in panels:
                for artist in panel.at(step):
                    panel.axes.draw_artist(artist)
            yield Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _legend(figure: Figure, panel: _Panel) -> None:
    lines, labels = panel.axes.get_legend_handles_labels()
    moving = {"latent weight w": panel.latent, "value of its code q(w)": panel.value}
    figure.legend(
        [*moving.values(), *lines], [*moving, *labels], loc="outside lower center", ncols=5, columnspacing=1.2, frameon=False, fontsize=8
    )
