"""The recorded run: which tensors hold the same, whichever views of their memory are read and written."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stillbit.prepare import prepare
from stillbit.prepare.graph import Graph, record
from tests.prepare.test_folding import folded_in

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "whole": lambda y: y.flatten(1),
    "from-the-beginning": lambda y: y[:, :2],
    "off-start": lambda y: y[:, 1:],
    "strided": lambda y: y[:, ::2],
    "chunk": lambda y: y.chunk(3, 1)[-1],
    "transposed": lambda y: y.transpose(1, 2),
}
WRITES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu_": torch.relu_,
    "clamp_": lambda y: y.clamp_(0.0),
    "add_": lambda y: y.add_(1.0),
    "copy_": lambda y: y.copy_(torch.ones_like(y)),
    "out": lambda y: torch.neg(y, out=y),
    "set-item": lambda y: y.__setitem__(slice(None), 0.0) or y,  # type: ignore[func-returns-value]
}


class Watched(nn.Module):
    """Returns what it reads; its visits tell what that was."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class ReadsBeforeAndAfter(nn.Module):
    def __init__(self, view: Callable[[Tensor], Tensor], write: Callable[[Tensor], object], *, through_the_view: bool) -> None:
        super().__init__()
        self.conv, self.whole, self.part = nn.Conv2d(3, 3, 1), Watched(), Watched()
        self._view, self._write, self._through_the_view = view, write, through_the_view

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        part = self._view(y)
        self.whole(y), self.part(part)
        self._write(part if self._through_the_view else y)
        return self.whole(y).flatten(1)[:, :1] + self.part(part).flatten(1)[:, :1]


def read_by(graph: Graph, module: str) -> list[int]:
    return [visit.inputs[0].content for visit in graph.visits if visit.module == module]


@pytest.mark.parametrize("through_the_view", [False, True], ids=["base-written", "view-written"])
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("view", VIEWS)
def test_a_write_changes_every_view_of_the_memory(view: str, write: str, through_the_view: bool) -> None:
    model = ReadsBeforeAndAfter(VIEWS[view], WRITES[write], through_the_view=through_the_view)
    graph = record(model, torch.randn(2, 3, 4, 4))
    before, after = zip(read_by(graph, "whole"), read_by(graph, "part"), strict=True)
    assert len(set(before)) == len(set(after)) == 1
    assert before[0] != after[0]
    assert set(graph.made_by({"conv"})) == {graph.visits[2].inputs[0]}


class PartOfAnActivation(nn.Module):
    """Only a part of what the layer reads went through the activation."""

    def __init__(self, view: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.activation, self.second = nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True), nn.Conv2d(3, 3, 1)
        self._view = view

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        self.activation(self._view(y))
        second: Tensor = self.second(y)
        return second


@pytest.mark.parametrize("view", VIEWS)
def test_a_part_that_is_positive_does_not_make_the_whole_so(view: str) -> None:
    graph = record(PartOfAnActivation(VIEWS[view]), torch.randn(2, 3, 4, 4))
    read = next(visit.inputs[0] for visit in graph.visits if visit.module == "second")
    assert (read in graph.made_by({"activation"})) == (view in ("whole", "transposed"))


class AnOlderViewIsReadLater(PartOfAnActivation):
    """The view is taken before the activation overwrites what it shows."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        part = self._view(y)
        total: Tensor = self.second(self.activation(y)) + part.sum()
        return total


@pytest.mark.parametrize("view", VIEWS)
def test_an_activation_that_an_older_view_reads_too_is_left_alone(view: str) -> None:
    model = AnOlderViewIsReadLater(VIEWS[view])
    prepare(model, "W4A4", example=torch.zeros(2, 3, 8, 8))
    assert folded_in(model) == []


@pytest.mark.parametrize("view", VIEWS)
def test_an_activation_in_place_is_folded_if_the_next_layer_reads_all_of_it_and_nothing_else(view: str) -> None:
    model = PartOfAnActivation(VIEWS[view])
    prepare(model, "W4A4", example=torch.zeros(2, 3, 8, 8))
    assert folded_in(model) == (["activation"] if view in ("whole", "transposed") else [])
