"""Writes our own golden files (see README.md next to this file): `python -m tests.data.make_golden`."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.data.golden_batchnorm import bn_files
from tests.data.golden_methods import damp_files, walk_files
from tests.data.golden_networks import end_to_end_files, other_width_files
from tests.data.golden_quantizers import File, quant_files, schedule_files
from tests.data.golden_ranges import range_files
from tests.data.golden_vit import vit_files

FOLDER = Path(__file__).parent / "golden"
MAKERS: dict[str, tuple[Callable[[], Iterator[File]], ...]] = {
    "cnn": (quant_files, range_files, walk_files, damp_files, bn_files, schedule_files, end_to_end_files),
    "cnn_w2a5": (other_width_files,),
    "vit": (vit_files,),
}


def main() -> None:
    torch.set_num_threads(1)
    for old in FOLDER.rglob("*.safetensors"):
        old.unlink()
    for folder, makers in MAKERS.items():
        (FOLDER / folder).mkdir(parents=True, exist_ok=True)
        for stem, config, tensors in itertools.chain.from_iterable(make() for make in makers):
            stored = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
            save_file(stored, FOLDER / folder / f"{stem}.safetensors", metadata={"config": json.dumps(config, sort_keys=True)})


if __name__ == "__main__":
    main()
