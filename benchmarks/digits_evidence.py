"""Small networks on digits: batch-norm statistics of a MobileNetV2 and a ResNet, and oscillation by method over time.

    python -m benchmarks.digits_evidence runs/digits_evidence --seeds 0 1 2

For each seed, train a float network of each kind (`digits_float`; the ResNet is `small_resnet.py`), and from it LSQ at 4 and 3 bits
(`digits_w3a3_lsq`); from the MobileNetV2, train the other methods at 3 bits. `moving` is five epochs at a constant learning rate, also in
full precision: batch norm while weights still move. Batch norm keeps its running averages to the end, when `batchnorm_check.py` measures
how wrong they are. A run takes about 30 s of one core, and downloads nothing. Finished runs are not repeated.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import small_resnet, workspace
from benchmarks.batchnorm_check import check
from benchmarks.result import parse
from benchmarks.run_figures import write_runs
from benchmarks.workspace import train
from stillbit.errors import StillbitError
from stillbit.training.saving import LAST

NETWORKS = {
    "mobilenet": ("model.name=small_mobilenet", "model.source=stillbit"),
    "resnet": (f"model.name={small_resnet.small_resnet.__name__}", "model.source=timm"),
}
COMMON = ("training.tensorboard=false", "training.device=cpu", "training.reestimate_batches=0")
# The published learning rate of the scales. They hardly move in 330 steps at this rate, so only weights oscillate. The recipes' rate is a
# hundred times higher: weights then change their codes because the grid moves under them.
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
    """Return all quantized runs, and the float ones of `moving`, in the order of training."""
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


def train_all(folder: Path, seeds: list[int]) -> None:
    """Train every variant and the float network that it starts from, and check their batch norms."""
    for variant in variants(seeds):
        network = (*NETWORKS[variant.network], *COMMON, f"training.seed={variant.seed}")
        start = folder / f"{variant.network}_float_seed{variant.seed}"
        train("digits_float", start, network)
        check(start)
        recipe, overrides = METHODS[variant.method]
        own = ("training.log_every=4", f"model.weights={start / LAST}")
        if variant.bits == "float":
            train("digits_float", folder / variant.name, (*network, *overrides, *own))
        else:
            bits = (f"quantization.weight_bits={variant.bits[1]}", f"quantization.activation_bits={variant.bits[3]}")
            train(f"digits_w3a3_{recipe}", folder / variant.name, (*network, *overrides, *bits, *own))
        check(folder / variant.name)


def main() -> None:
    """Train what is missing, and write the result."""
    options = parse(workspace.parser("digits_evidence", __doc__, seeds=[0, 1, 2]))
    try:
        if not options.report_only:
            train_all(options.workspace, options.seeds)
        write_runs(options)
    except StillbitError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
