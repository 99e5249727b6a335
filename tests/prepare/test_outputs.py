import copy
import pickle
from collections import Counter

import pytest
import timm
import torch
from torch import nn

from stillbit.errors import PrepareError
from stillbit.prepare import Override, calibrate
from stillbit.quantizers import Quantizer
from stillbit.quantizers.tied import TiedQuantizer
from tests.prepare.networks import Plain, calibrated, image, prepared, small_mobilenet, small_resnet, whole

OUTPUT_POLICIES = ("lsq", "fp_logits", "all", "fc4", "fc4_dw8")


def activations(model: nn.Module, **settings: object) -> dict[str, int]:
    return {one.name: one.bits for one in prepared(model, **settings)[1].activations}


class Wrapping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(Plain())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def ties(model: nn.Module) -> dict[str, str]:
    return {name: module.source.label for name, module in model.named_modules() if isinstance(module, TiedQuantizer)}


def test_points_of_a_residual_block_of_each_library() -> None:
    timm_block = [name for name in activations(whole("resnet18-timm"), policy="all") if name.startswith("layer2.0")]
    assert timm_block == [
        "layer2.0.act1.output_quantizer",
        "layer2.0.bn2.output_quantizer",
        "layer2.0.downsample.1.output_quantizer",
        "layer2.0.output_quantizer",
    ]
    torchvision_block = [name for name in activations(whole("resnet18-torchvision"), policy="all") if name.startswith("layer2.0")]
    assert torchvision_block == ["layer2.0.conv2.input_quantizer", *timm_block[1:]]


def test_points_of_an_inverted_residual_of_each_library() -> None:
    timm_block = [name for name in activations(whole("mobilenetv2-timm"), policy="all") if name.startswith("blocks.1.1")]
    assert timm_block == [f"blocks.1.1{module}.output_quantizer" for module in (".bn1", ".bn2", ".bn3", "")]
    torchvision_block = [name for name in activations(whole("mobilenetv2-torchvision"), policy="all") if name.startswith("features.3.")]
    assert torchvision_block == [f"features.3{module}.output_quantizer" for module in (".conv.0.2", ".conv.1.2", ".conv.3", "")]


def test_squeeze_and_excitation_pools_on_the_grid_of_what_it_squeezes() -> None:
    model, _ = prepared(whole("mobilenetv3_small-timm"), policy="all")
    assert ties(model)["blocks.0.0.se.conv_reduce.input_quantizer"] == "blocks.0.0.bn1.output_quantizer"
    assert ties(model)["conv_head.input_quantizer"] == "blocks.5.0.bn1.output_quantizer"
    assert len(ties(model)) == 10
    model, _ = prepared(whole("mobilenetv3_small-torchvision"), policy="all")
    assert ties(model)["features.1.block.1.fc1.input_quantizer"] == "features.1.block.0.2.output_quantizer"
    assert ties(model)["classifier.0.input_quantizer"] == "features.12.2.output_quantizer"
    assert len(ties(model)) == 10


@pytest.mark.parametrize(
    ("network", "layer", "source"),
    [
        ("mobilenetv2-timm", "classifier", "bn2"),
        ("mobilenetv2-torchvision", "classifier.1", "features.18.2"),
        ("resnet18-timm", "fc", "layer4.1"),
        ("resnet18-torchvision", "fc", "layer4.1"),
    ],
)
def test_classifier_reads_the_pool_on_the_grid_of_what_was_pooled(network: str, layer: str, source: str) -> None:
    model, _ = prepared(whole(network), policy="lsq")
    assert ties(model) == {f"{layer}.input_quantizer": f"{source}.output_quantizer"}


def test_classifier_really_gets_codes() -> None:
    model = calibrated(small_mobilenet(), policy="all").eval()
    seen = {}
    model.classifier.input_quantizer.register_forward_hook(lambda _, inputs, output: seen.update(before=inputs[0], after=output))
    model(image(batch=2))
    codes = seen["after"] / model.bn2.output_quantizer.scale
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-5)  # value / scale rounds once more
    assert not torch.equal(seen["before"], seen["after"])


def test_tied_state_is_stored_once_and_a_copy_keeps_the_tie() -> None:
    model = calibrated(small_mobilenet(), policy="all")
    assert not [key for key in model.state_dict() if key.startswith("classifier.input_quantizer")]
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.classifier.input_quantizer.source is twin.bn2.output_quantizer
        assert twin.bn2.output_quantizer is not model.bn2.output_quantizer
        assert torch.equal(twin.eval()(image()), model.eval()(image()))
        twin.bn2.output_quantizer.scale.data.mul_(2)
        assert not torch.equal(twin(image()), model(image()))


def test_integer_of_a_resnet_quantizes_what_a_sum_or_a_pool_reads() -> None:
    eight = [name for name, bits in activations(small_resnet(), policy="integer").items() if bits == 8]
    blocks = [f"layer{stage}.0" for stage in (1, 2, 3, 4)]
    sums = [f"{block}.output_quantizer" for block in blocks]
    convolutions = [f"{block}.bn2.output_quantizer" for block in blocks]
    ends = ["conv1.input_quantizer", "act1.output_quantizer", "fc.input_quantizer"]
    assert sorted(eight) == sorted([*sums, *convolutions, *ends])


def test_integer_quantizes_before_a_hard_swish_and_leaves_pointwise_outputs() -> None:
    eight = [name for name, bits in activations(small_mobilenet(hard_swish=True), policy="integer").items() if bits == 8]
    assert eight == [
        "conv_stem.input_quantizer",
        "bn1.act.input_quantizer",
        "blocks.0.0.bn1.act.input_quantizer",
        "blocks.0.0.output_quantizer",
        "blocks.1.0.bn2.act.input_quantizer",
        "classifier.input_quantizer",
    ]


def test_integer_of_mobilenetv3_finds_the_pool_of_squeeze_and_excitation() -> None:
    for network, place in (("timm", "blocks.0.0.bn1"), ("torchvision", "features.1.block.0.2")):
        found = activations(whole(f"mobilenetv3_small-{network}"), policy="integer")
        assert found[f"{place}.output_quantizer"] == 8
        before_swish = [name for name in found if name.endswith((".act.input_quantizer", ".2.input_quantizer"))]
        assert len(before_swish) == 9  # the stem and 8 depthwise convolutions
        assert set(Counter(found[name] for name in before_swish)) == {8}


@pytest.mark.parametrize("policy", OUTPUT_POLICIES)
def test_output_policy_on_a_model_outside_the_table_is_one_line(policy: str) -> None:
    with pytest.raises(PrepareError, match=rf"^policy '{policy}' .* no entry for Plain \(layer first\); allowed .* lsq_paper and integer$"):
        prepared(Plain(), policy=policy)


def test_the_refusal_names_the_class_around_the_layer() -> None:
    with pytest.raises(PrepareError, match=r"no entry for Plain \(layer 0\.inner\.0\.first\)"):
        prepared(nn.Sequential(Wrapping()), policy="all")


def test_integer_on_a_model_outside_the_table_says_so() -> None:
    _, coverage = prepared(Plain(), policy="integer")
    assert [(one.name, one.bits) for one in coverage.activations] == [
        ("first.input_quantizer", 8),
        ("second.input_quantizer", 4),
        ("head.input_quantizer", 8),
    ]
    assert coverage.notes == ("policy 'integer': the table of output places has no entry for Plain; sums and outputs there stay float",)
    assert str(coverage).endswith(coverage.notes[0])


def test_lsq_paper_takes_any_model() -> None:
    _, coverage = prepared(Plain())
    assert [one.name for one in coverage.activations] == ["second.input_quantizer", "head.input_quantizer"]
    assert coverage.notes == ()


@pytest.mark.parametrize("name", ["resnetblur18", "resnet18d", "seresnet18"])
def test_variants_that_average_or_attend_inside_a_block_are_outside_the_table(name: str) -> None:
    with pytest.raises(PrepareError, match="has no entry for"):
        prepared(timm.create_model(name), policy="all")


@pytest.mark.parametrize("policy", ["lsq_paper", "integer", *OUTPUT_POLICIES])
def test_32_activation_bits_quantize_weights_only(policy: str) -> None:
    model, coverage = prepared(small_mobilenet(), "W3A32", policy=policy)
    assert len(coverage.weights) == 8
    assert coverage.activations == ()
    assert ties(model) == {}
    assert coverage.notes == ()


def test_override_of_activations_means_the_output_under_an_output_policy() -> None:
    overrides = (
        Override("blocks.0.0.conv_dw", activation_bits=6),
        Override("blocks.0.0", activation_bits=7),
        Override("conv_stem", activation_bits=32),
        Override("conv_head", weight_bits=32),
    )
    found = activations(small_mobilenet(), policy="all", overrides=overrides)
    assert found == {
        "blocks.0.0.bn1.output_quantizer": 6,
        "blocks.0.0.bn2.output_quantizer": 4,
        "blocks.0.0.output_quantizer": 7,
        "blocks.1.0.bn1.output_quantizer": 4,
        "blocks.1.0.bn2.output_quantizer": 4,
        "blocks.1.0.bn3.output_quantizer": 4,
        "classifier.output_quantizer": 4,
    }


def test_override_can_take_out_what_is_outside_the_table() -> None:
    _, coverage = prepared(Plain(), policy="all", overrides=(Override("*", activation_bits=32),))
    assert coverage.activations == ()
    assert len(coverage.weights) == 3


def test_calibration_fits_the_tensor_and_not_its_pool() -> None:
    """The tie is calibrated by the tensor that is pooled: the average of it has a smaller range."""
    model, _ = prepared(small_mobilenet(), policy="all")
    largest = []
    model.bn2.register_forward_hook(lambda _, __, output: largest.append(output.max()), prepend=True)
    calibrate(model, [(image(batch=2),)])
    assert torch.allclose(model.bn2.output_quantizer.scale * 15, largest[0], rtol=1e-6)


def test_containers_get_no_child() -> None:
    model, _ = prepared(whole("mobilenetv2-torchvision"), policy="all")
    hosts = [name.rpartition(".")[0] for name, module in model.named_modules() if isinstance(module, Quantizer)]
    assert [host for host in hosts if isinstance(model.get_submodule(host), nn.Sequential)] == []
