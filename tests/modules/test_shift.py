"""Learned biases round an activation quantizer."""

import pytest
import torch
from torch import Tensor

from stillbit.errors import PrepareError
from stillbit.modules.shift import Shifted
from stillbit.quantizers import LSQ


def shifted(before: tuple[int, ...] | None = (3,), after: tuple[int, ...] | None = (3,)) -> Shifted:
    quantizer = LSQ(3, ste_range="position")
    quantizer.set_range(-4.0, 4.0)
    return Shifted(quantizer, before, after)


def filled(module: Shifted) -> Shifted:
    with torch.no_grad():
        for bias in (module.before, module.after):
            if bias is not None:
                bias.copy_(torch.randn_like(bias))
    return module


def test_changes_nothing_at_first() -> None:
    module, x = shifted(), torch.randn(4, 5, 3)
    assert torch.equal(module(x), module.quantizer(x))


@pytest.mark.parametrize("before", [(3,), (5, 3), None], ids=str)
@pytest.mark.parametrize("after", [(3,), (5, 3), None], ids=str)
def test_shifts_before_and_after(before: tuple[int, ...] | None, after: tuple[int, ...] | None) -> None:
    module, x = filled(shifted(before, after)), torch.randn(4, 5, 3)
    expected = module.quantizer(x + (0.0 if module.before is None else module.before))
    assert torch.equal(module(x), expected + (0.0 if module.after is None else module.after))


def test_gradients_reach_both() -> None:
    """To the bias behind, all of it; to the one in front, what the band of the quantizer lets pass."""
    module, x = shifted(), torch.tensor([[0.5, 1.0, 100.0], [1.0, -100.0, 0.0]])
    module(x).sum().backward()
    assert module.before is not None
    assert module.after is not None
    assert module.before.grad.tolist() == [2.0, 1.0, 1.0]
    assert module.after.grad.tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_keeps_the_dtype(dtype: torch.dtype) -> None:
    """Its parameters are float32, and a half-precision layer behind it would refuse float32."""
    assert filled(shifted())(torch.randn(2, 3).to(dtype)).dtype == dtype


def test_a_bias_that_is_not_there_has_no_key() -> None:
    assert not {"before", "after"} & shifted(None, None).state_dict().keys()
    assert {"before", "after"} <= shifted().state_dict().keys()


def parameters_of(module: Shifted) -> list[Tensor]:
    return [parameter for name, parameter in module.named_parameters() if "quantizer" not in name]


def test_biases_are_zero_at_first() -> None:
    assert [parameter.tolist() for parameter in parameters_of(shifted())] == [[0.0] * 3] * 2


@pytest.mark.parametrize("x", [torch.zeros(2, 4), torch.zeros(3)], ids=["other size", "too few axes"])
def test_refuses_an_input_that_does_not_fit(x: Tensor) -> None:
    with pytest.raises(PrepareError, match=r"^quantizer LSQ has shifts for inputs that end in \(5, 3\) and was given "):
        shifted((5, 3), None)(x)


def test_who_watches_the_quantizer_changes_nothing_and_can_tell_what_it_quantizes() -> None:
    module, x, seen = filled(shifted()), torch.randn(4, 5, 3), []
    wanted = module(x)
    module.quantizer.register_forward_hook(lambda _, inputs, output: seen.append((inputs, output)))
    assert torch.equal(module(x), wanted)
    ((given, before, after), values) = seen[0]
    latent = module.quantizer.latent(given, before)
    assert torch.equal(latent, x + module.before)
    assert torch.equal(values, module.quantizer(latent) + after)


def test_bypassed_it_still_shifts() -> None:
    module, x = filled(shifted()), torch.randn(4, 5, 3)
    module.quantizer.bypass = True
    assert torch.equal(module(x), x + module.before + module.after)
