import logging
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stillbit.numerics.fast import compiling, num_compiled, settings, try_compiled


def double(x: Tensor) -> tuple[Tensor, None]:
    return x + x, None


def test_compiled_twin_gives_the_same() -> None:
    x = torch.randn(100)
    compiled = try_compiled(double, x)
    assert compiled is not None
    assert compiled[1] is None
    assert torch.equal(compiled[0], double(x)[0])


def bound(x: Tensor, low: float) -> tuple[Tensor]:
    return (x.clamp(low),)


def test_floats_need_no_compilation_of_their_own() -> None:
    x = torch.randn(100)
    before = num_compiled()["bound"]
    for low in torch.linspace(-1.0, 1.0, 12).tolist():
        compiled = try_compiled(bound, x, low)
        assert compiled is not None
        assert torch.equal(compiled[0], bound(x, low)[0])
    assert num_compiled()["bound"] - before == 1


def sums(x: Tensor, y: Tensor, axes: tuple[int, ...]) -> tuple[Tensor]:
    return ((x * y).sum(axes, keepdim=True),)


def test_one_form_serves_all_sizes() -> None:
    """Sizes that are equal at first need not be so later; a tuple among the arguments is a constant."""
    before = num_compiled()["sums"]
    for size in ((5, 5, 5), (2, 7, 300), (9, 5, 40), (3, 2, 2_000)):
        x, y = torch.randn(size), torch.randn(1, size[1], 1)
        compiled = try_compiled(sums, x, y, (0, 2))
        assert compiled is not None
        torch.testing.assert_close(compiled[0], sums(x, y, (0, 2))[0], rtol=1e-4, atol=1e-4)
    assert num_compiled()["sums"] - before == 1


def test_long_sums_keep_their_precision_after_short_ones() -> None:
    """Off by 4e-8 on torch 2.15, which adds up in two stages; by 2e-6 on 2.9, as everything that it compiles for any size."""
    generator = torch.Generator().manual_seed(1)
    short, long = torch.rand(100), torch.rand(3_000_000, generator=generator)
    for x in (short, long):
        compiled = try_compiled(sums, x, torch.ones(1), (0,))
        assert compiled is not None
        assert compiled[0].item() == pytest.approx(x.double().sum().item(), rel=1e-6 if torch.__version__ >= (2, 15) else 3e-6)


@pytest.mark.parametrize("form", [torch.randn(40)[::2], torch.randn(40)[5:], torch.randn(4, 10).T, torch.randn(1, 8)])
def test_tensors_of_every_form(form: Tensor) -> None:
    compiled = try_compiled(double, form)
    assert compiled is not None
    assert torch.equal(compiled[0], double(form)[0])


@pytest.mark.parametrize("empty", [torch.empty(0, 3), torch.empty(3, device="meta")])
def test_of_a_tensor_that_holds_nothing_there_is_nothing_to_compile(empty: Tensor) -> None:
    assert try_compiled(double, empty) is None
    assert try_compiled(double, torch.ones(3)) is not None


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_a_dispatch_mode_sees_each_operation() -> None:
    with Watching():  # type: ignore[no-untyped-call]
        assert try_compiled(double, torch.ones(3)) is None
    assert try_compiled(double, torch.ones(3)) is not None


def test_without_a_compiler_it_says_so_once_and_gives_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def fail(*_: Any, **__: Any) -> Any:
        calls.append(1)
        raise RuntimeError("no g++ here\nlong trace")

    monkeypatch.setattr(settings, "compile", True)
    monkeypatch.setattr(torch._inductor, "compile", fail)
    with caplog.at_level(logging.WARNING, logger="stillbit"):
        assert try_compiled(double, torch.ones(1, 1, 1, 1, 7)) is None
        assert try_compiled(double, torch.ones(1, 1, 1, 1, 7)) is None
    assert len(calls) == 1
    assert len(caplog.records) == 1
    assert "no working compiler (no g++ here)" in caplog.text


def test_a_torch_without_what_compiling_needs_is_one_without_a_compiler(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(settings, "compile", True)
    monkeypatch.setattr(compiling, "_forms", {})
    monkeypatch.setitem(sys.modules, "torch.fx.experimental.proxy_tensor", None)
    with caplog.at_level(logging.WARNING, logger="stillbit"):
        assert try_compiled(double, torch.ones(3)) is None
    assert "no working compiler" in caplog.text
