"""The main job on real input: EfficientNet-Lite0's ImageNet weights, taken to 4 and 3 bits on clip art, by each method.

    python benchmarks/efficientnet_clipart.py runs/efficientnet_clipart --seeds 0 1 2

A float network is fine-tuned on the folder that `examples/clipart_folder.py` builds; from it the shipped recipes
`efficientnet_lite0_{w4a4,w3a3}_{lsq,damp,freeze}` train, with what OVERRIDES and METHODS say: the published learning rates and averages are
for 50 epochs of ImageNet. Accuracy after calibration alone is what each run measures before its first step; `batchnorm_check.py` measures
what re-estimated batch-norm statistics change after its last.

Everything is resumable: a finished run is not repeated, an unfinished one goes on. `--report-only` writes the figures of what is finished.
Where other work shares the cores, set OMP_WAIT_POLICY=PASSIVE: threads that wait for each other by spinning cost several times the work
itself. Writes benchmarks/results/efficientnet_clipart.json, from which `evidence.py` makes tables and pictures.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from batchnorm_check import check
from run_figures import is_complete, write_runs

from stillbit import run
from stillbit.errors import StillbitError
from stillbit.recipes.load import load

EXAMPLES = Path(__file__).parents[1] / "examples"
NUM_CLASSES = 16
BITS = ("w4a4", "w3a3")

DATA = (
    "data.batch_size=32",
    "data.workers=0",
    "data.crop_pct=1.0",  # the drawings fill their squares
    "data.mean=[0.5, 0.5, 0.5]",
    "data.std=[0.5, 0.5, 0.5]",
    "data.augment.scale=[0.5, 1.0]",
)
TRAINING = (
    "optimizer.schedule.per=step",
    "optimizer.weight_decay=1.0e-4",
    "training.device=cpu",
    "training.log_every=11",
    "training.tensorboard=false",
)
FLOAT = ("quantization=null", "optimizer.lr=0.02", "training.epochs=10", "training.evaluate_every=2", "training.reestimate_batches=0")
# What is measured differs from step to step, so it is read often. Batch norm keeps its running averages to the end, and
# `batchnorm_check.py` replaces them afterwards: training does not depend on them.
OVERRIDES = (
    "optimizer.lr=0.01",
    "scale_optimizer.lr=3.0e-4",
    "training.evaluate_every=10",
    "training.reestimate_batches=0",
    "training.log_every=4",
)
FASTER = "training.channels_last=true"  # half again as many images a second on one core, at these sizes
# With 220 steps the averages must be shorter than published (0.001): here a weight counts as oscillating if it flipped to
# and fro at least once in the last 69 steps, and at the end freezes after two such flips within 34.
TRACKING = "tracking.ema_momentum=0.02"


class Method(NamedTuple):
    """The recipe that a method has, and what differs from it here."""

    recipe: str
    overrides: tuple[str, ...]


# The published dampening weight of 0.1 pulls a weight of a 1x1 convolution with 32 inputs towards its code by some 0.03 %
# a step: enough in half a million steps, next to nothing in 220. So it is a hundred times stronger here.
METHODS = {
    "lsq": Method("lsq", (TRACKING,)),
    "damp10": Method("damp", (TRACKING, "dampening.final_weight=10.0")),
    "freeze": Method("freeze", ("freezing.ema_momentum=0.02", "freezing.threshold=0.1", "freezing.final_threshold=0.03")),
    "ewgs": Method("lsq", (TRACKING, "quantization.rounding=ewgs")),
    "sigmoid": Method("lsq", (TRACKING, "quantization.rounding=stacked_sigmoid")),
    "stochastic": Method("lsq", (TRACKING, "quantization.rounding=stochastic")),
}


class Variant(NamedTuple):
    """One quantized run."""

    bits: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its run folder."""
        return f"{self.bits}_{self.method}_seed{self.seed}"


def build_inputs(workspace: Path) -> None:
    """Build the image folder and the weights to start from, if they are not there."""
    workspace.mkdir(parents=True, exist_ok=True)
    for output, script, arguments in (
        ("clipart", "clipart_folder.py", ()),
        ("start.safetensors", "efficientnet_lite0_weights.py", ("--num-classes", str(NUM_CLASSES))),
    ):
        if not (workspace / output).exists():
            subprocess.run([sys.executable, EXAMPLES / script, workspace / output, *arguments], check=True)


def train(recipe: str, folder: Path, overrides: tuple[str, ...]) -> None:
    """Train a recipe into a folder, from where an earlier call stopped."""
    if is_complete(folder / "record.jsonl"):
        return
    print(f"{folder.name}: training", flush=True)
    run.train(load(recipe, overrides), folder, resume=(folder / run.RECIPE).exists())


def train_all(workspace: Path, image_size: int, epochs: int, seeds: list[int]) -> None:
    """Train the float network, then every variant; seed by seed, so that what is finished is whole."""
    build_inputs(workspace)
    images = (f"data.root={workspace / 'clipart'}", f"data.image_size={image_size}")
    common = (*images, "model.name=tf_efficientnet_lite0", *DATA, *TRAINING, FASTER)
    start = f"model.weights={workspace / 'start.safetensors'}"
    train("efficientnet_lite0_w4a4_lsq", workspace / "float", (*common, *FLOAT, start))
    trained = f"model.weights={workspace / 'float' / run.LAST}"
    for variant in variants(seeds):
        method = METHODS[variant.method]
        own = (*OVERRIDES, *method.overrides, f"training.epochs={epochs}", f"training.seed={variant.seed}")
        train(f"efficientnet_lite0_{variant.bits}_{method.recipe}", workspace / variant.name, (*common, *own, trained))


def variants(seeds: list[int]) -> Iterator[Variant]:
    """Give all quantized runs in the order in which they are trained."""
    for seed in seeds:
        for bits in BITS:
            for method in METHODS:
                yield Variant(bits, method, seed)


def write(options: argparse.Namespace) -> None:
    """Write the figures of all finished runs."""
    clipart = options.workspace / "clipart"
    images = {f"{split}_images": sum(1 for _ in (clipart / split).rglob("*.png")) for split in ("train", "val")}
    settings = f"--image-size {options.image_size} --epochs {options.epochs} --seeds {' '.join(map(str, options.seeds))}"
    command = f"python benchmarks/efficientnet_clipart.py WORKSPACE {settings}"
    facts = {"image_size": options.image_size, **images}
    write_runs(options.results / "efficientnet_clipart.json", options.workspace, command, options.trained_at, **facts)


def main() -> None:
    """Parse the command line, train what is missing, check, and write the results."""
    parser = argparse.ArgumentParser(description="EfficientNet-Lite0 at W4A4 and W3A3 on clip art.")
    parser.add_argument("workspace", type=Path, help="folder for images, weights and runs")
    parser.add_argument("--image-size", type=int, default=96, help="in pixels (default 96)")
    parser.add_argument("--epochs", type=int, default=10, help="of each quantized run (default 10)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run a seed and variant (default 0 1 2)")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder for the figures")
    parser.add_argument("--report-only", action="store_true", help="train nothing; write what is finished")
    parser.add_argument("--trained-at", help="commit that trained the runs, where it is not this checkout's")
    options = parser.parse_args()
    try:
        if not options.report_only:
            train_all(options.workspace, options.image_size, options.epochs, options.seeds)
        for name in ("float", *(variant.name for variant in variants(options.seeds))):
            if is_complete(options.workspace / name / "record.jsonl"):
                check(options.workspace / name)
        write(options)
    except StillbitError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
