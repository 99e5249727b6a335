import pytest
import torch
from torch import nn

from stillbit.errors import DataError
from stillbit.training.evaluate import evaluate


def batches(size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(23, 6, generator=generator), torch.randint(6, (23,), generator=generator)
    return list(zip(images.split(size), labels.split(size), strict=True))


def test_figures_of_known_logits() -> None:
    # Rows: the label has rank 1, 2, 5, 6 of 6; the model is the identity.
    logits = torch.tensor([[9.0, 1, 2, 3, 4, 5], [8.0, 9, 2, 3, 4, 5], [1.5, 1, 2, 3, 4, 5], [0.0, 1, 2, 3, 4, 5]])
    labels = torch.zeros(4, dtype=torch.int64)
    found = evaluate(nn.Identity(), [(logits, labels)], 6)
    assert (found.top1, found.top5, found.count) == (1 / 4, 3 / 4, 4)
    expected = nn.functional.cross_entropy(logits.double(), labels).item()
    assert found.loss == pytest.approx(expected, rel=1e-15)  # the order of three additions


def test_top5_with_fewer_classes_counts_all() -> None:
    found = evaluate(nn.Identity(), [(torch.eye(3), torch.tensor([1, 2, 0]))], 3)
    assert (found.top1, found.top5) == (0.0, 1.0)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_batch_size_does_not_matter(size: int) -> None:
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout())
    whole, split = evaluate(model, batches(23), 6), evaluate(model, batches(size), 6)
    assert (whole.top1, whole.top5, whole.count) == (split.top1, split.top5, split.count)
    assert whole.loss == pytest.approx(split.loss, rel=1e-14)  # the order of additions


def test_no_bit_and_no_mode_of_the_model_changes() -> None:
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 6))
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, batches(7), 6)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [module.training for module in model] == [True, False, True]


def test_the_model_is_evaluated_in_eval_mode() -> None:
    first, second = (evaluate(nn.Dropout(), batches(7), 6) for _ in range(2))
    assert first == second


def test_modes_return_after_an_error() -> None:
    model = nn.Linear(6, 5)
    with pytest.raises(DataError, match="model output: 5 values an image given, the data has 6 classes"):
        evaluate(model, batches(7), 6)
    assert model.training


def test_nothing_to_evaluate_is_an_error() -> None:
    with pytest.raises(DataError, match="0 images given"):
        evaluate(nn.Identity(), [], 6)
