"""Settings of a training run that belong neither to the data nor to an optimizer."""

from dataclasses import dataclass
from typing import Literal

from stillbit.errors import RecipeError


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained.

    Args:
        epochs: Passes over the training data that the learning rate schedules take; 0 where an annealing stage is the whole run.
        cooldown_epochs: Passes after them, at the schedules' last values.
        accumulation: Micro-batches that each process accumulates for one optimizer step.
        precision: `fp32`, `fp64`, or autocast to `bf16` or `fp16` (with loss scaling).
        device: `auto` takes the accelerator if there is one, `cpu` does not.
        channels_last: Memory format of model and images; faster convolutions on most hardware.
        compile: Train through `torch.compile`; evaluation stays eager.
        deterministic: Only deterministic kernels: on CUDA, exact resume needs it, at some speed. CPU runs always are.
        label_smoothing: Of the cross-entropy, 0 to 1.
        clip_gradient_norm: Largest norm of all gradients together; None does not clip.
        seed: Decides order, augmentation, mixup and dropout.
        log_every: Steps between two step lines of the record; None: a hundredth of the run, at most 50. More where the run would get
            more than 20,000 lines.
        observations: How often quantizers are measured for the run's report, evenly over the run; 0: not at all.
        checkpoint_every: Steps between two checkpoints; there is one at the end of each epoch in any case.
        evaluate_first: Evaluate before the first step too, as published: what calibration alone gives.
        evaluate_every: Epochs between two evaluations; the last epoch is evaluated in any case.
        reestimate_batches: Batches, over all processes, that batch-norm statistics are estimated from before each
            evaluation; 0 keeps the running averages.
        evaluate_before_reestimation: Also evaluate with the running averages, at every evaluation and not only the last.
        tensorboard: Write TensorBoard's files into the run folder.

    Raises:
        RecipeError: If a value is out of range.
    """

    epochs: int = 90
    cooldown_epochs: int = 0
    accumulation: int = 1
    precision: Literal["fp32", "fp64", "bf16", "fp16"] = "fp32"
    device: Literal["auto", "cpu"] = "auto"
    channels_last: bool = False
    compile: bool = False
    deterministic: bool = False
    label_smoothing: float = 0.0
    clip_gradient_norm: float | None = None
    seed: int = 0
    log_every: int | None = None
    observations: int = 60
    checkpoint_every: int | None = None
    evaluate_first: bool = True
    evaluate_every: int = 1
    reestimate_batches: int = 50
    evaluate_before_reestimation: bool = False
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in ("accumulation", "log_every", "checkpoint_every", "evaluate_every"):
            given = getattr(self, name)
            if given is not None and given < 1:
                raise RecipeError(f"{name} is {given}; allowed: 1 or more")
        for name in ("epochs", "cooldown_epochs", "seed", "reestimate_batches"):
            if getattr(self, name) < 0:
                raise RecipeError(f"{name} is {getattr(self, name)}; allowed: 0 or more")
        if self.observations < 0 or self.observations == 1:
            raise RecipeError(f"observations is {self.observations}; allowed: 0, or 2 and more")
        if self.precision not in ("fp32", "fp64", "bf16", "fp16"):
            raise RecipeError(f"precision is {self.precision!r}; allowed: fp32, fp64, bf16, fp16")
        if self.device not in ("auto", "cpu"):
            raise RecipeError(f"device is {self.device!r}; allowed: auto, cpu")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise RecipeError(f"label_smoothing is {self.label_smoothing}; allowed: 0 to below 1")
        if self.clip_gradient_norm is not None and self.clip_gradient_norm <= 0.0:
            raise RecipeError(f"clip_gradient_norm is {self.clip_gradient_norm}; allowed: above 0")
