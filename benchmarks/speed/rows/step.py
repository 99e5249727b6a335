"""A training step against the float model's, and the bytes saved for the backward pass: eager, compiled, CNN and transformer."""

import importlib.metadata
from collections.abc import Callable, Iterator

from torch import Tensor, nn

import stillbit as sb
from benchmarks.speed import networks
from benchmarks.speed.baseline import EagerQuantizer, QuantizedLayer, TorchQuantizer
from benchmarks.speed.findings import SECONDS, Figure, Findings
from benchmarks.speed.networks import LayerJob, Training, with_layers
from benchmarks.speed.pairs import milliseconds, race
from benchmarks.speed.peers import PEERS
from benchmarks.speed.settings import Settings

OURS = "stillbit"


def measure_cnn(settings: Settings) -> Findings:
    """Measure our eager W4A4 step and its variants, both baselines, and the other libraries that are installed."""
    images = settings.images(settings.cnn_batch)
    found = Findings(sizes=_sizes(settings, settings.cnn, images))
    ours = Training(networks.cnn(settings), images)
    job = networks.job_of(ours.model)
    made = {"float": Training(networks.float_model(settings.cnn, settings), images), OURS: ours}
    made[f"{OURS}, values saved"] = Training(networks.cnn(settings, recompute="never"), images)
    if not settings.short:
        made[f"{OURS}, values computed again"] = Training(networks.cnn(settings, recompute="always"), images)
    made["eager chain"] = Training(with_layers(settings, job, lambda layer, each: QuantizedLayer(layer, each, EagerQuantizer)), images)
    made["torch learnable"] = Training(with_layers(settings, job, lambda layer, each: QuantizedLayer(layer, each, TorchQuantizer)), images)
    if not settings.short:
        made |= {name: Training(model, images) for name, model in installed_peers(settings, job, images, found.notes)}
    _compare(found, made, settings, step_target=1.2, bytes_target=1.02, with_methods=True)
    return found


def installed_peers(settings: Settings, job: dict[str, LayerJob], images: Tensor, notes: list[str]) -> Iterator[tuple[str, nn.Module]]:
    """Return the networks of the installed libraries by name and version; note which are missing, and how others deviate."""
    for peer in PEERS:
        if not peer.installed():
            notes.append(f"{peer.name}: not installed, left out")
            continue
        if peer.differs:
            notes.append(f"{peer.name}: {peer.differs}")
        yield f"{peer.name} {importlib.metadata.version(peer.name)}", peer.build(settings, job, images)


def measure_vit(settings: Settings) -> Findings:
    """Measure our eager W2A2 step, StatsQ and query-key reparameterization, against float with and without fused attention."""
    images = settings.images(settings.vit_batch)
    found = Findings(sizes=_sizes(settings, settings.vit, images))
    unfused = networks.float_model(settings.vit, settings)
    for attention in networks.attentions(unfused):
        attention.fused_attn = False
    made = {"float": Training(networks.float_model(settings.vit, settings), images), OURS: Training(networks.vit(settings), images)}
    if not settings.short:
        made[f"{OURS}, values saved"] = Training(networks.vit(settings, recompute="never"), images)
    made["float, attention unfused"] = Training(unfused, images)
    _compare(found, made, settings, step_target=1.5, bytes_target=1.3)
    return found


def measure_compiled(
    settings: Settings,
    build: Callable[[Settings], nn.Module] = networks.cnn,
    *,
    target: float = 1.15,
    bfloat16: bool = False,
    transformer: bool = False,
) -> Findings:
    """Measure the step with both models compiled whole, and the time of the first forward and backward pass."""
    name, batch = (settings.vit, settings.vit_batch) if transformer else (settings.cnn, settings.cnn_batch)
    images = settings.images(batch)
    found = Findings(sizes={**_sizes(settings, name, images), "bfloat16": bfloat16})
    models = {"float": networks.float_model(name, settings), OURS: build(settings)}
    if not settings.short and not transformer:
        job = networks.job_of(models[OURS])
        models["eager chain"] = with_layers(settings, job, lambda layer, each: QuantizedLayer(layer, each, EagerQuantizer))
    made = {}
    for label, model in models.items():
        made[label] = Training(model, images, networks.whole_compiled(model), bfloat16)
        seconds = milliseconds(lambda each=made[label]: each.loss().backward(), settings.device) / 1e3  # type: ignore[misc]
        found.figures.append(Figure.of(f"{label}: first passes, compiling", [seconds], unit=SECONDS, ours=label == OURS))
    _compare(found, made, settings, step_target=target, bytes_target=None)
    return found


def _compare(
    found: Findings,
    made: dict[str, Training],
    settings: Settings,
    *,
    step_target: float,
    bytes_target: float | None,
    with_methods: bool = False,
) -> None:
    """Add the figures of all contenders against the float model, and of the methods against ours without a method."""
    kept = {name: training.saved_bytes() for name, training in made.items()}
    found.notes.append(f"bytes saved by the float model: {kept['float'] / 1e6:.1f} MB")
    pairs = {name: (training.step, made["float"].step) for name, training in made.items() if name != "float"}
    if with_methods:
        pairs |= {name: (training.step, made[OURS].step) for name, training in _with_methods(settings, made[OURS].images).items()}
    for name, times in race(pairs, rounds=settings.rounds, device=settings.device).items():
        found.milliseconds[name] = times.own
        found.milliseconds[f"{name}: reference beside it"] = times.reference
        if name not in made:
            found.figures.append(Figure.of(f"{name}: step / step without", times.ratios(), target=1.03))
            continue
        judged = name == OURS
        options = {"ours": name.startswith(OURS)}
        found.figures.append(Figure.of(f"{name}: step / float", times.ratios(), target=step_target if judged else None, **options))
        share = kept[name] / kept["float"]
        found.figures.append(Figure.of(f"{name}: bytes saved / float", [share], target=bytes_target if judged else None, **options))


def _with_methods(settings: Settings, images: Tensor) -> dict[str, Training]:
    frozen, damped = (Training(networks.cnn(settings), images) for _ in range(2))
    sb.Freezing(frozen.model, threshold=0.1).attach(frozen.optimizer)
    sb.Dampening(damped.model, weight=0.1).attach(damped.optimizer)
    return {f"{OURS} + tracking and freezing": frozen, f"{OURS} + dampening": damped}


def _sizes(settings: Settings, name: str, images: Tensor) -> dict[str, object]:
    return {"model": name, "images": list(images.shape), "device": settings.device}
