"""The run record: JSON lines, one an event, complete up to the last line that was written.

Every event has `event`, `step` (optimizer steps taken) and `time` (seconds since 1970). The events and their fields:

- `start`, `resume`: `versions`, `hardware`, `recipe`, `images_per_step`, `steps_per_epoch`, `seed`, `precision`.
- `step`: figures of training by name. `epoch`: figures of an epoch by name.
- `skipped`: `name` of a broken image. `checkpoint`: `path`. `end`: `status` (`complete`, or the class of an error and its `reason`).

What a report shows of quantizers (`quantizer_figures.py`, `probe.py`):

- `facts`, once, before the first step: `layers`, the quantized weights in the order of the network, each with `name`, `quantizer`, `bits`,
  `low`, `high`, `shift`, `shape`, `num_scales`, `num_bytes`; `activations`, each with `name`, `bits`; `other_bytes`, `float_bytes`.
- `observation`, at `training.observations` steps: lists with a place for each of the facts' layers, `oscillating`, `frozen`, `scale`,
  `smallest_scale`, `largest_scale`, and `histograms`, counts of latents in `quantizer_figures.bins`; `activation_scale`, a list with a
  place for each of the facts' activations. null means not known or not finite.
- `trajectories`, at the end of a window of steps, in the middle and at the end of the run: `first_step`, and `layers`, each with `name`
  and `weights`, each with `index` (in the flattened latent), `frequency` (of oscillations, when chosen) and `positions`, one per step.
- `batchnorm`, after the last step: `layers`, and KL divergences in nats of their statistics from other batches', `before` re-estimation
  and `after` it.
"""

import json
import os
import platform
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from stillbit.errors import CheckpointError
from stillbit.files import write_whole


class RunRecord:
    """Appends events to a file. A resumed run first drops the events that it will live through again.

    Args:
        path: The file.
        resumed_step: Steps taken by the checkpoint that is resumed; None begins a new record.
    """

    def __init__(self, path: Path, resumed_step: int | None = None) -> None:
        if resumed_step is None:
            path.unlink(missing_ok=True)
        else:
            _truncate(path, resumed_step)
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> "RunRecord":
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Close the file."""
        self._file.close()

    def write(self, event: str, step: int, **fields: Any) -> None:
        """Append an event, at once.

        Args:
            event: Its kind.
            step: Optimizer steps taken.
            fields: What JSON can hold.
        """
        line = {"event": event, "step": step, "time": round(time.time(), 3), **fields}
        self._file.write(_dumped(line) + "\n")
        self._file.flush()


def read_record(path: Path) -> Iterator[dict[str, Any]]:
    """Read the events of a record."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def surroundings() -> dict[str, Any]:
    """Say what a run runs on."""
    packages = ("stillbit", "torchvision", "timm", "accelerate", "numpy")
    versions = {name: metadata.version(name) for name in packages}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), **versions},
        "hardware": {"device": device, "cpus": os.cpu_count(), "threads": torch.get_num_threads()},
    }


def _truncate(path: Path, step: int) -> None:
    """Keep the events up to a step: a checkpoint is the last thing that a step leaves behind."""
    kept = [event for event in read_record(path) if event["step"] <= step] if path.exists() else []
    write_whole(path, "".join(_dumped(event) + "\n" for event in kept).encode(), kind=CheckpointError)


def _dumped(event: dict[str, Any]) -> str:
    return json.dumps(event, separators=(",", ":"))
