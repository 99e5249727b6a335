import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillbit.errors import DataError
from stillbit.oscillation import Tracking
from stillbit.prepare import reestimate_batchnorm
from stillbit.prepare.batchnorm import (
    batchnorm_divergences,
    batchnorm_statistics,
    estimate_batchnorm,
    gaussian_divergence,
    model_input,
)
from tests.prepare.networks import calibrated, image, small_mobilenet

# Two batches of 2 images of 1 channel and 1 x 2 pixels: means 2.5 and 5, unbiased variances 5 / 3 and 20 / 3.
FIRST = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(2, 1, 1, 2)
BATCHES = [(FIRST, None), (2 * FIRST, None)]


def norm() -> nn.Module:
    layer = nn.BatchNorm2d(1, momentum=0.3)
    layer.running_mean.fill_(7.0)
    layer.running_var.fill_(9.0)
    layer.num_batches_tracked.fill_(11)
    return nn.Sequential(layer)


def statistics(model: nn.Module) -> tuple[float, float]:
    return model[0].running_mean.item(), model[0].running_var.item()


def test_statistics_are_plain_averages_of_unbiased_batch_statistics() -> None:
    model = norm()
    divergence = reestimate_batchnorm(model, BATCHES)
    assert statistics(model) == pytest.approx((3.75, 25 / 6), rel=1e-6)  # sums in float32
    expected = 0.5 * (math.log(9 / (25 / 6)) + (25 / 6 + (3.75 - 7) ** 2) / 9 - 1)
    assert divergence == {"0": pytest.approx(expected, rel=1e-6)}


def test_an_estimate_is_what_would_be_written_and_is_not() -> None:
    model, written = norm(), norm()
    mean = model[0].running_mean
    estimated = estimate_batchnorm(model, BATCHES)
    assert statistics(model) == (7.0, 9.0)
    assert model[0].running_mean is mean
    before = batchnorm_statistics(written)
    divergence = reestimate_batchnorm(written, BATCHES)
    assert (estimated["0"].mean.item(), estimated["0"].var.item()) == statistics(written)
    assert batchnorm_divergences(before, estimated) == divergence
    assert batchnorm_divergences(estimated, before) != divergence


def test_no_more_batches_than_asked_are_read() -> None:
    read = []

    def loader() -> Iterator[tuple[Tensor, None]]:
        for index in range(5):
            read.append(index)
            yield FIRST, None

    model = norm()
    reestimate_batchnorm(model, loader(), batches=2)
    assert len(read) == 2
    assert statistics(model) == pytest.approx((2.5, 5 / 3), rel=1e-6)


def test_deeper_statistics_see_batch_normalised_inputs() -> None:
    model = nn.Sequential(*norm(), nn.BatchNorm2d(1))
    reestimate_batchnorm(model, BATCHES[:1])
    assert abs(model[1].running_mean.item()) < 1e-6  # rounding of float32 alone
    assert model[1].running_var.item() == pytest.approx(4 / 3, rel=1e-4)  # eps


@pytest.mark.parametrize("training", [True, False])
def test_everything_else_is_restored(training: bool) -> None:
    model = nn.Sequential(*norm(), nn.Dropout(0.9)).train(training)
    mean, tracked = model[0].running_mean, model[0].num_batches_tracked
    reestimate_batchnorm(model, BATCHES)
    assert (model.training, model[0].training, model[0].momentum) == (training, training, 0.3)
    assert model[0].running_mean is mean
    assert model[0].num_batches_tracked is tracked
    assert tracked.item() == 11
    assert not model[0]._forward_hooks


def test_dropout_stays_off() -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(1))
    reestimate_batchnorm(model, BATCHES[:1])
    assert model[1].running_mean.item() == 2.5


def broken(error: bool) -> Iterator[Any]:
    yield FIRST, None
    if error:
        raise OSError("disk")
    yield FIRST * math.nan, None


@pytest.mark.parametrize(
    ("loader", "kind", "message"),
    [
        pytest.param(lambda: [], DataError, "^batch-norm re-estimation got a loader without a batch; give it at least one$", id="empty"),
        pytest.param(lambda: broken(error=True), OSError, "^disk$", id="disk"),
        pytest.param(
            lambda: broken(error=False), DataError, "^batch-norm re-estimation: the statistics of 0 are not finite; look for NaN", id="nan"
        ),
    ],
)
def test_an_error_leaves_statistics_as_they_were(loader: Any, kind: type[Exception], message: str) -> None:
    model = norm()
    mean = model[0].running_mean
    with pytest.raises(kind, match=message):
        reestimate_batchnorm(model, loader())
    assert statistics(model) == (7.0, 9.0)
    assert model[0].running_mean is mean
    assert (model[0].momentum, model[0].num_batches_tracked.item(), model[0].training) == (0.3, 11, True)


def test_layers_without_running_statistics_are_left() -> None:
    model = nn.Sequential(*norm(), nn.BatchNorm2d(1, track_running_stats=False))
    assert list(reestimate_batchnorm(model, BATCHES)) == ["0"]


def test_quantizers_and_trackers_stay_as_they_are() -> None:
    model = calibrated(small_mobilenet(), policy="all")
    tracking = Tracking(model)
    before = {key: value.clone() for key, value in model.state_dict().items() if "running" not in key}
    step = tracking.step
    reestimate_batchnorm(model, [(image(batch=4),)])
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert tracking.step == step


def test_divergence_is_that_of_gaussians() -> None:
    def normal(mean: float, var: float) -> torch.distributions.Normal:
        return torch.distributions.Normal(torch.tensor(mean).double(), torch.tensor(var).double().sqrt())

    old_mean, old_var, new_mean, new_var = (torch.tensor(values) for values in ([0.0, 2.0], [1.0, 4.0], [1.0, 2.0], [2.0, 3.0]))
    expected = [
        torch.distributions.kl_divergence(normal(1.0, 2.0), normal(0.0, 1.0)),
        torch.distributions.kl_divergence(normal(2.0, 3.0), normal(2.0, 4.0)),
    ]
    assert gaussian_divergence(old_mean, old_var, new_mean, new_var) == pytest.approx(float(sum(expected) / 2), rel=1e-12)


@pytest.mark.parametrize("batch", [(FIRST, 3), [FIRST], {"image": FIRST, "label": 3}, FIRST], ids=["tuple", "list", "dict", "tensor"])
def test_model_input_takes_every_kind_of_batch(batch: Any) -> None:
    x = model_input(batch, torch.zeros(1, dtype=torch.float64))
    assert x.dtype == torch.float64
    assert torch.equal(x, FIRST.double())


def test_model_input_leaves_integers() -> None:
    assert model_input((torch.tensor([1, 2]),), torch.zeros(1)).dtype == torch.int64


class UsedOften(nn.Module):
    """A norm per pass: called `calls` times, each time with twice the input before."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.norm, self.auxiliary, self.calls = norm()[0], norm()[0], calls

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.auxiliary(x)
        return torch.stack([self.norm(2.0**call * x) for call in range(self.calls)])


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_norm_that_is_called_often_averages_over_its_calls(calls: int) -> None:
    model = UsedOften(calls)
    reestimate_batchnorm(model, BATCHES)
    scales = [2.0**call for call in range(calls)]
    assert model.norm.running_mean.item() == pytest.approx(3.75 * sum(scales) / calls, rel=1e-6)  # sums in float32
    assert model.norm.running_var.item() == pytest.approx(25 / 6 * sum(scale**2 for scale in scales) / calls, rel=1e-6)


def test_a_norm_that_only_training_calls_keeps_its_statistics() -> None:
    model = UsedOften(1)
    divergences = reestimate_batchnorm(model, BATCHES)
    assert (model.auxiliary.running_mean.item(), model.auxiliary.running_var.item()) == (7.0, 9.0)
    assert divergences["auxiliary"] == 0.0
