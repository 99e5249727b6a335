import pytest
import torch
from torch import Tensor

from stillbit.numerics import Grid
from stillbit.numerics.fast import part, run_pass, settings
from stillbit.numerics.limits import FREE
from stillbit.oscillation.history import Advanced, History, Momentum, Pinning, advance

SIGNED_3_BITS = (-4, 3)


def update(history: History, codes: Tensor, momentum: float, limits: tuple[int, int] = SIGNED_3_BITS) -> None:
    """Take up codes: as latents on a grid of scale 1."""
    state = (history.previous, history.direction, history.frequency, history.total, history.average_code)
    grid = Grid(torch.ones(1), 0, 0.0, *limits)
    run_pass(advance, [part(Advanced(*state, None, codes), len(state), grid)], Momentum.of(momentum), None, None)


def histories(*codes: float, momentum: float = 0.5) -> History:
    history = History.starting_at(torch.tensor([codes[0]]), SIGNED_3_BITS, totals=True)
    for code in codes[1:]:
        update(history, torch.tensor([code]), momentum)
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
    assert history.total is not None
    assert history.total.item() == total
    assert history.direction.item() == direction
    assert history.previous.item() == codes[-1]


def test_frequency_is_a_moving_average_that_every_step_moves() -> None:
    assert histories(0.0, 1.0, 0.0, 0.0, momentum=0.25).frequency.item() == 0.25 * 0.75


def test_average_code_rounds_the_product_first() -> None:
    codes, momentum = torch.arange(64.0) % 8 - 4, 0.1
    history = History.starting_at(codes, SIGNED_3_BITS)
    history.average_code = torch.rand(64) * 8 - 4
    wanted = momentum * codes + (1 - momentum) * history.average_code
    update(history, codes, momentum)
    assert torch.equal(history.average_code, wanted)


@pytest.mark.parametrize(("limits", "dtype"), [((0, 127), torch.int8), ((-128, 127), torch.int16), ((0, 255), torch.int16)])
def test_codes_are_stored_so_that_their_difference_fits(limits: tuple[int, int], dtype: torch.dtype) -> None:
    low, high = map(float, limits)
    history = History.starting_at(torch.tensor([low, high]), limits)
    assert history.previous.dtype == dtype
    update(history, torch.tensor([high, low]), 0.5, limits)
    assert history.direction.tolist() == [-1, 1]


def test_float64_frequency_takes_momentum_rounded_to_float32() -> None:
    history = History.starting_at(torch.zeros(1, dtype=torch.float64), SIGNED_3_BITS)
    for code in (1.0, 0.0):
        update(history, torch.tensor([code], dtype=torch.float64), 0.1)
    assert history.frequency.dtype == torch.float64
    assert history.frequency.item() == torch.tensor(0.1, dtype=torch.float32).double().item()


class Weight:
    """A weight that freezes, outside any model."""

    def __init__(self, codes: Tensor) -> None:
        self.history = History.starting_at(codes, SIGNED_3_BITS, totals=True)
        self.history.average_code = codes.clone()
        self.pins = torch.full_like(codes, FREE, dtype=torch.int8)
        self.latent = torch.empty_like(codes)

    def step(self, codes: Tensor, scale: Tensor) -> None:
        self.latent.copy_(0.999 * scale * codes)
        one = self.history
        state = (one.previous, one.direction, one.frequency, one.total, one.average_code, self.pins, self.latent)
        weight = part(Advanced(*state), len(state), Grid(scale, 0, 0.0, *SIGNED_3_BITS))
        threshold = torch.tensor(0.4, dtype=torch.float64)
        run_pass(advance, [weight], Momentum.of(0.3), threshold, Pinning(hold=True, repin=False))

    def state(self) -> dict[str, Tensor]:
        return {**self.history.state_dict(), "pins": self.pins, "latent": self.latent}


@pytest.mark.end_to_end
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_large_weight_in_one_compiled_pass_is_the_plain_one(dtype, memory_format, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(-2, 2, (12, 64, 32, 8, 8), generator=generator).to(dtype)
    scale = 0.1 + torch.rand(64, 1, 1, 1, generator=generator)
    fused, plain = Weight(steps[0].to(memory_format=memory_format)), Weight(steps[0])
    for codes in steps[1:]:
        fused.step(codes.to(memory_format=memory_format), scale)
    monkeypatch.setattr(settings, "compile_from", steps[0].numel() + 1)
    for codes in steps[1:]:
        plain.step(codes, scale)
    assert 0 < (plain.pins != FREE).sum() < plain.pins.numel()
    for name, tensor in plain.state().items():
        found = fused.state()[name]
        assert torch.equal(found, tensor), name
        assert found.dtype == tensor.dtype
        assert found.stride() == steps[0].to(memory_format=memory_format).stride()
