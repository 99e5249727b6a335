"""How many quantizers each policy makes active: the published counts (docs/spec/cnn.md, 7.2), and ours by the same rules."""

import pytest

from stillbit.prepare import calibrate
from stillbit.quantizers import Quantizer
from tests.prepare.networks import image, prepared, whole

POLICIES = ("lsq_paper", "lsq", "fp_logits", "all", "fc4", "fc4_dw8", "integer")
# Weights, then activations in the order of POLICIES.
COUNTS = {
    "mobilenetv2": (53, (52, 62, 62, 63, 63, 63, 63)),
    "efficientnet_lite0": (50, (49, 58, 58, 59, 59, 59, 59)),
    "tf_efficientnet_lite0": (50, (49, 58, 58, 59, 59, 59, 59)),
    "resnet18": (21, (20, 28, 28, 29, 29, 29, 38)),
    "resnet50": (54, (53, 69, 69, 70, 70, 70, 71)),
    "mobilenetv3_small": (54, (53, 68, 68, 69, 69, 69, 70)),
}
FEW = ("lsq_paper", "lsq", "all", "integer")
CASES = (
    ("mobilenetv2-timm", POLICIES),
    ("mobilenetv2-torchvision", POLICIES),
    ("resnet18-timm", POLICIES),
    ("resnet18-torchvision", POLICIES),
    ("efficientnet_lite0-timm", FEW),
    ("tf_efficientnet_lite0-timm", ("all",)),
    ("resnet50-timm", FEW),
    ("resnet50-torchvision", FEW),
    ("mobilenetv3_small-timm", FEW),
    ("mobilenetv3_small-torchvision", FEW),
)


@pytest.mark.parametrize(("network", "policy"), [(network, policy) for network, policies in CASES for policy in policies])
def test_active_quantizers(network: str, policy: str) -> None:
    weights, activations = COUNTS[network.partition("-")[0]]
    coverage = prepared(whole(network), policy=policy)[1]
    assert len(coverage.weights) == weights
    assert len(coverage.activations) == activations[POLICIES.index(policy)]
    assert coverage.notes == ()


@pytest.mark.parametrize("network", ["mobilenetv2-timm", "mobilenetv2-torchvision"])
def test_bottlenecks_are_signed(network: str) -> None:
    model, coverage = prepared(whole(network))
    calibrate(model, [(image(batch=2),)])
    quantizers = {name: module for name, module in model.named_modules() if isinstance(module, Quantizer)}
    signed = [quantizers[one.name].is_signed for one in coverage.activations]
    assert (sum(signed), len(signed) - sum(signed)) == (17, 35)


def widths(network: str, policy: str) -> tuple[dict[str, int], dict[str, int]]:
    """The widths of weights and of activations at W3A4 that are not 3 and 4."""
    coverage = prepared(whole(network), "W3A4", policy=policy)[1]
    weights = {one.name.removesuffix(".weight_quantizer"): one.bits for one in coverage.weights if one.bits != 3}
    return weights, {one.name: one.bits for one in coverage.activations if one.bits != 4}


@pytest.mark.parametrize(
    ("policy", "weights", "activations"),
    [
        ("lsq_paper", {"conv_stem": 8, "classifier": 8}, {"classifier.input_quantizer": 8}),
        ("lsq", {"conv_stem": 8, "classifier": 8}, {"bn2.output_quantizer": 8}),
        ("fp_logits", {}, {}),
        ("all", {}, {}),
        ("fc4", {"conv_stem": 8, "classifier": 4}, {}),
    ],
)
def test_widths_of_mobilenetv2(policy: str, weights: dict[str, int], activations: dict[str, int]) -> None:
    assert widths("mobilenetv2-timm", policy) == (weights, activations)


def test_fc4_dw8_widens_each_depthwise_convolution() -> None:
    weights, activations = widths("mobilenetv2-timm", "fc4_dw8")
    depthwise = {name: bits for name, bits in weights.items() if name.endswith("conv_dw")}
    assert len(depthwise) == 17
    assert set(depthwise.values()) == {8}
    assert weights == depthwise | {"conv_stem": 8, "classifier": 4}
    assert activations == {}


@pytest.mark.parametrize("network", ["resnet18-timm", "resnet18-torchvision"])
def test_lsq_widens_last_sum_and_last_convolution_of_a_resnet(network: str) -> None:
    assert widths(network, "lsq")[1] == {"layer4.1.bn2.output_quantizer": 8, "layer4.1.output_quantizer": 8}


def test_lsq_widens_what_the_classifier_reads_behind_a_pooled_convolution() -> None:
    assert widths("mobilenetv3_small-timm", "lsq")[1] == {"act2.output_quantizer": 8}
    assert widths("mobilenetv3_small-torchvision", "lsq")[1] == {"classifier.1.output_quantizer": 8}
