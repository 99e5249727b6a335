"""A small distilled vision transformer at W2A2, query-key products included, taught by a float one, as a script for several ranks.

    python -m tests.training.vit_runs FOLDER --method annealing --accumulation 2
    torchrun --nproc_per_node 2 -m tests.training.vit_runs FOLDER --method freezing --accumulation 1

In float64, so that all that tells one process from two is the order of sums. One epoch is stage 1; the second is the annealing stage, or
more of the first with freezing. Prints nothing; what a run leaves is its folder, and `trace.RANK.pt` with the model as it was after
every step.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from stillbit.oscillation import Annealing, Freezing, Method, Tracking
from stillbit.prepare import QuantConfig, calibrate, prepare, scales, undecayed, weights
from stillbit.quantizers import weight_sites
from stillbit.schedules import Cosine
from stillbit.training.batches import calibration_batches
from stillbit.training.data import Data
from stillbit.training.distill import Distiller
from stillbit.training.fit import fit
from stillbit.training.optim import OptimizerConfig, build_optimizer
from stillbit.training.session import Session
from stillbit.training.timetable import FinalStage
from tests.training.runs import data_config, load_some, training_config

IMAGE_SIZE = 16
BATCH_SIZE = 9  # of a micro-batch, equal for one process and for two: LSQ's gradient factor is of the images that a process sees at once
STEPS_PER_EPOCH = 20  # of 360 images, two micro-batches each


def transformer(seed: int) -> nn.Module:
    """Return a random network of two heads and two blocks: 18 tokens, 10 classes."""
    torch.manual_seed(seed)
    size = {"img_size": IMAGE_SIZE, "patch_size": 4, "in_chans": 1, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 10}
    model: nn.Module = timm.create_model("deit_tiny_distilled_patch16_224", **size)
    for head in (model.head, model.head_dist):  # both begin at zero
        nn.init.normal_(head.weight, std=0.2)
    for block in model.blocks:  # as it begins, attention is so even that 2 bits make zeros of all of it
        nn.init.normal_(block.attn.qkv.weight, std=0.25)
    return model


def build_student(data: Data, session: Session) -> nn.Module:
    """Return the student, prepared and calibrated. All ranks see one batch, so that any number of them starts from the same ranges."""
    model = transformer(seed=0)
    session.place(model)
    prepare(model, QuantConfig.for_vit("W2A2"), example=torch.zeros(1, 1, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.float64))
    calibrate(model, calibration_batches(data, replace(session, rank=0, world=1), seed=0), batches=1)
    return model


def build_teacher(session: Session) -> Distiller:
    """Return a float teacher of other weights."""
    teacher = transformer(seed=1)
    session.place(teacher)
    return Distiller(teacher)


def build_methods(name: str, model: nn.Module) -> list[Method]:
    """Return methods that act within a few steps."""
    if name == "annealing":
        return [Annealing(model, boundary_range=0.05, begin=STEPS_PER_EPOCH + 1), Tracking(model, ema_momentum=0.1)]
    return [Freezing(model, threshold=Cosine(0.12, 0.02, 2 * STEPS_PER_EPOCH, begin=0.1, before=0.0), ema_momentum=0.1)]


def snapshot(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Return codes and free masks by site, and all parameters and buffers, pins among them."""
    sites = weight_sites(model)
    return {
        "codes": {site.name: site.quantizer.code(site.latent()) for site in sites},
        "free": {site.name: site.quantizer.free(site.latent()) for site in sites},
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
    }


def run(folder: Path, method: str, accumulation: int) -> None:
    """Train, and write the trace of this rank."""
    annealed = method == "annealing"
    training = training_config(epochs=1 if annealed else 2, accumulation=accumulation, precision="fp64", reestimate_batches=0)
    data = load_some(data_config(image_size=IMAGE_SIZE, batch_size=BATCH_SIZE))
    session = Session.start(training)
    model = build_student(data, session)
    config = OptimizerConfig("adamw", lr=1e-2, weight_decay=0.05, decay_norms=False)
    optimizer = build_optimizer(weights(model), scales(model), config, undecayed=undecayed(model))
    methods = [one.attach(optimizer) for one in build_methods(method, model)]
    trace: list[dict[str, dict[str, Tensor]]] = []
    optimizer.register_step_post_hook(lambda *_: trace.append(snapshot(model)))
    with session:
        fit(
            model,
            optimizer,
            data,
            training,
            session,
            folder=folder,
            methods=methods,
            final_stage=FinalStage(epochs=1, lr=3e-3) if annealed else None,
            distiller=build_teacher(session),
        )
    torch.save(trace, folder / f"trace.{session.rank}.pt")


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--method", choices=("annealing", "freezing"), required=True)
    parser.add_argument("--accumulation", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    run(given.folder, given.method, given.accumulation)


if __name__ == "__main__":
    main()
