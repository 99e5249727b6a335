"""Takes the pictures of docs/report.md: of the report of one run, and of that of all.

    stillbit train digits_float && stillbit train digits_w3a3_freeze
    python benchmarks/report_pictures.py runs/digits_w3a3_freeze runs/digits_float [RUN ...]

Writes docs/images/report-*.png, each with 256 colours so that it stays small.
"""

import argparse
import tempfile
from pathlib import Path

from browser import Browser, find_browser
from PIL import Image

from stillbit.report import write_report

IMAGES = Path(__file__).parents[1] / "docs" / "images"
COLOURS = 256
_DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def take(browser: Browser, page: Path, name: str, size: tuple[int, int], theme: str, section: str = "") -> None:
    """Takes one picture."""
    browser.resize(*size)
    browser.prefer(prefers_color_scheme=theme, prefers_reduced_motion="reduce")
    browser.open(page.as_uri())
    browser.evaluate("document.documentElement.style.overflow = 'scroll'; document.documentElement.style.scrollbarWidth = 'none'")
    browser.evaluate(_DRAWN)
    if section:
        browser.evaluate(f"scrollTo(0, document.getElementById('{section}').getBoundingClientRect().top + scrollY - 8)")
    browser.evaluate(_DRAWN)
    path = IMAGES / f"{name}.png"
    browser.shoot(path)
    Image.open(path).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Takes all of them."""
    parser = argparse.ArgumentParser(description="Takes the pictures of docs/report.md.")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders; the first one is pictured by itself, too")
    arguments = parser.parse_args()
    program = find_browser()
    assert program is not None, "no Chromium or Chrome is installed"
    with tempfile.TemporaryDirectory() as name, Browser(program) as browser:
        one = write_report(arguments.runs[:1], Path(name) / "one.html")
        all_runs = write_report(arguments.runs, Path(name) / "all.html")
        take(browser, one, "report-desktop", (1280, 1400), "light", "oscillation")
        take(browser, one, "report-phone", (390, 1500), "light", "weights")
        take(browser, all_runs, "report-compare-dark", (1280, 1500), "dark")


if __name__ == "__main__":
    main()
