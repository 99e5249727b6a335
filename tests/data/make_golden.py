"""Writes our own golden files (see README.md beside this file): `python -m tests.data.make_golden`."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.data.golden_batchnorm import bn_files
from tests.data.golden_methods import damp_files, walk_files
from tests.data.golden_networks import end_to_end_files
from tests.data.golden_quantizers import File, quant_files, schedule_files
from tests.data.golden_ranges import range_files

FOLDER = Path(__file__).parent / "golden" / "cnn"
MAKERS: tuple[Callable[[], Iterator[File]], ...] = (
    quant_files,
    range_files,
    walk_files,
    damp_files,
    bn_files,
    schedule_files,
    end_to_end_files,
)


def main() -> None:
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.safetensors"):
        old.unlink()
    for make in MAKERS:
        for stem, config, tensors in make():
            stored = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
            save_file(stored, FOLDER / f"{stem}.safetensors", metadata={"config": json.dumps(config, sort_keys=True)})


if __name__ == "__main__":
    main()
