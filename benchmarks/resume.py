"""Prove exact resume: kill each method's run (SIGKILL) at ten random steps, and resume it each time.

    python -m benchmarks.resume runs/resume [--method annealing]

`annealing` is a vision transformer with a teacher, in two stages; it is also killed where they meet. The killed run's last checkpoint must
equal, bit for bit, that of a run that was never killed: weights, scales, pins, optimizer, tracker, batch-norm statistics. With `--method`
the proofs of the other methods stay in the result.
"""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.result import earlier, header, parse, parser, write
from stillbit.training.checkpoint import Checkpoint

KILLS = 10
STEPS_PER_EPOCH = 22  # of 64 of 1,437 digits, augmented
STEPS = 3 * STEPS_PER_EPOCH
SETTINGS = (
    "model.weights=random",
    "data.batch_size=64",
    "data.workers=0",
    "training.checkpoint_every=5",
    "training.log_every=1",
    "training.reestimate_batches=4",
    "training.tensorboard=false",
    "data.augment.mixup=0.2",
)
# weights are pinned before, between and after the kills
FREEZE_EARLY = ("freezing.begin=0", "freezing.ema_momentum=0.02", "freezing.threshold=0.015", "freezing.final_threshold=0.005")
TINY = "arguments={img_size: 16, patch_size: 4, depth: 2, embed_dim: 32, num_heads: 2}"
TWO_STAGES = (
    "data.name=digits",
    "data.image_size=16",
    "data.channels=1",
    "data.augment.auto_augment=null",  # timm's is for three channels
    f"model.{TINY}",
    f"distillation.teacher.{TINY}",
    "distillation.teacher.weights=random",
    "optimizer.schedule.warmup_epochs=1",
    "training.epochs=1",
    "training.cooldown_epochs=1",
    "annealing.epochs=1",
    "annealing.lr=1e-4",
)
RECIPES = {
    "lsq": ("digits_w3a3_lsq", ("training.epochs=3",)),
    "damp": ("digits_w3a3_damp", ("training.epochs=3",)),
    "freeze": ("digits_w3a3_freeze", ("training.epochs=3", *FREEZE_EARLY)),
    "annealing": ("deit_t_w2a2", TWO_STAGES),
}
BOUNDARIES = {"annealing": [2 * STEPS_PER_EPOCH]}


def command(method: str, folder: Path, *options: str) -> list[str]:
    recipe, settings = RECIPES[method]
    return [sys.executable, "-m", "stillbit", "train", recipe, *SETTINGS, *settings, "--folder", str(folder), *options]


def steps_taken(folder: Path) -> int:
    """Return the last step in the record, 0 without a record."""
    record = folder / "record.jsonl"
    lines = record.read_text().splitlines() if record.exists() else []
    complete = [json.loads(line) for line in lines if line.endswith("}")]
    return max((event["step"] for event in complete if event["event"] == "step"), default=0)


def run_until(method: str, folder: Path, step: int) -> int:
    """Start or continue the run and kill it after `step` steps; return the step at which it died."""
    resume = ("--resume",) if (folder / "recipe.yaml").exists() else ()
    process = subprocess.Popen(command(method, folder, *resume), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and steps_taken(folder) < step:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return steps_taken(folder)


def differences(first: object, second: object, path: str = "") -> list[str]:
    """Return the paths of whatever is not bitwise equal in two checkpoints."""
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return [found for key in first for found in differences(first[key], second[key], f"{path}/{key}")]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [found for index, pair in enumerate(zip(first, second, strict=True)) for found in differences(*pair, f"{path}/{index}")]
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return [] if first.dtype == second.dtype and torch.equal(first.nan_to_num(), second.nan_to_num()) else [path]
    return [] if first == second else [path]


def prove(method: str, folder: Path) -> dict[str, object]:
    """Run a method uninterrupted, and killed ten times; compare."""
    whole, killed = folder / f"{method}_whole", folder / f"{method}_killed"
    subprocess.run(command(method, whole), check=True, stdout=subprocess.DEVNULL)
    targets = sorted({*random.Random(method).sample(range(1, STEPS), KILLS), *BOUNDARIES.get(method, [])})
    died = [run_until(method, killed, step) for step in targets]
    subprocess.run(command(method, killed, "--resume"), check=True, stdout=subprocess.DEVNULL)
    content = [Checkpoint.read(one / "last.pt").content for one in (whole, killed)]
    pinned = sum(int((tensor != -128).sum()) for name, tensor in content[0]["model"].items() if name.endswith(".pins"))
    recipe, settings = RECIPES[method]
    facts = {"method": method, "recipe": recipe, "settings": [*SETTINGS, *settings], "killed_at": died, "steps": STEPS}
    return {**facts, "pinned": pinned, "different": differences(*content)}


def main() -> None:
    """Prove each method, and write the proofs."""
    options = parser("resume", __doc__)
    options.add_argument("folder", type=Path, help="folder for the runs")
    options.add_argument("--method", choices=RECIPES, help="prove only this one")
    given = parse(options)
    methods = [given.method] if given.method else list(RECIPES)
    kept = [proof for proof in earlier(given.output).get("proofs", []) if proof["method"] not in methods]
    record = header(given.command)
    proofs = [prove(method, given.folder) for method in methods]
    write(given.output, record | {"proofs": kept + proofs})
    for proof in proofs:
        print(proof)
    sys.exit(any(proof["different"] for proof in proofs))


if __name__ == "__main__":
    main()
