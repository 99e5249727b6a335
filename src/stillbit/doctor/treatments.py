"""Rules on oscillation over a run, and on what its recipe does against it."""

from collections.abc import Iterator

from stillbit.doctor.courses import standard_error
from stillbit.doctor.methods import below_momentum, low_threshold
from stillbit.doctor.subjects import RunSubject
from stillbit.oscillation.optimizer_rules import Found, Unknown
from stillbit.oscillation.windows import final_threshold_for, is_short, momentum_for
from stillbit.report.history import Series

# Shares of weights. LSQ baselines of this library end at 3.7 and 8.9 % (digits, W2A2 and W3A3), what is frozen or dampened at 0.4 to 0.9 %.
OSCILLATING = 0.02
_RISING = 1.2  # times
_FROZEN_NOTHING = 0.001
_FROZEN_EARLY = 0.5  # share of weights, before half of the steps
_FROZEN_ALL = 0.9
_NOTHING_FREE = 1e-5
_LEAST_MOVE = 0.01  # of a scale, over a run
_KEPT_GAIN = 0.005  # of an accuracy

_METHODS = ("freezing", "dampening", "annealing")


def oscillating_untreated(subject: RunSubject) -> Iterator[Found]:
    """Many weights oscillate at the end, and the recipe has no method."""
    if _treated(subject) or not _low_bits(subject):
        return
    share = _tail(subject.series("oscillating"))
    if share > OSCILLATING:
        what = f"{share:.1%} of the low-bit weights oscillate at the end, and nothing treats them"
        yield Found("oscillation", what, "freezing: {} or dampening: {} in the recipe (transformers: annealing: {}); docs/methods.md")


def oscillation_rising(subject: RunSubject) -> Iterator[Found]:
    """Oscillation rises over the last third though the recipe has a method."""
    if not _treated(subject) or not _low_bits(subject):
        return
    values = subject.series("oscillating").values
    third = values[-max(len(values) // 3, 1) :]
    part = max(len(third) // 3, 1)
    first, last = sum(third[:part]) / part, sum(third[-part:]) / part
    if last > OSCILLATING and last > _RISING * first:
        what = f"the oscillating share rises over the last third of training, from {first:.1%} to {last:.1%}"
        yield Found("oscillation", what, "lower freezing.final_threshold, or raise dampening.final_weight tenfold; begin earlier")


def threshold_below_momentum(subject: RunSubject) -> Iterator[Found]:
    """A freezing threshold that a single oscillation passes."""
    if subject.setting("freezing") is not None:
        yield from below_momentum("freezing.final_threshold", *_threshold(subject))


def threshold_low(subject: RunSubject) -> Iterator[Found]:
    """A freezing threshold that two oscillations pass."""
    if subject.setting("freezing") is not None:
        yield from low_threshold("freezing.final_threshold", *_threshold(subject))


def window_too_long(subject: RunSubject) -> Iterator[Found]:
    """Averages over more steps than the run has: frequencies stay low, and freezing may do nothing."""
    for method in ("freezing", "tracking"):
        momentum, steps = subject.setting(f"{method}.ema_momentum"), subject.scheduled_steps
        if momentum is not None and steps and is_short(momentum, steps):
            what = f"{momentum:g} averages over {1 / momentum:,.0f} steps, the run has {steps:,}: frequencies stay low"
            yield Found(f"{method}.ema_momentum", what, f"null, from which {momentum_for(steps):g} follows for this run")


def froze_nothing(subject: RunSubject) -> Iterator[Found]:
    """Freezing that pinned nothing while weights oscillated."""
    if subject.setting("freezing") is None:
        return
    frozen, oscillating = subject.series("frozen").values[-1], _tail(subject.series("oscillating"))
    if subject.history.status == "complete" and frozen < _FROZEN_NOTHING and oscillating > OSCILLATING:
        what = f"{frozen:.2%} of the weights are pinned at the end, {oscillating:.1%} oscillate"
        yield Found("freezing", what, f"lower freezing.final_threshold; it is {_threshold(subject)[0]:g}")


def froze_early(subject: RunSubject) -> Iterator[Found]:
    """Freezing that pinned most weights before the network could settle."""
    if subject.setting("freezing") is None:
        return
    frozen, steps = subject.series("frozen"), subject.planned_steps
    early = [(step, value) for step, value in zip(frozen.steps, frozen.values, strict=True) if value > _FROZEN_EARLY and step < 0.5 * steps]
    if early:
        what = f"{early[0][1]:.0%} of the weights are pinned after {early[0][0]} of {steps} steps"
    elif frozen.values[-1] > _FROZEN_ALL:
        what = f"{frozen.values[-1]:.0%} of the weights are pinned at the end"
    else:
        return
    yield Found("freezing", what, "raise freezing.threshold, begin later, or lower optimizer.lr")


def dampening_does_nothing(subject: RunSubject) -> Iterator[Found]:
    """Dampening whose weight is 0, or whose term is lost next to the loss, while weights oscillate."""
    if subject.setting("dampening") is None:
        return
    weight, term = subject.series("dampening_weight").values[-1], subject.series("dampening_loss").values[-1]
    loss, share = _tail(subject.series("loss")), _tail(subject.series("oscillating"))
    if weight == 0.0 or (term < 1e-3 * loss and share > OSCILLATING):
        what = f"weight {weight:g}: the term is {term:.2g} beside a loss of {loss:.2g}, and {share:.1%} of the weights oscillate"
        yield Found("dampening.final_weight", what, "raise it tenfold; published: 0.1 over 50 epochs of ImageNet, short runs need more")


def dampening_dominates(subject: RunSubject) -> Iterator[Found]:
    """Dampening under which the task's loss rises."""
    if subject.setting("dampening") is None:
        return
    weights, losses = subject.series("dampening_weight"), subject.series("loss")
    final = max(weights.values)
    before = [loss for loss, weight in zip(losses.values, weights.values, strict=False) if weight <= 0.1 * final]
    term, late = subject.series("dampening_loss").values[-1], losses.values[-max(len(losses.values) // 6, 1) :]
    if len(before) < 3 or final == 0.0:
        return
    start, end = sum(before[-3:]) / 3, sum(late) / len(late)
    if end > _RISING * start and term > end:
        what = f"the loss of training rose from {start:.3g} to {end:.3g} while the weight went to {final:g}; the term is {term:.3g}"
        yield Found("dampening.final_weight", what, "lower it to a tenth")


def annealing_nothing_free(subject: RunSubject) -> Iterator[Found]:
    """An annealing stage in which no weight is free."""
    if subject.setting("annealing") is None:
        return
    free = subject.series("free")
    if free.values[-1] < _NOTHING_FREE:
        what = f"{free.values[-1]:.2g} of the weights are free at boundary range {subject.setting('annealing.boundary_range'):g}"
        yield Found("annealing.boundary_range", what, "widen it; published: 0.005 and 0.007")


def reestimation_hurt(subject: RunSubject) -> Iterator[Found]:
    """Re-estimation that made the accuracy worse than chance explains."""
    before, after = _reestimation(subject)
    if before - after > max(_KEPT_GAIN, 2 * standard_error(subject)):
        what = f"top-1 {before:.1%} before re-estimation, {after:.1%} after it"
        yield Found("batch norms", what, "more batches (training.reestimate_batches: 50 or more), of 64 images and more")


def reestimation_helped(subject: RunSubject) -> Iterator[Found]:
    """Re-estimation that mattered: the running statistics were stale."""
    before, after = _reestimation(subject)
    if after - before > max(_KEPT_GAIN, 2 * standard_error(subject)):
        what = f"top-1 {before:.1%} before re-estimation, {after:.1%} after it: the running statistics were stale"
        yield Found("batch norms", what, "keep training.reestimate_batches; re-estimate again after anything that changes weights")


def not_reestimated(subject: RunSubject) -> Iterator[Found]:
    """Low-bit batch norms whose statistics nobody re-estimates."""
    if not _low_bits(subject) or subject.setting("training.reestimate_batches", 0):
        return
    if subject.has_batchnorm is None:
        raise Unknown("whether there are batch norms is not known without a checkpoint")
    if subject.has_batchnorm:
        what = "training.reestimate_batches is 0: statistics are averages over weights that oscillated"
        yield Found("batch norms", what, "training.reestimate_batches: 50, or reestimate_batchnorm(model, loader) at the end")


def scales_hardly_move(subject: RunSubject) -> Iterator[Found]:
    """Learned scales that Adam could not move by a hundredth of their size in the whole run."""
    settings = subject.setting("scale_optimizer") or subject.setting("optimizer", {})
    if subject.setting("quantization") is None or settings.get("name") not in ("adam", "adamw") or subject.history.status != "complete":
        return
    groups = sorted(name for name in subject.history.steps if name.startswith("learning_rate_"))
    if not groups:
        raise Unknown("the record has no learning rates")
    rates = subject.series(groups[-1]).values
    reach = sum(rates) / len(rates) * subject.num_steps
    learned = [layer for layer in subject.history.layers if layer.facts.quantizer == "LSQ" and layer.scale.values]
    if not subject.history.layers:
        raise Unknown("the record has no scales (written before they were recorded)")
    sizes = sorted(layer.scale.values[0] for layer in learned)
    median = sizes[len(sizes) // 2] if sizes else 0.0
    if reach < _LEAST_MOVE * median:
        what = f"in {subject.num_steps} steps Adam can move them by {reach:.1g}, less than {_LEAST_MOVE:.0%} of the median {median:.2g}"
        yield Found("scales", what, "a higher scale_optimizer.lr: the published 1e-5 is for 50,000 steps and more")


def _treated(subject: RunSubject) -> bool:
    return any(subject.setting(name) is not None for name in _METHODS)


def _low_bits(subject: RunSubject) -> bool:
    return subject.setting("quantization") is not None and subject.setting("quantization.weight_bits", 32) <= 4


def _tail(series: Series) -> float:
    """Return the mean of the last tenth."""
    last = series.values[-max(len(series.values) // 10, 1) :]
    return sum(last) / len(last)


def _threshold(subject: RunSubject) -> tuple[float, float]:
    """Return the lowest threshold of the recipe, and the momentum."""
    given = subject.setting("freezing.ema_momentum")
    momentum = momentum_for(subject.scheduled_steps) if given is None else given
    first = subject.setting("freezing.threshold", 0.1)
    final = subject.setting("freezing.final_threshold")
    return min(first, final_threshold_for(first, momentum) if final is None else final), momentum


def _reestimation(subject: RunSubject) -> tuple[float, float]:
    """Return the last accuracies before and after re-estimation; equal where there was none."""
    before, after = (subject.history.epochs.get(name) for name in ("val_top1_before_reestimation", "val_top1"))
    if before is None or after is None or not before.values or not after.values:
        return 0.0, 0.0
    return before.values[-1], after.values[-1]
