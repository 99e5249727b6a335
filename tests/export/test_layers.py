"""The layers of a program: what multiplies, its sizes, and the quantizers that its operands come from."""

import pytest

from stillbit.export import capture
from stillbit.export.layers import LayerInfo, Operand, layers_of, shapes_of
from tests.export.networks import MODELS, image


def layers(name: str) -> dict[str, LayerInfo]:
    return {info.node: info for info in layers_of(capture(MODELS[name](), image()))}


def test_convolutions_have_their_sizes_and_quantizers() -> None:
    by_layer = {info.layer: info for info in layers("mobilenet-integer").values()}
    stem, depthwise, head = by_layer["conv_stem"], by_layer["blocks.1.0.conv_dw"], by_layer["classifier"]
    assert (stem.kind, stem.weight, stem.bits) == ("conv2d", "conv_stem.weight_quantizer", 8)
    assert (stem.weights, stem.accumulations, stem.macs, stem.groups) == (216, 27, 27 * 8 * 16 * 16, 1)
    assert stem.operands == (Operand("conv_stem.input_quantizer", -128, 127),)
    assert (depthwise.bits, depthwise.weights, depthwise.accumulations, depthwise.groups) == (3, 144, 9, 16)
    assert depthwise.macs == 9 * 16 * 16 * 16
    assert depthwise.operands[0] is not None
    assert depthwise.operands[0].bits == 3
    assert (head.kind, head.weights, head.macs, head.accumulations) == ("linear", 80, 80, 16)


def test_a_float_operand_is_none() -> None:
    assert {info.operands for info in layers("plain-W4A32").values()} == {(None,)}


@pytest.mark.parametrize("name", ["vit-qkr_token", "vit-plain_tensor"])
def test_products_of_attention_name_both_quantizers(name: str) -> None:
    found = [info for info in layers(name).values() if info.bits is None]
    labels = [[None if operand is None else operand.quantizer for operand in info.operands] for info in found]
    prefix = "blocks.0.attn.products."
    queries = "input" if "qkr" in name else "query"
    assert labels[:2] == [
        [f"{prefix}{queries}_quantizer.quantizer", f"{prefix}key_quantizer.quantizer"],
        [f"{prefix}probability_quantizer", f"{prefix}value_quantizer.quantizer"],
    ]
    assert [info.weights for info in found] == [0] * 4
    assert found[0].macs == 2 * 17 * 17 * (16 if "qkr" in name else 8)  # QKR multiplies whole tokens
    assert found[1].macs == 2 * 17 * 17 * 8


def test_windows_count_by_sample() -> None:
    for name in ("swin-qkr_token", "swin-torchvision"):
        values = next(info for info in layers(name).values() if info.kind == "matmul")
        assert values.macs == 4 * 16 * 16 * 8  # four windows of 16 tokens, one head of 8


def test_a_float_weight_has_32_bits() -> None:
    bias = next(info for info in layers("vit-qkr_token").values() if info.node == "linear_2")
    assert (bias.weight, bias.bits, bias.weights) == (None, 32, 32)


def test_shapes_grow_with_the_batch() -> None:
    program = capture(MODELS["swin-qkr_token"](), image())
    one, three = shapes_of(program), shapes_of(program, batch=3)
    assert one["view_2"] == (4, 16, 8)
    assert three["view_2"] == (12, 16, 8)
