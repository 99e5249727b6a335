"""Rules on how a run went: did it end, did it learn, did it fall."""

import math
import re
from collections.abc import Iterator

from stillbit.doctor.subjects import RunSubject
from stillbit.oscillation.optimizer_rules import Found, Unknown
from stillbit.training.saving import LAST

_STILL_RUNNING = 600.0  # seconds since the last event
_COLLAPSED = 0.5  # of the best accuracy
_CHANCE = 1.5  # times chance
_POINTS = 9  # logged steps that make a course
_SMALLEST_GAIN = 0.01  # of an accuracy

_GENTLER = "lower optimizer.lr (warm up), or give activations more bits; stillbit report shows when it began"


def diverged(subject: RunSubject) -> Iterator[Found]:
    """The run ended because something was not finite, or because its accuracy had collapsed."""
    if subject.history.status == "DivergedError":
        reason = subject.history.reason
        named = re.match(r"step (\d+): ", reason)
        where = f"step {named[1] if named else subject.num_steps}"
        cure = "lower optimizer.lr and scale_optimizer.lr, or clip gradients (training.clip_gradient_norm); look at the layer named"
        yield Found(where, reason.removeprefix(f"{where}: "), cure)


def checkpoint_unreadable(subject: RunSubject) -> Iterator[Found]:
    """The last checkpoint is cut or damaged."""
    if subject.unreadable:
        yield Found(LAST, subject.unreadable, "copy it again, or go on from best.pt (start: in a recipe); the disk may be full or failing")


def failed(subject: RunSubject) -> Iterator[Found]:
    """The run ended by another error."""
    if subject.history.status not in ("complete", "unfinished", "DivergedError", "Interrupted", "KeyboardInterrupt"):
        what = f"ended by {subject.history.status}: {subject.history.reason}"
        yield Found(f"step {subject.num_steps}", what, f"mend what it names, then {_resume(subject)}")


def unfinished(subject: RunSubject) -> Iterator[Found]:
    """The run was stopped, or its process was killed."""
    if subject.history.status in ("Interrupted", "KeyboardInterrupt"):
        yield Found(f"step {subject.num_steps}", "stopped before its end", _resume(subject))
    if subject.history.status == "unfinished" and subject.idle_seconds > _STILL_RUNNING:
        what = f"the record ends without an end, {_ago(subject.idle_seconds)} ago: the process was killed"
        yield Found(f"step {subject.num_steps}", what, _resume(subject))


def figure_not_finite(subject: RunSubject) -> Iterator[Found]:
    """NaN or infinity among the figures."""
    for name, series in {**subject.history.steps, **subject.history.epochs}.items():
        wrong = [step for step, value in zip(series.steps, series.values, strict=True) if not math.isfinite(value)]
        if wrong:
            yield Found(f"step {wrong[0]}", f"{name} is not finite, {len(wrong)} times", _GENTLER)


def collapsed(subject: RunSubject) -> Iterator[Found]:
    """The validation accuracy fell to less than half of its best, and stayed there."""
    top1 = subject.evaluations("val_top1")
    best = max(top1.values)
    if subject.history.status == "DivergedError" or top1.values[-1] >= _COLLAPSED * best or best - top1.values[-1] < 0.1:
        return
    after = list(zip(top1.steps, top1.values, strict=True))[top1.values.index(best) :]
    step, fallen = next((step, value) for step, value in after if value < _COLLAPSED * best)
    what = f"top-1 fell from {best:.1%} to {fallen:.1%}, and is {top1.values[-1]:.1%} at the end"
    yield Found(f"step {step}", what, f"best.pt is from before; {_GENTLER}")


def at_chance(subject: RunSubject) -> Iterator[Found]:
    """The network has learned nothing."""
    top1, classes = subject.evaluations("val_top1"), subject.num_classes
    if classes is None:
        raise Unknown("the number of classes is not known without a checkpoint")
    chance = 1.0 / classes
    if top1.steps[-1] > 0 and max(top1.values) < _CHANCE * chance:
        what = f"top-1 is {top1.values[-1]:.1%} after {top1.steps[-1]} steps, chance is {chance:.1%}"
        cure = "see that model.weights are trained float weights, and that labels and images belong together; raise or lower optimizer.lr"
        yield Found(f"step {top1.steps[-1]}", what, cure)


def loss_not_falling(subject: RunSubject) -> Iterator[Found]:
    """Neither the loss of training nor any accuracy gets better."""
    loss, accuracy = subject.series("loss"), subject.series("accuracy")
    if len(loss.values) < _POINTS:
        raise Unknown(f"the record has {len(loss.values)} logged steps, and it takes {_POINTS}")
    top1 = subject.history.epochs.get("val_top1")
    if top1 is not None and top1.values and top1.values[-1] > top1.values[0] + max(_SMALLEST_GAIN, 2 * standard_error(subject)):
        return
    (first, last), (worse, better) = _thirds(loss.values), _thirds(accuracy.values)
    if last >= first and better <= worse + _SMALLEST_GAIN:
        what = f"mean of the first third {first:.4g}, of the last {last:.4g}; accuracy {worse:.1%} and {better:.1%}"
        yield Found("loss of training", what, "another learning rate; see that optimizer.lr is not 0 and that weights are trained")


def best_is_not_last(subject: RunSubject) -> Iterator[Found]:
    """The best evaluation was clearly better than the last."""
    top1 = subject.evaluations("val_top1")
    best, last = max(top1.values), top1.values[-1]
    if best - last > max(_SMALLEST_GAIN, 3 * standard_error(subject)) and last >= _COLLAPSED * best:
        step = top1.steps[top1.values.index(best)]
        what = f"top-1 {best:.1%} at step {step}, {last:.1%} at the end"
        yield Found("best.pt", what, "export best.pt; a learning rate that ends near 0 keeps it")


def images_skipped(subject: RunSubject) -> Iterator[Found]:
    """Images that could not be read."""
    if subject.skipped:
        what = f"{len(subject.skipped)} images cannot be read, first {subject.skipped[0]}"
        yield Found("data", what, "replace or remove them: the run trained without")


def random_start(subject: RunSubject) -> Iterator[Found]:
    """Low-bit training from random weights."""
    low = subject.setting("quantization.weight_bits", 32) <= 4
    if low and subject.setting("model.weights") == "random" and subject.setting("start") is None:
        what = f"trained at {subject.setting('quantization.weight_bits')} bits from random weights"
        yield Found("model.weights", what, "train in full precision first and begin with these weights, as all published recipes do")


def standard_error(subject: RunSubject) -> float:
    """Return that of the last validation accuracy; 0 where the number of images is not known."""
    top1, count = subject.history.epochs.get("val_top1"), subject.history.epochs.get("val_count")
    if top1 is None or count is None or not top1.values or not count.values:
        return 0.0
    return math.sqrt(max(top1.values[-1] * (1.0 - top1.values[-1]), 0.0) / max(count.values[-1], 1.0))


def _thirds(values: tuple[float, ...]) -> tuple[float, float]:
    """Return the mean of the first and of the last third."""
    size = len(values) // 3
    return sum(values[:size]) / size, sum(values[-size:]) / size


def _resume(subject: RunSubject) -> str:
    folder = subject.history.folder
    if not subject.has_checkpoint:
        return "start it again: there is no checkpoint"
    return f"go on by: stillbit train {folder}/recipe.yaml --folder {folder} --resume"


def _ago(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours" if minutes < 2880 else f"{minutes / 1440:.0f} days"
