"""Quantized state dicts of the ViT code (arXiv 2302.02210): which key goes where (docs/spec/vit.md, 8).

| published, within an attention layer          | ours                                                              |
|-----------------------------------------------|-------------------------------------------------------------------|
| `q.weight`, `k.weight`, `v.weight`, `v.bias`  | thirds of `qkv.weight` and `qkv.bias`                             |
| `quant_x_4_qkv`, `*_qkx`, `*_v`, `*_softmax`  | `products.{input,key,value,probability}_quantizer`                |
| `move_qkv_b4.bias`                            | `products.{query,key,value}_quantizer.before`, a third each       |

and within any layer `input_quant_fn` and `move_*` are our `input_quantizer`, `lsqw_fn` our `weight_quantizer`.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from stillbit.errors import CheckpointError
from stillbit.interop.placing import Placing, Target
from stillbit.interop.reading import PublishedCheckpoint
from stillbit.modules.attention import AttentionProducts
from stillbit.modules.qkr import ReparameterizedProducts
from stillbit.modules.shift import Shifted
from stillbit.quantizers.base import Quantizer
from stillbit.quantizers.lsq import LSQ
from stillbit.quantizers.site import weight_sites

KIND = "quantized, of the ViT code (arXiv 2302.02210)"
ALLOWED = (
    "the same network and image size, prepared by QuantConfig.for_vit(bits, published=True) (a recipe with published=true), "
    "with attention 'plain' for a checkpoint without query-key reparameterization, and quantizer 'lsq' for its LSQ baseline"
)

_CLIP = 2.0  # what the constant clip_val always is
_OUTER_BITS = 8  # of the first and the last layers, whatever the rest has
_CONSTANT = "the constant clip_val of StatsQ"
_DEAD = "a bias that is constant in the key, which the softmax removes"
_NO_BIAS = "biases of query and key, which the published products do not have: zero"

# Within an attention layer.
_ATTENTION: Mapping[str, tuple[Target, ...]] = {
    "q.weight": (Target("qkv.weight", 0, 3),),
    "k.weight": (Target("qkv.weight", 1, 3),),
    "v.weight": (Target("qkv.weight", 2, 3),),
    "v.bias": (Target("qkv.bias", 2, 3),),
    "quant_x_4_qkv.input_quant_fn.s": (Target("products.input_quantizer.quantizer.scale"),),
    "quant_x_4_qkv.move_b4.bias": (Target("products.input_quantizer.before"),),
    "quant_x_4_qkv.move_aft.bias": (Target("products.input_quantizer.after"),),
    "quan_a_qkx_fn.s": (Target("products.key_quantizer.quantizer.scale"),),
    "move_qkx_b4.bias": (Target("products.key_quantizer.before"),),
    "quan_a_q_fn.s": (Target("products.query_quantizer.quantizer.scale"),),
    "quan_a_k_fn.s": (Target("products.key_quantizer.quantizer.scale"),),
    "quan_a_v_fn.s": (Target("products.value_quantizer.quantizer.scale"),),
    "quan_a_softmax_fn.s": (Target("products.probability_quantizer.scale"),),
    "move_qkv_b4.bias": tuple(Target(f"products.{one}_quantizer.before") for one in ("query", "key", "value")),
    "move_q_aft.bias": (Target("products.query_quantizer.after"),),
    "move_v_b4.bias": (Target("products.value_quantizer.before"),),
    "move_v_aft.bias": (Target("products.value_quantizer.after"),),
}
_DEAD_BIASES = ("move_qkx_aft.bias", "move_k_aft.bias")
_LAYER = {
    "input_quant_fn.s": "input_quantizer.quantizer.scale",
    "move_b4.bias": "input_quantizer.before",
    "move_aft.bias": "input_quantizer.after",
    "lsqw_fn.s": "weight_quantizer.scale",
}
_UNSIGNED = ("quan_a_softmax_fn.s", "fc2.input_quant_fn.s")
_MLP = {"fc1": "0", "fc2": "3"}  # in torchvision's, a Sequential


def is_of_vit_code(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict holds quantizers of the ViT code."""
    return any(key.endswith(("statsq_fn.clip_val", "lsqw_fn.s", "input_quant_fn.s")) for key in state)


def place_vit(checkpoint: PublishedCheckpoint, model: nn.Module) -> Placing:
    """Plan the import of a quantized state dict of the ViT code."""
    _check_model(checkpoint, model)
    _check_bits(checkpoint, model)
    placing = Placing(checkpoint.origin, model)
    for key, tensor in checkpoint.state.items():
        _place(placing, key, tensor)
    for name, module in model.named_modules():
        if isinstance(getattr(module, "products", None), ReparameterizedProducts) and isinstance(module.qkv.bias, Tensor):
            for part in (0, 1):
                placing.fill(Target(f"{name}.qkv.bias", part, 3), 0.0, _NO_BIAS)
    return placing


def _place(placing: Placing, key: str, tensor: Tensor) -> None:
    """Find the place of one tensor; a name that the published code does not have beyond the float network's is ours too."""
    owner, name = _owner(placing.model, key)
    if name.endswith("clip_val"):
        _check_constant(placing, key, tensor)
    elif name in _DEAD_BIASES:
        placing.ignore(key, _DEAD)
    elif name == "input_quant_fn.signed":
        _place_sign(placing, key, tensor, f"{owner}.input_quantizer.quantizer")
    elif name == "relative_position_index":
        _check_index(placing, key, tensor)
    else:
        placing.place(key, tensor, _targets(placing.model, owner, name))
        if not (name == "input_quant_fn.s" and hasattr(placing.model.get_submodule(owner), "kernel_size")):  # the image's is latched
            _note_signs(placing, key)


def _owner(model: nn.Module, key: str) -> tuple[str, str]:
    """Take a key apart: our name of the innermost module that it stands in, and the rest, as published."""
    parts = key.split(".")
    owner: list[str] = []
    module = model
    while len(owner) < len(parts) - 1:
        part = parts[len(owner)]
        ours = part if part in module._modules else _MLP.get(part, part)
        child = module._modules.get(ours)
        if child is None:
            break
        owner.append(ours)
        module = child
    return ".".join(owner), ".".join(parts[len(owner) :])


def _targets(model: nn.Module, owner: str, name: str) -> tuple[Target, ...]:
    """Return the places of a tensor; those of a name that we do not know do not exist."""
    module = model.get_submodule(owner)
    before = f"{owner}." if owner else ""
    if isinstance(getattr(module, "products", None), AttentionProducts) and name in _ATTENTION:
        return tuple(replace(target, name=before + target.name) for target in _ATTENTION[name])
    return (Target(before + _LAYER.get(name, name)),)


def _note_signs(placing: Placing, key: str) -> None:
    """Note the sign of a quantizer whose scale was placed."""
    for target in placing.placed.get(key, ()):
        name, _, field = target.name.rpartition(".")
        if field != "scale":
            continue
        quantizer = placing.model.get_submodule(name)
        assert isinstance(quantizer, Quantizer)
        signed = not key.endswith(_UNSIGNED)
        if quantizer.range_config.signed is (not signed):
            given, ours = ("signed", "unsigned") if signed else ("unsigned", "signed")
            raise CheckpointError(f"{placing.origin}: {key} is of {given} codes, and {name} has {ours} ones; allowed: {ALLOWED}")
        placing.signs[name] = signed


def _place_sign(placing: Placing, key: str, tensor: Tensor, name: str) -> None:
    """Note the sign that the image's quantizer has latched."""
    if tensor.numel() != 1 or float(tensor) not in (0.0, 1.0):
        raise CheckpointError(f"{placing.origin}: {key} is {tensor.tolist()}; allowed: 0 (codes without a sign) or 1")
    placing.signs[name] = bool(tensor)
    placing.placed[key] = (Target(f"{name}.signed"),)


def _check_constant(placing: Placing, key: str, tensor: Tensor) -> None:
    if not bool((tensor == _CLIP).all()):
        raise CheckpointError(f"{placing.origin}: {key} is {tensor.tolist()}; allowed: the {_CLIP} that the published code never changes")
    placing.ignore(key, _CONSTANT)


def _check_index(placing: Placing, key: str, tensor: Tensor) -> None:
    """Place what both compute from the window's size alone, if both have computed the same."""
    ours = placing.ours(key)
    if ours is not None and not torch.equal(ours.flatten().cpu(), tensor.flatten().to(ours.dtype)):
        raise CheckpointError(f"{placing.origin}: {key} is of another window than the model's; allowed: the same window size")
    placing.place(key, tensor, (Target(key),))


def _check_model(checkpoint: PublishedCheckpoint, model: nn.Module) -> None:
    quantizers = [module for module in model.modules() if isinstance(module, Quantizer)]
    shifted = any(isinstance(module, Shifted) for module in model.modules())
    published = all(quantizer.published for quantizer in quantizers if isinstance(quantizer, LSQ))
    if not (quantizers and shifted and published):
        state = "in full precision" if not quantizers else "prepared otherwise"
        raise CheckpointError(f"{checkpoint.origin}: is {KIND}; the model is {state}; allowed: {ALLOWED}")


def _check_bits(checkpoint: PublishedCheckpoint, model: nn.Module) -> None:
    """Compare widths where the checkpoint records them; shapes do not tell them."""
    of_weights = {id(site.quantizer): site.quantizer.bits for site in weight_sites(model)}
    of_activations = {id(one): one.bits for one in model.modules() if isinstance(one, Quantizer) and id(one) not in of_weights}
    for option, ours in (("wq_bitw", of_weights), ("aq_bitw", of_activations)):
        given = checkpoint.width(option)
        present = set(ours.values()) - {_OUTER_BITS}
        if given is not None and present != {given} - {_OUTER_BITS}:
            widths = ", ".join(map(str, sorted(present))) or _OUTER_BITS
            raise CheckpointError(
                f"{checkpoint.origin}: was trained with {option} {given}, and the model has {widths} bits there; allowed: {given}"
            )
