"""The model's parameters by what an optimizer should do with them: scales apart from weights, never decayed."""

from collections.abc import Collection
from typing import Any

from torch import nn
from torch.nn import Parameter

from stillbit.modules.shift import Shifted
from stillbit.quantizers.base import Quantizer


def scales(model: nn.Module) -> list[Parameter]:
    """Return the learned scales and zero points: the direct parameters of the quantizers, each once."""
    found = {id(p): p for module in model.modules() if isinstance(module, Quantizer) for p in module.parameters(recurse=False)}
    return list(found.values())


def weights(model: nn.Module) -> list[Parameter]:
    """Return all other parameters that train: weights, biases, batch norm's."""
    apart = {id(parameter) for parameter in scales(model)}
    return [parameter for parameter in model.parameters() if id(parameter) not in apart and parameter.requires_grad]


def undecayed(model: nn.Module) -> list[Parameter]:
    """Return those of `weights` that by custom do not decay: what would only be pulled away from where it has to be.

    Args:
        model: A prepared model.

    Returns:
        Parameters of at most one dimension (biases, norms), those that the model itself names in `no_weight_decay()` (timm's vision
        transformers: tokens and position embeddings), and the learned shifts of quantizers, whatever their shape.
    """
    named: Collection[str] = getattr(model, "no_weight_decay", frozenset)()
    apart = {id(parameter) for name, parameter in model.named_parameters() if name in named}
    apart |= {id(p) for module in model.modules() if isinstance(module, Shifted) for p in module.parameters(recurse=False)}
    return [parameter for parameter in weights(model) if parameter.dim() <= 1 or id(parameter) in apart]


def parameter_groups(model: nn.Module, *, weight_decay: float, scale_lr: float, decay_norms: bool = True) -> list[dict[str, Any]]:
    """Return groups for one optimizer over everything: scales with their own learning rate and without decay.

    Args:
        model: A prepared model.
        weight_decay: Decay of the weights.
        scale_lr: Learning rate of the scales (published: 1e-5 under Adam).
        decay_norms: Whether what `undecayed` gives decays too, as in the published recipes of convolutional networks.

    Returns:
        Groups to be given to any torch optimizer, whose own `lr` holds for the weights.
    """
    plain = [] if decay_norms else undecayed(model)
    apart = {id(parameter) for parameter in plain}
    decayed = [parameter for parameter in weights(model) if id(parameter) not in apart]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": weight_decay}]
    if plain:
        groups.append({"params": plain, "weight_decay": 0.0})
    groups.append({"params": scales(model), "weight_decay": 0.0, "lr": scale_lr})
    return groups
