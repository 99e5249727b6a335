import logging
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.utils import counters

from stillbit.numerics import compiling
from stillbit.numerics.compiling import try_compiled


def double(x: Tensor) -> Tensor:
    return x + x


def test_compiled_twin_gives_the_same() -> None:
    x = torch.randn(100)
    compiled = try_compiled(double, x)
    assert compiled is not None
    assert torch.equal(compiled, double(x))


def bound(x: Tensor, low: float) -> Tensor:
    return x.clamp(low)


def test_floats_need_no_compilation_of_their_own() -> None:
    """Torch 2.9 used to compile for each, and to raise after eight: as many ranges as one model may have."""
    x = torch.randn(100)
    before = counters["stats"]["unique_graphs"]
    for low in torch.linspace(-1.0, 1.0, 12).tolist():
        compiled = try_compiled(bound, x, low)
        assert compiled is not None
        assert torch.equal(compiled, bound(x, low))
    assert counters["stats"]["unique_graphs"] - before == 1


def test_without_a_compiler_it_says_so_once_and_gives_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def failing_twin(*_: Any) -> Any:
        def twin(x: Tensor) -> Tensor:
            calls.append(x)
            raise BackendCompilerFailed(double, RuntimeError("no g++ here\nlong trace"), None)

        return twin

    monkeypatch.setattr(compiling, "_compiler_works", True)
    monkeypatch.setattr(compiling, "_twin", failing_twin)
    with caplog.at_level(logging.WARNING, logger="stillbit"):
        assert try_compiled(double, torch.ones(1)) is None
        assert try_compiled(double, torch.ones(1)) is None
    assert len(calls) == 1
    assert len(caplog.records) == 1
    assert "no working compiler (no g++ here)" in caplog.text
