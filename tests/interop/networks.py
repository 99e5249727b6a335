"""A small DeiT with two heads and a small Swin, their published state dicts, and the published key lists of the real ones."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from stillbit.prepare import QuantConfig, prepare

KEYS = Path(os.environ.get("STILLBIT_GOLDEN", Path(__file__).parents[2].parent / "shared" / "golden")) / "vit_keys"


def small_deit(image_size: int = 16, *, colours: int = 3, classes: int = 5) -> nn.Module:
    sizes = {"img_size": image_size, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2, "mlp_ratio": 2}
    model: nn.Module = VisionTransformerDistilled(in_chans=colours, num_classes=classes, **sizes)
    return model.eval()


def prepared_deit(bits: str = "W3A4", image_size: int = 16, **settings: Any) -> nn.Module:
    model = small_deit(image_size)
    prepare(model, QuantConfig.for_vit(bits, **({"published": True} | settings)), example=torch.zeros(1, 3, image_size, image_size))
    return model


def published_deit(*, attention: str = "qkr", colours: int = 3, classes: int = 5) -> dict[str, Tensor]:
    """Return a state dict as the published code saves it: tokens 6, channels 12, heads 2."""
    generator = torch.Generator().manual_seed(0)

    def of(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def scales(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) + 0.1

    def linear(name: str, inputs: int, outputs: int, count: int) -> dict[str, Tensor]:
        shifts = {f"{name}.move_b4.bias": of(inputs), f"{name}.move_aft.bias": of(inputs)}
        return {f"{name}.weight": of(outputs, inputs), f"{name}.bias": of(outputs), f"{name}.input_quant_fn.s": scales(count)} | shifts

    constant = torch.tensor([2.0])
    block = "blocks.0"
    state = {"cls_token": of(1, 1, 12), "dist_token": of(1, 1, 12), "pos_embed": of(1, 6, 12)}
    state |= {f"{name}.{field}": of(12) for name in ("norm", f"{block}.norm1", f"{block}.norm2") for field in ("weight", "bias")}
    state |= {"patch_embed.proj.weight": of(12, colours, 8, 8), "patch_embed.proj.bias": of(12), "patch_embed.proj.lsqw_fn.s": scales(12)}
    state |= {"patch_embed.proj.input_quant_fn.s": scales(colours), "patch_embed.proj.input_quant_fn.signed": torch.ones(1)}
    state |= {"patch_embed.proj.move_b4.bias": of(256), "patch_embed.proj.move_aft.bias": of(256)}
    for head in ("head", "head_dist"):
        state |= linear(head, 12, classes, 1) | {f"{head}.lsqw_fn.s": scales(classes)}
    for name, inputs, outputs in (("attn.proj", 12, 12), ("mlp.fc1", 12, 24), ("mlp.fc2", 24, 12)):
        state |= linear(f"{block}.{name}", inputs, outputs, 6) | {f"{block}.{name}.statsq_fn.clip_val": constant}
    attn = f"{block}.attn"
    state |= {f"{attn}.quan_a_v_fn.s": scales(12), f"{attn}.move_v_aft.bias": of(12), f"{attn}.quan_a_softmax_fn.s": scales(6)}
    if attention == "plain":
        state |= linear(f"{attn}.qkv", 12, 36, 6) | {f"{attn}.qkv.statsq_fn.clip_val": constant, f"{attn}.move_qkv_b4.bias": of(36)}
        state |= {f"{attn}.quan_a_q_fn.s": scales(6), f"{attn}.quan_a_k_fn.s": scales(6)}
        return state | {f"{attn}.move_q_aft.bias": of(12), f"{attn}.move_k_aft.bias": of(12)}
    state |= {f"{attn}.{name}.weight": of(12, 12) for name in "qkv"} | {f"{attn}.v.bias": of(12), f"{attn}.move_v_b4.bias": of(12)}
    state |= {f"{attn}.{name}_quant.clip_val": constant for name in ("qk", "v")}
    state |= {f"{attn}.quant_x_4_qkv.input_quant_fn.s": scales(6), f"{attn}.quan_a_qkx_fn.s": scales(12)}
    state |= {f"{attn}.quant_x_4_qkv.move_b4.bias": of(12), f"{attn}.quant_x_4_qkv.move_aft.bias": of(12)}
    return state | {f"{attn}.move_qkx_b4.bias": of(24), f"{attn}.move_qkx_aft.bias": of(24)}


def published_keys(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((KEYS / f"keys_{name}.json").read_text())["keys"]
    return found
