"""Which layer gets what: bits, policies, first- and last-layer rules, overrides by name (docs/spec/cnn.md, 7.2).

| policy      | first layer | last layer | depthwise | activations                                                         |
|-------------|-------------|------------|-----------|---------------------------------------------------------------------|
| lsq_paper   | 8           | 8          | b         | input of each layer but the first; the classifier's at 8 bits        |
| integer     | 8           | 8          | b         | as lsq_paper, and at 8 bits what docs/policies.md lists              |
| lsq         | 8           | 8          | b         | each layer's output and each sum; 8 bits before the pool; no logits  |
| fp_logits   | b           | b          | b         | each layer's output and each sum; no logits                          |
| all         | b           | b          | b         | each layer's output and each sum, logits included                    |
| fc4         | 8           | 4          | b         | as all                                                               |
| fc4_dw8     | 8           | 4          | 8         | as all                                                               |
| vit         | 8           | 8          | b         | input of each layer; the image's and the classifier's at 8 bits      |

`vit` (docs/spec/vit.md, 3.3) also knows the sign of an activation by where it comes from: unsigned behind ReLU and GELU, else signed.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, Self

from stillbit.errors import RecipeError
from stillbit.numerics.kernels import STERange
from stillbit.numerics.ranges import RangeConfig
from stillbit.numerics.rounding import ROUNDINGS, Rounding, RoundingName
from stillbit.options import check_fields
from stillbit.quantizers.base import Quantizer
from stillbit.quantizers.lsq import LSQ, ScaleGradient
from stillbit.quantizers.minmax import FixedRange
from stillbit.quantizers.statsq import StatsQ

FLOAT_BITS = 32
INTEGER_BITS = 8  # what integer runtimes execute: the width of what the policy `integer` adds


@dataclass(frozen=True)
class Policy:
    """What a policy says beyond the bits; None means the configured width.

    Attributes:
        inputs: Whether layers quantize their inputs; otherwise their outputs.
        first_weight_bits: Width of the first layer's weight.
        last_weight_bits: Width of the last layer's weight.
        depthwise_weight_bits: Width of depthwise convolutions' weights.
        last_input_bits: Width of what the last layer reads, through a pool or not. If outputs are quantized, it is also the width of
            the output of the layer called last before it.
        logits: Whether the last layer's output is quantized.
        integer: Whether everything an integer runtime needs is quantized too, at 8 bits.
        first_input_bits: Width of what the first layer reads, the image; None leaves it in full precision.
        biased_as_published: Whether the published code gives every layer a bias; `published` then adds those that are missing.
        known_signs: Whether the sign of an activation follows from where it comes from, rather than from calibration data.
    """

    inputs: bool
    first_weight_bits: int | None = None
    last_weight_bits: int | None = None
    depthwise_weight_bits: int | None = None
    last_input_bits: int | None = None
    logits: bool = False
    integer: bool = False
    first_input_bits: int | None = None
    biased_as_published: bool = False
    known_signs: bool = False


PolicyName = Literal["lsq_paper", "integer", "lsq", "fp_logits", "all", "fc4", "fc4_dw8", "vit"]
POLICIES: dict[PolicyName, Policy] = {
    "lsq_paper": Policy(inputs=True, first_weight_bits=8, last_weight_bits=8, last_input_bits=8),
    "integer": Policy(inputs=True, first_weight_bits=8, last_weight_bits=8, last_input_bits=8, integer=True, first_input_bits=INTEGER_BITS),
    "lsq": Policy(inputs=False, first_weight_bits=8, last_weight_bits=8, last_input_bits=8),
    "fp_logits": Policy(inputs=False),
    "all": Policy(inputs=False, logits=True),
    "fc4": Policy(inputs=False, first_weight_bits=8, last_weight_bits=4, logits=True),
    "fc4_dw8": Policy(inputs=False, first_weight_bits=8, last_weight_bits=4, depthwise_weight_bits=8, logits=True),
    "vit": Policy(
        inputs=True,
        first_weight_bits=8,
        last_weight_bits=8,
        last_input_bits=8,
        first_input_bits=8,
        biased_as_published=True,
        known_signs=True,
    ),
}


@dataclass(frozen=True)
class Override:
    """An exception to the policy, by layer name.

    Attributes:
        layers: Shell pattern of layer names, e.g. "blocks.0.*". A block whose sum is quantized is a layer here, too.
        weight_bits: Width of the weights; None keeps the policy's; 32 leaves them in full precision with their activations.
        activation_bits: Width of the layer's input, or of its output if the policy quantizes outputs; None keeps the policy's; 32
            leaves it in full precision.
    """

    layers: str
    weight_bits: int | None = None
    activation_bits: int | None = None

    def __post_init__(self) -> None:
        """Refuse widths that no quantizer has."""
        for name in ("weight_bits", "activation_bits"):
            if (bits := getattr(self, name)) is not None:
                _check_bits(f"override for {self.layers!r}: {name}", bits)


@dataclass(frozen=True)
class QuantConfig:
    """How a model is quantized.

    Attributes:
        weight_bits: Width of the weights, 2 to 8.
        activation_bits: Width of the activations, 2 to 8, or 32 for full precision.
        policy: Which tensors are quantized; see `POLICIES`.
        quantizer: "lsq" (learned scale), "fixed" (the scale that calibration found), or "statsq" (weights below 8 bits: the scale
            follows from the weights at every step; everything else as "lsq").
        per_channel: One weight scale per output channel rather than one per tensor.
        weight_symmetric: Weight code of zero is 0; otherwise a zero point is learned.
        activation_symmetric: Likewise for activations.
        rounding: Gradient of the rounding: "ste", "ewgs", "stacked_sigmoid" or "stochastic".
        rounding_strength: EWGS's scaling or the stacked sigmoid's sharpness; None takes its default.
        ste_range: Which latents pass the gradient: "rounded" (published) or "position" (LSQ paper).
        log_scale: Learn the logarithm of the scale.
        scale_gradient: "none" or "lsq" (rescaled).
        weight_range: How weight ranges are found.
        activation_range: How activation ranges are found.
        attention: What attention layers quantize beyond their projections: "float" nothing, "plain" queries, keys, values and
            probabilities, "qkr" the same with the product of query and key weights in their place.
        activation_scales: One a "tensor"; or one a "token" (and an input channel of a convolution, a head): as published for
            vision transformers, and bound to one image size.
        learned_shifts: Learned biases before and behind each quantizer of a layer's input.
        recompute: Which quantized values are computed again for backward rather than saved, at one more pass over the tensor: "always"
            all, the fewest bytes; "never" none, the fewest passes; "balanced" those without which the float model saves fewer bytes.
            `torch.compile` decides that by itself.
        fold_activations: Let quantizers apply the ReLU or ReLU6 before them, in the same pass over the tensor, with the same numbers; what
            looks at the output of such an activation module sees its input then.
        overrides: Exceptions by layer name; the last that matches counts.
        published: Follow the published code's gradients where they differ from the papers' (LSQ's `published`).
    """

    weight_bits: int = 4
    activation_bits: int = 4
    policy: PolicyName = "lsq_paper"
    quantizer: Literal["lsq", "fixed", "statsq"] = "lsq"
    per_channel: bool = False
    weight_symmetric: bool = True
    activation_symmetric: bool = True
    rounding: RoundingName = "ste"
    rounding_strength: float | None = None
    ste_range: STERange = "rounded"
    log_scale: bool = False
    scale_gradient: ScaleGradient = "none"
    weight_range: RangeConfig = field(default_factory=RangeConfig)
    activation_range: RangeConfig = field(default_factory=RangeConfig)
    attention: Literal["float", "plain", "qkr"] = "float"
    activation_scales: Literal["tensor", "token"] = "tensor"
    learned_shifts: bool = False
    recompute: Literal["balanced", "always", "never"] = "balanced"
    fold_activations: bool = True
    overrides: tuple[Override, ...] = ()
    published: bool = False

    def __post_init__(self) -> None:
        """Refuse values out of range, each in one line."""
        if self.weight_bits not in range(2, 9) or isinstance(self.weight_bits, float):
            raise RecipeError(f"weight_bits is {self.weight_bits!r}; allowed are 2 to 8 (an override leaves single layers at 32)")
        _check_bits("activation_bits", self.activation_bits)
        check_fields(self)
        for name in ("attention", "activation_scales", "learned_shifts"):
            if getattr(self, name) not in ("float", "tensor", False) and not POLICIES[self.policy].inputs:
                raise RecipeError(f"{name} is {getattr(self, name)!r} with policy {self.policy!r}; allowed: with policies of inputs")
        self._rounding()

    @classmethod
    def parse(cls, bits: str, **settings: Any) -> Self:
        """Read widths as the field writes them, e.g. "W4A4", "w3a8", "W4A32".

        Args:
            bits: Width of weights and activations.
            settings: The other fields.

        Raises:
            RecipeError: If `bits` has another form or a width out of range.

        >>> QuantConfig.parse("W3A4", policy="all").activation_bits
        4
        """
        match = re.fullmatch(r"[wW](\d+)[aA](\d+)", bits.strip())
        if match is None:
            raise RecipeError(f"bits are {bits!r}; write them as W4A4 (weights 2 to 8, activations 2 to 8 or 32)")
        return cls(weight_bits=int(match[1]), activation_bits=int(match[2]), **settings)

    @classmethod
    def for_vit(cls, bits: str, **settings: Any) -> Self:
        """Return the configuration of arXiv 2302.02210 for vision transformers, query-key reparameterization included.

        Args:
            bits: Width of weights and activations, e.g. "W2A2".
            settings: Fields to be set otherwise, e.g. activation_scales="tensor" to serve any resolution.

        >>> QuantConfig.for_vit("W2A2").attention
        'qkr'
        """
        published: dict[str, Any] = {
            "policy": "vit",
            "quantizer": "statsq",
            "per_channel": True,
            "attention": "qkr",
            "activation_scales": "token",
            "learned_shifts": True,
            "ste_range": "position",
            "scale_gradient": "lsq",
            "weight_range": RangeConfig("mean_magnitude"),
            "activation_range": RangeConfig("mean_magnitude"),
        }
        return cls.parse(bits, **(published | settings))

    def override(self, layer: str) -> Override:
        """Return the exception for a layer; fields that say nothing are None."""
        matching = [one for one in self.overrides if fnmatchcase(layer, one.layers)]
        return Override(
            layer,
            weight_bits=_last(one.weight_bits for one in matching),
            activation_bits=_last(one.activation_bits for one in matching),
        )

    def weight_quantizer(self, bits: int, scale_shape: tuple[int, ...]) -> Quantizer:
        """Make a quantizer for a weight."""
        if self.quantizer == "statsq" and bits < INTEGER_BITS:
            return StatsQ(bits, scale_shape, rounding=self._rounding(), recompute=self.recompute != "never")
        found = self.weight_range
        if self.weight_symmetric and found.signed is None and not self.published:
            found = replace(found, signed=True)  # a weight that begins at zero, or nowhere below it, must be free to change its sign
        return self._quantizer(bits, scale_shape, self.weight_symmetric, found)

    def activation_quantizer(self, bits: int, scale_shape: tuple[int, ...] = (1,), *, signed: bool | None = None) -> Quantizer:
        """Make a quantizer for an activation; `signed` None lets calibration decide."""
        found = self.activation_range if signed is None else replace(self.activation_range, signed=signed)
        return self._quantizer(bits, scale_shape, self.activation_symmetric, found)

    def _quantizer(self, bits: int, scale_shape: tuple[int, ...], symmetric: bool, range_config: RangeConfig) -> Quantizer:
        shared: dict[str, Any] = {
            "symmetric": symmetric,
            "rounding": self._rounding(),
            "range_config": range_config,
            "recompute": self.recompute != "never",
        }
        if self.quantizer == "fixed":
            return FixedRange(bits, scale_shape, **shared)
        return LSQ(
            bits,
            scale_shape,
            ste_range=self.ste_range,
            log_scale=self.log_scale,
            scale_gradient=self.scale_gradient,
            published=self.published,
            **shared,
        )

    def _rounding(self) -> Rounding:
        kind = ROUNDINGS[self.rounding]
        if self.rounding_strength is None:
            return kind()
        if self.rounding not in ("ewgs", "stacked_sigmoid"):
            raise RecipeError(f"rounding_strength is {self.rounding_strength}; rounding {self.rounding!r} has no strength")
        return kind(self.rounding_strength)  # type: ignore[call-arg]


def _last(given: Iterable[int | None]) -> int | None:
    return next((bits for bits in reversed(list(given)) if bits is not None), None)


def _check_bits(name: str, bits: object) -> None:
    if not isinstance(bits, int) or not (2 <= bits <= 8 or bits == FLOAT_BITS):
        raise RecipeError(f"{name} is {bits!r}; allowed are 2 to 8, or 32 for full precision")
