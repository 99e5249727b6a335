"""A small run with everything on, as a function and as a script that tests kill, resume and start on several ranks.

    python runs.py FOLDER --method freezing --checkpoint-every 7 --kill-at 9
    python runs.py FOLDER --method freezing --checkpoint-every 7 --resume
    torchrun --nproc_per_node 2 runs.py FOLDER --accumulation 1 --precision fp64 --trace

Augmentation, mixup, cutmix, dropout, accumulation and batch-norm re-estimation are on. Prints nothing; what a run leaves is its
folder, and `codes.RANK.pt` with the codes and pins of every step where `--trace` asks for it.
"""

import argparse
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from stillbit.oscillation import Dampening, Freezing, Method, Tracking
from stillbit.prepare import QuantConfig, prepare, reestimate_batchnorm, scales, weights
from stillbit.prepare.calibrate import calibrate
from stillbit.quantizers import weight_sites
from stillbit.schedules import Cosine
from stillbit.training.augment import AugmentConfig
from stillbit.training.batches import calibration_batches
from stillbit.training.checkpoint import Checkpoint
from stillbit.training.config import TrainingConfig
from stillbit.training.data import Data, DataConfig, load_data
from stillbit.training.distill import Distiller
from stillbit.training.fit import fit
from stillbit.training.optim import JointOptimizer, OptimizerConfig, build_optimizer
from stillbit.training.rates import ScheduleConfig
from stillbit.training.run_state import RunState
from stillbit.training.saving import LAST
from stillbit.training.session import LOCAL, Session

IMAGE_SIZE = 8
METHODS = ("float", "lsq", "tracking", "dampening", "dampening_in_loss", "freezing")


def tiny_model() -> nn.Module:
    """Convolutions, one of them depthwise, batch norm and dropout: 10 classes."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Conv2d(8, 12, 1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 10),
    )


def two_headed_model(seed: int) -> nn.Module:
    """A distilled transformer of one block for these images."""
    torch.manual_seed(seed)
    size = {"img_size": IMAGE_SIZE, "in_chans": 1, "patch_size": 4, "depth": 1, "embed_dim": 16, "num_heads": 2, "num_classes": 10}
    model: nn.Module = timm.create_model("deit_tiny_distilled_patch16_224", **size)
    for head in (model.head, model.head_dist):  # both begin at zero
        nn.init.normal_(head.weight)
    return model


def data_config(**changes: Any) -> DataConfig:
    """Digits at 8 x 8 with every kind of augmentation."""
    augment = AugmentConfig(scale=(0.6, 1.0), hflip=0.5, color_jitter=0.2, mixup=0.2, cutmix=0.5, mix_probability=0.7)
    settings = {"name": "digits", "image_size": IMAGE_SIZE, "channels": 1, "batch_size": 16, "workers": 0, "crop_pct": 1.0}
    return DataConfig(**{"augment": augment, **settings, **changes})


def load_some(config: DataConfig) -> Data:
    """Every fourth image of both splits, so that runs are short: 360 and 90."""
    whole = load_data(config)
    for split in (whole.train, whole.val):
        split.source = Subset(split.source, range(0, len(split), 4))
    return whole


def training_config(**changes: Any) -> TrainingConfig:
    """Two micro-batches a step, and a short re-estimation."""
    settings = {"epochs": 1, "accumulation": 2, "reestimate_batches": 4, "log_every": 1, "tensorboard": False, "device": "cpu"}
    return TrainingConfig(**{**settings, **changes})


def build_method(name: str, model: nn.Module, steps: int) -> list[Method]:
    """The method under test, with settings that make it act within a few steps."""
    if name == "tracking":
        return [Tracking(model, ema_momentum=0.1)]
    if name.startswith("dampening"):
        return [Dampening(model, weight=Cosine(0.0, 0.1, steps, begin=0.25), in_loss=name == "dampening_in_loss")]
    if name == "freezing":
        return [Freezing(model, threshold=Cosine(0.12, 0.02, steps, begin=0.1, before=0.0), ema_momentum=0.1)]
    return []


def run(
    folder: Path,
    *,
    method: str = "float",
    data: DataConfig | None = None,
    training: TrainingConfig | None = None,
    resume: bool = False,
    after_step: Callable[[int], None] | None = None,
    trace: bool = False,
    taught: bool = False,
) -> tuple[RunState, nn.Module, JointOptimizer, list[Method]]:
    """Train the small model, or a taught transformer; with `after_step`, call it at the end of each optimizer step with its number."""
    data, training = data or data_config(), training or training_config()
    model = two_headed_model(seed=0) if taught else tiny_model()
    if method != "float":
        _settle_batchnorm(model)
        prepare(model, QuantConfig.parse("W3A3"), example=torch.zeros(1, 1, IMAGE_SIZE, IMAGE_SIZE))
    session = Session.start(training)
    session.place(model)
    samples = load_some(data)
    saved = None
    if resume:
        saved = Checkpoint.read(folder / LAST)
        saved.fill(model)
    elif method != "float":
        # All ranks see one batch, so that any number of them starts from the same ranges.
        calibrate(model, calibration_batches(samples, replace(session, rank=0, world=1), seed=0), batches=1)
    config = OptimizerConfig(lr=0.3, weight_decay=1e-4, schedule=ScheduleConfig("cosine", per="step"))
    scale_config = OptimizerConfig("adam", lr=1e-5)
    optimizer = build_optimizer(weights(model), scales(model), config, scale_config)
    schedules = [config.schedule, scale_config.schedule][: len(optimizer.param_groups)]
    images_per_step = data.batch_size * training.accumulation * session.world
    steps = training.epochs * (len(samples.train) // images_per_step)
    methods = [one.attach(optimizer) for one in build_method(method, model, steps)]
    codes: list[dict[str, tuple[Tensor, Tensor | None]]] = []
    if trace:
        optimizer.register_step_post_hook(lambda *_: codes.append(_codes(model)))
    if after_step is not None:
        _call_after_step(optimizer, after_step, first=_steps_taken(folder) if resume else 0)
    distiller = None
    if taught:
        teacher = two_headed_model(seed=1)
        session.place(teacher)
        distiller = Distiller(teacher)
    with session:
        position = fit(
            model,
            optimizer,
            samples,
            training,
            session,
            folder=folder,
            methods=methods,
            schedules=schedules,
            resume=saved,
            distiller=distiller,
            recipe={"method": method},
        )
    if trace:
        torch.save(codes, folder / f"codes.{session.rank}.pt")
    return position, model, optimizer, methods


def send_at(step: int, number: signal.Signals) -> Callable[[int], None]:
    """Return a function for `after_step` that sends this process a signal at the end of a step."""

    def send(taken: int) -> None:
        if taken == step:
            os.kill(os.getpid(), number)

    return send


def _settle_batchnorm(model: nn.Module) -> None:
    """Return an untrained network statistics of its own, without which calibration finds ranges that training never meets."""
    batches = calibration_batches(load_data(data_config()), LOCAL, seed=1)
    reestimate_batchnorm(model, batches, batches=4)


def _steps_taken(folder: Path) -> int:
    return int(Checkpoint.read(folder / LAST).content["position"]["step"])


def _codes(model: nn.Module) -> dict[str, tuple[Tensor, Tensor | None]]:
    return {
        site.name: (site.quantizer.code(site.latent()).clone(), None if site.quantizer.pins is None else site.quantizer.pins.clone())
        for site in weight_sites(model)
    }


def _call_after_step(optimizer: JointOptimizer, call: Callable[[int], None], first: int) -> None:
    taken = first

    def count(*_: Any) -> None:
        nonlocal taken
        taken += 1
        call(taken)

    optimizer.register_step_post_hook(count)


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--method", choices=METHODS, default="float")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--accumulation", type=int, default=2)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--checkpoint-every", type=int)
    parser.add_argument("--kill-at", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--taught", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    run(
        given.folder,
        method=given.method,
        data=data_config(workers=given.workers, batch_size=given.batch_size),
        training=training_config(
            epochs=given.epochs,
            accumulation=given.accumulation,
            precision=given.precision,
            checkpoint_every=given.checkpoint_every,
        ),
        resume=given.resume,
        after_step=send_at(given.kill_at, signal.SIGKILL),
        trace=given.trace,
        taught=given.taught,
    )


if __name__ == "__main__":
    main()
