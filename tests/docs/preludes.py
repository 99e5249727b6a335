"""What a reader has at some point of a page: names, and files in the folder of the page. A page asks by <!-- prelude: NAME -->.

CONTRIBUTING.md lists them. Each function's docstring says what it gives.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from stillbit import run
from stillbit.assembly import Trained, build_trained
from stillbit.recipes.load import load
from stillbit.training.digits import Digits

_SHORT = ("model.weights=random", "training.epochs=1", "training.tensorboard=false", "training.reestimate_batches=2", "data.batch_size=32")


def loader() -> dict[str, Any]:
    """`loader`, two batches of four color images of 64 pixels with labels 0 to 9 (digits); `images`, `labels` of the first; `steps`, 2."""
    return _batches(8, 4, size=64, channels=3)


def digits() -> dict[str, Any]:
    """`loader`, four batches of 16 grey digits of 16 pixels with labels; `images`, `labels` of the first; `steps`, 4."""
    return _batches(64, 16, size=16, channels=1)


def prepared() -> dict[str, Any]:
    """As `digits`, and `model`, `small_mobilenet` prepared at W3A3 and calibrated, with `optimizer`, a `JointOptimizer` of SGD and Adam."""
    import stillbit
    from stillbit.recipes.small_mobilenet import small_mobilenet

    names = digits()
    model = small_mobilenet()
    stillbit.prepare(model, stillbit.QuantConfig.parse("W3A3"), example=names["images"][:1])
    stillbit.calibrate(model, names["loader"])
    sgd = torch.optim.SGD(stillbit.weights(model), lr=0.02, momentum=0.9)
    optimizer = stillbit.JointOptimizer(sgd, torch.optim.Adam(stillbit.scales(model), lr=1e-3))
    return names | {"model": model, "optimizer": optimizer}


def trained_run() -> dict[str, Any]:
    """A run folder `RUN` of digits at W3A3, one epoch, and its `model`; as `digits`; `batches`; `photos/` of two digits, and `cat.jpg`."""
    run.train(load("digits_w3a3_freeze", _SHORT), Path("RUN"))
    Path("photos").mkdir()
    pictures = Digits(train=False)
    for path, index in ((Path("photos/one.png"), 0), (Path("photos/two.png"), 1), (Path("cat.jpg"), 2)):
        pictures[index][0].save(path)
    names = digits()
    return names | {"model": build_trained(Trained.read(Path("RUN"))), "batches": [images for images, _ in names["loader"]]}


def other_libraries() -> dict[str, Any]:
    """As `digits`; what Lightning 2.6 calls of torch 2.15 and says of small data, and Brevitas 0.13 of torch 2.9, is no error."""
    for message in (r"`isinstance\(treespec, LeafSpec\)` is deprecated", "The '.*_dataloader' does not have many workers"):
        warnings.filterwarnings("ignore", message)  # pytest puts the filters back after each test
    warnings.filterwarnings("ignore", "Named tensors and all their associated APIs are an experimental feature")
    warnings.filterwarnings("ignore", "The number of training batches .* is smaller than the logging interval")
    return digits()


def _batches(count: int, batch_size: int, *, size: int, channels: int) -> dict[str, Any]:
    digits = Digits(train=True)
    images = torch.stack([_pixels(digits[index][0], size, channels) for index in range(count)])
    labels = torch.tensor([digits[index][1] for index in range(count)])
    batches = list(zip(images.split(batch_size), labels.split(batch_size), strict=True))
    return {"loader": batches, "images": batches[0][0], "labels": batches[0][1], "steps": len(batches)}


def _pixels(image: Image.Image, size: int, channels: int) -> Tensor:
    grey = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(1, 1, *image.size).float() / 255
    return interpolate(grey, size=(size, size), mode="bilinear", antialias=True)[0].expand(channels, -1, -1).contiguous() * 2 - 1


PRELUDES: dict[str, Callable[[], dict[str, Any]]] = {
    "loader": loader,
    "digits": digits,
    "prepared model": prepared,
    "trained run": trained_run,
    "other libraries": other_libraries,
}
