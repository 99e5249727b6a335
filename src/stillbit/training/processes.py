"""Devices, processes and precision: where a run takes place, and what its ranks have to agree on."""

import warnings
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from stillbit.training.config import TrainingConfig

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def start_processes(config: TrainingConfig) -> Accelerator:
    """Join the processes that torchrun started, or be the only one. May be called again.

    Args:
        config: Says whether an accelerator may be used.

    Returns:
        Hugging Face's Accelerator: device, rank, collectives, and the wrapper of the model. Precision is not its part,
        because it would patch the model's forward and allow one precision a process.
    """
    return Accelerator(
        mixed_precision="no",
        # Without this, Accelerate takes torchrun's processes on a machine without accelerator for single ones.
        cpu=config.device == "cpu" or not torch.accelerator.is_available(),
        # Codes and pins follow from equal weights, so no buffer has to be sent in every forward pass.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def place(model: nn.Module, config: TrainingConfig) -> torch.device:
    """Move a model to where it will be trained. Call it before methods are built: their state follows the weights.

    Args:
        model: Moved in place.
        config: Device, precision and memory format.

    Returns:
        The device.
    """
    device: torch.device = start_processes(config).device
    model.to(device, training_dtype(config))
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    return device


def wrap(model: nn.Module, processes: Accelerator) -> nn.Module:
    """Give the model as several processes train it.

    Args:
        model: Already placed.
        processes: Joins the ranks.

    Returns:
        Torch's DistributedDataParallel round the model, or the model itself where there is one process.
    """
    with warnings.catch_warnings():
        # Its successor, forward_sync_buffers, exists neither in torch 2.9 nor in Accelerate.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*is deprecated", category=FutureWarning)
        return cast(nn.Module, processes.prepare_model(model))


def training_dtype(config: TrainingConfig) -> torch.dtype:
    """Return the type of weights and images; autocast keeps float32 weights."""
    return torch.float64 if config.precision == "fp64" else torch.float32


def memory_format(config: TrainingConfig) -> torch.memory_format:
    """Return the layout of convolution weights and images."""
    return torch.channels_last if config.channels_last else torch.contiguous_format


def autocast(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """Return the context of a forward pass; it does nothing for fp32 and fp64."""
    lower = _AUTOCAST.get(config.precision)
    return torch.autocast(device.type, lower or torch.bfloat16, enabled=lower is not None)


@torch.no_grad()
def average_batchnorm(model: nn.Module, accelerator: Accelerator) -> None:
    """Replace running statistics by their mean over all ranks, each of which saw other images.

    Args:
        model: Its buffers `running_mean` and `running_var` are averaged.
        accelerator: Joins the ranks.
    """
    if accelerator.num_processes == 1:
        return
    for name, buffer in model.named_buffers():
        if name.rpartition(".")[2] in ("running_mean", "running_var"):
            buffer.copy_(accelerator.reduce(buffer, reduction="mean"))
