"""Batch-norm re-estimation against the same batches in inference."""

import torch

import stillbit as sb
from benchmarks.speed import networks
from benchmarks.speed.findings import Figure, Findings
from benchmarks.speed.pairs import race
from benchmarks.speed.settings import Settings


def measure(settings: Settings) -> Findings:
    """Measure both on the same quantized network and the same images."""
    model = networks.cnn(settings).eval()
    batches = [(settings.images(settings.cnn_batch),)] * settings.batches

    def inference() -> None:
        with torch.inference_mode():
            for (images,) in batches:
                model(images)

    def reestimation() -> None:
        sb.reestimate_batchnorm(model, batches, batches=len(batches))

    times = race({"re-estimation": (reestimation, inference)}, rounds=settings.rounds, device=settings.device)["re-estimation"]
    return Findings(
        figures=[Figure.of("re-estimation / inference", times.ratios(), target=1.1)],
        sizes={"model": settings.cnn, "batch": settings.cnn_batch, "batches": settings.batches, "image_size": settings.image_size},
        milliseconds={"re-estimation": times.own, "inference beside it": times.reference},
    )
