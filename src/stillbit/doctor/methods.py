"""Rules on methods that are attached to a live optimizer."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from stillbit.doctor.optimizers import stepped_by
from stillbit.doctor.subjects import ModelSubject
from stillbit.oscillation import Annealing, Dampening, Freezing, Tracking
from stillbit.oscillation.optimizer_rules import Found
from stillbit.oscillation.windows import is_short, momentum_for
from stillbit.quantizers import weight_sites
from stillbit.schedules import Schedule

FROZEN_NEARLY_ALL = 0.9  # share of tracked weights
NOTHING_FREE = 1e-5  # share of gated weights
_POINTS = 64  # steps at which a schedule is looked at


def method_not_attached(subject: ModelSubject) -> Iterator[Found]:
    """A method that no optimizer carries."""
    for method in subject.methods:
        if method.attached_to is None:
            name = type(method).__name__
            yield Found(name, "attached to no optimizer: it does nothing", f"{name}(...).attach(optimizer), after calibrate")


def method_elsewhere(subject: ModelSubject) -> Iterator[Found]:
    """A method that rides on an optimizer which does not step this model, or watches another model."""
    own = {id(site.quantizer) for site in subject.sites}
    for method in subject.methods:
        name, carrier = type(method).__name__, method.attached_to
        if own.isdisjoint(id(site.quantizer) for site in weight_sites(method.model)):
            yield Found(name, "watches another model than this one", f"{name}(model, ...) with the model that is trained")
        elif carrier is not None and subject.optimizers is not None and not _carried(subject, carrier):
            what = f"attached to {type(carrier).__name__}, which is none of the optimizers given"
            yield Found(name, what, "attach it to the optimizer whose step the loop calls")


def method_missed_steps(subject: ModelSubject) -> Iterator[Found]:
    """A method that has seen fewer steps than its optimizer has taken."""
    for method in subject.methods:
        if method.attached_to is None:
            continue
        taken = [state["step"] for state in method.attached_to.state.values() if isinstance(state, dict) and "step" in state]
        steps = max((int(step) if isinstance(step, Tensor | int | float) else 0 for step in taken), default=0)
        if steps > method.step:
            name = type(method).__name__
            what = f"has seen {method.step} of the optimizer's {steps} steps"
            yield Found(name, what, "after resuming load its state, too: method.load_state_dict(...); attach before the first step")


def window_too_long(subject: ModelSubject) -> Iterator[Found]:
    """Averages over more steps than the run has."""
    for method in subject.methods:
        if isinstance(method, Freezing | Tracking) and method.run_steps and is_short(method.tracker.ema_momentum, method.run_steps):
            momentum, steps, name = method.tracker.ema_momentum, method.run_steps, type(method).__name__
            what = f"{momentum:g} averages over {1 / momentum:,.0f} steps, the run has {steps:,}: frequencies stay low"
            yield Found(f"{name}.ema_momentum", what, f"none given, from which {momentum_for(steps):g} follows for this run")


def threshold_below_momentum(subject: ModelSubject) -> Iterator[Found]:
    """A freezing threshold that a single oscillation passes."""
    yield from (found for method in _freezings(subject) for found in below_momentum("Freezing.threshold", *_lowest(method)))


def threshold_low(subject: ModelSubject) -> Iterator[Found]:
    """A freezing threshold that two oscillations pass."""
    yield from (found for method in _freezings(subject) for found in low_threshold("Freezing.threshold", *_lowest(method)))


def below_momentum(where: str, threshold: float, momentum: float) -> Iterator[Found]:
    """Report a live method or a recipe: one oscillation sets the frequency to the momentum."""
    if 0.0 < threshold < momentum:
        what = f"lowest threshold {threshold:g} is {threshold / momentum:.2g} x ema_momentum {momentum:g}: one oscillation pins a weight"
        yield Found(where, what, f"a threshold of 2 to 3 times the momentum, {2 * momentum:g} to {3 * momentum:g}, or a smaller momentum")


def low_threshold(where: str, threshold: float, momentum: float) -> Iterator[Found]:
    """Report a live method or a recipe: two oscillations in short succession give twice the momentum."""
    if momentum <= threshold < 2.0 * momentum:
        what = f"lowest threshold {threshold:g} is {threshold / momentum:.2g} x ema_momentum {momentum:g}: two oscillations pin a weight"
        yield Found(where, what, f"nothing in a short run; else 2 to 3 times the momentum, {2 * momentum:g} to {3 * momentum:g}")


def threshold_never(subject: ModelSubject) -> Iterator[Found]:
    """A freezing threshold that no frequency passes: it is 0 or less at every step, or 1 and more."""
    for method in _freezings(subject):
        values = _values(method.threshold)
        if all(value <= 0.0 or value >= 1.0 for value in values):
            what = f"the threshold goes from {values[0]:g} to {values[-1]:g}: no frequency passes it, nothing is pinned"
            yield Found("Freezing.threshold", what, "one that ends near 0.01, for example Cosine(0.1, 0.01, steps, begin=0.25, before=0)")


def frozen_nearly_all(subject: ModelSubject) -> Iterator[Found]:
    """Freezing that has pinned nearly all weights."""
    for method in _freezings(subject):
        frozen = method.metrics()["frozen"]
        if frozen > FROZEN_NEARLY_ALL:
            what = f"{frozen:.1%} of its weights are pinned after step {method.step}"
            yield Found("Freezing", what, "a higher threshold, or a later begin")


def dampening_weight_zero(subject: ModelSubject) -> Iterator[Found]:
    """Dampening whose weight is 0 at every step."""
    for method in subject.methods:
        if isinstance(method, Dampening) and not any(_values(method.weight)):
            cure = "a weight that rises, for example Cosine(0, 0.1, steps, begin=0.25)"
            yield Found("Dampening.weight", "0 at every step: it does nothing", cure)


def annealing_nothing_free(subject: ModelSubject) -> Iterator[Found]:
    """Annealing that leaves no weight free."""
    for method in subject.methods:
        if isinstance(method, Annealing) and method.step + 1 >= method.begin:
            free = method.metrics()["free"]
            if free < NOTHING_FREE:
                what = f"{free:.2g} of its weights are free at boundary range {method.gate.boundary_range:g}: the stage trains scales alone"
                yield Found("Annealing.boundary_range", what, "a wider range; published: 0.005 and 0.007")


def averaged_model(subject: ModelSubject) -> Iterator[Found]:
    """An average of weights: of latents, whose codes are not the average of codes."""
    for name, module in subject.model.named_modules():
        averaged = isinstance(module, AveragedModel) or type(module).__name__ in ("ModelEma", "ModelEmaV2", "ModelEmaV3")
        if averaged and weight_sites(module):
            what = f"{type(module).__name__} averages latents and scales of steps whose codes differ, and no pins"
            cure = "evaluate both; re-estimate batch norms of the average; freeze and average not at once"
            yield Found(name or type(module).__name__, what, cure)


def lost_activation(subject: ModelSubject) -> Iterator[Found]:
    """Torch's converter makes plain batch norms of timm's, and forgets the activation function that they apply."""
    for name, module in subject.model.named_modules():
        activation = getattr(module, "act", None)
        if type(module) is nn.SyncBatchNorm and activation is not None and not isinstance(activation, nn.Identity):
            what = f"was a batch norm that applies {type(activation).__name__}; torch's SyncBatchNorm does not call it"
            yield Found(name, what, "timm.layers.convert_sync_batchnorm, before prepare")


def stale_batchnorm(subject: ModelSubject) -> Iterator[Found]:
    """Running statistics that are not those of the data."""
    for name, divergence in sorted(subject.stale.items(), key=lambda item: -item[1]):
        if divergence > STALE:
            what = f"its running statistics are {divergence:.2g} nats from those of the images (KL divergence, mean over channels)"
            yield Found(name, what, "reestimate_batchnorm(model, loader) before evaluation and export; training.reestimate_batches: 50")


# A shift of every channel by 0.45 standard deviations. The worst layer of 10 healthy runs of this library had 0.028.
STALE = 0.1


def _freezings(subject: ModelSubject) -> list[Freezing]:
    return [method for method in subject.methods if isinstance(method, Freezing)]


def _lowest(method: Freezing) -> tuple[float, float]:
    """Return the lowest threshold that pins, and the momentum."""
    return min((value for value in _values(method.threshold) if value > 0.0), default=0.0), method.tracker.ema_momentum


def _values(schedule: Schedule) -> list[float]:
    """Return a schedule's values over its steps; a schedule without an end is looked at over as many steps as points."""
    steps = int(getattr(schedule, "steps", _POINTS))
    return [schedule(float(step)) for step in torch.linspace(1, max(steps, 1), _POINTS).tolist()]


def _carried(subject: ModelSubject, carrier: torch.optim.Optimizer) -> bool:
    assert subject.optimizers is not None
    parts = tuple(part for given in subject.optimizers for part in getattr(given, "parts", ()))
    return stepped_by((*subject.optimizers, *parts), carrier)
