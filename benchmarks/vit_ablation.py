"""What each part of the ViT system adds at W2A2: a small distilled DeiT on digits, LSQ, StatsQ, + QKR, + CGA, over several seeds.

    python -m benchmarks.vit_ablation runs/vit_ablation --seeds 0 1 2 3 4

A float network is trained for each seed; it is the start and the teacher of that seed's four runs. All have equally many epochs: those
without the annealing stage end with as many epochs at the lowest learning rate. Finished runs are not repeated.
"""

from pathlib import Path
from typing import Any

from benchmarks import workspace
from benchmarks.evidence import spread, table
from benchmarks.result import parse, write
from benchmarks.workspace import is_complete, train
from stillbit.training.record import read_record
from stillbit.training.saving import LAST

VARIANTS = {"lsq": "LSQ", "statsq": "StatsQ", "qkr": "StatsQ + QKR", "cga": "StatsQ + QKR + CGA"}
KEPT = ("val_top1", "val_loss", "oscillating", "free", "epoch", "step")


def main() -> None:
    """Train what is missing, write the result, and print it as a table."""
    options = parse(workspace.parser("vit_ablation", __doc__, seeds=[0, 1, 2, 3, 4]))
    if not options.report_only:
        train_all(options.workspace, options.seeds)
    seeds = [seed for seed in options.seeds if all(is_complete(options.workspace / f"{variant}_seed{seed}") for variant in VARIANTS)]
    runs = {name: [end_of(options.workspace / f"{name}_seed{seed}") for seed in seeds] for name in ("float", *VARIANTS)}
    header = workspace.header(options, options.workspace / f"float_seed{seeds[0]}")
    write(options.output, header | {"seeds": seeds, "runs": runs})
    print(f"{len(seeds)} seeds; oscillating: share of the 2-bit weights (under QKR of query-key products too) above a frequency of 0.005\n")
    print(summary(runs))


def train_all(folder: Path, seeds: list[int]) -> None:
    """Train each seed's float network, then its four variants."""
    for seed in seeds:
        own = (f"training.seed={seed}", "training.tensorboard=false")
        start = folder / f"float_seed{seed}"
        train("digits_deit_float", start, own)
        for variant in VARIANTS:
            weights = (f"{path}={start / LAST}" for path in ("model.weights", "distillation.teacher.weights"))
            train(f"digits_deit_w2a2_{variant}", folder / f"{variant}_seed{seed}", (*own, *weights))


def end_of(folder: Path) -> dict[str, Any]:
    """Return the figures at the end of a finished run."""
    end = next(event for event in read_record(folder / "record.jsonl") if event.get("status") == "complete")
    return {key: end[key] for key in KEPT if key in end}


def summary(runs: dict[str, list[dict[str, float]]]) -> str:
    """Return the table of mean and standard deviation over the seeds."""
    rows = []
    for name, title in ({"float": "float"} | VARIANTS).items():
        gains = [100 * (one["val_top1"] - base["val_top1"]) for one, base in zip(runs[name], runs["lsq"], strict=True)]
        rows.append(
            [
                title,
                spread([100 * one["val_top1"] for one in runs[name]], "%", 2),
                spread(gains, "points", 2) if name not in ("float", "lsq") else "",
                spread([one["val_loss"] for one in runs[name]], "", 3),
                spread([100 * one["oscillating"] for one in runs[name] if "oscillating" in one], "%", 2),
            ]
        )
    return table(("W2A2", "accuracy", "against LSQ, by seed", "loss", "oscillating"), rows)


if __name__ == "__main__":
    main()
