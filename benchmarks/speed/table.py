"""The rows of the table, in order."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.speed.findings import Findings
from benchmarks.speed.rows import batchnorm, fake_quantize, gpu, kernels, loader, step, tracker, tricks
from benchmarks.speed.settings import Settings


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        name: Its name for `--only` and in the record.
        title: What it measures.
        measure: Returns its findings.
        missing: Returns what it needs and this machine lacks; None if nothing.
        cold: Whether it times compilation and needs an empty compiler cache; the other rows share one.
    """

    name: str
    title: str
    measure: Callable[[Settings], Findings]
    missing: Callable[[], str | None] = lambda: None
    cold: bool = False


def _gpu() -> str | None:
    return None if torch.cuda.is_available() else "no CUDA device"


ROWS = (
    Row("fake_quantize", "fake quantization, forward and backward, against copying the same bytes", fake_quantize.measure),
    Row("cnn_step", "CNN, W4A4 LSQ, eager: training step and bytes saved for backward", step.measure_cnn),
    Row("cnn_compiled", "CNN, W4A4 LSQ, whole model compiled, against the compiled float model", step.measure_compiled, cold=True),
    Row("vit_step", "transformer, W2A2 StatsQ and QKR, eager: training step and bytes saved for backward", step.measure_vit),
    Row("tricks", "what each trick of the fast path earns alone", tricks.measure),
    Row("tracker", "state of tracking and freezing", tracker.measure),
    Row("kernels", "compiled kernels and cold start", kernels.measure, cold=True),
    Row("batchnorm", "batch-norm re-estimation", batchnorm.measure),
    Row("loader", "data loading against the step's need", loader.measure, loader.missing),
    Row("gpu_fake_quantize", "GPU: fake quantization in bfloat16", gpu.measure_fake_quantize, _gpu),
    Row("gpu_cnn", "GPU: CNN, bfloat16, compiled", gpu.measure_cnn, _gpu, cold=True),
    Row("gpu_vit", "GPU: transformer, bfloat16, compiled", gpu.measure_vit, _gpu, cold=True),
)
