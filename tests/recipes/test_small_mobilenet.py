import pytest
import torch
from timm.models._efficientnet_blocks import InvertedResidual

from stillbit.recipes.small_mobilenet import small_mobilenet


@pytest.mark.parametrize(("channels", "size"), [pytest.param(1, 16, id="grey16"), pytest.param(3, 32, id="rgb32")])
def test_it_takes_small_images(channels, size):
    model = small_mobilenet(num_classes=7, in_chans=channels).eval()
    assert model(torch.zeros(2, channels, size, size)).shape == (2, 7)


def test_it_is_a_mobilenetv2_in_small():
    model = small_mobilenet()
    assert sum(parameter.numel() for parameter in model.parameters()) == 58170
    assert sum(isinstance(module, InvertedResidual) for module in model.modules()) == 4
    assert sum(isinstance(module, torch.nn.ReLU6) for module in model.modules()) == 11
