"""Each verb without the libraries of an extra: one line that installs them, or the work itself where it needs none of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stillbit import run
from stillbit.errors import EXTRAS
from stillbit.recipes.load import load

# {run} is a trained run folder, {onnx} and {packed} are names of files; the extras are those without which the verb cannot start.
VERBS = {
    "demo": (["demo", "--folder", "demo"], {"train", "report"}),
    "toy": (["toy", "--folder", "toy"], {"report"}),
    "train": (["train", "digits_float", "--folder", "new"], {"train"}),
    "train-datasets": (["train", "digits_float", "data.name=hfds/x", "data.num_classes=2", "--folder", "new"], {"train", "datasets"}),
    "validate": (["validate", "{run}"], {"train"}),
    "import": (["import", "none.pth", "--recipe", "digits_deit_w2a2_cga"], {"train"}),
    "export-onnx": (["export", "{run}", "--format", "onnx", "--output", "b.onnx"], {"train", "export"}),
    "export-packed": (["export", "{run}", "--format", "packed", "--output", "a.safetensors"], {"train"}),
    "verify": (["verify", "{onnx}", "{run}"], {"train", "export"}),
    "inspect": (["inspect", "{onnx}"], {"export"}),
    "predict": (["predict", "{onnx}", "none.png"], {"export"}),
    "doctor": (["doctor", "{run}"], {"train"}),
    "doctor-file": (["doctor", "{onnx}"], {"export"}),
    "report": (["report", "{run}"], set()),
    "recipes": (["recipes"], set()),
}
PROGRAM = """
import contextlib, io, json, sys
sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))
from stillbit.cli import main
found = {}
for name, words in json.loads(sys.argv[2]).items():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main(words)
        except SystemExit as left:
            found[name] = left.code, err.getvalue()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "digits"
    short = ("model.weights=random", "training.epochs=1", "training.tensorboard=false", "training.reestimate_batches=1")
    quick = [f"quantization.{what}_range.estimator=current_minmax" for what in ("weight", "activation")]
    run.train(load("digits_w3a3_lsq", [*short, *quick, "data.batch_size=256"]), folder)
    return folder


@pytest.mark.parametrize("extra", ["train", "export", "report", "datasets"])
def test_a_verb_without_its_extra_names_it(trained: Path, tmp_path: Path, extra: str) -> None:
    (tmp_path / "a.onnx").write_bytes(b"")
    others = {library for other, libraries in EXTRAS.items() if other != extra for library in libraries}
    hidden = sorted(set(EXTRAS[extra]) - others)
    verbs = {name: words for name, (words, extras) in VERBS.items() if extra in extras or name in ("report", "recipes")}
    given = {name: [word.format(run=trained, onnx="a.onnx") for word in words] for name, words in verbs.items()}
    words = [sys.executable, "-c", PROGRAM, json.dumps(hidden), json.dumps(given)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name, (code, err) in json.loads(done.stdout).items():
        if extra in VERBS[name][1]:
            assert code == 2, (name, err)
            assert err.endswith(f' is not installed; to install it: pip install "stillbit[{extra}]"\n'), (name, err)
            assert err.count("\n") == 1, name
        else:
            assert code == 0, (name, err)
