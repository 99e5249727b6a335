"""Small networks on digits: batch-norm statistics of a MobileNetV2 and a ResNet, and oscillation by method over time.

    python benchmarks/digits_evidence.py runs/digits_evidence --seeds 0 1 2

For each seed a float network of either kind is trained (`digits_float`; the ResNet is `small_resnet.py`), and from it LSQ at 4 and 3 bits
(`digits_w3a3_lsq`); from the MobileNetV2, at 3 bits, the other methods too. `moving` are five epochs at a constant learning rate, in full
precision too: what batch norm looks like while weights still move. Batch norm keeps its running averages to the end, when
`batchnorm_check.py` measures how wrong they are. Some 30 s of a core a run, no download. Everything is resumable: a finished run is not
repeated. `--report-only` writes what is finished to results/digits_evidence.json.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import small_resnet
from batchnorm_check import check
from efficientnet_clipart import train
from run_figures import write_runs

from stillbit import run
from stillbit.errors import StillbitError

NETWORKS = {
    "mobilenet": ("model.name=small_mobilenet", "model.source=stillbit"),
    "resnet": (f"model.name={small_resnet.small_resnet.__name__}", "model.source=timm"),
}
COMMON = ("training.tensorboard=false", "training.device=cpu", "training.reestimate_batches=0")
# The published rate of the scales, at which they hardly move in 330 steps: then it is the weights that oscillate. The recipes have a
# hundred times more, which is quick, and makes weights change their codes because the grid moves under them.
SLOW_SCALES = "scale_optimizer.lr=1.0e-5"
METHODS = {
    "lsq": ("lsq", (SLOW_SCALES,)),
    "damp10": ("damp", (SLOW_SCALES,)),
    "freeze": ("freeze", (SLOW_SCALES,)),
    "ewgs": ("lsq", (SLOW_SCALES, "quantization.rounding=ewgs")),
    "sigmoid": ("lsq", (SLOW_SCALES, "quantization.rounding=stacked_sigmoid")),
    "stochastic": ("lsq", (SLOW_SCALES, "quantization.rounding=stochastic")),
    "fastscales": ("lsq", ()),
    "moving": (
        "lsq",
        (SLOW_SCALES, "optimizer.schedule.kind=constant", "optimizer.lr=0.02", "training.epochs=5", "training.evaluate_every=5"),
    ),
}


class Variant(NamedTuple):
    """One quantized run."""

    network: str
    bits: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its run folder."""
        return f"{self.network}_{self.bits}_{self.method}_seed{self.seed}"


def variants(seeds: list[int]) -> Iterator[Variant]:
    """Give all quantized runs, and float ones next to `moving`, in the order in which they are trained."""
    for seed in seeds:
        for network in NETWORKS:
            for bits in ("float", "w4a4", "w3a3"):
                yield Variant(network, bits, "moving", seed)
            for bits in ("w4a4", "w3a3"):
                yield Variant(network, bits, "lsq", seed)
    for seed in seeds:
        for method in METHODS:
            if method not in ("lsq", "moving"):
                yield Variant("mobilenet", "w3a3", method, seed)


def train_all(workspace: Path, seeds: list[int]) -> None:
    """Train every variant, and the float networks that they start from, and check their batch norms."""
    for variant in variants(seeds):
        network = (*NETWORKS[variant.network], *COMMON, f"training.seed={variant.seed}")
        start = workspace / f"{variant.network}_float_seed{variant.seed}"
        train("digits_float", start, network)
        check(start)
        recipe, overrides = METHODS[variant.method]
        own = ("training.log_every=4", f"model.weights={start / run.LAST}")
        if variant.bits == "float":
            train("digits_float", workspace / variant.name, (*network, *overrides, *own))
        else:
            bits = (f"quantization.weight_bits={variant.bits[1]}", f"quantization.activation_bits={variant.bits[3]}")
            train(f"digits_w3a3_{recipe}", workspace / variant.name, (*network, *overrides, *bits, *own))
        check(workspace / variant.name)


def main() -> None:
    """Parse the command line, train what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path, help="folder for the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run a seed and variant (default 0 1 2)")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder for the figures")
    parser.add_argument("--report-only", action="store_true", help="train nothing; write what is finished")
    parser.add_argument("--trained-at", help="commit that trained the runs, where it is not this checkout's")
    options = parser.parse_args()
    try:
        if not options.report_only:
            train_all(options.workspace, options.seeds)
        command = f"python benchmarks/digits_evidence.py WORKSPACE --seeds {' '.join(map(str, options.seeds))}"
        write_runs(options.results / "digits_evidence.json", options.workspace, command, options.trained_at)
    except StillbitError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
