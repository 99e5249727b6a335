"""The batches of a run: those of its steps, of batch-norm estimation, and of validation."""

from collections import Counter
from collections.abc import Iterator
from typing import final

from torch import Tensor

from stillbit.training.batches import Batches, validation_batches
from stillbit.training.config import TrainingConfig
from stillbit.training.data import Data
from stillbit.training.sampler import StepSampler
from stillbit.training.session import Session


@final
class Feed:
    """Serves one rank of a run.

    Attributes:
        training: Batches of the training split, those that were asked for last.
        validation: Batches of the validation split.
        num_classes: Classes of the data.
        steps_per_epoch: Optimizer steps per epoch.
        images_per_step: Images per optimizer step, over all ranks.
    """

    def __init__(self, data: Data, config: TrainingConfig, session: Session) -> None:
        self._config = config
        self._session = session
        batch_size, repeats = data.config.batch_size, data.config.augment.repeats
        self._sampler = StepSampler(len(data.train), batch_size, config.seed, config.accumulation, session.rank, session.world, repeats)
        self.training = Batches(data.train, self._sampler, data, session)
        self.validation = validation_batches(data, session)
        self.num_classes = data.num_classes
        self.steps_per_epoch = self._sampler.steps_per_epoch
        self.images_per_step = data.config.batch_size * config.accumulation * session.world

    def from_step(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield micro-batches from a step (counted from 1) to the end of its epoch."""
        epoch, first_step = divmod(step - 1, self.steps_per_epoch)
        self._sampler.begin(epoch, first_step)
        return iter(self.training)

    def begin_estimation(self, purpose: int, epoch: int) -> int:
        """Let the training batches be those of a batch-norm estimation, and return how many this rank takes."""
        batches: int = -(-self._config.reestimate_batches // self._session.world)
        self._sampler.begin(epoch, num_steps=-(-batches // self._config.accumulation), purpose=purpose)
        return batches

    def take_skipped(self) -> Counter[str]:
        """Return, from all ranks, how often each image could not be read since the last call."""
        skipped: Counter[str] = Counter()
        for batches in (self.training, self.validation):
            for name, times in self._session.gather(list(batches.skipped.items())):
                skipped[name] += times
            batches.skipped.clear()
        return skipped
