"""Build an image folder of real pictures, ROOT/{train,val}/CLASS/*.png, from Debian's package `openclipart-png`.

    apt install openclipart-png
    python examples/clipart_folder.py clipart --size 160

Sixteen categories that a person would tell apart become classes. The pictures are drawings of very different style on a
transparent ground: each is laid on white, cropped to what is drawn, and fitted into a square.

The package is a collection, not a data set, so three things are put right here. A picture that is filed under two of
the classes (the package links it into both folders) has no one label and is left out. So is the second of two pictures
of one name, or that render alike. And a validation picture must not be seen in training in another color or outline:
near twins go into the same split.
"""

import argparse
import hashlib
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageChops

CLIPART = Path("/usr/share/openclipart/png")
CLASSES = {
    "arrows": "shapes/arrows",
    "beverages": "food/beverages",
    "birds": "animals/birds",
    "buildings": "buildings",
    "bugs": "animals/bugs",
    "clothing": "people/clothing",
    "desserts": "food/desserts",
    "flags": "signs_and_symbols/flags",
    "fruit": "food/fruit",
    "hardware": "computer/hardware",
    "mammals": "animals/mammals",
    "music": "recreation/music",
    "plants": "plants",
    "roadsigns": "transportation/roadsigns",
    "sports": "recreation/sports",
    "vehicles": "transportation/vehicles",
}
_VAL_SHARE = 0.3
_MAX_PIXELS = 40_000_000  # a few pictures have 100 million and more, and take seconds and gigabytes each to decode
Image.MAX_IMAGE_PIXELS = None  # Pillow would warn of those already when it reads their size
# Of the 64 bits of a fingerprint. Seen here: a drawing and its twin in another color or in outline differ in up to 9, and
# so do some pairs of unrelated drawings, but few of one class.
_NEAR_BITS = 4
_NEAR_BITS_IN_CLASS = 9


class Picture(NamedTuple):
    """One rendered drawing: its class, its file name in the package, and its fingerprint of 64 bits."""

    label: str
    name: str
    image: Image.Image
    fingerprint: int


def build(clipart: Path, root: Path, size: int, max_per_class: int) -> dict[str, tuple[int, int]]:
    """Write the folder.

    Args:
        clipart: Where the package installs its PNG files.
        root: Folder to make; it must not exist.
        size: Side of the square pictures, in pixels.
        max_per_class: Pictures of a class at most, both splits together.

    Returns:
        For each class the number of training and of validation pictures.

    Raises:
        FileNotFoundError: If the package is not there.
        FileExistsError: If `root` exists.
    """
    missing = [folder for folder in CLASSES.values() if not (clipart / folder).is_dir()]
    if missing:
        raise FileNotFoundError(f"no folder {clipart / missing[0]}: install the clip art with `apt install openclipart-png`")
    if root.exists():
        raise FileExistsError(f"output folder {root} exists; name one that does not")
    pictures = [picture for label, names in _unambiguous(clipart).items() for picture in _distinct(label, names, size)[:max_per_class]]
    train, val = split(pictures)
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for part, chosen in (("train", train), ("val", val)):
        for picture in chosen:
            folder = partial / part / picture.label
            folder.mkdir(parents=True, exist_ok=True)
            picture.image.save(folder / picture.name)
    partial.rename(root)
    return {label: (_count(train, label), _count(val, label)) for label in CLASSES}


def render(path: Path, size: int) -> Image.Image | None:
    """Draw a picture on white, cropped to what is drawn and fitted into a square.

    Args:
        path: A PNG file, transparent or not.
        size: Side of the square, in pixels.

    Returns:
        An RGB image of (size, size); None if nothing is drawn, or the file is larger than can be decoded cheaply.
    """
    with Image.open(path) as file:
        if file.width * file.height > _MAX_PIXELS:
            return None
        drawing = file.convert("RGBA")
    on_white = Image.new("RGBA", drawing.size, "white")
    on_white.alpha_composite(drawing)
    picture = on_white.convert("RGB")
    drawn = ImageChops.invert(picture).getbbox()
    if drawn is None:
        return None
    picture = picture.crop(drawn)
    scale = size / max(picture.size)
    width, height = (max(round(side * scale), 1) for side in picture.size)
    square = Image.new("RGB", (size, size), "white")
    square.paste(picture.resize((width, height), Image.Resampling.LANCZOS), ((size - width) // 2, (size - height) // 2))
    return square


def fingerprint(image: Image.Image) -> int:
    """Return 64 bits that say, on a grid of 8 x 8, where the picture gets brighter from left to right.

    Color, and small differences of line and size, change few of them.
    """
    pixels = list(image.convert("L").resize((9, 8), Image.Resampling.BOX).tobytes())
    brighter = (pixels[row * 9 + column] < pixels[row * 9 + column + 1] for row in range(8) for column in range(8))
    return sum(bit << place for place, bit in enumerate(brighter))


def split(pictures: Iterable[Picture]) -> tuple[list[Picture], list[Picture]]:
    """Split by the hash of the file name, but put near twins on one side.

    Args:
        pictures: Of all classes, in an order that does not change from run to run.

    Returns:
        Training and validation pictures. One that has near twins on both sides is in neither.
    """
    train: list[Picture] = []
    val: list[Picture] = []
    for picture in pictures:
        sides = [side for side in (train, val) if any(_near(picture, other) for other in side)]
        if not sides:
            draw = int.from_bytes(_digest(picture.name.encode())[:8]) / 2**64
            sides = [val if draw < _VAL_SHARE else train]
        if len(sides) == 1:
            sides[0].append(picture)
    return train, val


def _near(one: Picture, other: Picture) -> bool:
    limit = _NEAR_BITS_IN_CLASS if one.label == other.label else _NEAR_BITS
    return (one.fingerprint ^ other.fingerprint).bit_count() <= limit


def _unambiguous(clipart: Path) -> dict[str, list[Path]]:
    """List each class's files, less those whose bytes or name stand in another class too."""
    files = {label: sorted((clipart / folder).rglob("*.png")) for label, folder in CLASSES.items()}
    labels: defaultdict[bytes, set[str]] = defaultdict(set)
    marks = {path: (_digest(path.read_bytes()), path.name.encode()) for paths in files.values() for path in paths}
    for label, paths in files.items():
        for path in paths:
            for mark in marks[path]:
                labels[mark].add(label)
    return {label: [path for path in paths if all(len(labels[mark]) == 1 for mark in marks[path])] for label, paths in files.items()}


def _distinct(label: str, paths: list[Path], size: int) -> list[Picture]:
    """Render a class's pictures in an order that their names decide, without a second of one name or that looks alike."""
    found: dict[bytes, Picture] = {}
    by_name = {path.name: path for path in reversed(paths)}
    for name in sorted(by_name, key=lambda name: _digest(b"order" + name.encode())):
        image = render(by_name[name], size)
        if image is not None:
            found.setdefault(_digest(image.tobytes()), Picture(label, name, image, fingerprint(image)))
    return list(found.values())


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _count(pictures: list[Picture], label: str) -> int:
    return sum(picture.label == label for picture in pictures)


def main() -> None:
    """Parse the command line and build the folder."""
    parser = argparse.ArgumentParser(description="Build an image folder from Debian's openclipart-png.")
    parser.add_argument("root", type=Path, help="folder to make")
    parser.add_argument("--size", type=int, default=160, help="side of the pictures, in pixels (default 160)")
    parser.add_argument("--max-per-class", type=int, default=120, help="pictures of a class at most (default 120)")
    parser.add_argument("--clipart", type=Path, default=CLIPART, help=f"installed PNG files (default {CLIPART})")
    options = parser.parse_args()
    for name in ("size", "max_per_class"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; allowed: 1 or more")
    try:
        counts = build(options.clipart, options.root, options.size, options.max_per_class)
    except OSError as error:
        sys.exit(f"error: {error}")
    for label, (num_train, num_val) in counts.items():
        print(f"{label:12}{num_train:5} train{num_val:5} val")
    print(f"{'all':12}{sum(t for t, _ in counts.values()):5} train{sum(v for _, v in counts.values()):5} val")


if __name__ == "__main__":
    main()
