"""Measure how fast the loader delivers images, by part and as a whole, and how fast a training step consumes them.

    pip install -e ".[examples]"        # scikit-image, for its photographs
    python -m benchmarks.loading [--images 320] [--rounds 7] [--steps 6]

JPEG files of 500x375 pixels, quality 90, in a temporary folder; the published augmentation (random crop to 224, flip). All contenders run
in turn, round by round, so that a machine that slows down slows them all.
"""

import dataclasses
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import stillbit as sb
from benchmarks.result import header, parse, parser, write
from stillbit.training.augment import AugmentConfig, build_transform
from stillbit.training.batches import Batches, calibration_batches, validation_batches
from stillbit.training.data import DataConfig, load_data
from stillbit.training.sampler import SampleKey
from stillbit.training.samples import SeededDataset, collate
from stillbit.training.seeding import seeded
from stillbit.training.session import LOCAL

WIDTH, HEIGHT, QUALITY = 500, 375, 90
NO_LOADER = "one batch, no loader"
CPU = torch.device("cpu")
Batch = tuple[Tensor, Tensor]
Values = dict[str, list[float]]


def photographs() -> list[np.ndarray]:
    """Return scikit-image's color photographs."""
    from skimage import data

    return [data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), data.stereo_motorcycle()[0], data.hubble_deep_field()]


def write_files(folder: Path, count: int, pictures: Sequence[np.ndarray]) -> list[Path]:
    """Write random crops of the pictures as files of 8 classes; training and validation split are the same."""
    generator = random.Random(0)
    files = []
    for index in range(count):
        picture = Image.fromarray(pictures[index % len(pictures)])
        share = min(1.0, picture.width / WIDTH, picture.height / HEIGHT)
        width, height = share * WIDTH, share * HEIGHT
        left, top = generator.uniform(0, picture.width - width), generator.uniform(0, picture.height - height)
        piece = picture.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
        files.append(folder / "train" / f"class_{index % 8}" / f"{index:04d}.jpg")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        piece.save(files[-1], quality=QUALITY)
    (folder / "val").symlink_to("train", target_is_directory=True)
    return files


def time_parts(config: DataConfig, files: Sequence[Path], rounds: int) -> Values:
    """Return the milliseconds per image of each part of loading, on one thread."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) * 255 for values in config.normalization)
    augment = build_transform(config.augment, config.image_size, 3, config.interpolation, config.crop_pct, *config.normalization)
    crop, flip, to_tensor = augment.transforms  # type: ignore[attr-defined]  # timm composes these three
    erasing = AugmentConfig(random_erasing=0.25, erasing_mode="pixel")
    _, _, *to_erased = build_transform(erasing, config.image_size, 3, "bilinear", 1.0, *config.normalization).transforms  # type: ignore[attr-defined]
    pictures = [Image.open(file).convert("RGB") for file in files]
    crops = [crop(picture) for picture in pictures]
    tensors = [to_tensor(one) for one in crops]
    groups = [tensors[first : first + config.batch_size] for first in range(0, len(tensors), config.batch_size)]
    batches = [collate([(image, 0) for image in group]).images for group in groups]

    def decode(file: Path) -> object:
        with file.open("rb") as opened:
            return Image.open(opened).convert("RGB")

    def erase(picture: Any) -> object:
        for part in to_erased:
            picture = part(picture)
        return picture

    parts: dict[str, tuple[Callable[[Any], object], Sequence[Any]]] = {
        "read and decode": (decode, files),
        "crop and resize": (crop, pictures),
        "flip": (flip, crops),
        "to uint8 tensor": (to_tensor, crops),
        "seed, put generators back": (_seed, range(len(files))),
        "collate": (lambda group: collate([(image, 0) for image in group]), groups),
        "normalize, in the training process": (lambda batch: batch.to(torch.float32).sub_(mean).div_(std), batches),
        "to float tensor, normalize, erase (instead, with random erasing)": (erase, crops),
    }
    times: Values = {name: [] for name in parts}
    with _threads(1):
        for round_number in range(-1, rounds):
            for name, (part, inputs) in parts.items():
                begin = time.perf_counter()
                for one in inputs:
                    part(one)
                if round_number >= 0:
                    times[name].append(1e3 * (time.perf_counter() - begin) / len(files))
    return times


def decoded_before(config: DataConfig) -> Batches:
    """Return a loader whose workers only seed, collate and send images that are already decoded."""
    data = load_data(config)
    samples = [data.train[SampleKey(seed=index, sample=index)] for index in range(len(data.train))]
    return validation_batches(dataclasses.replace(data, val=SeededDataset(samples, lambda image: image)), LOCAL)


def time_loaders(loaders: dict[str, Batches], rounds: int) -> Values:
    """Return the images per second of each loader alone."""
    speeds: Values = {name: [] for name in loaders}
    for round_number in range(-1, rounds):
        for name, loader in loaders.items():
            begin = time.perf_counter()
            count = sum(len(labels) for _, labels in loader)
            if round_number >= 0:
                speeds[name].append(count / (time.perf_counter() - begin))
    return speeds


@dataclass
class Trained:
    """A network and its optimizer."""

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def take(self, batches: Iterator[Batch], steps: int) -> tuple[float, float]:
        """Take steps; return images per second, and the share of the time spent waiting for batches."""
        count, waited, begin = 0, 0.0, time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            images, labels = next(batches)
            waited += time.perf_counter() - asked
            self.learn(images, labels)
            count += len(labels)
        elapsed = time.perf_counter() - begin
        return count / elapsed, waited / elapsed

    def learn(self, images: Tensor, labels: Tensor) -> None:
        """Take one step."""
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(images), labels).backward()
        self.optimizer.step()


def quantized(name: str, images: Tensor) -> Trained:
    """Return the network to train: W4A4, calibrated."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name)
    minmax = sb.RangeConfig("current_minmax")  # a search would take longer than the measurement
    sb.prepare(model, sb.QuantConfig.parse("W4A4", weight_range=minmax, activation_range=minmax), example=images[:1])
    sb.calibrate(model, [(images,)])
    return Trained(model.train(), torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9))


def time_steps(trained: Trained, loaders: dict[str, Batches], rounds: int, steps: int) -> tuple[Values, Values]:
    """Return images per second and share of waiting of a training step, fed by each loader and by one repeated batch."""
    first = next(iter(next(iter(loaders.values()))))
    sources: dict[str, Callable[[], Iterator[Batch]]] = {NO_LOADER: lambda: iter([first] * steps)}
    sources |= {name: loader.__iter__ for name, loader in loaders.items()}
    speeds: Values = {name: [] for name in sources}
    waits: Values = {name: [] for name in sources}
    for round_number in range(-1, rounds):
        for name, source in sources.items():
            speed, wait = trained.take(source(), steps)
            if round_number >= 0:
                speeds[name].append(speed)
                waits[name].append(wait)
    return speeds, waits


def measure(
    *,
    images: int = 320,
    rounds: int = 7,
    steps: int = 6,
    batch: int = 8,
    workers: Sequence[int] = (0, 1, 2),
    network: str = "mobilenetv2_100",
    image_size: int = 224,
    pictures: Sequence[np.ndarray] | None = None,
) -> dict[str, Any]:
    """Measure everything, with torch's current number of threads."""
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder), images, pictures or photographs())
        settings = {"root": Path(folder), "batch_size": batch, "image_size": image_size}
        configs = {f"workers {number}": DataConfig(workers=number, **settings) for number in workers}
        parts = time_parts(next(iter(configs.values())), files[:64], rounds)
        loaders = {name: calibration_batches(load_data(config), LOCAL, seed=0) for name, config in configs.items()}
        sending = {f"{name}, decoded before": decoded_before(config) for name, config in configs.items() if config.workers}
        alone = time_loaders(loaders | sending, rounds)
        trained = quantized(network, torch.randn(batch, 3, image_size, image_size))
        fed, waits = time_steps(trained, loaders, rounds, steps)
        file_bytes = statistics.mean(file.stat().st_size for file in files)
    needed = statistics.median(fed[NO_LOADER])
    return {
        "images": images,
        "pixels": [WIDTH, HEIGHT],
        "mean_file_kb": round(file_bytes / 1e3, 1),
        "network": f"{network} W4A4, batch {batch}, {image_size} pixels",
        "rounds": rounds,
        "steps": steps,
        "parts_ms_per_image": summary(parts, 4),
        "loader_images_per_second": summary(alone, 1),
        "step_images_per_second": summary(fed, 2),
        "step_waits_share": summary(waits, 4),
        "loader_to_step": {name: round(statistics.median(speeds) / needed, 1) for name, speeds in alone.items()},
    }


def summary(values: Values, digits: int) -> dict[str, dict[str, Any]]:
    """Return median and range of each list."""
    return {
        name: {"median": round(statistics.median(own), digits), "range": [round(min(own), digits), round(max(own), digits)]}
        for name, own in values.items()
    }


def _seed(seed: int) -> None:
    with seeded(seed):
        pass


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)  # as in a worker
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main() -> None:
    """Measure, write the result and print the medians."""
    options = parser("loading", __doc__, threads=os.cpu_count())
    options.add_argument("--images", type=int, default=320, help="files (default: 320)")
    options.add_argument("--rounds", type=int, default=7, help="timed rounds (default: 7)")
    options.add_argument("--steps", type=int, default=6, help="training steps per round (default: 6)")
    given = parse(options)
    record = header(given.command, "timm", "pillow") | measure(images=given.images, rounds=given.rounds, steps=given.steps)
    write(given.output, record)
    for title in ("parts_ms_per_image", "loader_images_per_second", "step_images_per_second", "step_waits_share"):
        print(title)
        for name, own in record[title].items():
            print(f"  {name:66s} {own['median']:9.4g}   {own['range'][0]:.4g} to {own['range'][1]:.4g}")


if __name__ == "__main__":
    main()
