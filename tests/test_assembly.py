"""What a checkpoint says without its data."""

import pytest
import torch

from stillbit.assembly import build_blank, build_trained, read_trained, trained_classes
from stillbit.errors import CheckpointError
from stillbit.recipes.load import load
from stillbit.recipes.mapping import to_mapping
from stillbit.training import checkpoint

SMALL_DEIT = "model.arguments={img_size: 16, patch_size: 8, embed_dim: 12, depth: 1, num_heads: 2, mlp_ratio: 2}"


@pytest.mark.parametrize("num_classes", [1, 10, 37])
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        pytest.param("digits_w3a3_lsq", [], id="small_mobilenet"),
        pytest.param("digits_deit_w2a2_cga", [SMALL_DEIT], id="two_heads"),
        pytest.param("resnet18_w4a4_lsq", ["model.source=torchvision", "model.name=resnet18", "data.image_size=32"], id="torchvision"),
    ],
)
def test_classes_are_known_from_the_checkpoint(tmp_path, name, overrides, num_classes):
    recipe = load(name, ["data.name=folder", "data.root=none", *overrides])
    model = build_blank(recipe, num_classes)
    checkpoint.save(tmp_path / "last.pt", {"model": model.state_dict(), "recipe": to_mapping(recipe)})
    trained = read_trained(tmp_path)
    assert trained_classes(trained) == num_classes
    rebuilt = build_trained(trained)
    assert not rebuilt.training
    for key, tensor in model.state_dict().items():
        assert torch.equal(rebuilt.state_dict()[key], tensor)


def test_another_network_than_the_checkpoints_is_refused(tmp_path):
    recipe = load("digits_w3a3_lsq")
    checkpoint.save(tmp_path / "a.pt", {"model": build_blank(recipe, 10).state_dict(), "recipe": to_mapping(recipe)})
    for override, message in (("model.num_classes=7", "of another model"), ("quantization.weight_bits=4", "weight_bits 3; allowed: 4")):
        with pytest.raises(CheckpointError, match=message):
            build_trained(read_trained(tmp_path / "a.pt", [override]))
