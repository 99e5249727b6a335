"""The base of all quantizers: a grid decides everything, and is the only thing that a subclass computes."""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from stillbit.errors import PrepareError, RecipeError
from stillbit.numerics import gate as gates
from stillbit.numerics import grid as grids
from stillbit.numerics.fake_quantize import fake_quantize
from stillbit.numerics.grid import Grid, Range, fit_range
from stillbit.numerics.kernels import STERange
from stillbit.numerics.limits import FREE, code_limits
from stillbit.numerics.prologue import PLAIN
from stillbit.numerics.ranges import RangeConfig
from stillbit.numerics.rounding import STE, Rounding
from stillbit.options import check


class Quantizer(nn.Module, ABC):
    """Replaces a latent by the value of its code.

    A subclass computes a `Grid`; positions, codes, values and gradients follow from it. All state (scale, sign, pins) exists from the
    start, so that optimizers and strict loading see it; it changes in `set_range`, in loading, and by optimizer steps, never in
    `forward`.

    Args:
        bits: Width of the codes, 2 to 8; 1 for unsigned grids only.
        scale_shape: Shape of the scale: (1,) for one per tensor, e.g. (64, 1, 1, 1) for one per output channel of a conv weight.
        rounding: How the gradient passes the rounding.
        ste_range: Which latents pass the gradient: "rounded" (those whose rounded position lies on the grid, as the published CNN code
            has it: half a step wider than LSQ), "position" (those whose position does, as LSQ has it) or "open" (all).
        range_config: How `calibrate` finds its range; None: by the least squared error.
        recompute: Whether layers compute its values again for backward rather than save them.

    Raises:
        RecipeError: If an argument is not allowed.

    Attributes:
        signed: bool buffer, one element: whether codes may be negative. `is_signed` is its mirror in Python.
        calibrated: bool buffer, one element: whether the grid is ready for use. `is_calibrated` is its mirror in Python.
        pins: int8, shape of the latent: a code that holds, or -128 where the latent decides; None for a quantizer that is never
            pinned.
        label: Name of the quantizer in its model, for messages.
        symmetric: Whether zero has code 0.
        bypass: Whether `forward` gives its input back.
        prologue: What latents go through first: an activation function that `prepare` folds into this quantizer, a gate that annealing
            sets. Not part of the state: whoever sets it knows when.
        grid_follows_latent: Whether the grid is computed from the latents, so that what is written to them moves it.
        needs_range: Whether calibration must find a range.
        read_only: Whether it represents another library's quantizer, which methods can only watch.
    """

    max_bits: ClassVar[int] = 8
    grid_follows_latent: ClassVar[bool] = False
    needs_range: ClassVar[bool] = True
    read_only: ClassVar[bool] = False
    symmetric: bool = True
    calibrated: Tensor
    signed: Tensor
    pins: Tensor | None

    def __init__(
        self,
        bits: int,
        scale_shape: tuple[int, ...] = (1,),
        *,
        rounding: Rounding | None = None,
        ste_range: STERange = "rounded",
        range_config: RangeConfig | None = None,
        recompute: bool = True,
    ) -> None:
        super().__init__()
        if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= self.max_bits:
            raise RecipeError(f"bits is {bits!r}; allowed are whole numbers from 1 (unsigned only) to {self.max_bits}")
        check("ste_range", ste_range, STERange)
        self.bits = bits
        self.scale_shape = tuple(scale_shape)
        self.rounding = STE() if rounding is None else rounding
        self.ste_range = ste_range
        self.label = type(self).__name__
        self.range_config = range_config or RangeConfig()
        self.bypass = False
        self.recompute = recompute
        self.prologue = PLAIN
        self.is_signed = False
        self.is_calibrated = False
        self.register_buffer("signed", torch.tensor(False))
        self.register_buffer("calibrated", torch.tensor(False))
        self.register_buffer("pins", None)
        self.register_load_state_dict_post_hook(_mirror_flags)  # type: ignore[no-untyped-call]

    @abstractmethod
    def grid(self, x: Tensor) -> Grid:
        """Return the grid for the latent `x`: the only computation that a quantizer decides."""

    @abstractmethod
    def set_range(self, x_min: Tensor | float, x_max: Tensor | float) -> None:
        """Fit the grid to a range of latents and mark the quantizer calibrated. Called by calibration, never in forward.

        Args:
            x_min: Smallest latent, with as many elements as the scale.
            x_max: Largest latent, likewise.

        Raises:
            PrepareError: If the range does not fit the scale, is not finite, or has negative latents at 1 bit.
        """

    def value_zero_point(self) -> Tensor | None:
        """Return a second evaluation of the grid's zero point for the step from code to value, if its gradient asks for one."""
        return None

    def scale_gradient_factor(self, x: Tensor) -> float:
        """Return the factor on the gradients of scale and zero point for the latent `x`."""
        del x
        return 1.0

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        return code_limits(self.bits, signed=self.is_signed)

    def forward(self, x: Tensor, before: Tensor | None = None, after: Tensor | None = None) -> Tensor:
        """Return the values of the codes of `x`, in its shape and dtype.

        Args:
            x: Latents.
            before: Learned shift, which broadcasts against `x` and is added to it first.
            after: Learned shift that is added to the values.
        """
        clip, gate = self.prologue
        if self.bypass:
            latent = self.latent(x, before)
            return latent if after is None else latent + after
        self._require_range()
        self._require_fit(x)
        if before is not None and (clip is not None or gate is not None):
            x, before, clip = self.latent(x, before), None, None
        if gate is not None and x.requires_grad:
            x = gates.pass_where(x, self.free(x))
        return self._values(x, clip, before, after)

    @final
    def latent(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """Return what is quantized when `forward` is called alike: who watches a quantizer's calls sees latents by it."""
        return self.prologue.latent(x, before)

    @final
    @torch.no_grad()
    def position(self, x: Tensor) -> Tensor:
        """Return the latent in grid units; a pinned latent stands at its code."""
        self._require_range()
        x = self.latent(x)
        return self._position(x, self.grid(x))

    @final
    @torch.no_grad()
    def code(self, x: Tensor) -> Tensor:
        """Return the integer codes of `x` as a float tensor, zero point and pins included; round half to even."""
        self._require_range()
        x = self.latent(x)
        return grids.code(x, self.grid(x), self.pins)

    @final
    @torch.no_grad()
    def free(self, x: Tensor) -> Tensor:
        """Return which latents the gate lets move: a bool tensor of the shape of `x`. Without a gate all do; a pinned one never does."""
        gate = self.prologue.gate
        if gate is None:
            return torch.ones_like(x, dtype=torch.bool)
        self._require_range()
        grid = self.grid(x)
        return gates.free(self._position(x, grid), grid, gate)

    @final
    def allocate_pins(self, shape: torch.Size) -> None:
        """Make room for pins, all free.

        Args:
            shape: Shape of the latent.

        Raises:
            PrepareError: At 8 bits, whose codes leave no value of int8 for "free".
        """
        if self.bits > 7:
            raise PrepareError(f"quantizer {self.label} has {self.bits} bits; pins need at most 7")
        self.pins = torch.full(shape, FREE, dtype=torch.int8, device=self.calibrated.device)

    @final
    def mark_calibrated(self, *, signed: bool) -> None:
        """Record sign and readiness, in the buffers and in their Python mirrors."""
        self.signed.fill_(signed)
        self.calibrated.fill_(True)
        _mirror_flags(self)

    @final
    def _fit(self, x_min: Tensor | float, x_max: Tensor | float, *, symmetric: bool) -> Range:
        """Check a range and fit a grid to it, in the scale's shape; for `set_range`."""
        low, high = (torch.as_tensor(end).detach() for end in (x_min, x_max))
        count = math.prod(self.scale_shape)
        if not low.numel() == high.numel() == count:
            given = low.numel() if low.numel() != count else high.numel()
            raise PrepareError(f"quantizer {self.label} has {count} scales and was given a range of {given} elements")
        if not bool((low.isfinite() & high.isfinite()).all()):
            raise PrepareError(f"quantizer {self.label} was given the range {float(low.min())} to {float(high.max())}; it must be finite")
        signed = self.range_config.signed if symmetric else None
        if self.bits == 1 and symmetric and (bool((low < 0).any()) if signed is None else signed):
            raise PrepareError(f"quantizer {self.label} has 1 bit and signed latents; 1 bit is for unsigned latents only")
        return fit_range(low.reshape(self.scale_shape), high.reshape(self.scale_shape), bits=self.bits, symmetric=symmetric, signed=signed)

    def _values(self, x: Tensor, clip: tuple[float, float] | None, before: Tensor | None, after: Tensor | None) -> Tensor:
        return fake_quantize(
            x,
            self.grid(x),
            value_zero_point=self.value_zero_point(),
            pins=self.pins,
            clip=clip,
            before=before,
            after=after,
            rounding=self.rounding,
            ste_range=self.ste_range,
            scale_gradient_factor=self.scale_gradient_factor(x),
            training=self.training,
            recompute=self.recompute,
        )

    def _position(self, x: Tensor, grid: Grid) -> Tensor:
        position = grids.position(x, grid)
        return position if self.pins is None else torch.where(self.pins == FREE, position, self.pins - grid.zero_point)

    def _require_range(self) -> None:
        if not self.is_calibrated:
            raise PrepareError(f"quantizer {self.label} has no range yet; run calibrate, or load a trained state, before use")

    def _require_fit(self, x: Tensor) -> None:
        shape = self.scale_shape
        if shape != (1,) and any(size != 1 for size in shape) and not _broadcasts(shape, x.shape):
            fitting = ", ".join("*" if size == 1 else str(size) for size in shape)
            raise PrepareError(
                f"quantizer {self.label} has scales for inputs of shape ({fitting}) and was given {tuple(x.shape)}; "
                "per-token scales serve one image size, allowed: that size, or activation_scales 'tensor'"
            )

    def extra_repr(self) -> str:
        """Show bits, sign and the scale's shape."""
        sign = "signed" if self.is_signed else "unsigned"
        state = sign if self.is_calibrated else "no range yet"
        return f"bits={self.bits}, {state}, scale_shape={self.scale_shape}, ste_range={self.ste_range}, rounding={self.rounding}"


def _broadcasts(scale_shape: tuple[int, ...], shape: torch.Size) -> bool:
    # Not `size in (1, whole)`: torch 2.9 cannot trace that where sizes are symbols.
    return len(scale_shape) == len(shape) and all(size == 1 or size == whole for size, whole in zip(scale_shape, shape, strict=True))


def _mirror_flags(quantizer: nn.Module, _incompatible_keys: Any = None) -> None:
    """Copy the flag buffers to Python once after loading, so that no step reads them back from a GPU."""
    assert isinstance(quantizer, Quantizer)
    quantizer.is_signed = bool(quantizer.signed)
    quantizer.is_calibrated = bool(quantizer.calibrated)
