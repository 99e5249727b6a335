"""Take the pictures of docs/report.md: the report of one run, and the report of several.

    stillbit train digits_float && stillbit train digits_w3a3_freeze
    python -m benchmarks.report_pictures runs/digits_w3a3_freeze runs/digits_float [RUN ...]

The pictures are report-*.png, with 256 colours each to keep them small.
"""

import tempfile
from pathlib import Path

from PIL import Image

from benchmarks.browser import Browser, find_browser
from benchmarks.result import ROOT, parse, parser
from stillbit.report import write_report

COLOURS = 256
_DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def take(browser: Browser, page: Path, picture: Path, size: tuple[int, int], theme: str, section: str = "") -> None:
    """Take one picture."""
    browser.resize(*size)
    browser.prefer(prefers_color_scheme=theme, prefers_reduced_motion="reduce")
    browser.open(page.as_uri())
    browser.evaluate("document.documentElement.style.overflow = 'scroll'; document.documentElement.style.scrollbarWidth = 'none'")
    browser.evaluate(_DRAWN)
    if section:
        browser.evaluate(f"scrollTo(0, document.getElementById('{section}').getBoundingClientRect().top + scrollY - 8)")
    browser.evaluate(_DRAWN)
    browser.shoot(picture)
    colours = Image.open(picture).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    colours.save(picture, optimize=True)


def main() -> None:
    """Take all pictures."""
    options = parser("report_pictures", __doc__, ROOT / "docs" / "images")
    options.add_argument("runs", nargs="+", type=Path, help="run folders; the first one also gets a report of its own")
    given = parse(options)
    program = find_browser()
    assert program is not None, "no Chromium or Chrome is installed"
    with tempfile.TemporaryDirectory() as name, Browser(program) as browser:
        one = write_report(given.runs[:1], Path(name) / "one.html")
        all_runs = write_report(given.runs, Path(name) / "all.html")
        take(browser, one, given.output / "report-desktop.png", (1280, 1400), "light", "oscillation")
        take(browser, one, given.output / "report-phone.png", (390, 1500), "light", "weights")
        take(browser, all_runs, given.output / "report-compare-dark.png", (1280, 1500), "dark")


if __name__ == "__main__":
    main()
