import timm
import torch
from torch import nn

from stillbit.modules.shift import Shifted
from stillbit.prepare import parameter_groups, scales, undecayed, weights
from stillbit.quantizers import LSQ
from tests.prepare.networks import Plain, prepared, small_mobilenet


def test_scales_and_weights_part_all_parameters() -> None:
    model, coverage = prepared(small_mobilenet(), policy="all")
    of_scales, of_weights = {id(p) for p in scales(model)}, {id(p) for p in weights(model)}
    assert len(of_scales) == len(scales(model)) == len(coverage.weights) + len(coverage.activations)
    assert of_scales.isdisjoint(of_weights)
    assert of_scales | of_weights == {id(p) for p in model.parameters()}


def test_zero_points_train_with_the_scales() -> None:
    model, _ = prepared(Plain(), activation_symmetric=False)
    assert {id(model.head.input_quantizer.scale), id(model.head.input_quantizer.zero_point)} <= {id(p) for p in scales(model)}


def test_fixed_ranges_have_nothing_to_train() -> None:
    assert scales(prepared(Plain(), quantizer="fixed")[0]) == []


def test_weights_that_do_not_train_are_left_out() -> None:
    model, _ = prepared(Plain())
    model.first.weight.requires_grad_(False)
    assert id(model.first.weight) not in {id(p) for p in weights(model)}


class Token(nn.Module):
    """A parameter that the model itself keeps from decay, one that it does not, shifts that are maps, a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.table = nn.Parameter(torch.zeros(5, 2))
        self.norm = nn.LayerNorm(4)
        self.shifted = Shifted(LSQ(4), before=(1, 6, 6), after=(1, 6, 6))

    def no_weight_decay(self) -> set[str]:
        return {"token", "not_there"}


def test_what_does_not_decay() -> None:
    model = Token()
    found = {id(parameter) for parameter in undecayed(model)}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in found}
    assert names == {"token", "norm.weight", "norm.bias", "shifted.before", "shifted.after"}
    groups = parameter_groups(model, weight_decay=0.1, scale_lr=1e-5, decay_norms=False)
    assert [[id(p) for p in group["params"]] for group in groups] == [
        [id(model.table)],
        [id(p) for p in undecayed(model)],
        [id(model.shifted.quantizer.scale)],
    ]


def test_a_timm_transformer_names_its_tokens() -> None:
    model = timm.create_model("deit_tiny_distilled_patch16_224", depth=1, img_size=32, embed_dim=16, num_heads=2)
    found = {id(parameter) for parameter in undecayed(model)}
    decayed = {name for name, parameter in model.named_parameters() if id(parameter) not in found}
    linear = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert decayed == {"patch_embed.proj.weight", "head.weight", "head_dist.weight"} | {f"blocks.0.{name}.weight" for name in linear}


def test_groups_never_decay_scales() -> None:
    model, _ = prepared(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False)))
    groups = parameter_groups(model, weight_decay=0.1, scale_lr=1e-5)
    assert [(len(group["params"]), group["weight_decay"], group.get("lr")) for group in groups] == [(5, 0.1, None), (3, 0.0, 1e-5)]
    groups = parameter_groups(model, weight_decay=0.1, scale_lr=1e-5, decay_norms=False)
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(2, 0.1), (3, 0.0), (3, 0.0)]
    optimizer = torch.optim.SGD(groups, lr=0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5, 1e-5]
