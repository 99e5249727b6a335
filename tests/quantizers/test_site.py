from collections.abc import Callable

import pytest
import torch
from torch import nn

from stillbit.quantizers import LSQ, ParameterSite, SliceSite, weight_sites


class Layer(nn.Module):
    """A module with a quantized weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 2))
        self.quantizer = LSQ(3)

    def weight_sites(self, name: str) -> tuple[ParameterSite, ...]:
        return (ParameterSite(name, self.quantizer, self.weight),)


def site(dtype: torch.dtype = torch.float32) -> ParameterSite:
    return ParameterSite("layer", LSQ(3), nn.Parameter(torch.arange(4.0, dtype=dtype)))


def test_a_site_shows_the_weight_itself() -> None:
    given = site()
    assert given.latent() is given.parameter
    assert given.parameters == (given.parameter,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_add_up(dtype: torch.dtype) -> None:
    given, gradient = site(dtype), torch.ones(4)
    given.add_gradient(gradient)
    given.add_gradient(2 * gradient)
    assert given.parameter.grad is not None
    assert given.parameter.grad.dtype == dtype
    assert given.parameter.grad.tolist() == [3, 3, 3, 3]
    assert gradient.tolist() == [1, 1, 1, 1]  # the caller's tensor is not the parameter's gradient


def test_write_changes_the_masked_entries_in_place() -> None:
    given = site()
    address = given.parameter.data_ptr()
    given.write(torch.tensor([True, False, False, True]), torch.full((4,), 9.0))
    assert given.parameter.tolist() == [9, 1, 2, 9]
    assert given.parameter.data_ptr() == address
    assert given.parameter.requires_grad


def wrapped_in_compile(model: nn.Module) -> nn.Module:
    return torch.compile(model)  # type: ignore[return-value]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model,
        nn.DataParallel,
        wrapped_in_compile,
        lambda model: nn.DataParallel(wrapped_in_compile(model)),
        lambda model: wrapped_in_compile(nn.DataParallel(model)),
    ],
    ids=["plain", "parallel", "compiled", "compiled in parallel", "parallel in compiled"],
)
def test_sites_are_found_in_order_under_the_names_of_the_unwrapped_model(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.ModuleDict({"module": nn.Sequential(Layer(), nn.ReLU(), Layer()), "head": Layer()})
    sites = weight_sites(wrap(model))
    assert [found.name for found in sites] == ["module.0", "module.2", "head"]
    assert sites[2].latent() is model["head"].weight


def test_a_compiled_part_keeps_its_name() -> None:
    model = nn.Sequential(Layer(), wrapped_in_compile(Layer()))
    assert [found.name for found in weight_sites(model)] == ["0", "1"]


def rows(dtype: torch.dtype = torch.float32) -> SliceSite:
    """The last two of three rows."""
    return SliceSite("layer.v", LSQ(3), nn.Parameter(torch.arange(6.0, dtype=dtype).view(3, 2)), 1, 3)


def test_a_slice_shows_its_rows() -> None:
    given = rows()
    assert given.latent().tolist() == [[2, 3], [4, 5]]
    assert given.latent().data_ptr() == given.parameter[1:].data_ptr()
    assert given.parameters == (given.parameter,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_slice_adds_gradients_to_its_rows_alone(dtype: torch.dtype) -> None:
    given = rows(dtype)
    given.add_gradient(torch.ones(2, 2))
    given.add_gradient(torch.ones(2, 2))
    assert given.parameter.grad is not None
    assert given.parameter.grad.dtype == dtype
    assert given.parameter.grad.tolist() == [[0, 0], [2, 2], [2, 2]]


def test_a_slice_writes_its_rows_alone() -> None:
    given = rows()
    address = given.parameter.data_ptr()
    given.write(torch.tensor([[True, False], [False, True]]), torch.full((2, 2), 9.0))
    assert given.parameter.tolist() == [[0, 1], [9, 3], [4, 9]]
    assert given.parameter.data_ptr() == address
    assert given.parameter.requires_grad
