"""What a network does that no layer of its shows: weights in functions, overrides without a layer, numbers that are none."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that PyTorch itself gives it

from stillbit.errors import PrepareError
from stillbit.prepare import Override, QuantConfig, prepare
from tests.prepare.networks import whole

PRODUCTS: dict[str, tuple[tuple[int, ...], Callable[[Tensor, Tensor], Tensor]]] = {
    "conv2d": ((8, 8, 3, 3), lambda x, w: F.conv2d(x, w, padding=1).mean((2, 3))),
    "conv2d-grouped": ((8, 1, 3, 3), lambda x, w: F.conv2d(x, w, padding=1, groups=8).mean((2, 3))),
    "conv-transpose2d": ((8, 8, 3, 3), lambda x, w: F.conv_transpose2d(x, w).mean((2, 3))),
    "linear": ((8, 8), lambda x, w: F.linear(x.mean((2, 3)), w)),
    "matmul": ((8, 8), lambda x, w: x.mean((2, 3)) @ w),
    "matmul-transposed": ((8, 8), lambda x, w: x.mean((2, 3)) @ w.T),
    "einsum": ((8, 8), lambda x, w: torch.einsum("bc,cd->bd", x.mean((2, 3)), w)),
    "bmm": ((1, 8, 8), lambda x, w: torch.bmm(x.mean((2, 3))[None], w)[0]),
    "rows": ((16, 8), lambda x, w: F.linear(x.mean((2, 3)), w[8:])),
}
SUMS: dict[str, tuple[tuple[int, ...], Callable[[Tensor, Tensor], Tensor]]] = {
    "bias": ((1, 8, 1, 1), lambda x, w: (x + w).mean((2, 3))),
    "scale": ((1, 8, 1, 1), lambda x, w: (x * w).mean((2, 3))),
    "position": ((4, 8), lambda x, w: (x.flatten(2).mT[:, :4] + w).mean(1)),
}


class WithParameter(nn.Module):
    def __init__(self, shape: tuple[int, ...], use: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)
        self.extra = nn.Parameter(torch.randn(shape))
        self._use = use

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self._use(self.stem(x), self.extra))
        return logits


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_weight_that_a_function_multiplies_is_reported(product: str) -> None:
    shape, use = PRODUCTS[product]
    coverage = prepare(WithParameter(shape, use), "W4A4", example=(2, 3, 8, 8))
    assert coverage.float_parameters == (("extra", math.prod(shape)),)
    assert "not quantized: extra, multiplied by a function" in str(coverage)


@pytest.mark.parametrize("use", SUMS)
def test_a_parameter_of_no_product_is_not(use: str) -> None:
    assert prepare(WithParameter(*SUMS[use]), "W4A4", example=(2, 3, 8, 8)).float_parameters == ()


@pytest.mark.parametrize("name", ["mobilenetv2-timm", "resnet18-torchvision"])
def test_a_network_of_layers_has_none(name: str) -> None:
    assert prepare(whole(name), "W4A4", example=(1, 3, 64, 64)).float_parameters == ()


def test_a_layers_weight_that_a_function_reads_too_is_reported() -> None:
    class Twice(WithParameter):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).mean((2, 3))
            return F.linear(x, self.head.weight) + self.head(x)

    assert prepare(Twice((1,), torch.mul), "W4A4", example=(2, 3, 8, 8)).float_parameters == (("head.weight", 80),)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        pytest.param("layer1.0.con1", r"no such layer; did you mean 'layer1\.0\.conv1'\?", id="misspelt"),
        pytest.param("bloks.*", "no such layer; allowed: conv1, ", id="no-pattern-of-it"),
        pytest.param("bn1", "no such layer; did you mean 'fc'|no such layer; ", id="no-weights-that-multiply"),
    ],
)
def test_an_override_without_a_layer_is_refused(pattern: str, said: str) -> None:
    config = QuantConfig.parse("W4A4", overrides=(Override(pattern, weight_bits=8),))
    with pytest.raises(PrepareError, match=f"override '{pattern.replace('*', '[*]')}': the model has {said}"):
        prepare(whole("resnet18-torchvision"), config, example=(1, 3, 64, 64))


@pytest.mark.parametrize("pattern", ["conv1", "layer1.*", "layer1", "*", "*.conv?"])
def test_an_override_of_a_layer_or_a_block_is_taken(pattern: str) -> None:
    config = QuantConfig.parse("W4A4", overrides=(Override(pattern, weight_bits=8),))
    prepare(whole("resnet18-torchvision"), config, example=(1, 3, 64, 64))


@pytest.mark.parametrize("kind", ["parameter", "buffer", "example"])
def test_what_is_not_finite_is_named(kind: str) -> None:
    model, example = whole("resnet18-torchvision"), torch.zeros(1, 3, 64, 64)
    if kind == "parameter":
        model.get_parameter("layer1.0.conv1.weight").data[0, 0] = float("nan")
    elif kind == "buffer":
        model.get_buffer("bn1.running_mean")[3] = float("nan")
    else:
        example[0, 0, 0, 0] = float("nan")
    said = {
        "parameter": "layer1.0.conv1.weight has 9 of 36,864 elements",
        "buffer": "bn1.running_mean has 1 of 64 elements",
        "example": "look at the example",
    }
    with pytest.raises(PrepareError, match=f"output is not finite; .*{said[kind]}"):
        prepare(model, "W4A4", example=example)
