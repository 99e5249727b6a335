"""The page's tables are those of the record, and its pictures are there."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "toy.md").read_text(encoding="utf-8")
RECORD = json.loads((ROOT / "benchmarks" / "results" / "toy.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", RECORD["methods"])
def test_a_method_has_its_recorded_figures(name: str) -> None:
    end = RECORD["methods"][name]
    counts = [f"{end[count]:.0f}" for count in ("oscillations_per_100_steps", "flips_per_100_steps")]
    assert cells(name) == [*counts, f"{end['mean_value']:.3f}", f"{end['mean_loss']:.4f}"]


@pytest.mark.parametrize("name", RECORD["rows"])
def test_a_row_of_weights_has_its_recorded_figures(name: str) -> None:
    end = RECORD["rows"][name]
    spread = "0" if name == "fixed grid" else f"{end['scale_spread']:.4f}"
    assert cells(name) == [f"{end['oscillations']:.1f}", f"{end['loss']:.2f}", spread]


@pytest.mark.parametrize("name", ["toy.gif", "toy.png", "toy_laws.png"])
def test_a_picture_stands_on_the_page(name: str) -> None:
    assert f"(images/{name})" in PAGE
    path = ROOT / "docs" / "images" / name
    assert path.stat().st_size < 1_500_000
    with Image.open(path) as image:
        assert image.width >= 800
        assert getattr(image, "n_frames", 1) > 1 or name != "toy.gif"


def cells(name: str) -> list[str]:
    """The figures of the table's line that begins with a name, perhaps with a setting behind it."""
    (line,) = re.findall(rf"^\| {re.escape(name)}(?:, [a-z ]*[\d.]+)? \|(.*)\|$", PAGE, re.MULTILINE)
    return [cell.strip() for cell in line.split("|")]
