"""The main job on real input: EfficientNet-Lite0's ImageNet weights, taken to 4 and 3 bits on clip art, by each method.

    python -m benchmarks.efficientnet_clipart runs/efficientnet_clipart --seeds 0 1 2

Fine-tune a float network on the folder that `examples/clipart_folder.py` builds, and from it train the shipped recipes
`efficientnet_lite0_{w4a4,w3a3}_{lsq,damp,freeze}` with OVERRIDES and METHODS: the published learning rates and averages are for 50 epochs
of ImageNet. Each run measures accuracy after calibration before its first step; `batchnorm_check.py` measures what re-estimated batch-norm
statistics change after its last. `evidence.py` makes tables and pictures from the result.

Finished runs are not repeated, and unfinished ones continue. Where other work shares the cores, set OMP_WAIT_POLICY=PASSIVE: threads that
wait for each other by spinning cost several times the work itself.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import workspace
from benchmarks.batchnorm_check import check
from benchmarks.result import ROOT, parse
from benchmarks.run_figures import write_runs
from benchmarks.workspace import is_complete, train
from stillbit.errors import StillbitError
from stillbit.training.saving import LAST

EXAMPLES = ROOT / "examples"
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
# Shares differ from step to step, so they are logged often. Batch norm keeps its running averages to the end, and `batchnorm_check.py`
# replaces them afterwards: training does not depend on them.
OVERRIDES = (
    "optimizer.lr=0.01",
    "scale_optimizer.lr=3.0e-4",
    "training.evaluate_every=10",
    "training.reestimate_batches=0",
    "training.log_every=4",
)
FASTER = "training.channels_last=true"  # 1.5 times as many images per second on one core, at these sizes
# With 220 steps the averages must be shorter than published (0.001): here a weight counts as oscillating if it flipped back and
# forth at least once in the last 69 steps, and at the end freezes after two such flips within 34.
TRACKING = "tracking.ema_momentum=0.02"


class Method(NamedTuple):
    """A method's recipe, and what differs from it here."""

    recipe: str
    overrides: tuple[str, ...]


# The published dampening weight of 0.1 pulls a weight of a 1x1 convolution with 32 inputs towards its code by some 0.03 %
# per step: enough in half a million steps, next to nothing in 220. So it is a hundred times stronger here.
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


def build_inputs(folder: Path) -> None:
    """Build the image folder and the initial weights, if they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for output, script, arguments in (
        ("clipart", "clipart_folder.py", ()),
        ("start.safetensors", "efficientnet_lite0_weights.py", ("--num-classes", str(NUM_CLASSES))),
    ):
        if not (folder / output).exists():
            subprocess.run([sys.executable, EXAMPLES / script, folder / output, *arguments], check=True)


def train_all(folder: Path, image_size: int, epochs: int, seeds: list[int]) -> None:
    """Train the float network, then every variant, seed by seed."""
    build_inputs(folder)
    images = (f"data.root={folder / 'clipart'}", f"data.image_size={image_size}")
    common = (*images, "model.name=tf_efficientnet_lite0", *DATA, *TRAINING, FASTER)
    start = f"model.weights={folder / 'start.safetensors'}"
    train("efficientnet_lite0_w4a4_lsq", folder / "float", (*common, *FLOAT, start))
    trained = f"model.weights={folder / 'float' / LAST}"
    for variant in variants(seeds):
        method = METHODS[variant.method]
        own = (*OVERRIDES, *method.overrides, f"training.epochs={epochs}", f"training.seed={variant.seed}")
        train(f"efficientnet_lite0_{variant.bits}_{method.recipe}", folder / variant.name, (*common, *own, trained))


def variants(seeds: list[int]) -> Iterator[Variant]:
    """Return all quantized runs in the order of training."""
    for seed in seeds:
        for bits in BITS:
            for method in METHODS:
                yield Variant(bits, method, seed)


def main() -> None:
    """Train what is missing, check it, and write the result."""
    parser = workspace.parser("efficientnet_clipart", __doc__, seeds=[0, 1, 2])
    parser.add_argument("--image-size", type=int, default=96, help="in pixels (default: 96)")
    parser.add_argument("--epochs", type=int, default=10, help="of each quantized run (default: 10)")
    options = parse(parser)
    try:
        if not options.report_only:
            train_all(options.workspace, options.image_size, options.epochs, options.seeds)
        for name in ("float", *(variant.name for variant in variants(options.seeds))):
            if is_complete(options.workspace / name):
                check(options.workspace / name)
        pictures = {split: sum(1 for _ in (options.workspace / "clipart" / split).rglob("*.png")) for split in ("train", "val")}
        write_runs(options, image_size=options.image_size, train_images=pictures["train"], val_images=pictures["val"])
    except StillbitError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
