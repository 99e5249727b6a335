"""Where a run takes place: processes, device and number formats, found out once per process and handed on."""

import atexit
import warnings
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast, final

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import Tensor, distributed, nn

from stillbit.errors import Interrupted
from stillbit.training.config import TrainingConfig

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@final
@dataclass(frozen=True)
class Session:
    """One process of a run; after `with Session.start(...)` it leaves the others in peace when it ends.

    Attributes:
        device: Where models and batches go.
        dtype: Type of weights and images; autocast keeps float32 weights.
        memory_format: Layout of convolution weights and images.
        autocast_dtype: Type that forward passes are cast to; None casts nothing.
        rank: The number of this process, from 0.
        world: The number of processes.
        accelerator: Joins the processes that torchrun started; None where there is no other.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.contiguous_format
    autocast_dtype: torch.dtype | None = None
    rank: int = 0
    world: int = 1
    accelerator: Accelerator | None = None

    @classmethod
    def start(cls, config: TrainingConfig) -> "Session":
        """Join the processes that torchrun started, or be the only one.

        Args:
            config: Device, precision and memory format.
        """
        # Precision is not Accelerate's part: it would patch the model's forward and allow one precision per process.
        accelerator = Accelerator(
            mixed_precision="no",
            # Without this, Accelerate takes torchrun's processes on a machine without accelerator for single ones.
            cpu=config.device == "cpu" or not torch.accelerator.is_available(),
            # Codes and pins follow from equal weights, so no buffer has to be sent in every forward pass.
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
        return cls(
            accelerator.device,
            torch.float64 if config.precision == "fp64" else torch.float32,
            torch.channels_last if config.channels_last else torch.contiguous_format,
            _AUTOCAST.get(config.precision),
            accelerator.process_index,
            accelerator.num_processes,
            accelerator if accelerator.num_processes > 1 else None,
        )

    def __enter__(self) -> Self:
        """Return the session."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Let the process leave the group before the interpreter is torn down, where torch's threads would abort it (pytorch#190489).

        A process that failed just ends: leaving may wait for the others, who wait for it.
        """
        if self.accelerator is not None and (kind is None or issubclass(kind, Interrupted)):
            atexit.register(_leave_group)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def place(self, model: nn.Module) -> None:
        """Move a model, in place. Call it before methods are built: their state follows the weights."""
        model.to(self.device, self.dtype)
        if self.memory_format is torch.channels_last:
            model.to(memory_format=torch.channels_last)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return a placed model as several processes train it, in torch's DistributedDataParallel; one process trains the model itself."""
        if self.accelerator is None:
            return model
        with warnings.catch_warnings():
            # Its successor, forward_sync_buffers, exists neither in torch 2.9 nor in Accelerate.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*is deprecated", category=FutureWarning)
            return cast(nn.Module, self.accelerator.prepare_model(model))

    def autocast(self) -> torch.autocast:
        """Return the context of a forward pass."""
        wanted = self.autocast_dtype
        return torch.autocast(self.device.type, wanted or torch.bfloat16, enabled=wanted is not None)

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """Return the sum of all processes' tensors."""
        return values if self.accelerator is None else cast(Tensor, self.accelerator.reduce(values, reduction="sum"))

    def gather(self, items: list[tuple[str, int]]) -> list[tuple[str, int]]:
        """Return all processes' items, in the order of ranks."""
        return items if self.accelerator is None else cast(list[tuple[str, int]], gather_object(items))

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()

    @torch.no_grad()
    def average_batchnorm(self, model: nn.Module) -> None:
        """Replace running statistics by their mean over all ranks, each of which saw other images."""
        if self.accelerator is None:
            return
        for name, buffer in model.named_buffers():
            if name.rpartition(".")[2] in ("running_mean", "running_var"):
                buffer.copy_(self.accelerator.reduce(buffer, reduction="mean"))


def _leave_group() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


LOCAL = Session(torch.device("cpu"))
