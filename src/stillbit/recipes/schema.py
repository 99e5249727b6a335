"""The recipe: everything that decides a run, composed of the configurations that live next to what they configure."""

from dataclasses import dataclass, field
from pathlib import Path

from stillbit.errors import RecipeError
from stillbit.oscillation import Annealing, Dampening, Freezing, Recording, Tracking
from stillbit.prepare import QuantConfig
from stillbit.recipes.distillation import DistillationConfig
from stillbit.recipes.model import ModelConfig
from stillbit.recipes.section import Section
from stillbit.training.config import TrainingConfig
from stillbit.training.data import DataConfig
from stillbit.training.optim import OptimizerConfig
from stillbit.training.rates import ScheduleConfig
from stillbit.training.timetable import FinalStage, Timetable


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
        start: A checkpoint of this network, quantized alike, whose weights and scales a new run begins with, in place of float weights
            and calibration: an imported one, or one of another run. Optimizer and methods begin again.
        tracking: Which weights are watched for oscillation; None watches as by default. Freezing watches by itself.
        freezing: Iterative freezing; None does without.
        dampening: Oscillation dampening; None does without.
        annealing: A last stage of training, in which only uncertain weights move; None does without.
        distillation: A teacher; None learns from the labels alone.
        recording: Which weights' positions are kept at every step, for pictures; None keeps none.
        optimizer: Of weights, biases and batch norm.
        scale_optimizer: Of scales and zero points; None means as `optimizer`, without weight decay.
        training: Epochs, precision, seed, and the rest.

    Raises:
        RecipeError: If sections do not go together, or there is no epoch to train.
    """

    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    quantization: QuantConfig | None = field(default_factory=QuantConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    start: Path | None = None
    tracking: Section[Tracking] | None = None
    freezing: Section[Freezing] | None = None
    dampening: Section[Dampening] | None = None
    annealing: Section[Annealing] | None = None
    distillation: DistillationConfig | None = None
    recording: Section[Recording] | None = None
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(schedule=ScheduleConfig("cosine")))
    scale_optimizer: OptimizerConfig | None = field(default_factory=lambda: OptimizerConfig("adam", lr=1e-5))
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        for name in ("start", "tracking", "freezing", "dampening", "annealing", "recording"):
            if self.quantization is None and getattr(self, name) is not None:
                raise RecipeError(f"{name} is given and quantization is null; allowed: where weights are quantized")
        for name in ("freezing", "dampening"):
            if self.training.epochs == 0 and getattr(self, name) is not None:
                raise RecipeError(f"{name} is given and training.epochs is 0; allowed: with 1 epoch or more, which its schedule takes")
        if self.tracking is not None and self.freezing is not None:
            raise RecipeError("tracking is given beside freezing; allowed: freezing.ema_momentum and freezing.max_bits")
        try:
            _ = self.timetable
        except RecipeError as error:
            raise RecipeError(f"training.{error}") from None

    @property
    def final_stage(self) -> FinalStage | None:
        """The annealing stage."""
        return None if self.annealing is None else self.annealing.stage

    @property
    def timetable(self) -> Timetable:
        """The epochs of the run."""
        return Timetable(self.training.epochs, self.training.cooldown_epochs, self.final_stage)
