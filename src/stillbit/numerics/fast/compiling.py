"""Compiled twins of plain functions: made on the first call, one per kind of arguments, given up for good where no compiler works.

A function is traced once and compiled by Inductor, without Dynamo between it and its caller: Dynamo checks at each call what the key of a
form says already, and takes longer for it than a small kernel runs.
"""

import functools
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from stillbit.numerics.fast.thresholds import settings

if TYPE_CHECKING:
    from torch._subclasses.fake_tensor import FakeTensorMode

Result = TypeVar("Result", bound=tuple[Tensor | None, ...])

_log = logging.getLogger("stillbit")
_MANY = (1 << 20) + 1  # more than Inductor adds up in one stage, where it knows two (torch 2.9 does not)


def try_compiled(function: Callable[..., Result], *arguments: Any) -> Result | None:
    """Run the compiled twin of `function`.

    Each kind of arguments gets its own twin. What a compiler specializes on (dtype, device, number of axes, axes of size 1, gaps, None)
    tells kinds apart; what it need not (sizes, floats) does not. Tensors that have as many axes must broadcast the same way in all calls.

    Args:
        function: A plain function of tensors, which gives a tuple of tensors and None.
        arguments: What `function` is called with: tensors, floats (which it may get as tensors of no axis), None, hashable values that are
            fixed in the compiled form, and named tuples of all these.

    Returns:
        What `function` gives, or None where no compiler works, a compiler is at work, a tensor holds nothing, or a dispatch mode wants to
        see each operation: then run `function` as it is written.
    """
    if not settings.compile or torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None:
        return None
    flat: list[Any] = []
    for argument in arguments:
        if isinstance(argument, tuple) and hasattr(argument, "_fields"):
            flat.append(type(argument))
            flat += argument
        else:
            flat.append(argument)
    kinds: list[Hashable] = []
    tensors: list[Tensor] = []
    for argument in flat:  # one plain loop: every quantizer of a model comes by here, in every step
        if isinstance(argument, Tensor):
            num_elements = argument.numel()
            if num_elements == 0 or argument.is_meta:
                return None  # Inductor fails on some, and nothing is to be computed
            ones = tuple([size == 1 for size in argument.shape])
            gaps = None if argument.is_contiguous() else argument.stride()
            kinds.append(_Kind(argument.dtype, argument.device, ones, gaps, num_elements >= 1 << 31))
            tensors.append(argument.data)
        elif isinstance(argument, float):
            # A number in the compiled form would be a form for each number. On the CPU, whatever the device: no transfer waits for an
            # accelerator, a compiler passes the number to its kernel.
            kinds.append(_NUMBER)
            tensors.append(_scalar(argument))
        else:
            kinds.append(argument)
    key = function, *kinds
    try:
        form = _forms.get(key) or _compile(key, tensors)
    except Exception as error:  # a compiler fails in more ways than have a common class
        settings.compile = False
        reason = (str(error) or type(error).__name__).splitlines()[0]
        _log.warning("no working compiler (%s): quantizers run in eager mode, with the same codes, slower", reason)
        return None
    found = iter(form.compiled(*tensors))
    return cast(Result, tuple([next(found) if there else None for there in form.outputs]))


def num_compiled() -> Counter[str]:
    """Count the compiled forms of this process, by the name of the function; of a wrapper, by the function that it was given."""
    return Counter(getattr(second, "__name__", function.__name__) for function, second, *_ in _forms)


class _Kind(NamedTuple):
    """What a compiled form is for.

    Attributes:
        dtype: Of a tensor.
        device: Its device.
        ones: Which axes have size 1.
        gaps: Strides of a tensor that is not contiguous.
        is_far: Whether an index of 32 bits is too short.
    """

    dtype: torch.dtype
    device: torch.device
    ones: tuple[bool, ...]
    gaps: tuple[int, ...] | None
    is_far: bool


_NUMBER = _Kind(torch.float64, torch.device("cpu"), ones=(), gaps=None, is_far=False)


@functools.cache
def _scalar(value: float) -> Tensor:
    """Return one tensor per number, made once; the limits of grids are few."""
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=torch.float64, device="cpu")


class _Form(NamedTuple):
    """A compiled form of a function.

    Attributes:
        compiled: Takes the tensors, gives those of the outputs that are tensors.
        outputs: Which outputs are tensors.
    """

    compiled: Callable[..., Sequence[Tensor]]
    outputs: tuple[bool, ...]


_forms: dict[tuple[Any, ...], _Form] = {}


def _compile(key: tuple[Any, ...], tensors: Sequence[Tensor]) -> _Form:
    """Trace a function with tensors of any size in the place of these, and compile it."""
    # Here, not above: who compiles nothing need not wait for these, and a torch without one of them still runs kernels as written.
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    function, *kinds = key
    outputs: tuple[bool, ...] = ()

    def flat(*given: Tensor) -> tuple[Tensor, ...]:
        nonlocal outputs
        remaining = iter(given)
        found = function(*_in_tuples(next(remaining) if isinstance(kind, _Kind) else kind for kind in kinds))
        outputs = tuple(one is not None for one in found)
        return tuple(one for one in found if one is not None)

    mode = FakeTensorMode(shape_env=ShapeEnv())
    with torch.no_grad(), torch.autocast(tensors[0].device.type, enabled=False):
        fakes: list[Any] = [_fake(mode, tensor) for tensor in tensors]
        with mode:
            graph = make_fx(flat)(*fakes)
        compiled: Callable[..., Any] = torch._inductor.compile(graph, fakes, options=_inductor_options())
    _forms[key] = _Form(compiled, outputs)
    return _forms[key]


def _in_tuples(flat: Iterable[Any]) -> Iterator[Any]:
    """Yield arguments as they were before named tuples became their class and their fields."""
    remaining = iter(flat)
    for value in remaining:
        fields = getattr(value, "_fields", None)
        yield value if fields is None else value(*itertools.islice(remaining, len(fields)))


def _fake(mode: "FakeTensorMode", tensor: Tensor) -> Tensor:
    from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext

    # Not DimDynamic.DUCK: sizes that are equal now need not be later.
    dynamic = [DimDynamic.STATIC if size == 1 else DimDynamic.DYNAMIC for size in tensor.shape]
    if tensor.dim() == 1 and tensor.numel() > 1 and tensor.is_contiguous():
        # Inductor adds up in two stages where it expects many terms. It shall always: what is short now may be long later.
        tensor = torch.empty(_MANY, dtype=tensor.dtype, device=tensor.device)
    return mode.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(dynamic))


@functools.cache
def _inductor_options() -> dict[str, Any]:
    """Ask for correctly rounded division on GPUs where this torch has the option; CPUs always do."""
    known = torch._inductor.list_options()
    return {name: True for name in ("eager_numerics.division_rounding",) if name in known}
