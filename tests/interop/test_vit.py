import argparse
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from stillbit.errors import CheckpointError
from stillbit.interop import load_published
from stillbit.prepare import Override, QuantConfig, prepare
from tests.interop.networks import KEYS, prepared_deit, published_deit, published_keys

REAL = {
    "deit_tiny_qkr": ("qkr", lambda: timm.create_model("deit_tiny_distilled_patch16_224")),
    "deit_small_qkr": ("qkr", lambda: timm.create_model("deit_small_distilled_patch16_224")),
    "swin_t_qkr": ("qkr", torchvision.models.swin_t),
    "deit_tiny_plain": ("plain", lambda: timm.create_model("deit_tiny_distilled_patch16_224")),
    "swin_t_plain": ("plain", torchvision.models.swin_t),
}


@pytest.mark.skipif(not KEYS.is_dir(), reason="the published key lists are missing; STILLBIT_GOLDEN names their folder")
@pytest.mark.parametrize(("name", "attention", "build"), [(name, *rest) for name, rest in REAL.items()], ids=list(REAL))
def test_every_key_of_the_real_networks_has_a_place_or_a_reason(name: str, attention: str, build: Callable[[], nn.Module]) -> None:
    model = build()
    prepare(model, QuantConfig.for_vit("W2A2", published=True, attention=attention), example=torch.zeros(1, 3, 224, 224))
    ours = {key: torch.full_like(tensor, 7) for key, tensor in model.state_dict().items() if tensor.is_floating_point()}
    index = {key: tensor for key, tensor in model.state_dict().items() if key.endswith("relative_position_index")}
    model.load_state_dict(ours, strict=False)
    keys = published_keys(name)
    zeros = {key: torch.full(one["shape"], 2.0 if key.endswith("clip_val") else 0.0) for key, one in keys.items()}
    report = load_published(model, zeros | index)
    assert report.placed.keys() | report.ignored.keys() == keys.keys()
    assert not report.placed.keys() & report.ignored.keys()
    assert all(key.endswith(("clip_val", "move_qkx_aft.bias", "move_k_aft.bias")) for key in report.ignored)
    assert not [key for key in ours if model.state_dict()[key].any()], "nothing of ours keeps its former value"


@pytest.mark.parametrize(
    ("published", "ours", "arranged"),
    [
        ("blocks.0.attn.q.weight", "blocks.0.attn.qkv.weight", lambda ours: ours[:12]),
        ("blocks.0.attn.k.weight", "blocks.0.attn.qkv.weight", lambda ours: ours[12:24]),
        ("blocks.0.attn.v.weight", "blocks.0.attn.qkv.weight", lambda ours: ours[24:]),
        ("blocks.0.attn.v.bias", "blocks.0.attn.qkv.bias", lambda ours: ours[24:]),
        # Published: index token * h + head.
        ("blocks.0.attn.quan_a_qkx_fn.s", "blocks.0.attn.products.key_quantizer.quantizer.scale", lambda ours: ours[0, :, :, 0].flatten()),
        ("blocks.0.attn.move_qkx_b4.bias", "blocks.0.attn.products.key_quantizer.before", lambda ours: torch.cat([ours[0], ours[1]])),
        ("patch_embed.proj.move_b4.bias", "patch_embed.proj.input_quantizer.before", lambda ours: torch.cat(list(ours))),
        ("patch_embed.proj.lsqw_fn.s", "patch_embed.proj.weight_quantizer.scale", lambda ours: ours[:, 0, 0, 0]),
        ("head_dist.input_quant_fn.s", "head_dist.input_quantizer.quantizer.scale", lambda ours: ours),
    ],
)
def test_tensors_arrive_in_their_order(published: str, ours: str, arranged: Callable[[Tensor], Tensor]) -> None:
    model, state = prepared_deit(), published_deit()
    load_published(model, state)
    assert torch.equal(arranged(model.state_dict()[ours]), state[published])


def test_biases_of_plain_attention_are_cut_in_thirds() -> None:
    model, state = prepared_deit(attention="plain"), published_deit(attention="plain")
    load_published(model, state)
    products = model.get_submodule("blocks.0.attn.products")
    thirds = [products.query_quantizer.before, products.key_quantizer.before, products.value_quantizer.before]
    assert torch.equal(torch.cat(thirds), state["blocks.0.attn.move_qkv_b4.bias"])


def test_the_model_is_ready_and_knows_its_signs() -> None:
    model = prepared_deit()
    report = load_published(model, published_deit())
    model(torch.randn(2, 3, 16, 16))
    unsigned = {name for name, module in model.named_modules() if getattr(module, "is_signed", None) is False}
    assert unsigned == {"blocks.0.attn.products.probability_quantizer", "blocks.0.mlp.fc2.input_quantizer.quantizer"}
    assert not model.get_submodule("blocks.0.attn.qkv").bias[:24].any()
    assert "blocks.0.attn.qkv.bias" in report.filled


@pytest.mark.parametrize("latched", [0.0, 1.0], ids=["unsigned", "signed"])
def test_the_image_keeps_the_sign_that_it_has_latched(latched: float) -> None:
    model = prepared_deit()
    load_published(model, published_deit() | {"patch_embed.proj.input_quant_fn.signed": torch.tensor([latched])})
    assert model.get_submodule("patch_embed.proj.input_quantizer.quantizer").is_signed is bool(latched)


def without(key: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in published_deit().items() if name != key}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (published_deit() | {"blocks.0.attn.new": torch.ones(1)}, r"1 keys have no place \(blocks\.0\.attn\.new\)"),
        (without("norm.bias"), r"1 of ours get nothing \(norm\.bias\)"),
        (without("blocks.0.attn.k.weight"), r"1 of ours get nothing \(blocks\.0\.attn\.qkv\.weight\)"),
        (without("patch_embed.proj.input_quant_fn.signed"), r"1 quantizers get no sign \(patch_embed\.proj\.input_quantizer\.quantizer\)"),
        (published_deit(attention="plain"), "keys have no place .*with attention 'plain'"),
        (published_deit() | {"blocks.0.attn.v_quant.clip_val": torch.ones(1)}, r"v_quant\.clip_val is \[1\.0\]; allowed: the 2\.0"),
        (published_deit() | {"patch_embed.proj.input_quant_fn.signed": torch.tensor([2.0])}, r"signed is \[2\.0\]; allowed: 0"),
        (published_deit() | {"norm.bias": torch.full((12,), float("nan"))}, r"norm\.bias is not finite"),
        (published_deit() | {"norm.bias": torch.ones(11)}, r"norm\.bias has 11 elements; allowed: 12, as norm\.bias has"),
        (published_deit() | {"head.weight": torch.ones(7, 12)}, r"head\.weight is \(7, 12\); allowed: \(5, 12\)"),
        (published_deit() | {"blocks.0.mlp.fc1.weight": torch.ones(12, 24)}, r"fc1\.weight is \(12, 24\); allowed: \(24, 12\)"),
        (published_deit() | {"blocks.0.attn.qkv.weight": torch.ones(36, 12)}, r"both for blocks\.0\.attn\.qkv\.weight; allowed: one"),
    ],
    ids=["unknown", "missing", "missing part", "no latch", "plain", "clip", "latch", "nan", "size", "classes", "transposed", "twice"],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(state: dict[str, Tensor], message: str) -> None:
    model = prepared_deit()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message) as refusal:
        load_published(model, state)
    assert "\n" not in str(refusal.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_another_image_size_is_named() -> None:
    # The model's image gives 9 + 2 tokens; the position embedding, which comes first, does not fit either.
    with pytest.raises(CheckpointError, match=r"has 6 elements; allowed: 11, as \S+scale has \(one scale per token: a checkpoint serves"):
        load_published(prepared_deit(image_size=24), published_deit())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wq_bitw": 2, "aq_bitw": 4}, "trained with wq_bitw 2, and the model has 3 bits there; allowed: 2"),
        ({"wq_bitw": 3, "aq_bitw": 2}, "trained with aq_bitw 2, and the model has 4 bits there; allowed: 2"),
    ],
    ids=["weights", "activations"],
)
def test_other_widths_are_refused_where_they_are_recorded(options: dict[str, int], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_published(prepared_deit("W3A4"), {"state_dict": published_deit(), "args": argparse.Namespace(**options)})


def test_equal_widths_are_fine_and_unknown_ones_are_told() -> None:
    known = {"state_dict": published_deit(), "args": argparse.Namespace(wq_bitw=3, aq_bitw=4)}
    assert load_published(prepared_deit("W3A4"), known).notes == ("taken from the key state_dict",)
    (note,) = load_published(prepared_deit("W3A4"), published_deit()).notes
    assert "does not record its widths" in note


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"published": False}, "prepared otherwise"), ({"learned_shifts": False}, "prepared otherwise")],
    ids=["not published", "no shifts"],
)
def test_a_model_prepared_otherwise_is_refused(settings: dict[str, bool], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"{message}; allowed: .*published=True"):
        load_published(prepared_deit(**settings), published_deit())


def test_another_sign_is_refused() -> None:
    model = nn.Sequential()
    model.add_module("mlp", nn.Sequential())
    model.mlp.add_module("fc2", nn.Linear(4, 4))
    model.mlp.add_module("fc3", nn.Linear(4, 4))
    model.add_module("first", nn.Linear(4, 4))
    order = nn.Sequential(model.first, model.mlp)  # fc2 is not the first layer, so its sign is known
    prepare(order, QuantConfig.for_vit("W4A4", attention="float", published=True), example=torch.zeros(1, 3, 4))
    with pytest.raises(CheckpointError, match=r"fc2\.input_quant_fn\.s is of unsigned codes, and \S+ has signed ones"):
        load_published(order, {"1.fc2.input_quant_fn.s": torch.ones(3)})


def test_pins_are_released() -> None:
    model = prepared_deit()
    pins = model.get_submodule("blocks.0.mlp.fc1.weight_quantizer").pins
    pins.fill_(1)
    load_published(model, published_deit())
    assert bool((pins == -128).all())


def test_a_layer_in_full_precision_is_refused_by_the_names_of_its_quantizers() -> None:
    model = prepared_deit(overrides=(Override("head_dist", weight_bits=32),))
    with pytest.raises(CheckpointError, match=r"4 keys have no place \(head_dist\.input_quant_fn\.s, "):
        load_published(model, published_deit())
