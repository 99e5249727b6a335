"""The teacher of a recipe."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from stillbit.errors import DataError, RecipeError, StillbitError
from stillbit.recipes.model import ModelConfig, build_model, pretrained_classes
from stillbit.training.data import Data
from stillbit.training.distill import Distiller
from stillbit.training.evaluate import check_num_classes
from stillbit.training.seeding import seed_all
from stillbit.training.session import Session


@dataclass(frozen=True)
class DistillationConfig:
    """Distillation in a recipe. The defaults are the published ones for vision transformers (arXiv 2302.02210).

    Args:
        teacher: The float network that teaches; of the data's classes. It is read again when a run is resumed.
        temperature: Of both networks' class probabilities.
        soft_weight: Weight of the loss against the teacher.
        hard_weight: Weight of the loss against the labels.
        precision: Of the teacher: `bf16` by autocast, or `fp32`, as its weights are.

    Raises:
        RecipeError: If a value is out of range.
    """

    teacher: ModelConfig
    temperature: float = 1.0
    soft_weight: float = 1.0
    hard_weight: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < math.inf:
            raise RecipeError(f"temperature is {self.temperature}; allowed: a finite number above 0")
        for name in ("soft_weight", "hard_weight"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise RecipeError(f"{name} is {getattr(self, name)}; allowed: a finite number of at least 0")
        if self.soft_weight == 0.0:
            raise RecipeError("soft_weight is 0.0; allowed: above 0, or no distillation at all")
        if self.precision not in ("fp32", "bf16"):
            raise RecipeError(f"precision is {self.precision!r}; allowed: fp32, bf16")

    def build(self, data: Data, session: Session, *, seed: int) -> Distiller:
        """Build the teacher, where and as precise as the student is.

        Args:
            data: Says the classes and the images' shape.
            session: Where the run takes place.
            seed: Seed of the run.

        Returns:
            The teacher with its loss.

        Raises:
            RecipeError: If there is no such network, it has other classes than the data, or cannot take its images.
            CheckpointError: If its weights cannot be fetched or read, or belong to another network.
        """
        teacher = self._network(data, seed)
        session.place(teacher)
        distiller = Distiller(
            teacher,
            temperature=self.temperature,
            soft_weight=self.soft_weight,
            hard_weight=self.hard_weight,
            precision=self.precision,
        )
        self._try(distiller, data, session)
        return distiller

    def _network(self, data: Data, seed: int) -> nn.Module:
        own = pretrained_classes(self.teacher)
        classes = own if own is not None else self.teacher.num_classes or data.num_classes
        if classes != data.num_classes:
            raise RecipeError(f"distillation.teacher: {self.teacher.name} has {classes} classes; allowed: {data.num_classes}, as the data")
        seed_all(seed)  # a random teacher too is the same on every rank and after a resume
        try:
            return build_model(self.teacher, num_classes=classes, channels=data.config.channels)
        except StillbitError as error:
            raise type(error)(f"distillation.teacher: {error}") from error

    def _try(self, distiller: Distiller, data: Data, session: Session) -> None:
        shape = (data.config.channels, data.config.image_size, data.config.image_size)
        try:
            check_num_classes(distiller.teach(torch.zeros(1, *shape, device=session.device, dtype=session.dtype)), data.num_classes)
        except DataError as error:
            raise RecipeError(f"distillation.teacher: {self.teacher.name}: {error}") from None
        except (AssertionError, RuntimeError, ValueError) as error:  # each network says in its own way what it cannot take
            size = "x".join(map(str, shape))
            reason = " ".join(str(error).split())[:200]
            raise RecipeError(f"distillation.teacher: {self.teacher.name} does not take images of {size}: {reason}") from error
