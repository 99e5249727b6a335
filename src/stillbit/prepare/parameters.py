"""The model's parameters by what an optimizer should do with them: scales apart from weights, never decayed."""

from typing import Any

from torch import nn
from torch.nn import Parameter

from stillbit.quantizers.base import Quantizer


def scales(model: nn.Module) -> list[Parameter]:
    """Gives the learned scales and zero points: the direct parameters of the quantizers, each once."""
    found = {id(p): p for module in model.modules() if isinstance(module, Quantizer) for p in module.parameters(recurse=False)}
    return list(found.values())


def weights(model: nn.Module) -> list[Parameter]:
    """Gives all other parameters that train: weights, biases, batch norm's."""
    apart = {id(parameter) for parameter in scales(model)}
    return [parameter for parameter in model.parameters() if id(parameter) not in apart and parameter.requires_grad]


def parameter_groups(model: nn.Module, *, weight_decay: float, scale_lr: float, decay_norms: bool = True) -> list[dict[str, Any]]:
    """Gives groups for one optimizer over everything: scales with their own learning rate and without decay.

    Args:
        model: A prepared model.
        weight_decay: Decay of the weights.
        scale_lr: Learning rate of the scales (published: 1e-5 under Adam).
        decay_norms: Whether biases and batch norm's parameters decay too, as in the published recipes.

    Returns:
        Groups to be given to any torch optimizer, whose own `lr` holds for the weights.
    """
    trained = weights(model)
    decayed = [parameter for parameter in trained if decay_norms or parameter.dim() > 1]
    plain = [parameter for parameter in trained if not decay_norms and parameter.dim() <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": weight_decay}]
    if plain:
        groups.append({"params": plain, "weight_decay": 0.0})
    groups.append({"params": scales(model), "weight_decay": 0.0, "lr": scale_lr})
    return groups
