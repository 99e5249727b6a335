"""Batch-norm re-estimation: running statistics from a clean pass over data (arXiv 2203.11086, section 3.2).

Oscillating weights corrupt the running statistics: their average belongs to no set of weights that the network ever had.
Re-estimation replaces it by the plain average over some batches of the weights as they are (docs/spec/cnn.md, 5).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stillbit.errors import DataError
from stillbit.numerics.all_reduce import sum_over_ranks
from stillbit.prepare.example import evaluation


class Statistics(NamedTuple):
    """What a batch norm normalizes by in evaluation.

    Attributes:
        mean: Shape (channels).
        var: Likewise.
    """

    mean: Tensor
    var: Tensor


class _Sums:
    """Sums of one layer's batch statistics, and what the layer had before."""

    def __init__(self, layer: _BatchNorm) -> None:
        self.layer = layer
        self.old = _copied(layer)
        self.mean, self.var = torch.zeros_like(self.old.mean), torch.zeros_like(self.old.var)
        self.calls = 0

    def add(self, *_: Any) -> None:
        """Add the statistics of the batch that the layer has just seen; a forward hook, at each call of a layer that is used twice."""
        self.calls += 1
        assert self.layer.running_mean is not None
        assert self.layer.running_var is not None
        self.mean += self.layer.running_mean
        self.var += self.layer.running_var

    def average(self, name: str, calls: float) -> Statistics:
        """Return the averages over all calls in all processes; what a layer had that only training calls, in an auxiliary head."""
        if not calls:
            return self.old
        mean, var = sum_over_ranks(self.mean) / calls, sum_over_ranks(self.var) / calls
        if not (mean.isfinite().all() and var.isfinite().all()):
            raise DataError(f"batch-norm re-estimation: the statistics of {name} are not finite; look for NaN in the images or weights")
        return Statistics(mean, var)


def batchnorm_statistics(model: nn.Module) -> dict[str, Statistics]:
    """Return copies of the running statistics of every batch norm that keeps some, by its name."""
    return {name: _copied(layer) for name, layer in _layers(model).items()}


def estimate_batchnorm(model: nn.Module, loader: Iterable[Any], *, batches: int = 50) -> dict[str, Statistics]:
    """Return what `reestimate_batchnorm` would write, and leave the model as it is."""
    sums = {name: _Sums(layer) for name, layer in _layers(model).items()}
    reference = next(model.parameters())
    seen = 0
    try:
        with evaluation(model), _batch_statistics(sums):
            for _, batch in zip(range(batches), loader, strict=False):
                model(model_input(batch, reference))
                seen += 1
        counts = torch.tensor([float(seen), *(float(one.calls) for one in sums.values())], device=reference.device)
        batches_seen, *calls = sum_over_ranks(counts).tolist()
        if not batches_seen:
            raise DataError("batch-norm re-estimation got a loader without a batch; give it at least one")
        return {name: one.average(name, count) for (name, one), count in zip(sums.items(), calls, strict=True)}
    finally:
        for one in sums.values():
            _write(one.layer, one.old)


def reestimate_batchnorm(model: nn.Module, loader: Iterable[Any], *, batches: int = 50) -> dict[str, float]:
    """Replace the running statistics of every batch norm by plain averages over batches, in place.

    Quantizers, pins and everything else act as in evaluation; each batch norm normalises with the batch's own statistics, so deeper
    layers see batch-normalised inputs. Running variances average the unbiased batch variances. A batch norm that evaluation calls twice
    per pass averages over its calls; one that evaluation never calls keeps what it has.

    Args:
        model: Any model.
        loader: Gives `(input, ...)` batches, training data; more is not read than needed. In several processes each reads its own,
            and all get the averages over all.
        batches: How many batches to average over; fewer where the loader ends earlier.

    Returns:
        For each batch norm the KL divergence KL(new || old) of its statistics, channels as Gaussians, mean over channels: how wrong
        the old ones were.

    Raises:
        DataError: For a loader without a batch, or statistics that are not finite; all stay as they were then.
    """
    estimated = estimate_batchnorm(model, loader, batches=batches)
    divergences = batchnorm_divergences(batchnorm_statistics(model), estimated)
    for name, layer in _layers(model).items():
        _write(layer, estimated[name])
    return divergences


def batchnorm_divergences(old: Mapping[str, Statistics], new: Mapping[str, Statistics]) -> dict[str, float]:
    """Return by layer the KL divergence KL(new || old) in nats, channels as Gaussians, mean over channels."""
    return {name: gaussian_divergence(*old[name], *new[name]) for name in new}


def gaussian_divergence(old_mean: Tensor, old_var: Tensor, new_mean: Tensor, new_var: Tensor, smallest: float = 1e-12) -> float:
    """Return KL(new || old) between Gaussians, mean over channels."""
    old, new = old_var.double().clamp(min=smallest), new_var.double().clamp(min=smallest)
    distance = (new_mean.double() - old_mean.double()) ** 2
    return float((0.5 * (torch.log(old / new) + (new + distance) / old - 1.0)).mean())


def model_input(batch: Any, like: Tensor) -> Any:
    """Return the model's input out of a batch `(input, ...)` or `{"image": input, ...}`, on the device and in the dtype of `like`."""
    x = batch
    if isinstance(batch, list | tuple):
        x = batch[0]
    elif isinstance(batch, Mapping):
        x = next(iter(batch.values()))
    if not isinstance(x, Tensor):
        return x
    return x.to(device=like.device, dtype=like.dtype if x.is_floating_point() else None)


def _layers(model: nn.Module) -> dict[str, _BatchNorm]:
    return {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats}


def _copied(layer: _BatchNorm) -> Statistics:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return Statistics(layer.running_mean.clone(), layer.running_var.clone())


def _write(layer: _BatchNorm, statistics: Statistics) -> None:
    """Set a layer's running statistics, in place."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(statistics.mean)
    layer.running_var.copy_(statistics.var)


@contextmanager
def _batch_statistics(sums: dict[str, _Sums]) -> Iterator[None]:
    """Let each layer normalise by its batch and keep that batch's statistics: its own training flag on, momentum 1."""
    settings = [(one.layer, one.layer.momentum, one.layer.num_batches_tracked) for one in sums.values()]
    handles = [one.layer.register_forward_hook(one.add) for one in sums.values()]
    for layer, _, tracked in settings:
        layer.training, layer.momentum = True, 1.0
        layer.num_batches_tracked = None if tracked is None else tracked.clone()
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer, momentum, tracked in settings:
            layer.momentum, layer.num_batches_tracked = momentum, tracked
