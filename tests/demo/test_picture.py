"""The demo's picture shows the weights that move most."""

from pathlib import Path

import numpy as np
from PIL import Image

from stillbit.demo.picture import Panel, draw, restless


def walk(steps: int = 30) -> np.ndarray:
    """Three weights: one rests, one switches at each step, one at every other."""
    time = np.arange(steps)
    return np.stack([np.zeros(steps), time % 2, (time // 2) % 2], axis=1).astype(np.float32)


def test_restless_weights_come_first() -> None:
    assert restless(Panel(walk(), -2, 1), 2).tolist() == [1, 2]


def test_only_the_last_steps_count() -> None:
    early = np.concatenate([walk(60)[:, [1]], np.zeros((300, 1), np.float32)])
    late = np.concatenate([np.zeros((358, 1), np.float32), np.ones((2, 1), np.float32)])
    assert restless(Panel(np.hstack([early, late]), -2, 1), 1).tolist() == [1]


def test_beyond_the_grid_nothing_switches() -> None:
    assert restless(Panel(walk() + np.array([0.0, 3.0, 0.0], np.float32), -2, 1), 1).tolist() == [2]


def test_draw_writes_a_column_a_method(tmp_path: Path) -> None:
    panels = {name: Panel(walk(), -2, 1) for name in ("one", "two")}
    draw(panels, "title", tmp_path / "weights.png")
    with Image.open(tmp_path / "weights.png") as image:
        assert image.size == (1140, 990)
        assert len(image.convert("RGB").getcolors(maxcolors=1 << 20)) > 50
