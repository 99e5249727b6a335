import numpy as np
import pytest
import torch

from stillbit.numerics.minmax import CurrentMinMax, RunningMinMax


def test_current_forgets_earlier_batches() -> None:
    estimator = CurrentMinMax()
    estimator.update(torch.tensor([-9.0, 9.0]))
    assert estimator.update(torch.tensor([-1.0, 2.0])) == (torch.tensor([-1.0]), torch.tensor([2.0]))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_current_by_channel(axis: int) -> None:
    x = torch.randn(3, 4, 5)
    others = tuple(other for other in range(3) if other != axis)
    x_min, x_max = CurrentMinMax(channel_axis=axis).update(x)
    assert torch.equal(x_min, x.amin(others))
    assert torch.equal(x_max, x.amax(others))


@pytest.mark.parametrize("channel_axis", [None, 1], ids=["tensor", "channels"])
def test_percentiles_are_linear_and_symmetric(channel_axis: int | None) -> None:
    x = torch.randn(50, 7)
    x_min, x_max = CurrentMinMax(percentile=2.5, channel_axis=channel_axis).update(x)
    expected = np.percentile(x.numpy(), (2.5, 97.5), axis=None if channel_axis is None else 0)
    assert np.array_equal(x_min.numpy(), np.float32(expected[0]).reshape(-1))
    assert np.array_equal(x_max.numpy(), np.float32(expected[1]).reshape(-1))


def test_running_starts_at_the_first_batch_and_averages_on() -> None:
    estimator = RunningMinMax(momentum=0.75)
    assert estimator.update(torch.tensor([-4.0, 8.0])) == (torch.tensor([-4.0]), torch.tensor([8.0]))
    assert estimator.update(torch.tensor([0.0, 4.0])) == (torch.tensor([-3.0]), torch.tensor([7.0]))
    assert estimator.update(torch.tensor([1.0, 3.0])) == (torch.tensor([-2.0]), torch.tensor([6.0]))


def test_running_by_channel() -> None:
    estimator = RunningMinMax(momentum=0.5, channel_axis=0)
    estimator.update(torch.tensor([[-1.0, 1.0], [0.0, 4.0]]))
    x_min, x_max = estimator.update(torch.tensor([[-3.0, 3.0], [2.0, 2.0]]))
    assert torch.equal(x_min, torch.tensor([-2.0, 1.0]))
    assert torch.equal(x_max, torch.tensor([2.0, 3.0]))
