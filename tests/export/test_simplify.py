"""Names of a program: tensors keep theirs, and nothing else takes them."""

import pytest
import torch
from torch import Tensor, nn

from stillbit.errors import ExportError
from stillbit.export import capture
from stillbit.prepare import QuantConfig, calibrate, prepare


class NamedAsOperations(nn.Module):
    """Parameters called as the operations that read them are, as the input is, and as results that are computed at once."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        for name in ("x", "add", "relu", "linear", "exp"):
            self.register_parameter(name, nn.Parameter(torch.randn(3)))

    def forward(self, image: Tensor) -> Tensor:
        hidden = (self.second(self.first(image) + self.x).relu() + self.add) * self.relu
        return (hidden * self.linear + self.add) * self.x + self.exp.exp() + self.exp


class WithRegion(nn.Module):
    """Leaves autocast for a sum that must be precise."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, image: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            output: Tensor = self.layer(image) + 1
        return output


def test_a_region_within_a_network_is_one_line() -> None:
    model, example = WithRegion(), torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    prepare(model, QuantConfig.parse("W4A4"), example=example)
    calibrate(model, [(example,)])
    with pytest.raises(ExportError, match="runs a region of its own"):
        capture(model, example)


def test_parameters_may_be_called_as_operations_are() -> None:
    torch.manual_seed(0)
    model, example = NamedAsOperations(), torch.randn(4, 3)
    prepare(model, QuantConfig.parse("W4A4"), example=example)
    calibrate(model, [(example,)])
    program = capture(model.eval(), example)
    with torch.no_grad():
        assert torch.equal(program(example), model(example))
    tensors = program.tensors()
    assert all(torch.equal(tensors[name], model.get_parameter(name)) for name in ("add", "relu", "linear", "exp"))
