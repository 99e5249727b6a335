import torch
from torch import nn

from stillbit.prepare import parameter_groups, scales, weights
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


def test_groups_never_decay_scales() -> None:
    model, _ = prepared(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False)))
    groups = parameter_groups(model, weight_decay=0.1, scale_lr=1e-5)
    assert [(len(group["params"]), group["weight_decay"], group.get("lr")) for group in groups] == [(5, 0.1, None), (3, 0.0, 1e-5)]
    groups = parameter_groups(model, weight_decay=0.1, scale_lr=1e-5, decay_norms=False)
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(2, 0.1), (3, 0.0), (3, 0.0)]
    optimizer = torch.optim.SGD(groups, lr=0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5, 1e-5]
