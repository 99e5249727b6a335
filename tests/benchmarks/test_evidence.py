import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.evidence import PAGE, OneRun, batchnorm_table, insert, load, methods_table, select, shares_table, spread, tables
from benchmarks.evidence_pictures import draw_divergences, draw_shares
from benchmarks.result import RESULTS
from benchmarks.run_figures import Name

LAYERS = {"names": ["bn1", "bn2"], "depthwise": ["bn2"]}


def one(folder: str, accuracy: float, loss: float = 1.0, end: float = 0.01) -> OneRun:
    """A run whose running averages cost it 2 points and 0.01 of the loss."""
    figures: dict[str, Any] = {
        "accuracy_with_averages": accuracy - 0.02,
        "accuracy": accuracy,
        "loss_with_averages": loss + 0.01,
        "loss": loss,
        "oscillating": end,
        "frozen": 0.25 if "freeze" in folder else None,
        "curve": {"steps": [4, 8, 12], "oscillating": [0.02, 0.05, 0.02]},
        "divergence": {"before": [0.001, 0.003], "after": [0.0002, 0.0004]},
    }
    return OneRun(Name.parse(folder), figures)


CLIPART = [
    one("w4a4_lsq_seed0", 0.60),
    one("w4a4_lsq_seed1", 0.64),
    one("w4a4_freeze_seed0", 0.63, loss=0.9, end=0.002),
    one("w4a4_freeze_seed1", 0.65, loss=0.8, end=0.002),
    one("w4a4_ewgs_seed1", 0.62),
]


@pytest.mark.parametrize(
    ("values", "signed", "expected"),
    [([], False, ""), ([50.0], False, "50.0 %"), ([50.0, 70.0], False, "60.0 ± 14.1 %"), ([1.0, 2.0], True, "+1.5 ± 0.7 %")],
    ids=["none", "one", "several", "signed"],
)
def test_spread(values: list[float], signed: bool, expected: str) -> None:
    assert spread(values, "%", signed=signed) == expected


def test_methods_are_compared_with_the_run_of_the_same_seed() -> None:
    rows = methods_table(list(reversed(CLIPART)), "w4a4").splitlines()
    assert rows[2:] == [
        "| LSQ (STE) | 2 | 60.0 ± 2.8 | 62.0 ± 2.8 |  | 1.000 ± 0.000 |  |",
        "| LSQ + freezing | 2 | 62.0 ± 1.4 | 64.0 ± 1.4 | +2.0 ± 1.4 | 0.850 ± 0.071 | -0.150 ± 0.071 |",
        "| EWGS | 1 | 60.0 | 62.0 | -2.0 | 1.000 | +0.000 |",
    ]


def test_batch_norms_are_told_in_thousandths_and_gains_in_points() -> None:
    rows = batchnorm_table([one("resnet_w3a3_lsq_seed0", 0.6), one("resnet_float_moving_seed0", 0.7)]).splitlines()
    assert rows[2].startswith("| small ResNet, constant rate | float | 1 |")
    assert rows[3:] == ["| small ResNet, end | W3A3 | 1 | 2.00 | 3.0 | 0.30 | 58.0 | 60.0 | +2.0 | +10.0 |"]


def test_shares_have_a_height_a_mean_and_an_end() -> None:
    rows = shares_table(CLIPART, [one("mobilenet_w3a3_lsq_seed0", 0.9)]).splitlines()
    assert rows[2] == "| EfficientNet-Lite0, W4A4 | LSQ (STE) | 2 | 5.0 ± 0.0 | 3.0 ± 0.0 | 1.00 ± 0.00 |  |  |"
    assert rows[3].endswith("| 0.20 ± 0.00 | -0.80 ± 0.00 | 25.0 ± 0.0 |")
    assert rows[-1] == "| small MobileNetV2, W3A3 | LSQ (STE) | 1 | 5.0 | 3.0 | 1.00 |  |  |"


def test_a_table_replaces_what_stood_in_its_place_and_needs_one() -> None:
    page = "a\n<!-- w4a4: begin (script) -->\nold | \\1\n<!-- w4a4: end -->\nb\n"
    assert insert(page, {"w4a4": "new"}) == "a\n<!-- w4a4: begin (script) -->\n\nnew\n\n<!-- w4a4: end -->\nb\n"
    with pytest.raises(ValueError, match="0 places for w3a3"):
        insert(page, {"w3a3": "new"})


def test_all_tables_come_out_of_two_files(tmp_path: Path) -> None:
    facts = {"command": "python x", "commit": "0123456789abc", "versions": {"torch": "2", "timm": "1"}, "val_images": 339}
    facts["hardware"] = {"device": "x", "cpus": 2, "threads": 1}
    runs = {
        "efficientnet_clipart": {"float": one("float", 0.7).figures, "w4a4_lsq_seed0": CLIPART[0].figures},
        "digits_evidence": {"resnet_w3a3_lsq_seed0": CLIPART[0].figures},
    }
    for name, those in runs.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({**facts, "runs": those}))
    made = tables(tmp_path)
    assert made["start"] == "The float network has 70.0% and a loss of 1.000 on the 339 validation pictures."
    assert made["digits"].startswith("`python x`, commit 0123456789abc, torch 2, timm 1, x, 1 thread(s) per run")
    assert load(tmp_path / "digits_evidence.json")[1][0].name.network == "resnet"


def test_pictures_are_drawn_and_the_same_each_time(tmp_path: Path) -> None:
    groups = {"LSQ (STE)": select(CLIPART, "", "w4a4", "lsq").runs, "EWGS": select(CLIPART, "", "w4a4", "ewgs").runs, "none": []}
    for path in (tmp_path / "one.png", tmp_path / "two.png"):
        draw_shares({"W4A4": groups, "W3A3": groups, "digits": groups}, path)
        draw_divergences({name: (LAYERS, {"w4a4": groups["LSQ (STE)"]}) for name in ("a", "b", "c")}, path.with_suffix(".bn.png"))
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.size == (1430, 546)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (tmp_path / "one.bn.png").read_bytes() == (tmp_path / "two.bn.png").read_bytes()


def test_the_page_has_the_tables_of_the_results() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert insert(page, tables(RESULTS)) == page, "run: python -m benchmarks.evidence"
