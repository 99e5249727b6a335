"""Products of query and key weights: their value, their gradient, and what cannot be done to them."""

import pytest
import torch
from torch import Tensor, nn

from stillbit.errors import PrepareError
from stillbit.quantizers import LSQ, ProductSite
from stillbit.quantizers.product import query_key_products

HEADS, WIDTH, CHANNELS = 2, 3, 5  # heads whose joint width is not the channels'


def joint_weight(dtype: torch.dtype = torch.float64) -> nn.Parameter:
    return nn.Parameter(torch.randn(3 * HEADS * WIDTH, CHANNELS, dtype=dtype))


def site(weight: nn.Parameter) -> ProductSite:
    return ProductSite("blocks.0.attn.qk", LSQ(3), weight, HEADS)


def test_products_are_those_of_each_head() -> None:
    weight = joint_weight()
    query, key, _ = weight.chunk(3)
    expected = [query[3 * head : 3 * head + 3].T @ key[3 * head : 3 * head + 3] for head in range(HEADS)]
    # Batched and single products may sum in another order.
    torch.testing.assert_close(query_key_products(weight, HEADS), torch.cat(expected), rtol=1e-14, atol=1e-14)


def by_autograd(weight: nn.Parameter, gradient: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(query_key_products(weight, HEADS), weight, gradient)
    return found


def test_add_gradient_is_autograds() -> None:
    weight, gradient = joint_weight(), torch.randn(HEADS * CHANNELS, CHANNELS, dtype=torch.float64)
    site(weight).add_gradient(gradient)
    torch.testing.assert_close(weight.grad, by_autograd(weight, gradient), rtol=1e-14, atol=1e-14)
    assert not weight.grad[2 * HEADS * WIDTH :].any()  # the value's rows


def test_gradients_add_up() -> None:
    weight, gradient = joint_weight(), torch.randn(HEADS * CHANNELS, CHANNELS, dtype=torch.float64)
    weight.grad = torch.ones_like(weight)
    site(weight).add_gradient(gradient)
    site(weight).add_gradient(gradient)
    torch.testing.assert_close(weight.grad, 1 + 2 * by_autograd(weight, gradient), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_of_another_dtype_keeps_the_parameters(dtype: torch.dtype) -> None:
    weight = joint_weight(dtype)
    site(weight).add_gradient(torch.ones(HEADS * CHANNELS, CHANNELS, dtype=dtype))
    assert weight.grad.dtype == dtype


def test_cannot_be_written() -> None:
    given = site(joint_weight())
    before = given.parameter.clone()
    with pytest.raises(PrepareError, match=r"^site blocks\.0\.attn\.qk: a product of two weights cannot be written"):
        given.write(torch.ones(10, 5, dtype=torch.bool), torch.zeros(10, 5))
    assert not given.writable
    assert torch.equal(given.parameter, before)


def test_autocast_does_not_change_products() -> None:
    """Codes are those that a method computes after the step, outside autocast."""
    weight = joint_weight(torch.float32)
    expected = query_key_products(weight, HEADS)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(query_key_products(weight, HEADS), expected)


def test_has_no_gradient_of_its_own() -> None:
    with pytest.raises(PrepareError, match=r"^site blocks\.0\.attn\.qk: a product of two weights has no gradient of its own"):
        site(joint_weight()).gradient()
