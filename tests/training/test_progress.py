from io import StringIO

import pytest
from rich.console import Console

from stillbit.training.progress import ProgressDisplay

FIGURES = {"train_loss": 1.2345678, "val_top1": 0.5, "oscillating": 0.0123, "images/s": 812.3}


def shown(*, terminal: bool, enabled: bool = True) -> str:
    console = Console(file=StringIO(), force_terminal=terminal, width=200, quiet=not enabled, color_system=None)
    display = ProgressDisplay(enabled=enabled, console=console)
    display.start(steps=10, taken=4)
    display.step(5, 1, FIGURES)
    display.epoch(1, 2, FIGURES)
    display.say("a remark")
    display.stop()
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_one_plain_line_an_epoch_where_there_is_no_terminal() -> None:
    lines = shown(terminal=False).splitlines()
    assert lines == ["epoch 1/2  train loss 1.235  val top1 50.00%  oscillating 1.23%  images/s 812", "a remark"]


def test_a_terminal_shows_bars_and_the_line() -> None:
    text = shown(terminal=True)
    assert "50%" in text
    assert "oscillating 1.23%" in text
    assert "epoch 1/2" in text


@pytest.mark.parametrize("terminal", [False, True])
def test_other_ranks_show_nothing(terminal: bool) -> None:
    assert shown(terminal=terminal, enabled=False).strip("\x1b[?25lh\n") == ""
