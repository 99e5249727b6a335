"""The command line: what it prints and the code that it leaves with."""

import subprocess
import sys
from pathlib import Path

import pytest

from stillbit import run
from stillbit.cli import main
from stillbit.errors import CheckpointError, DivergedError, Interrupted
from stillbit.interop import ImportReport
from stillbit.interop.placing import Target
from stillbit.recipes import catalog
from stillbit.training.evaluate import Evaluation


def test_help_names_every_verb(command):
    code, out, _ = command("--help")
    assert code == 0
    for verb in ("demo", "toy", "train", "validate", "import", "export", "verify", "inspect", "predict", "report", "doctor", "recipes"):
        assert verb in out


def test_recipes_lists_what_ships(command):
    code, out, _ = command("recipes")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 1 + len(catalog.names())
    assert any(line.split() == ["mobilenetv2_w4a4_lsq", "MobileNetV2,", "W4A4,", "LSQ", "baseline"] for line in lines)


def test_recipes_with_a_name_gives_the_file_to_copy(command):
    assert command("recipes", "digits_float") == (0, catalog.text("digits_float"), "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["recipes", "digits_flaot"], "unknown recipe 'digits_flaot'; did you mean 'digits_float'?", id="recipes-unknown"),
        pytest.param(["train", "digits_flaot"], "unknown recipe 'digits_flaot'; did you mean 'digits_float'?", id="train-unknown_recipe"),
        pytest.param(
            ["train", "digits_float", "training.epoch=1"],
            "training.epoch: unknown key; did you mean 'epochs'?",
            id="train-unknown_key",
        ),
        pytest.param(
            ["train", "digits_w3a3_lsq", "quantization.weight_bits=33"],
            "quantization.weight_bits is 33; allowed are 2 to 8 (an override leaves single layers at 32)",
            id="train-bits",
        ),
        pytest.param(
            ["train", "digits_w3a3_lsq"],
            "weights runs/digits_float/last.pt: no such file",
            id="train-before_its_float_network",
        ),
        pytest.param(
            ["train", "mobilenetv2_w4a4_lsq", "data.root=none"],
            "data root: no folder none/train, allowed: a folder with train/CLASS/ and val/CLASS/",
            id="train-no_data",
        ),
        pytest.param(
            ["train", "digits_float", "--resume"],
            "run folder runs/digits_float: no run to resume (it has no recipe.yaml)",
            id="train-nothing_to_resume",
        ),
        pytest.param(["toy", "--folder", "/dev/null/x"], "folder /dev/null/x: cannot be made (Not a directory)", id="toy-no_folder"),
        pytest.param(["validate", "none"], "checkpoint none: no such file", id="validate-nothing"),
        pytest.param(["import", "none", "--recipe", "digits_deit_w2a2_cga"], "checkpoint none: no such file", id="import-nothing"),
        pytest.param(["export", "none", "--format", "onnx"], "checkpoint none: no such file", id="export-nothing"),
        pytest.param(
            ["export", "none", "--format", "tflite"], "format is 'tflite'; allowed: onnx, packed, program", id="export-unknown_format"
        ),
        pytest.param(["verify", "none", "none"], "checkpoint none: no such file", id="verify-nothing"),
        pytest.param(["inspect", "none"], "none: no such file", id="inspect-nothing"),
        pytest.param(
            ["report", "none"],
            "run folder none: it has no record.jsonl; allowed: the folder of a run",
            id="report-nothing",
        ),
        pytest.param(["report", "none", "./none"], "none: given twice; allowed: each run once", id="report-twice"),
        pytest.param(
            ["report", "none", "--output", "none.pdf"],
            "none.pdf: not a name for a page; allowed: a file that ends in .html",
            id="report-not_a_page",
        ),
        pytest.param(["predict", "none", "a.png"], "none: cannot be read (No such file or directory)", id="predict-nothing"),
    ],
)
def test_what_the_user_can_put_right_is_one_line_and_code_2(command, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert command(*words) == (2, "", f"error: {message}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        pytest.param(CheckpointError("one\n  two"), 2, "error: one two\n", id="two_lines_become_one"),
        pytest.param(DivergedError("step 50: not finite"), 3, "error: step 50: not finite\n", id="diverged"),
        pytest.param(Interrupted("stopped by SIGTERM"), 143, "error: stopped by SIGTERM\n", id="sigterm"),
        pytest.param(KeyboardInterrupt(), 130, "", id="ctrl_c"),
    ],
)
def test_how_a_run_ends_decides_the_code(command, monkeypatch, error, code, line):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(run, "train", fail)
    assert command("train", "digits_float") == (code, "", line)


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch):
    def fail(*_args, **_kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(run, "train", fail)
    with pytest.raises(ZeroDivisionError):
        main(["train", "digits_float"])


@pytest.mark.parametrize(
    ("words", "folder", "resume"),
    [
        pytest.param([], "runs/digits_float", False, id="default"),
        pytest.param(["--run", "here"], "here", False, id="run"),
        pytest.param(["--folder", "here"], "here", False, id="folder"),
        pytest.param(["--resume"], "runs/digits_float", True, id="resume"),
    ],
)
def test_train_passes_on_what_it_parsed(command, monkeypatch, words, folder, resume):
    calls = []

    def train(recipe, where, *, resume, announce):
        calls.append((recipe.training.epochs, where, resume))
        announce("53 weight quantizers")

    monkeypatch.setattr(run, "train", train)
    code, out, _ = command("train", "digits_float", "training.epochs=3", *words)
    assert (code, out) == (0, f"53 weight quantizers\nrun folder: {folder}\n")
    assert calls == [(3, Path(folder), resume)]


def test_the_run_folder_of_a_file_has_its_name(command, monkeypatch, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(catalog.text("digits_float"))
    monkeypatch.setattr(run, "train", lambda *_args, **_kwargs: {})
    assert command("train", path)[1] == "run folder: runs/mine\n"


def test_validate_prints_its_figures(command, monkeypatch):
    calls = []

    def found(*arguments):
        calls.append(arguments)
        return Evaluation(loss=0.25, top1=0.9, top5=1.0, count=360)

    monkeypatch.setattr(run, "validate", found)
    assert command("validate", "runs/a", "data.root=/x") == (0, "top-1 90.00%  top-5 100.00%  loss 0.2500  images 360\n", "")
    assert calls == [(Path("runs/a"), ["data.root=/x"])]


@pytest.mark.parametrize(
    ("words", "folder"), [([], "runs/deit_t_w2a2_imported"), (["--folder", "here"], "here")], ids=["default", "folder"]
)
def test_import_prints_what_went_where(command, monkeypatch, words, folder):
    calls = []

    def import_checkpoint(recipe, source, where):
        calls.append((recipe.quantization.published, source, where))
        return ImportReport("float", {"head.bias": (Target("head.bias"),)}, {"index": "not needed"})

    monkeypatch.setattr(run, "import_checkpoint", import_checkpoint)
    code, out, _ = command("import", "a.pth", "--recipe", "deit_t_w2a2", "published=true", *words)
    assert (code, out) == (0, f"float: 1 of 2 tensors placed\n1 ignored: not needed\nrun folder: {folder}\n")
    assert calls == [(True, Path("a.pth"), Path(folder))]


def test_one_process_of_several_speaks(command, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(run, "train", lambda *_args, **_kwargs: {})
    assert command("train", "digits_float") == (0, "", "")


def test_demo_runs_in_its_folder(command, monkeypatch):
    import stillbit.demo

    calls = []
    monkeypatch.setattr(stillbit.demo, "demo", lambda folder, _console: calls.append(folder))
    assert command("demo", "--run", "there")[0] == 0
    assert command("demo")[0] == 0
    assert calls == [Path("there"), Path("runs/demo")]


def test_a_missing_argument_is_a_usage_error(command):
    code, _, err = command("train")
    assert code == 2
    assert "Missing argument" in err


def test_help_and_recipes_load_no_training_libraries():
    program = (
        "import sys\n"
        "from stillbit.cli import main\n"
        "try:\n    main(['recipes'])\nexcept SystemExit:\n    pass\n"
        "loaded = {'timm', 'torchvision', 'accelerate', 'matplotlib', 'sklearn', 'tensorboard', 'onnx', 'onnxruntime'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {sorted(loaded)}' if loaded else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "stillbit", "recipes", "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown recipe 'x'; allowed: ")
    assert "Traceback" not in done.stderr


def test_no_option_of_train_is_taken_by_torchrun():
    from torch.distributed.run import get_args_parser

    words = ["-m", "stillbit", "train", "digits_float", "training.epochs=1", "--folder", "here", "--resume"]
    assert get_args_parser().parse_args(words).training_script_args == words[2:]
