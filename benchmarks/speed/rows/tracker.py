"""Bytes that freezing keeps per tracked weight, with pins: in memory, and in a checkpoint."""

import gc
import types
from collections.abc import Iterator

import torch
from torch import Tensor, nn

import stillbit as sb
from benchmarks.speed import networks
from benchmarks.speed.findings import BYTES, Figure, Findings
from benchmarks.speed.networks import Training
from benchmarks.speed.settings import Settings

_NO_STATE = (nn.Module, torch.optim.Optimizer, type, types.ModuleType, types.FunctionType, types.MethodType)


def measure(settings: Settings) -> Findings:
    """Take some steps with freezing, then count."""
    training = Training(networks.cnn(settings), settings.images(settings.cnn_batch))
    method = sb.Freezing(training.model, threshold=0.1)
    method.attach(training.optimizer)
    for _ in range(3):
        training.step()
    tracked = [site for site in sb.weight_sites(training.model) if site.quantizer.pins is not None]
    weights = sum(site.latent().numel() for site in tracked)
    pins = [site.quantizer.pins for site in tracked if site.quantizer.pins is not None]
    network = {tensor.untyped_storage().data_ptr() for tensor in training.model.state_dict().values()}
    kept = [tensor for tensor in tensors_behind(method) if tensor.untyped_storage().data_ptr() not in network]
    saved = [tensor for tensor in tensors_behind(method.state_dict()) if tensor.untyped_storage().data_ptr() not in network]
    return Findings(
        figures=[
            Figure.of("in memory, bytes a tracked weight", [num_bytes(kept + pins) / weights], unit=BYTES, target=12),
            Figure.of("in a checkpoint, bytes a tracked weight", [num_bytes(saved + pins) / weights], unit=BYTES),
        ],
        sizes={"model": settings.cnn, "tracked_weights": weights},
    )


def num_bytes(tensors: list[Tensor]) -> int:
    """Return the bytes of the tensors' storages, each storage once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def tensors_behind(start: object) -> Iterator[Tensor]:
    """Return all tensors that an object holds, however deep, except inside networks, optimizers and code."""
    seen: set[int] = set()
    waiting = [start]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, _NO_STATE):
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            yield one
        else:
            waiting.extend(gc.get_referents(one))
