"""Shell lines of pages: what is taken apart, what is refused."""

from pathlib import Path

import pytest

from tests.docs.commands import Command, check, commands_of, run
from tests.docs.pages import Block, PageError


def shell(text: str, language: str = "bash", overrides: tuple[str, ...] = ()) -> Block:
    return Block("p", 1, language, text, overrides)


def test_lines_become_commands() -> None:
    text = "stillbit recipes digits_float > mine.yaml   # a copy\n\nmake demo && stillbit train \\\n  mine.yaml 'a=[1, 2]'"
    assert commands_of(shell(text)) == [
        Command(("stillbit", "recipes", "digits_float"), "mine.yaml"),
        Command(("make", "demo")),
        Command(("stillbit", "train", "mine.yaml", "a=[1, 2]")),
    ]


def test_a_console_shows_output_too() -> None:
    assert commands_of(shell("$ stillbit recipes\nrecipe  goal\n", "console")) == [Command(("stillbit", "recipes"))]


@pytest.mark.parametrize(
    "line",
    [
        "stillbit verify net.onnx RUN --batches 10",
        "OMP_NUM_THREADS=1 stillbit train digits_float training.epochs=1 --resume",
        "torchrun --nproc_per_node 8 -m stillbit train mobilenetv2_w4a4_freeze data.root=/imagenet",
        "stillbit train mine.yaml data.root=/imagenet",
        "python -m benchmarks.vit_ablation FOLDER --seeds 0 1",
        "python -m benchmarks.speed --short",
        "make demo",
        "pip install -e '.[examples]'",
    ],
)
def test_what_exists_passes(line: str) -> None:
    check(commands_of(shell(line))[0], shell(line))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("stillbit trian digits_float", "trian", id="verb"),
        pytest.param("stillbit verify net.onnx RUN --bacthes 10", "bacthes", id="option"),
        pytest.param("stillbit verify net.onnx", "Missing parameter: run", id="argument"),
        pytest.param("stillbit train digits_flaot", "no recipe 'digits_flaot'", id="recipe"),
        pytest.param("stillbit train digits_float training.epoch=1", "did you mean 'epochs'", id="key"),
        pytest.param("torchrun -m stillbit train digits_flaot", "digits_flaot", id="torchrun"),
        pytest.param("python examples/clipart_fodler.py", "no script", id="script"),
        pytest.param("python -m benchmarks.vit_ablation X --sedes 1", "no option --sedes", id="script_option"),
        pytest.param("python -m benchmarks.sped", "no script", id="module"),
        pytest.param("make dmeo", "no target 'dmeo'", id="target"),
        pytest.param("pip install -e .[exmaples]", "no extra 'exmaples'", id="extra"),
        pytest.param("sl", "do not know", id="program"),
    ],
)
def test_what_does_not_exist_is_refused(line: str, message: str) -> None:
    with pytest.raises(PageError, match=message):
        check(commands_of(shell(line))[0], shell(line))


def test_pipes_are_refused() -> None:
    with pytest.raises(PageError, match="allowed: '&&' and '> FILE'"):
        commands_of(shell("stillbit recipes | head"))


def test_a_command_runs_and_its_output_goes_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    block = shell("stillbit recipes digits_float > mine.yaml")
    printed = run(commands_of(block)[0], block)
    assert printed.startswith("# Digits, full precision")
    assert Path("mine.yaml").read_text(encoding="utf-8") == printed


def test_overrides_reach_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    block = shell("stillbit train digits_float", overrides=("training.epoch=1",))
    with pytest.raises(PageError, match="ended with 2"):
        run(commands_of(block)[0], block)


def test_another_program_is_not_run() -> None:
    with pytest.raises(PageError, match="mark 'make' no-run"):
        run(Command(("make", "demo")), shell("make demo"))
