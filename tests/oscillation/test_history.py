import pytest
import torch

from stillbit.numerics import kernels
from stillbit.oscillation.history import History

SIGNED_3_BITS = (-4, 3)


def histories(*codes: float, momentum: float = 0.5) -> History:
    history = History.starting_at(torch.tensor([codes[0]]), SIGNED_3_BITS)
    for code in codes[1:]:
        history.update(torch.tensor([code]), momentum)
    return history


@pytest.mark.parametrize(
    ("codes", "total", "direction"),
    [
        pytest.param((0.0, 0.0, 0.0), 0, 0, id="still"),
        pytest.param((0.0, 1.0, 2.0, 3.0), 0, -1, id="drift-up"),
        pytest.param((0.0, -1.0), 0, 1, id="one-switch-down"),
        pytest.param((0.0, 1.0, 0.0), 1, 1, id="there-and-back"),
        pytest.param((0.0, 1.0, 1.0, 1.0, 0.0), 1, 1, id="back-after-a-pause"),
        pytest.param((-4.0, 3.0, -4.0, 3.0), 2, -1, id="jumps-count-like-one"),
        pytest.param((0.0, 1.0, 2.0, 1.0, 2.0), 2, -1, id="drift-then-oscillation"),
    ],
)
def test_an_oscillation_is_a_switch_against_the_last_switch(codes: tuple[float, ...], total: int, direction: int) -> None:
    history = histories(*codes)
    assert history.total.item() == total
    assert history.direction.item() == direction
    assert history.previous.item() == codes[-1]


def test_frequency_is_a_moving_average_that_every_step_moves() -> None:
    assert histories(0.0, 1.0, 0.0, 0.0, momentum=0.25).frequency.item() == 0.25 * 0.75


def test_average_code_rounds_the_product_first() -> None:
    history = histories(0.0)
    codes, momentum = torch.arange(64.0) % 8 - 4, 0.1
    history.average_code = torch.rand(64) * 8 - 4
    wanted = momentum * codes + (1 - momentum) * history.average_code
    history.average(codes, momentum)
    assert torch.equal(history.average_code, wanted)


@pytest.mark.parametrize(("limits", "dtype"), [((0, 127), torch.int8), ((-128, 127), torch.int16), ((0, 255), torch.int16)])
def test_codes_are_stored_so_that_their_difference_fits(limits: tuple[int, int], dtype: torch.dtype) -> None:
    low, high = map(float, limits)
    history = History.starting_at(torch.tensor([low, high]), limits)
    assert history.previous.dtype == dtype
    history.update(torch.tensor([high, low]), 0.5)
    assert history.direction.tolist() == [-1, 1]


def test_float64_frequency_takes_momentum_rounded_to_float32() -> None:
    history = History.starting_at(torch.zeros(1, dtype=torch.float64), SIGNED_3_BITS)
    for code in (1.0, 0.0):
        history.update(torch.tensor([code], dtype=torch.float64), 0.1)
    assert history.frequency.dtype == torch.float64
    assert history.frequency.item() == torch.tensor(0.1, dtype=torch.float32).double().item()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_large_history_in_one_compiled_pass_is_the_plain_one(dtype, memory_format, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(-2, 2, (12, 64, 32, 8, 8), generator=generator).to(dtype)
    fused = History.starting_at(steps[0].to(memory_format=memory_format), (-2, 1))
    plain = History.starting_at(steps[0], (-2, 1))
    for code in steps[1:]:
        fused.update(code.to(memory_format=memory_format), 0.3)
    monkeypatch.setattr(kernels, "_COMPILE_FROM", steps[0].numel() + 1)
    for code in steps[1:]:
        plain.update(code, 0.3)
    assert fused.frequency.stride() == steps[0].to(memory_format=memory_format).stride()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(fused.state_dict()[name], tensor), name
        assert fused.state_dict()[name].dtype == tensor.dtype
