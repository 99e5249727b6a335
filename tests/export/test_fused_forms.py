"""The file computes what was trained, however a network writes its activations: a runtime fuses them into products in any form."""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that PyTorch itself gives it

from stillbit.export import capture, export_onnx, verify
from stillbit.export.program import operation_name
from stillbit.prepare import calibrate, prepare

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(16, 16, 3, padding=1),
    "depthwise": lambda: nn.Conv2d(16, 16, 3, padding=1, groups=16),
    "linear": lambda: nn.Linear(16, 16),
    "matmul": lambda: nn.Linear(16, 16),
}
FORMS = ("module", "shared", "functional", "method", "in-place", "relu6", "hardtanh", "clamp", "clamp_min")
BEHIND: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda x: x,
    "pool": lambda x: F.max_pool2d(x, 2),
    "flatten": lambda x: x.flatten(1),
    "permute": lambda x: x.transpose(1, -1),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "pool-permute-flatten": lambda x: F.max_pool2d(x, 2).permute(0, 2, 3, 1).flatten(1),
    "two-readers": lambda x: x,
    "sum": lambda x: x,
}


class Form(nn.Module):
    """A product, an activation, something behind it, and the product that reads it."""

    def __init__(self, layer: str, form: str, behind: str) -> None:
        super().__init__()
        self.stem, self.layer = LAYERS["linear" if layer == "matmul" else layer](), LAYERS[layer]()
        self.own, self.shared = nn.ReLU(), nn.ReLU()
        self._form, self._behind = form, behind
        x = BEHIND[behind](torch.zeros(inputs(layer)))
        self.last = nn.Linear(x.shape[-1], 8)
        self.other = nn.Linear(x.shape[-1], 8) if behind == "two-readers" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.activation(self.stem(x)))
        y = BEHIND[self._behind](self.activation(x))
        if self._behind == "two-readers":
            both: Tensor = self.last(y) + self.other(y)
            return both
        last: Tensor = self.last(y)
        return last + y.mean(-1, keepdim=True) if self._behind == "sum" else last

    def activation(self, x: Tensor) -> Tensor:
        forms: dict[str, Callable[[Tensor], Tensor]] = {
            "module": self.own,
            "shared": self.shared,
            "functional": F.relu,
            "method": torch.Tensor.relu,
            "in-place": torch.relu_,
            "relu6": F.relu6,
            "hardtanh": lambda x: F.hardtanh(x, 0.0, 2.0),
            "clamp": lambda x: x.clamp(0.0, 3.0),
            "clamp_min": lambda x: x.clamp_min(0.0),
        }
        return forms[self._form](x)


def inputs(layer: str) -> tuple[int, ...]:
    return {"linear": (16, 16), "matmul": (16, 6, 16)}.get(layer, (4, 16, 16, 16))


def cases() -> Iterator[Any]:
    for layer, form, behind, bits in product(LAYERS, FORMS, BEHIND, ("W2A2", "W3A3", "W4A4")):
        if "pool" in behind and layer in ("linear", "matmul"):
            continue
        if layer == "linear" and behind in ("flatten", "permute"):  # of two axes: nothing to flatten
            continue
        yield pytest.param(layer, form, behind, bits, id=f"{layer}-{form}-{behind}-{bits}")


def trained(layer: str, form: str, behind: str, bits: str) -> tuple[nn.Module, Tensor]:
    model, x = Form(layer, form, behind), torch.randn(inputs(layer))
    prepare(model, bits, example=x)
    calibrate(model, [(x,)])
    return model.eval(), x


@pytest.mark.parametrize(("layer", "form", "behind", "bits"), list(cases()))
def test_every_code_is_the_trained_one(layer: str, form: str, behind: str, bits: str, tmp_path: Path) -> None:
    model, x = trained(layer, form, behind, bits)
    export_onnx(model, tmp_path / "net.onnx", example=x)
    verified = verify(tmp_path / "net.onnx", model, [x[:2]])
    assert verified.ok, verified.problems


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("form", FORMS)
def test_a_program_keeps_an_activation_only_where_more_than_quantizers_read_it(form: str, behind: str) -> None:
    model, x = trained("conv", form, behind, "W4A4")
    program = capture(model, x)
    with torch.no_grad():
        assert torch.equal(program(x), model(x))
    kept = [operation_name(node.target).split(".")[1] for node in program.module.graph.nodes if node.op == "call_function"]
    assert sum(kind in ("relu", "relu6", "hardtanh", "clamp", "clamp_min") for kind in kept) == (1 if behind == "sum" else 0)
