"""Oscillation methods in the Trainer of Hugging Face's transformers: one callback.

    trainer = transformers.Trainer(model, args, optimizers=(optimizer, None), callbacks=[StillbitCallback(Freezing)])

The optimizer is built after `prepare`, and given to the trainer: its own has no group for scales.
"""

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any, final

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from stillbit.errors import CheckpointError
from stillbit.files import write_whole
from stillbit.integrations.riding import MethodMaker, Riders, reestimated
from stillbit.oscillation import Method

FILE_NAME = "stillbit.pt"


@final
class StillbitCallback(TrainerCallback):  # type: ignore[misc]  # mypy does not follow the library
    """Attaches methods when training begins, logs their figures, and saves their state into the trainer's checkpoints.

    A resumed run (`trainer.train(resume_from_checkpoint=...)`) goes on bit for bit. The figures reach `log_history` and the callbacks
    that come after this one in the trainer's list.

    Args:
        methods: Methods, or what makes one of the model and the number of optimizer steps of the whole run (`Freezing`).
        resume_from: The checkpoint folder that `train` is told to resume from, where it is not one of `output_dir`.
        batchnorm: Batches of training data to re-estimate batch norm with before each evaluation; None: no re-estimation. The first
            element of a batch is the model's input.
        batchnorm_batches: How many batches to use.

    Attributes:
        riders: The methods.

    Raises:
        PrepareError: If no method is given.
    """

    def __init__(
        self,
        *methods: Method | MethodMaker,
        resume_from: Path | str | None = None,
        batchnorm: Iterable[Any] | None = None,
        batchnorm_batches: int = 50,
    ) -> None:
        self.riders = Riders(methods)
        self.resume_from = None if resume_from is None else Path(resume_from)
        self.batchnorm = batchnorm
        self.batchnorm_batches = batchnorm_batches
        self._divergence: dict[str, float] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: nn.Module, optimizer: Any, **others: Any
    ) -> None:
        """Make and attach the methods, and take up their state where the run is resumed.

        Raises:
            PrepareError: If the optimizer cannot be ridden on.
            CheckpointError: If the checkpoint holds no state of these methods, or that of another run.
        """
        del control, others
        if state.global_step:
            self.riders.load_state_dict(_read(self.resume_from or _folder(args, state), state))
        self.riders.attach(model, optimizer, state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: nn.Module, **others: Any
    ) -> None:
        """Re-estimates batch norm, if asked for and an evaluation is next."""
        del args, state, others
        if control.should_evaluate:
            self._divergence = reestimated(model, self.batchnorm, self.batchnorm_batches)

    on_epoch_end = on_step_end

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **others: Any,
    ) -> None:
        """Add the figures to what is logged of training, with `batchnorm_divergence` where batch norm was re-estimated."""
        del args, control, others
        if logs is None or "loss" not in logs:
            return
        figures = {**self.riders.metrics(), **self._divergence}
        logs.update(figures)
        state.log_history[-1].update(figures)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Write the methods' states next to the trainer's own, whole or not at all."""
        del control, others
        if args.save_only_model or not state.is_world_process_zero:
            return
        content = BytesIO()
        torch.save({"log_history": state.log_history, **self.riders.state_dict()}, content)
        write_whole(_folder(args, state) / FILE_NAME, content.getvalue(), kind=CheckpointError)


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def _read(folder: Path, state: TrainerState) -> dict[str, Any]:
    path = folder / FILE_NAME
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {FILE_NAME}; allowed: a checkpoint saved with this callback, or resume_from=")
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if saved.pop("log_history") != state.log_history:
        raise CheckpointError(f"{path} belongs to another run than the one resumed; say resume_from= as you say it to the trainer")
    return saved
