"""Rules on quantizers: ranges, scales, and how codes are used.

Bounds: in 13 healthy runs of this library (small MobileNets, a small DeiT, EfficientNet-Lite0, at 2 to 4 bits) one code took at most 84 %
of a weight or of an activation, at most 29 % of an activation were clipped, and every weight of up to 4 bits used all of its codes or all
but one.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from stillbit.doctor.measures import Codes
from stillbit.doctor.subjects import ModelSubject, finite
from stillbit.numerics.grid import code
from stillbit.numerics.limits import FREE, SCALE_FLOOR
from stillbit.oscillation.optimizer_rules import Found, Unknown
from stillbit.quantizers import LSQ, FixedRange

DEAD_WEIGHT, DEAD_ACTIVATION = 0.95, 0.99  # share of one code
SATURATED = 0.5  # share beyond the grid
_SPARSE = 0.9  # a tensor with more zeros is not its quantizer's fault
_FEW_BITS = 4  # wider weights need not use all of their codes
_ENOUGH = 10  # weights a code
_VISIBLE = 1e4  # times the floor of scales: a latent that large is no row of zeros

_RECALIBRATE = "calibrate anew on training images, and lower the learning rate of scales"


def not_finite(subject: ModelSubject) -> Iterator[Found]:
    """NaN or infinity in a parameter or buffer."""
    tensors = [*subject.model.named_parameters(), *subject.model.named_buffers()]
    for name, tensor in tensors:
        if not finite(tensor):
            count = int((~torch.isfinite(tensor)).sum())
            what = f"{count} of {tensor.numel()} elements are NaN or infinite"
            yield Found(name, what, "go back to an earlier checkpoint; lower the learning rate, or that of scales")


def uncalibrated(subject: ModelSubject) -> Iterator[Found]:
    """A quantizer without a range."""
    for name, quantizer in subject.quantizers.items():
        if not quantizer.is_calibrated:
            yield Found(name, f"no range yet, at {quantizer.bits} bits", "calibrate(model, loader), or load a trained state, before use")


def never_called(subject: ModelSubject) -> Iterator[Found]:
    """A quantizer that the example did not reach."""
    seen = subject.seen
    for name, quantizer in subject.quantizers.items():
        if name not in seen:
            cure = "the layer runs in floats or not at all: call the module, not a function with its weight; or override it to 32 bits"
            yield Found(name, f"never called by the example, at {quantizer.bits} bits", cure)


def bypassed(subject: ModelSubject) -> Iterator[Found]:
    """A quantizer that is switched off."""
    for name, quantizer in subject.quantizers.items():
        if quantizer.bypass:
            yield Found(name, f"bypassed: its {quantizer.bits} bits do nothing", "quantizer.bypass = False before training and export")


def scale_collapsed(subject: ModelSubject) -> Iterator[Found]:
    """A scale at its floor, or below."""
    of_weights = {id(site.quantizer): site.latent().detach() for site in subject.sites}
    for name, quantizer in subject.quantizers.items():
        if not isinstance(quantizer, LSQ | FixedRange) or not quantizer.is_calibrated:
            continue
        stored = quantizer.scale.detach()
        scale = stored.exp() if isinstance(quantizer, LSQ) and quantizer.log_scale else stored
        floored = scale <= SCALE_FLOOR
        latent = of_weights.get(id(quantizer))
        if latent is not None:  # a row of zeros has that scale by right
            floored = (floored & (latent.abs() > _VISIBLE * SCALE_FLOOR)).any()
        if bool(floored.any()):
            below = int((stored <= 0).sum()) if scale is stored else 0
            told = f", {below} stored as 0 or less" if below else ""
            what = f"smallest scale {float(scale.min()):.2g} of {scale.numel()}, the floor is {SCALE_FLOOR:g}{told}: all is clipped"
            yield Found(name, what, f"{_RECALIBRATE}; no weight decay on scales; log_scale: true keeps them positive")


def dead_weight(subject: ModelSubject) -> Iterator[Found]:
    """A weight of which one code has nearly everything."""
    for name, codes in _worst_first(subject.weight_codes, "share"):
        if codes.share > DEAD_WEIGHT and codes.zeros < _SPARSE and codes.clipped <= SATURATED:
            what = f"{codes.share:.1%} of {codes.count:,} weights have code {codes.commonest}: the scale is too large"
            yield Found(name, what, _RECALIBRATE)


def few_codes(subject: ModelSubject) -> Iterator[Found]:
    """A weight that half of its codes, or fewer, would serve."""
    for name, codes in _worst_first(subject.weight_codes, "share"):
        wide = 2**codes.bits
        enough = codes.bits <= _FEW_BITS and codes.count >= _ENOUGH * wide
        if enough and codes.used <= wide // 2 and codes.share <= DEAD_WEIGHT and codes.zeros < _SPARSE:
            yield Found(name, f"uses {codes.used} of {wide} codes: a bit of its {codes.bits} is wasted", _RECALIBRATE)


def dead_activation(subject: ModelSubject) -> Iterator[Found]:
    """An activation of which one code takes everything."""
    for name, codes in _worst_first(_activations(subject), "share"):
        if codes.share > DEAD_ACTIVATION and codes.zeros < _SPARSE and codes.clipped <= SATURATED:
            what = f"{codes.share:.2%} of its input get code {codes.commonest}: nothing passes, the scale is too large"
            yield Found(name, what, _RECALIBRATE)


def saturated_weight(subject: ModelSubject) -> Iterator[Found]:
    """A weight of which most lies beyond the grid."""
    yield from _saturated(subject.weight_codes, "its weights")


def sign_out_of_reach(subject: ModelSubject) -> Iterator[Found]:
    """A weight with negative elements on a grid without negative codes, as calibration once gave to weights that began at zero."""
    for site in subject.sites:
        if site.quantizer.is_signed or not site.quantizer.symmetric:
            continue
        latent = site.latent().detach()
        if negative := int((latent < 0).sum()):
            what = f"{negative:,} of {latent.numel():,} weights are negative, and its grid begins at 0"
            yield Found(site.name, what, "prepare and calibrate anew: symmetric weight grids are signed")


def saturated_activation(subject: ModelSubject) -> Iterator[Found]:
    """An activation of which most lies beyond the grid."""
    yield from _saturated(_activations(subject), "its nonzero input")


def pins_and_latents(subject: ModelSubject) -> Iterator[Found]:
    """Pinned weights whose latents would give another code, where freezing writes latents."""
    for site in subject.sites:
        pins = site.quantizer.pins
        if pins is None or not site.writable or site.quantizer.grid_follows_latent:
            continue
        latent, pinned = site.latent().detach(), pins != FREE
        other = int((pinned & (code(latent, site.quantizer.grid(latent)) != pins)).sum())
        if other:
            what = f"{other} of {int(pinned.sum())} pinned latents round to another code than their pin"
            cure = "do not average or overwrite frozen weights; without published=True, Freezing itself rewrites them after each step"
            yield Found(site.name, what, cure)


def float_layers(subject: ModelSubject) -> Iterator[Found]:
    """Layers with weights that are left in full precision, in a network that is quantized."""
    quantized = {id(parameter) for site in subject.sites for parameter in site.parameters}
    if not quantized:
        return
    for name, module in subject.model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear) and isinstance(weight, Tensor) and id(weight) not in quantized:
            cure = "nothing, if an override says so; else see the layers that prepare knows, or register_layer"
            yield Found(name, f"{weight.numel():,} weights in full precision", cure)


def bound_to_one_size(subject: ModelSubject) -> Iterator[Found]:
    """One scale per token: the network takes one image size."""
    for name, quantizer in subject.quantizers.items():
        shape = quantizer.scale_shape
        if len(shape) == 3 and shape[1] > 1 and quantizer not in {site.quantizer for site in subject.sites}:
            what = f"{shape[1]} scales, one per token: the network takes images of one size"
            yield Found(name, what, "nothing, if that size is used; else activation_scales: tensor")


def _saturated(codes: dict[str, Codes], things: str) -> Iterator[Found]:
    for name, one in _worst_first(codes, "clipped"):
        if one.clipped > SATURATED and not one.floored:  # scale-collapsed says it
            yield Found(name, f"{one.clipped:.1%} of {things} lie beyond the {2**one.bits} codes: the scale is too small", _RECALIBRATE)


def _activations(subject: ModelSubject) -> dict[str, Codes]:
    weights = {id(site.quantizer) for site in subject.sites}
    found = {name: seen.codes for name, seen in subject.seen.items() if id(subject.quantizers[name]) not in weights}
    if not found and subject.quantizers:
        raise Unknown("the example reached no quantizer of activations")
    return found


def _worst_first(codes: dict[str, Codes], figure: str) -> list[tuple[str, Codes]]:
    return sorted(codes.items(), key=lambda item: -float(getattr(item[1], figure)))
