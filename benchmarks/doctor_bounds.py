"""How healthy runs use their codes: what the doctor's bounds stand above.

    python -m benchmarks.doctor_bounds RUN...        writes benchmarks/results/doctor_bounds.json

Each run folder gives its largest share of one code, of what lies beyond the grid, the fewest codes of a weight of up to 4 bits, the largest
KL divergence of batch-norm statistics, and the oscillating share at the end. Its data must be at hand.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from stillbit.assembly import Trained
from stillbit.doctor.examine import _model_subject
from stillbit.report.reading import read_run

RESULTS = Path(__file__).parent / "results" / "doctor_bounds.json"


def measured(folder: Path) -> dict[str, Any]:
    trained = Trained.read(folder, ["data.workers=0"])
    subject, history = _model_subject(trained), read_run(folder)
    weights = subject.weight_codes
    sites = {id(site.quantizer) for site in subject.sites}
    activations = {name: seen.codes for name, seen in subject.seen.items() if id(subject.quantizers[name]) not in sites}
    oscillating = history.steps.get("oscillating")
    settings = trained.recipe.quantization
    return {
        "run": folder.name,
        "network": trained.recipe.model.name,
        "bits": [settings.weight_bits, settings.activation_bits] if settings else None,
        "weight_share": max(codes.share for codes in weights.values()),
        "weight_clipped": max(codes.clipped for codes in weights.values()),
        "weight_unused_codes": max(2**codes.bits - codes.used for codes in weights.values() if codes.bits <= 4),
        "activation_share": max(codes.share for codes in activations.values()),
        "activation_clipped": max(codes.clipped for codes in activations.values()),
        "batchnorm_divergence": max(subject.stale.values(), default=None),
        "oscillating": oscillating.values[-1] if oscillating and oscillating.values else None,
        "val_top1": history.epochs["val_top1"].values[-1],
    }


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for folder in sys.argv[1:]:
        rows.append(measured(Path(folder)))
        print(json.dumps(rows[-1]))
    RESULTS.write_text(json.dumps({"torch": str(torch.__version__), "runs": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
