"""Rules on optimizers that the published work and this library's runs have shown: `attach` warns by them, and the doctor reports them."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from stillbit.quantizers import LSQ, Quantizer, WeightSite, weight_sites
from stillbit.quantizers.site import trains

# Adam moves a parameter by up to its learning rate a step. The published recipes move scales by 1e-5 (convolutional networks: a thousandth
# of a scale and less) and by that of the weights, 5.5e-4 (transformers: up to a quarter of the smallest scales, those of 8-bit weights).
LARGEST_MOVE = 0.5
# Without its factor an LSQ scale's gradient is the sum over its weights; the paper (arXiv 1902.08153, section 2.2) measures updates two to
# three orders of magnitude too large, and needs a learning rate a hundredth as high.
LARGEST_IMBALANCE = 10.0

_COLLAPSED = 1e-7  # a scale of which scale-collapsed says all

_log = logging.getLogger("stillbit")


class Found(NamedTuple):
    """What a rule has found at one place.

    Attributes:
        where: A layer, quantizer, key of a recipe, or step.
        what: What is there, with its number.
        cure: What to do.
    """

    where: str
    what: str
    cure: str


class Unknown(Exception):  # noqa: N818 - no error of anybody
    """A rule cannot be checked. The message says why."""


@dataclass(frozen=True)
class Stepping:
    """A model, and what steps it.

    Attributes:
        model: A prepared model; one in full precision is looked at, too.
        optimizers: What steps; None: not known.
    """

    model: nn.Module
    optimizers: tuple[Optimizer, ...] | None = None

    @cached_property
    def quantizers(self) -> dict[str, Quantizer]:
        """The quantizers by name."""
        return {name: module for name, module in self.model.named_modules() if isinstance(module, Quantizer)}

    @cached_property
    def sites(self) -> tuple[WeightSite, ...]:
        """The quantized weights whose grids are ready."""
        return tuple(site for site in weight_sites(self.model) if site.quantizer.is_calibrated)

    @cached_property
    def scale_names(self) -> dict[int, str]:
        """Names of the quantizers' own parameters, by identity."""
        return {
            id(parameter): f"{name}.{kind}"
            for name, quantizer in self.quantizers.items()
            for kind, parameter in quantizer.named_parameters(recurse=False)
        }

    def groups(self) -> Iterator[tuple[Optimizer, int, dict[str, Any]]]:
        """Yield every parameter group: the optimizer that steps it, its number, the group.

        Raises:
            Unknown: Without an optimizer.
        """
        if self.optimizers is None:
            raise Unknown("no optimizer was given")
        for optimizer in self.optimizers:
            parts = getattr(optimizer, "parts", (optimizer,))  # of a JointOptimizer
            number = 0
            for part in parts:
                for group in part.param_groups:
                    yield part, number, group
                    number += 1

    def held(self) -> set[int]:
        """Return the identities of the parameters that the optimizers step.

        Raises:
            Unknown: Without an optimizer.
        """
        return {id(parameter) for _, _, group in self.groups() for parameter in group["params"]}


def warn(stepping: Stepping) -> None:
    """Warn of what these rules find, one line per rule."""
    for rule in (scale_weight_decay, scale_learning_rate, scale_learning_rate_sgd, scale_of_resting_weight):
        found = list(rule(stepping))
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            _log.warning("%s%s: %s; %s", found[0].where, more, found[0].what, found[0].cure)


def scale_weight_decay(stepping: Stepping) -> Iterator[Found]:
    """Weight decay that pulls scales to zero."""
    for _, number, group in stepping.groups():
        names = _scales_of(stepping, group)
        decay = float(group.get("weight_decay", 0.0))
        if names and decay > 0.0:
            what = f"weight decay {decay:g} pulls {len(names)} scales to zero, first {names[0]}"
            yield Found(f"optimizer group {number}", what, "weight decay 0 for scales: parameter_groups(model, ...) or scale_optimizer")


def scale_learning_rate(stepping: Stepping) -> Iterator[Found]:
    """Scales that one step moves by much of their size."""
    quantizers = {f"{name}.scale": one for name, one in stepping.quantizers.items() if isinstance(one, LSQ)}
    moves = []
    for _, number, group in stepping.groups():
        if "betas" not in group:
            continue
        for parameter in group["params"]:
            name = stepping.scale_names.get(id(parameter), "")
            if name in quantizers and quantizers[name].is_calibrated:
                moves.append((_rate(group) / _size(quantizers[name]), name, number, _rate(group), _size(quantizers[name])))
    for move, name, number, rate, size in sorted(moves, reverse=True):
        if move > LARGEST_MOVE and size > _COLLAPSED:
            what = f"a step of Adam moves it by up to {rate:g} (group {number}), {move:.0%} of its {size:.2g}"
            yield Found(name, what, f"a learning rate of scales below {0.1 * size:.1g}; published: 1e-5 under Adam")


def scale_learning_rate_sgd(stepping: Stepping) -> Iterator[Found]:
    """Scales under SGD whose gradient, a sum over all weights, is not scaled down."""
    rates = [_rate(group) for _, _, group in stepping.groups() if not _scales_of(stepping, group)] or [0.0]
    groups = {id(parameter): group for _, _, group in stepping.groups() if "betas" not in group for parameter in group["params"]}
    found = []
    for site in stepping.sites:
        quantizer = site.quantizer
        if not isinstance(quantizer, LSQ) or quantizer.scale_gradient != "none" or id(quantizer.scale) not in groups:
            continue
        group = groups[id(quantizer.scale)]
        both = any(id(parameter) not in stepping.scale_names for parameter in group["params"])
        weight_rate = _rate(group) if both else max(rates)
        share = site.latent().numel() / quantizer.scale.numel()
        imbalance = _rate(group) / max(weight_rate, 1e-12) * math.sqrt(share * quantizer.limits[1])
        if imbalance > LARGEST_IMBALANCE:
            found.append((imbalance, stepping.scale_names[id(quantizer.scale)], _rate(group)))
    for imbalance, name, rate in sorted(found, reverse=True):
        what = f"SGD at {rate:g} moves it some {imbalance:,.0f} times as much as its weights: its gradient sums over all of them"
        yield Found(name, what, "Adam at 1e-5 for scales (JointOptimizer), or scale_gradient: lsq")


def scale_of_resting_weight(stepping: Stepping) -> Iterator[Found]:
    """Scales that train where their weights do not."""
    held = stepping.held()
    for site in stepping.sites:
        learned = [one for one in site.quantizer.parameters(recurse=False) if one.requires_grad and id(one) in held]
        if learned and not trains(site):
            what = "does not train, and its scale does: its codes move with the scale, and no method pins or damps them"
            yield Found(f"the weight of {site.name}", what, "requires_grad_(False) for the scale too, or let the weight train")


def _scales_of(stepping: Stepping, group: dict[str, Any]) -> list[str]:
    return [stepping.scale_names[id(parameter)] for parameter in group["params"] if id(parameter) in stepping.scale_names]


def _rate(group: dict[str, Any]) -> float:
    """Return the learning rate that a schedule begins with, where it left one behind; else the one of now."""
    return max(float(group.get("initial_lr", 0.0)), float(group["lr"]))


def _size(quantizer: LSQ) -> float:
    """Return the size of the median scale; 1 for logarithms, whose steps are relative."""
    return 1.0 if quantizer.log_scale else max(float(quantizer.scale.detach().abs().median()), 1e-12)
