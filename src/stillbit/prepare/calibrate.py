"""calibrate: gives each quantizer its range, from data, in the order of the forward pass (docs/spec/cnn.md, 7.3, step 2)."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stillbit.errors import DataError, PrepareError
from stillbit.numerics.all_reduce import minimum_over_ranks
from stillbit.numerics.ranges import RangeEstimator
from stillbit.prepare.batchnorm import model_input
from stillbit.prepare.example import evaluation, watched
from stillbit.quantizers.base import Quantizer
from stillbit.quantizers.site import weight_sites


def calibrate(model: nn.Module, loader: Iterable[Any], *, batches: int = 1) -> None:
    """Find every quantizer's range, in place, from one forward pass a batch.

    The model runs in evaluation mode, without gradients. Each quantizer fits its range to the tensor that reaches it and quantizes
    this same tensor at once, so that deeper layers see quantized inputs. Activation ranges take in every batch, by the rule of the
    quantizer's `range_config`; weights are seen once. Nothing else changes: neither batch-norm statistics nor training modes. If a
    batch is refused, no range changes at all.

    In several processes each reads its own batches and all get the same ranges; the passes end with the shortest loader.

    Args:
        model: A prepared model. A quantizer that is called twice in a pass (a tied one) fits its range at the first call.
        loader: Gives `(input, ...)` batches, training data; more is not read than needed.
        batches: How many batches to use, at least 1; fewer where the loader ends earlier.

    Raises:
        DataError: For a loader without a batch, or a batch that is not finite, in the input or further on.
        PrepareError: For a model without quantizers, or a quantizer that no batch reaches.
    """
    quantizers = {name: module for name, module in model.named_modules() if isinstance(module, Quantizer)}
    if not quantizers:
        raise PrepareError("the model has no quantizer to calibrate; prepare it first")
    if batches < 1:
        raise DataError(f"calibration was asked for {batches} batches; it needs at least 1")
    ranges = _RangeFitting(model, quantizers)
    reference = next(model.parameters())
    with _all_or_nothing(quantizers), evaluation(model), watched(dict(quantizers), ranges.fit):
        for batch in _common_batches(loader, batches, reference):
            ranges.begin_batch()
            x = model_input(batch, reference)
            if isinstance(x, Tensor) and not _everywhere(bool(x.isfinite().all()), reference):
                raise DataError(f"calibration batch {ranges.batch} is not finite: the model's input holds NaN or infinity")
            model(x)
        ranges.check_complete()


class _RangeFitting:
    """Which quantizer has seen what. Batches count from 1."""

    def __init__(self, model: nn.Module, quantizers: dict[str, Quantizer]) -> None:
        self.batch = 0
        self._quantizers = quantizers
        self._estimators: dict[str, RangeEstimator] = {}
        self._of_weights = {id(site.quantizer) for site in weight_sites(model)}
        self._fitted_in: dict[str, int] = {}

    def begin_batch(self) -> None:
        """Let each quantizer fit its range once more."""
        self.batch += 1

    def fit(self, name: str, inputs: tuple[Any, ...]) -> None:
        """Fit the range of one quantizer to the tensor that it is about to quantize."""
        quantizer = self._quantizers[name]
        seen_in = self._fitted_in.get(name)
        if seen_in == self.batch or (seen_in is not None and id(quantizer) in self._of_weights):
            return
        self._fitted_in[name] = self.batch
        if not quantizer.needs_range:
            return
        if name not in self._estimators:
            self._estimators[name] = _estimator(quantizer)
        try:
            quantizer.set_range(*self._estimators[name].update(_along_one_axis(quantizer.latent(*inputs[:2]), quantizer)))
        except DataError as error:
            raise DataError(f"calibration batch {self.batch} cannot be used at quantizer {name}: {error}") from error

    def check_complete(self) -> None:
        """Refuse a pass without a batch, and one that missed a quantizer."""
        if self.batch == 0:
            raise DataError("calibration got a loader without a batch; give it at least one")
        missed = [name for name in self._quantizers if name not in self._fitted_in]
        if missed:
            raise PrepareError(f"calibration never reached {', '.join(missed)}; give batches that use them, or an override")


def _estimator(quantizer: Quantizer) -> RangeEstimator:
    axes = _scale_axes(quantizer)
    channel_axis = axes[0] if axes else None
    return quantizer.range_config.build(symmetric=quantizer.symmetric, bits=quantizer.bits, channel_axis=channel_axis)


def _along_one_axis(x: Tensor, quantizer: Quantizer) -> Tensor:
    """Join the neighbouring axes that the scales vary along, e.g. a scale per token and head, into one; estimators know no more."""
    axes = _scale_axes(quantizer)
    return x.flatten(axes[0], axes[-1]) if len(axes) > 1 else x


def _scale_axes(quantizer: Quantizer) -> list[int]:
    return [axis for axis, size in enumerate(quantizer.scale_shape) if size != 1]


def _common_batches(loader: Iterable[Any], batches: int, like: Tensor) -> Iterator[Any]:
    """Return batches as long as every rank has one: the estimators' reductions wait for all."""
    own = iter(loader)
    for _ in range(batches):
        batch = next(own, None)
        if not _everywhere(batch is not None, like):
            return
        yield batch


def _everywhere(condition: bool, like: Tensor) -> bool:
    """Whether a condition holds on all ranks."""
    return bool(minimum_over_ranks(torch.tensor(float(condition), device=like.device)))


@contextmanager
def _all_or_nothing(quantizers: dict[str, Quantizer]) -> Iterator[None]:
    """Put all quantizers back as they were if calibration fails."""
    before = {name: {key: value.clone() for key, value in q.state_dict().items()} for name, q in quantizers.items()}
    try:
        yield
    except BaseException:
        for name, state in before.items():
            quantizers[name].load_state_dict(state)
        raise
