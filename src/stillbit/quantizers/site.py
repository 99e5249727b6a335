"""Weight sites: what an oscillation method sees of a model. Never a layer, never a closure.

A plain site is a weight, or some rows of one, and its quantizer. A derived site is a product of weights that is quantized as one
(quantizers/product.py); a method can read it and send gradients through it, but not write it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from stillbit.quantizers.base import Quantizer


class WeightSite(Protocol):
    """A quantized weight."""

    @property
    def name(self) -> str:
        """Name of the layer in its model."""

    @property
    def quantizer(self) -> Quantizer:
        """The weight's quantizer."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters that the latent is computed from."""

    @property
    def output_axis(self) -> int:
        """Axis of the latent that counts output channels."""

    @property
    def writable(self) -> bool:
        """Whether single elements can be written; not of a derived latent."""

    def latent(self) -> Tensor:
        """Return the float weight that is quantized: of a derived site a tensor of its own, computed at every call."""

    def gradient(self) -> Tensor:
        """Return the latent's gradient, zero where there was none, to add to in place; a derived site refuses: see `add_gradient`."""

    def add_gradient(self, gradient: Tensor) -> None:
        """Add a gradient of the latent, of its shape, to the parameters' gradients."""

    def write(self, mask: Tensor, value: Tensor) -> None:
        """Set the latent to `value` where `mask`; a derived site refuses."""


@dataclass(frozen=True)
class ParameterSite:
    """A weight that is quantized as it stands."""

    writable: ClassVar[bool] = True
    name: str
    quantizer: Quantizer
    parameter: Parameter
    output_axis: int = 0

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The weight."""
        return (self.parameter,)

    def latent(self) -> Tensor:
        """Return the weight."""
        return self.parameter

    def gradient(self) -> Tensor:
        """Return the weight's gradient."""
        if self.parameter.grad is None:
            self.parameter.grad = torch.zeros_like(self.parameter)
        return self.parameter.grad

    @torch.no_grad()
    def add_gradient(self, gradient: Tensor) -> None:
        """Add to the weight's gradient."""
        self.gradient().add_(gradient)

    @torch.no_grad()
    def write(self, mask: Tensor, value: Tensor) -> None:
        """Set the weight to `value` where `mask`."""
        self.parameter.copy_(torch.where(mask, value.to(self.parameter.dtype), self.parameter))


@dataclass(frozen=True)
class SliceSite:
    """Some rows of a weight, quantized by themselves: the value projection within a joint projection of query, key and value."""

    writable: ClassVar[bool] = True
    name: str
    quantizer: Quantizer
    parameter: Parameter
    first: int
    last: int
    output_axis: int = 0

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The whole weight."""
        return (self.parameter,)

    def latent(self) -> Tensor:
        """Return the rows `first` to `last`, the latter excluded; a view."""
        return self.parameter[self.first : self.last]

    def gradient(self) -> Tensor:
        """Return these rows of the weight's gradient; a view."""
        if self.parameter.grad is None:
            self.parameter.grad = torch.zeros_like(self.parameter)
        return self.parameter.grad[self.first : self.last]

    @torch.no_grad()
    def add_gradient(self, gradient: Tensor) -> None:
        """Add to these rows of the weight's gradient."""
        self.gradient().add_(gradient)

    @torch.no_grad()
    def write(self, mask: Tensor, value: Tensor) -> None:
        """Set the rows to `value` where `mask`."""
        rows = self.latent()
        rows.copy_(torch.where(mask, value.to(rows.dtype), rows))


def trains(site: WeightSite) -> bool:
    """Return whether a site's weights train: methods write to no others."""
    return all(parameter.requires_grad for parameter in site.parameters)


class HasWeightSites(Protocol):
    """A module that quantizes weights of its own."""

    def weight_sites(self, name: str) -> tuple[WeightSite, ...]:
        """Return the module's sites; `name` is the module's name in its model."""


def weight_sites(model: nn.Module) -> list[WeightSite]:
    """Find the quantized weights of a model, in module order, under the names of the unwrapped model.

    >>> weight_sites(nn.Linear(2, 2))
    []
    """
    return list(_sites(model))


def _sites(model: nn.Module) -> Iterator[WeightSite]:
    for name, module in unwrapped(model).named_modules():
        # Asked of the class: the wrapper of torch.compile shows its module's attributes as its own, and must not count twice; and
        # methods look for sites at every step, where asking each module by isinstance would take 1 % of it.
        if hasattr(type(module), "weight_sites"):
            yield from cast(HasWeightSites, module).weight_sites(".".join(part for part in name.split(".") if part != "_orig_mod"))


def unwrapped(model: nn.Module) -> nn.Module:
    """Take off what DDP and torch.compile put round a model, in any order."""
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return unwrapped(model.module)
    inner = getattr(model, "_orig_mod", None)
    return model if inner is None else unwrapped(inner)
