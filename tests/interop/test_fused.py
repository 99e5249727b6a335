from pathlib import Path

import pytest
import timm
import torchvision
from torch import nn

from stillbit.interop.fused import FusedLayer, fused_layers
from tests.golden.case import OWN, SHARED, Case, find, read_config
from tests.golden.network import ReducedMobileNetV2

NETWORKS = [path for folder in (SHARED, OWN) for path in find(folder) if read_config(path)["op"] == "e2e_data"]


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: f"{path.parents[1].parent.name}-{path.parent.name}")
def test_names_are_those_of_the_published_network(path: Path) -> None:
    common = Case.load(path)
    found = {
        layer.published: {"weight": layer.layer, "bn": layer.norm} for layer in fused_layers(ReducedMobileNetV2(common.config["arch"]))
    }
    assert found == common.config["fused_to_fp"]


def test_timm_and_torchvision_name_the_same_layers() -> None:
    of_timm = fused_layers(timm.create_model("mobilenetv2_100"))
    of_torchvision = fused_layers(torchvision.models.mobilenet_v2())
    assert [layer.published for layer in of_timm] == [layer.published for layer in of_torchvision]
    assert of_timm[0] == FusedLayer("features.0.0", "conv_stem", "bn1")
    assert of_torchvision[3] == FusedLayer("features.2.conv.0", "features.2.conv.0.0", "features.2.conv.0.1")
    assert of_torchvision[-1] == FusedLayer("classifier.1", "classifier.1", None)
    assert len(of_timm) == 53


def test_what_stands_between_takes_a_place_of_its_own() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Dropout(), nn.BatchNorm2d(1), nn.Linear(1, 1), nn.GELU(), nn.Linear(1, 1))
    assert fused_layers(model) == [FusedLayer("0", "0", None), FusedLayer("3", "3", None), FusedLayer("4", "5", None)]
