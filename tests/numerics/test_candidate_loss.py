import pytest
import torch
from torch import Tensor

from stillbit.numerics.candidate_loss import candidate_grids, candidate_losses, published_loss
from stillbit.numerics.fast import settings
from stillbit.quantizers import FixedRange

RANGES = {
    "signed": (True, -torch.linspace(0.1, 3.0, 20), torch.linspace(0.1, 3.0, 20)),
    "unsigned": (True, torch.zeros(20), torch.linspace(0.1, 3.0, 20)),
    "asymmetric": (False, -torch.linspace(0.05, 1.0, 20), torch.linspace(0.1, 3.0, 20)),
}
# Only the order of float64 sums differs.
ORDER = 1e-12


def losses_of_quantizers(rows: Tensor, x_min: Tensor, x_max: Tensor, *, symmetric: bool, bits: int) -> Tensor:
    losses = []
    for low, high in zip(x_min, x_max, strict=True):
        quantizer = FixedRange(bits, symmetric=symmetric)
        quantizer.set_range(low, high)
        losses.append((rows - quantizer(rows)).square().double().sum(1))
    return torch.stack(losses)


@pytest.mark.parametrize("shape", [(1, 1), (1, 1000), (9, 20), (5, 130)], ids=lambda shape: f"{shape[0]}x{shape[1]}")
@pytest.mark.parametrize("bits", [2, 4, 8], ids=lambda bits: f"w{bits}")
@pytest.mark.parametrize("ranges", RANGES)
def test_each_loss_is_that_of_a_quantizer_with_this_range(
    ranges: str, bits: int, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    symmetric, x_min, x_max = RANGES[ranges]
    monkeypatch.setattr(settings, "search_chunk", 64)  # so that rows and whole tensors are cut, with a rest
    monkeypatch.setattr(settings, "compile", False)
    rows = torch.randn(shape)
    losses = candidate_losses(rows, candidate_grids(x_min, x_max, symmetric=symmetric, bits=bits))
    expected = losses_of_quantizers(rows, x_min, x_max, symmetric=symmetric, bits=bits)
    torch.testing.assert_close(losses, expected, rtol=ORDER, atol=0.0)


@pytest.mark.parametrize("ranges", RANGES)
@pytest.mark.parametrize("shape", [(1, 70_000), (6, 300)], ids=["tensor", "channels"])
def test_compiled_and_eager_twin_agree(shape: tuple[int, int], ranges: str, monkeypatch: pytest.MonkeyPatch) -> None:
    symmetric, x_min, x_max = RANGES[ranges]
    grids = candidate_grids(x_min, x_max, symmetric=symmetric, bits=4)
    rows = torch.randn(shape)
    compiled = candidate_losses(rows, grids)
    assert settings.compile
    monkeypatch.setattr(settings, "compile", False)
    eager = candidate_losses(rows, grids)
    torch.testing.assert_close(compiled, eager, rtol=ORDER, atol=0.0)
    assert torch.equal(compiled.argmin(0), eager.argmin(0))


def test_a_tiny_range_keeps_the_scale_at_the_floor_of_the_quantizers() -> None:
    grids = candidate_grids(torch.zeros(1), torch.zeros(1), symmetric=True, bits=8)
    assert grids.scale.item() == pytest.approx(1e-8)


def test_published_loss_sums_in_float32_within_the_first_axis() -> None:
    grids = candidate_grids(torch.tensor([-1.0]), torch.tensor([1.0]), symmetric=True, bits=3)
    x = torch.randn(64, 64) * torch.logspace(0, 3, 64)[:, None]  # sums in another order round to another number
    quantizer = FixedRange(3)
    quantizer.set_range(torch.tensor(-1.0), torch.tensor(1.0))
    errors = (x - quantizer(x)).square()
    assert published_loss(x, grids).dtype == torch.float32
    assert published_loss(x, grids) == errors.sum(1).sum()
    assert published_loss(x, grids) != errors.sum(0).sum()
