"""The rows of a GPU: bfloat16, whole model compiled."""

from benchmarks.speed import networks
from benchmarks.speed.findings import Findings
from benchmarks.speed.rows import fake_quantize, step
from benchmarks.speed.settings import Settings


def measure_fake_quantize(settings: Settings) -> Findings:
    """Measure fake quantization of bfloat16 as a share of the copy's bandwidth."""
    return fake_quantize.measure(settings.on_gpu(), as_bandwidth=True)


def measure_cnn(settings: Settings) -> Findings:
    """Measure the compiled step of the CNN under autocast."""
    return step.measure_compiled(settings.on_gpu(), target=1.25, bfloat16=True)


def measure_vit(settings: Settings) -> Findings:
    """Measure the compiled step of the transformer under autocast."""
    return step.measure_compiled(settings.on_gpu(), networks.vit, target=1.25, bfloat16=True, transformer=True)
