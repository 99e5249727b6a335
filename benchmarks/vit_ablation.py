"""What each part of the ViT system adds at W2A2: a small distilled DeiT on digits, LSQ, StatsQ, + QKR, + CGA, over several seeds.

    python benchmarks/vit_ablation.py FOLDER --seeds 0 1 2 3 4

A float network is trained for every seed, and is start and teacher of that seed's four runs. All have equally many epochs: those
without annealing stage end with as many epochs at the lowest learning rate. Runs that FOLDER holds complete are not trained again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from stillbit.training.record import read_record

VARIANTS = {"lsq": "LSQ", "statsq": "StatsQ", "qkr": "StatsQ + QKR", "cga": "StatsQ + QKR + CGA"}
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    settings = parser.parse_args()
    settings.folder.mkdir(parents=True, exist_ok=True)
    for seed in settings.seeds:
        start = settings.folder / f"float_seed{seed}"
        train("digits_deit_float", start, seed)
        for variant in VARIANTS:
            weights = [f"{path}={start / 'last.pt'}" for path in ("model.weights", "distillation.teacher.weights")]
            train(f"digits_deit_w2a2_{variant}", settings.folder / f"{variant}_seed{seed}", seed, *weights)
        write(settings.folder, settings.seeds)


def train(recipe: str, folder: Path, seed: int, *overrides: str) -> None:
    """Trains a recipe in a process of its own, or continues it."""
    if is_complete(folder):
        return
    command = [sys.executable, "-m", "stillbit", "train", recipe, "--folder", str(folder), f"training.seed={seed}", *overrides]
    subprocess.run([*command, "training.tensorboard=false", *(["--resume"] if (folder / "recipe.yaml").exists() else [])], check=True)


def is_complete(folder: Path) -> bool:
    record = folder / "record.jsonl"
    return record.exists() and any(line.get("status") == "complete" for line in read_record(record))


def end_of(folder: Path) -> dict[str, Any]:
    """Gives the figures of a complete run's end."""
    return next(line for line in read_record(folder / "record.jsonl") if line.get("status") == "complete")


def write(folder: Path, seeds: list[int]) -> None:
    """Writes `vit_ablation.json` and `.md` of all complete seeds."""
    done = [seed for seed in seeds if all(is_complete(folder / f"{variant}_seed{seed}") for variant in VARIANTS)]
    start = next(read_record(folder / f"float_seed{done[0]}" / "record.jsonl"))
    figures = {name: [end_of(folder / f"{name}_seed{seed}") for seed in done] for name in ("float", *VARIANTS)}
    kept = ("val_top1", "val_loss", "oscillating", "free", "epoch", "step")
    runs = {name: [{key: one[key] for key in kept if key in one} for one in ends] for name, ends in figures.items()}
    facts = {
        "command": f"python benchmarks/vit_ablation.py FOLDER --seeds {' '.join(map(str, done))}",
        "hardware": start["hardware"],
        "versions": start["versions"],
        "seeds": done,
        "runs": runs,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "vit_ablation.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    (RESULTS / "vit_ablation.md").write_text(table(runs, done), encoding="utf-8")


def table(runs: dict[str, list[dict[str, float]]], seeds: list[int]) -> str:
    lines = [
        f"Mean and standard deviation over {len(seeds)} seeds; accuracy on 360 images each; oscillating: share of the 2-bit weights",
        "(of query-key products too, under QKR) whose frequency exceeds 0.005 at the end.",
        "",
        "| W2A2 | accuracy | against LSQ, by seed | loss | oscillating |",
        "|---|---|---|---|---|",
    ]
    titles = {"float": "float"} | VARIANTS
    for name, title in titles.items():
        gains = [100 * (one["val_top1"] - base["val_top1"]) for one, base in zip(runs[name], runs["lsq"], strict=True)]
        columns = [
            spread([100 * one["val_top1"] for one in runs[name]], "%", 2),
            spread(gains, "points", 2) if name not in ("float", "lsq") else "",
            spread([one["val_loss"] for one in runs[name]], "", 3),
            spread([100 * one["oscillating"] for one in runs[name]], "%", 2) if "oscillating" in runs[name][0] else "",
        ]
        lines.append(f"| {title} | {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float], unit: str, digits: int) -> str:
    if len(values) == 1:
        return f"{values[0]:.{digits}f} {unit}".rstrip()
    return f"{fmean(values):.{digits}f} ± {stdev(values):.{digits}f} {unit}".rstrip()


if __name__ == "__main__":
    main()
