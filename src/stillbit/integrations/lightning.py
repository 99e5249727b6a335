"""Oscillation methods in Lightning: one callback, for automatic and manual optimization.

trainer = lightning.pytorch.Trainer(callbacks=[StillbitCallback(Freezing)])
"""

from collections.abc import Iterable
from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from stillbit.errors import PrepareError
from stillbit.integrations.riding import MethodMaker, Riders, reestimated
from stillbit.oscillation import Method

MOMENTS = ("validation", "end")


@final
class StillbitCallback(Callback):  # type: ignore[misc]  # mypy does not follow the library
    """Attaches methods when training starts, logs their figures, and keeps their state in the trainer's checkpoints.

    A resumed run (`trainer.fit(module, ckpt_path=...)`) goes on bit for bit, as far as the data comes in the same order.

    Args:
        methods: Methods, or what makes one of the module and the number of optimizer steps of the whole run (`Freezing`).
        steps: That number; None: the trainer's estimate. With manual optimization it has to be given if the module's `training_step`
            does not step once per batch.
        batchnorm: Batches of training data to re-estimate batch norm with; None: no re-estimation. The module's `forward` takes the
            first element of a batch.
        batchnorm_at: "validation": before each validation but the sanity check; "end": after training.
        batchnorm_batches: How many batches to use.

    Attributes:
        riders: The methods.

    Raises:
        PrepareError: If no method is given, or `batchnorm_at` is another one.
    """

    def __init__(
        self,
        *methods: Method | MethodMaker,
        steps: int | None = None,
        batchnorm: Iterable[Any] | None = None,
        batchnorm_at: str = "validation",
        batchnorm_batches: int = 50,
    ) -> None:
        if batchnorm_at not in MOMENTS:
            raise PrepareError(f"batchnorm_at is {batchnorm_at!r}; allowed: {', '.join(MOMENTS)}")
        self.riders = Riders(methods)
        self.steps = steps
        self.batchnorm = batchnorm
        self.batchnorm_at = batchnorm_at
        self.batchnorm_batches = batchnorm_batches
        self._divergence: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make and attach the methods.

        Raises:
            PrepareError: If the module has not exactly one optimizer, or the run no number of steps.
        """
        given = len(trainer.optimizers)
        if given != 1:
            raise PrepareError(f"the module has {given} optimizers, allowed: 1; join them: stillbit.JointOptimizer(of_weights, of_scales)")
        steps = trainer.estimated_stepping_batches if self.steps is None else self.steps
        self.riders.attach(pl_module, trainer.optimizers[0], steps)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the figures, with `batchnorm_divergence` where batch norm was re-estimated: its largest, by layer."""
        del trainer
        pl_module.log_dict({**self.riders.metrics(), **self._divergence})

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Re-estimates batch norm, if asked for at this moment and the validation is part of training."""
        if self.batchnorm_at == "validation" and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._divergence = reestimated(pl_module, self.batchnorm, self.batchnorm_batches)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Re-estimates batch norm, if asked for at this moment."""
        del trainer
        if self.batchnorm_at == "end":
            reestimated(pl_module, self.batchnorm, self.batchnorm_batches)

    def state_dict(self) -> dict[str, Any]:
        """Return the methods' states."""
        return self.riders.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the methods' states."""
        self.riders.load_state_dict(state_dict)
