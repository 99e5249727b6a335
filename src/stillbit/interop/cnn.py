"""Quantized state dicts of the CNN code (arXiv 2203.11086): which key goes where (docs/spec/cnn.md, 7.1).

There a convolution or linear layer, the batch norm behind it and the activation behind that are one layer, which has one place in
its Sequential; here they are three modules.

| published, within such a layer                     | ours                                            |
|----------------------------------------------------|-------------------------------------------------|
| `weight`, `bias`                                   | the same, of the convolution or linear layer    |
| `gamma`, `beta`, `running_mean`, `running_var`     | `weight`, `bias` and the rest, of the batch norm |
| `weight_quantizer.quantizer`                       | `weight_quantizer`                              |
| `activation_quantizer.quantizer`, of the layer's input | `input_quantizer`                           |
| `_delta`, `_zero_float`, `_signed` of a quantizer  | `scale`, `zero_point`, `signed`                 |

`_zero_float` and `_signed` stand in no file that this project has: a checkpoint that names them otherwise is refused, not guessed at.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stillbit.errors import CheckpointError
from stillbit.interop.fused import FusedLayer, fused_layers
from stillbit.interop.placing import Placing, Target
from stillbit.interop.reading import PublishedCheckpoint
from stillbit.modules.shift import Shifted
from stillbit.quantizers.base import Quantizer

KIND = "quantized, of the CNN code (arXiv 2203.11086)"
ALLOWED = "the same network, prepared with the policy and widths that the checkpoint was trained with"

_NORM = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_var": "running_var"}
_QUANTIZERS = {"weight_quantizer": "weight_quantizer", "activation_quantizer": "input_quantizer"}
_STATE = {"_delta": "scale", "_zero_float": "zero_point"}
_MANAGER = re.compile(r"(.*?)((?:weight|activation)_quantizer)\.(.+)")  # owner, which of its managers, what of that
_SECOND = "the quantizer's state a second time, seen through its range search"
_SEARCH = "state of the range search, which is over"
_UNUSED = "of a quantizer that was never used and has no scale"


def is_of_cnn_code(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict holds quantizers of the CNN code."""
    return any(key.endswith("_quantizer.quantizer._delta") for key in state)


def place_cnn(checkpoint: PublishedCheckpoint, model: nn.Module) -> Placing:
    """Plan the import of a quantized state dict of the CNN code."""
    quantized = any(isinstance(module, Quantizer) for module in model.modules())
    if not quantized or any(isinstance(module, Shifted) for module in model.modules()):
        state = "prepared for the ViT code" if quantized else "in full precision"
        raise CheckpointError(f"{checkpoint.origin}: is {KIND}; the model is {state}; allowed: {ALLOWED}")
    placing = Placing(checkpoint.origin, model)
    layers = {layer.published: layer for layer in fused_layers(model)}
    for key, tensor in checkpoint.state.items():
        managed = _MANAGER.fullmatch(key)
        if managed:
            _place_quantizer(placing, checkpoint.state, key, managed, layers)
        else:
            placing.place(key, tensor, (Target(_ours(key, layers)),))
    _note_unsigned(placing)
    placing.keep_counters()
    return placing


def _ours(key: str, layers: Mapping[str, FusedLayer]) -> str:
    """Return our name of a tensor that is no quantizer's; outside fused layers, names are the same."""
    published, _, field = key.rpartition(".")
    layer = layers.get(published)
    if layer is None:
        return key
    return f"{layer.norm}.{_NORM[field]}" if field in _NORM and layer.norm is not None else f"{layer.layer}.{field}"


def _place_quantizer(
    placing: Placing, state: Mapping[str, Tensor], key: str, managed: re.Match[str], layers: Mapping[str, FusedLayer]
) -> None:
    """Find the place of a tensor of a quantizer, or of the range search next to it; both stand under their manager."""
    owner, manager, rest = managed.groups()
    quantizer = f"{owner}{manager}.quantizer"
    layer = layers.get(owner.rstrip("."))
    name = "" if layer is None else f"{layer.layer}.{_QUANTIZERS[manager]}"
    if f"{quantizer}._delta" not in state:
        placing.ignore(key, _UNUSED)
    elif not rest.startswith("quantizer."):
        _ignore_search(placing, state, key, quantizer)
    elif rest == "quantizer._signed" and placing.ours(f"{name}.signed") is not None:
        placing.signs[name] = bool(state[key])
        placing.placed[key] = (Target(f"{name}.signed"),)
    else:
        field = rest.removeprefix("quantizer.")
        placing.place(key, state[key], (Target(f"{name}.{_STATE.get(field, field)}"),))


def _ignore_search(placing: Placing, state: Mapping[str, Tensor], key: str, quantizer: str) -> None:
    """Ignores the search's own state, and its view of the quantizer if that is the quantizer's state."""
    twin = f"{quantizer}.{key.rpartition('.')[2]}"
    again = ".quantizer." in key.removeprefix(quantizer.rpartition(".")[0])
    if again and twin in state and not torch.equal(state[key], state[twin]):
        raise CheckpointError(f"{placing.origin}: {key} differs from {twin}; allowed: the same tensor")
    placing.ignore(key, _SECOND if again else _SEARCH)


def _note_unsigned(placing: Placing) -> None:
    """Note the sign of asymmetric quantizers, which have none; that of symmetric ones stands in the checkpoint."""
    for name, module in placing.model.named_modules():
        if isinstance(module, Quantizer) and not module.symmetric:
            placing.signs[name] = False
