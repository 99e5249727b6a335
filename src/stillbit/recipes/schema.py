"""The recipe: everything that decides a run, composed of the configurations that live beside what they configure."""

from dataclasses import dataclass, field

from stillbit.errors import RecipeError
from stillbit.oscillation import DampeningConfig, FreezingConfig, RecordingConfig, TrackingConfig
from stillbit.prepare import QuantConfig
from stillbit.recipes.model import ModelConfig
from stillbit.training.config import TrainingConfig
from stillbit.training.data import DataConfig
from stillbit.training.optim import OptimizerConfig
from stillbit.training.rates import ScheduleConfig


@dataclass(frozen=True)
class CalibrationConfig:
    """How ranges are found before training; the estimator itself belongs to `quantization`.

    Args:
        batches: Training batches that the estimators see, on each process.

    Raises:
        RecipeError: If it is less than 1.
    """

    batches: int = 1

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise RecipeError(f"batches is {self.batches}; allowed: 1 or more")


@dataclass(frozen=True)
class Recipe:
    """A training run. The defaults are what all published recipes of arXiv 2203.11086 have in common.

    Args:
        model: The network and its float weights.
        data: The images.
        quantization: Bits, policy, quantizers and range estimators; None trains in full precision.
        calibration: How ranges are found.
        tracking: Which weights are watched for oscillation; None watches as by default. Freezing watches by itself.
        freezing: Iterative freezing; None does without.
        dampening: Oscillation dampening; None does without.
        recording: Which weights' positions are kept at every step, for pictures; None keeps none.
        optimizer: Of weights, biases and batch norm.
        scale_optimizer: Of scales and zero points; None means as `optimizer`, without weight decay.
        training: Epochs, precision, seed, and the rest.

    Raises:
        RecipeError: If a method is given where nothing is quantized, or tracking beside freezing.
    """

    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    quantization: QuantConfig | None = field(default_factory=QuantConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    tracking: TrackingConfig | None = None
    freezing: FreezingConfig | None = None
    dampening: DampeningConfig | None = None
    recording: RecordingConfig | None = None
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(schedule=ScheduleConfig("cosine")))
    scale_optimizer: OptimizerConfig | None = field(default_factory=lambda: OptimizerConfig("adam", lr=1e-5))
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        for name in ("tracking", "freezing", "dampening", "recording"):
            if self.quantization is None and getattr(self, name) is not None:
                raise RecipeError(f"{name} is given and quantization is null; allowed: methods where weights are quantized")
        if self.tracking is not None and self.freezing is not None:
            raise RecipeError("tracking is given beside freezing; allowed: freezing.ema_momentum and freezing.max_bits")
