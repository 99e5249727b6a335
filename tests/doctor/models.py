"""Models that the doctor finds ill, each next to the healthy one that it was made from."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.swa_utils import AveragedModel

from stillbit import (
    Annealing,
    Constant,
    Cosine,
    Dampening,
    Freezing,
    JointOptimizer,
    QuantConfig,
    Tracking,
    calibrate,
    prepare,
    scales,
    weights,
)
from stillbit.doctor.subjects import ModelSubject
from stillbit.numerics.limits import FREE
from stillbit.quantizers import LSQ

STEPS = 100
CONV = "3"  # the 3-bit convolution


def images(count: int = 64) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def prepared(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(256, 10)).train()
    for _ in range(100):
        model(images())  # settles the running statistics
    prepare(model.eval(), QuantConfig.parse("W3A3", **settings), example=images(1))
    return model


def model() -> nn.Module:
    made = prepared()
    calibrate(made, [(images(),)])
    return made


def optimizer(of: nn.Module) -> JointOptimizer:
    return JointOptimizer(SGD(weights(of), lr=0.01, momentum=0.9, weight_decay=1e-4), Adam(scales(of), lr=1e-5))


def subject(of: nn.Module | None = None, optimizers: Any = None, methods: Any = (), example: Any = None) -> ModelSubject:
    of = model() if of is None else of
    example = images() if example is None else example
    return ModelSubject(of, optimizers or (optimizer(of),), tuple(methods), example, (images(),))


def step(of: nn.Module, by: torch.optim.Optimizer) -> None:
    nn.functional.cross_entropy(of(images()), torch.arange(64) % 10).backward()
    by.step()


def trained() -> ModelSubject:
    of = model()
    by = optimizer(of)
    methods = (freezing(of).attach(by), Dampening(of, weight=0.1).attach(by), Annealing(of).attach(by))
    step(of, by)
    return subject(of, (by,), methods)


def freezing(of: nn.Module, end: float = 0.05) -> Freezing:
    return Freezing(of, threshold=Cosine(0.1, end, STEPS, begin=0.25, before=0.0), ema_momentum=0.01)


def weight_quantizer(of: nn.Module) -> LSQ:
    return of.get_submodule(CONV).weight_quantizer


def changed(change: Callable[[nn.Module], Any]) -> Callable[[], ModelSubject]:
    """The healthy model after a change to it."""

    def make() -> ModelSubject:
        of = model()
        with torch.no_grad():
            change(of)
        return subject(of)

    return make


def stepped_by(make: Callable[[nn.Module], Any]) -> Callable[[], ModelSubject]:
    """The healthy model under other optimizers."""

    def made() -> ModelSubject:
        of = model()
        return subject(of, make(of))

    return made


def under(make: Callable[[nn.Module, torch.optim.Optimizer], Any]) -> Callable[[], ModelSubject]:
    """The healthy model under one method."""

    def made() -> ModelSubject:
        of = model()
        by = optimizer(of)
        return subject(of, (by,), [make(of, by)])

    return made


def without_gradient() -> ModelSubject:
    of = model()
    by = optimizer(of)
    step(of, by)
    weight_quantizer(of).scale.grad = None
    return subject(of, (by,))


def missed_steps() -> ModelSubject:
    of = model()
    by = optimizer(of)
    step(of, by)
    return subject(of, (by,), [Tracking(of).attach(by)])


def uncalibrated() -> ModelSubject:
    return subject(prepared())


class Aside(nn.Module):
    """Has a quantized layer that its forward does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.network = model()
        self.idle = model()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def never_called() -> ModelSubject:
    return subject(Aside())


def pinned_elsewhere(of: nn.Module) -> None:
    quantizer = weight_quantizer(of)
    freezing(of)
    code = quantizer.code(of.get_submodule(CONV).weight)
    quantizer.pins.copy_(torch.where(code == 0, 1, FREE))


def frozen_whole(of: nn.Module, by: torch.optim.Optimizer) -> Freezing:
    method = freezing(of).attach(by)
    weight_quantizer(of).pins.copy_(weight_quantizer(of).code(of.get_submodule(CONV).weight))
    return method


def with_lost_activation(of: nn.Module) -> None:
    of[1].act = nn.SiLU()  # as timm's batch norm has it
    of[1] = nn.SyncBatchNorm.convert_sync_batchnorm(of[1])


def with_float_layer(of: nn.Module) -> None:
    of.append(nn.Linear(10, 10))


def tokens() -> ModelSubject:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4))
    x = torch.randn(64, 5, 8)
    prepare(layers, QuantConfig.parse("W3A3", activation_scales="token"), example=x[:1])
    calibrate(layers, [(x,)])
    return subject(layers, example=x)


def scaled(factor: float) -> Callable[[nn.Module], None]:
    return lambda of: weight_quantizer(of).scale.mul_(factor)


def input_scaled(factor: float) -> Callable[[nn.Module], None]:
    return lambda of: of.get_submodule(CONV).input_quantizer.scale.mul_(factor)


def unsigned(of: nn.Module) -> None:
    weight_quantizer(of).mark_calibrated(signed=False)


def coarse_sgd(of: nn.Module) -> tuple[SGD]:
    return (SGD([{"params": weights(of)}, {"params": scales(of)}], lr=0.01),)


# Rule -> what triggers it, and a part of what is said then; the healthy subject triggers none.
ILL: dict[str, tuple[Callable[[], ModelSubject], str]] = {
    "scale-not-in-optimizer": (stepped_by(lambda of: (SGD(weights(of), lr=0.01),)), "1 trainable elements that no optimizer steps"),
    "weight-not-in-optimizer": (stepped_by(lambda of: (Adam(scales(of)),)), "72 trainable elements that no optimizer steps"),
    "foreign-parameters": (stepped_by(lambda of: (SGD([*of.parameters(), nn.Parameter(torch.ones(1))], lr=0.01),)), "1 of 16 parameters"),
    "two-optimizers": (stepped_by(lambda of: (SGD(weights(of), lr=0.01), Adam(scales(of), lr=1e-5))), "2 optimizers (SGD and Adam)"),
    "scale-weight-decay": (
        stepped_by(lambda of: (SGD(of.parameters(), lr=0.01, weight_decay=1e-4),)),
        "weight decay 0.0001 pulls 5 scales",
    ),
    "scale-learning-rate": (stepped_by(lambda of: (Adam(of.parameters(), lr=0.1),)), "a step of Adam moves it by up to 0.1 (group 0)"),
    "scale-learning-rate-sgd": (stepped_by(coarse_sgd), "SGD at 0.01 moves it some 59 times as much"),
    "scale-of-resting-weight": (
        changed(lambda of: of.get_submodule(CONV).weight.requires_grad_(False)),
        "does not train, and its scale does",
    ),
    "scale-without-gradient": (without_gradient, "no gradient after backward"),
    "half-precision-weights": (changed(lambda of: of.get_submodule(CONV).to(torch.bfloat16)), "bfloat16: a step below 0.0039"),
    "method-not-attached": (under(lambda of, _: Tracking(of)), "attached to no optimizer"),
    "method-elsewhere": (under(lambda of, _: Tracking(of).attach(optimizer(of))), "attached to JointOptimizer, which is none"),
    "method-missed-steps": (missed_steps, "has seen 0 of the optimizer's 1 steps"),
    "not-finite": (changed(lambda of: of[1].weight.fill_(float("nan"))), "8 of 8 elements are NaN"),
    "uncalibrated": (uncalibrated, "no range yet, at 8 bits"),
    "never-called": (never_called, "never called by the example"),
    "bypassed": (changed(lambda of: setattr(weight_quantizer(of), "bypass", True)), "bypassed: its 3 bits do nothing"),
    "scale-collapsed": (
        changed(lambda of: weight_quantizer(of).scale.fill_(-0.1)),
        "smallest scale -0.1 of 1, the floor is 1e-08, 1 stored",
    ),
    "dead-activation": (changed(input_scaled(1e3)), "100.00% of its input get code 0"),
    "dead-weight": (changed(scaled(1e3)), "100.0% of 1,152 weights have code 0"),
    "few-codes": (changed(scaled(3.0)), "uses 3 of 8 codes"),
    "sign-out-of-reach": (changed(unsigned), "weights are negative, and its grid begins at 0"),
    "saturated-weight": (changed(scaled(0.01)), "of its weights lie beyond the 8 codes"),
    "saturated-activation": (changed(input_scaled(0.001)), "of its nonzero input lie beyond the 8 codes"),
    "float-layer": (changed(with_float_layer), "100 weights in full precision"),
    "one-image-size": (tokens, "5 scales, one per token"),
    "freezing-one-oscillation": (under(lambda of, by: freezing(of, 0.005).attach(by)), "0.5 x ema_momentum 0.01: one oscillation"),
    "freezing-two-oscillations": (under(lambda of, by: freezing(of, 0.015).attach(by)), "1.5 x ema_momentum 0.01: two oscillations"),
    "window-too-long": (
        under(lambda of, by: Freezing(of, steps=80, ema_momentum=0.001).attach(by)),
        "0.001 averages over 1,000 steps, the run has 80",
    ),
    "freezing-nothing": (under(lambda of, by: Freezing(of, threshold=Constant(0.0)).attach(by)), "nothing is pinned"),
    "freezing-everything": (under(frozen_whole), "100.0% of its weights are pinned"),
    "dampening-nothing": (under(lambda of, by: Dampening(of, weight=0.0).attach(by)), "0 at every step"),
    "annealing-nothing-free": (under(lambda of, by: Annealing(of, boundary_range=0.0).attach(by)), "0 of its weights are free"),
    "stale-batchnorm": (changed(lambda of: of[4].running_mean.add_(1.0)), "nats from those of the images"),
    "lost-activation": (changed(with_lost_activation), "applies SiLU; torch's SyncBatchNorm does not call it"),
    "averaged-model": (lambda: subject(AveragedModel(model())), "AveragedModel averages latents"),
    "pins-and-latents": (changed(pinned_elsewhere), "pinned latents round to another code"),
}
