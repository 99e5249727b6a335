import sys
from collections.abc import Callable
from pathlib import Path

import clipart_folder
import pytest
from clipart_folder import CLASSES, Picture, build, fingerprint, render, split
from PIL import Image, ImageDraw

FIRST, SECOND = list(CLASSES)[:2]


@pytest.fixture
def draw(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that draws a picture of some pixels into a class's folder of a small clip art collection."""
    collection = tmp_path / "clipart"
    for folder in CLASSES.values():
        (collection / folder).mkdir(parents=True, exist_ok=True)

    def draw_one(label: str, name: str, seed: int, color: str = "black") -> Path:
        path = collection / CLASSES[label] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing(seed, color).save(path)
        return path

    return draw_one


def drawing(seed: int, color: str = "black") -> Image.Image:
    """Draw a pattern of 8 x 8 squares that the seed's hash decides, and a frame, so that nothing is cropped."""
    bits = int.from_bytes(clipart_folder._digest(str(seed).encode()))
    picture = Image.new("RGBA", (80, 80))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 0, 79, 79), outline=color)
    for place in range(64):
        if bits >> place & 1:
            row, column = divmod(place, 8)
            pen.rectangle((column * 10, row * 10, column * 10 + 9, row * 10 + 9), fill=color)
    return picture


def picture(label: str, name: str, bits: int = 0) -> Picture:
    return Picture(label, name, Image.new("RGB", (1, 1)), bits)


def names(pictures: list[Picture]) -> set[str]:
    return {one.name for one in pictures}


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.png")}


@pytest.fixture
def collection(draw: Callable[..., Path], tmp_path: Path) -> Path:
    for number in range(30):
        draw(FIRST, f"first_{number}.png", seed=number)
        draw(SECOND, f"second_{number}.png", seed=100 + number)
    return tmp_path / "clipart"


def test_builds_both_splits_of_square_rgb_pictures_and_counts_them(collection: Path, tmp_path: Path) -> None:
    counts = build(collection, tmp_path / "out", size=32, max_per_class=20)
    for label in (FIRST, SECOND):
        found = tuple(len(list((tmp_path / "out" / part / label).glob("*.png"))) for part in ("train", "val"))
        assert counts[label] == found
        assert sum(found) == 20
        assert min(found) > 0
    with Image.open(next((tmp_path / "out").rglob("*.png"))) as image:
        assert (image.mode, image.size) == ("RGB", (32, 32))


def test_builds_the_same_folder_again(collection: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        build(collection, tmp_path / name, size=32, max_per_class=20)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_leaves_out_what_two_classes_share_by_content_or_by_name(collection: Path, draw: Callable[..., Path], tmp_path: Path) -> None:
    draw(FIRST, "same_content.png", seed=1000)
    draw(SECOND, "same_content_other_name.png", seed=1000)
    draw(FIRST, "same_name.png", seed=1001)
    draw(SECOND, "same_name.png", seed=1002)
    build(collection, tmp_path / "out", size=32, max_per_class=100)
    assert not [path for path in files(tmp_path / "out") if "same" in path]


def test_keeps_one_of_two_that_render_alike(collection: Path, draw: Callable[..., Path], tmp_path: Path) -> None:
    draw(FIRST, "twin_a.png", seed=1000)
    draw(FIRST, "twin_b.png", seed=1000)
    build(collection, tmp_path / "out", size=32, max_per_class=100)
    assert len([path for path in files(tmp_path / "out") if "twin" in path]) == 1


def test_keeps_one_of_two_with_one_name(collection: Path, draw: Callable[..., Path], tmp_path: Path) -> None:
    draw(FIRST, "name.png", seed=1000)
    draw(FIRST, "folder/name.png", seed=1001)
    counts = build(collection, tmp_path / "out", size=32, max_per_class=100)
    assert sum(counts[FIRST]) == 31


def test_an_existing_folder_is_refused_and_left_alone(collection: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="out exists"):
        build(collection, tmp_path / "out", size=32, max_per_class=20)
    assert not list((tmp_path / "out").iterdir())


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["clipart_folder.py", str(tmp_path / "out"), "--clipart", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit) as left:
        clipart_folder.main()
    assert str(left.value).startswith("error: no folder ")
    assert str(left.value).endswith("install the clip art with `apt install openclipart-png`")
    assert "\n" not in str(left.value)


def test_split_depends_on_the_name_alone() -> None:
    many = [picture(FIRST, f"{number}.png", clipart_folder._digest(bytes([number]))[0] * 0x0101010101010101) for number in range(8)]
    far = [one._replace(fingerprint=int.from_bytes(clipart_folder._digest(one.name.encode())[:8])) for one in many]
    train, val = split(far)
    again_train, again_val = split(far[::-1])
    assert (names(train), names(val)) == (names(again_train), names(again_val))
    assert len(train) + len(val) == len(far)


@pytest.mark.parametrize(
    ("label", "distance", "together"),
    [
        pytest.param(FIRST, 9, True, id="one_class-9_bits-twins"),
        pytest.param(FIRST, 10, False, id="one_class-10_bits-strangers"),
        pytest.param(SECOND, 4, True, id="two_classes-4_bits-twins"),
        pytest.param(SECOND, 5, False, id="two_classes-5_bits-strangers"),
    ],
)
def test_near_twins_go_into_one_split(label: str, distance: int, together: bool) -> None:
    held = next(name for name in map("{}.png".format, range(100)) if split([picture(FIRST, name)])[1])
    kept = next(name for name in map("{}.png".format, range(100)) if split([picture(FIRST, name)])[0])
    train, val = split([picture(FIRST, kept), picture(label, held, bits=2**distance - 1)])
    assert (names(train), names(val)) == (({kept, held}, set()) if together else ({kept}, {held}))


def test_what_has_twins_on_both_sides_is_left_out() -> None:
    held = next(name for name in map("{}.png".format, range(100)) if split([picture(FIRST, name)])[1])
    kept = next(name for name in map("{}.png".format, range(100)) if split([picture(FIRST, name)])[0])
    between = picture(FIRST, "between.png", bits=2**9 - 1)
    train, val = split([picture(FIRST, kept), picture(FIRST, held, bits=2**18 - 1), between])
    assert (names(train), names(val)) == ({kept}, {held})


def test_fingerprint_ignores_color_and_tells_drawings_apart() -> None:
    black, red, other = (fingerprint(on_white(image)) for image in (drawing(0), drawing(0, "red"), drawing(1)))
    assert (black ^ red).bit_count() <= 4
    assert (black ^ other).bit_count() > 9


def on_white(drawn: Image.Image) -> Image.Image:
    ground = Image.new("RGBA", drawn.size, "white")
    ground.alpha_composite(drawn)
    return ground.convert("RGB")


def test_render_crops_to_the_drawing_and_centers_it_on_white(tmp_path: Path) -> None:
    transparent = Image.new("RGBA", (100, 60))
    ImageDraw.Draw(transparent).rectangle((70, 10, 89, 19), fill="blue")  # 20 x 10
    transparent.save(tmp_path / "bar.png")
    image = render(tmp_path / "bar.png", 40)
    assert image is not None
    assert image.size == (40, 40)
    assert [image.getpixel((20, row)) for row in (5, 20, 35)] == [(255, 255, 255), (0, 0, 255), (255, 255, 255)]
    assert [image.getpixel((column, 20)) for column in (0, 39)] == [(0, 0, 255)] * 2


@pytest.mark.parametrize("color", ["white", None], ids=["white", "transparent"])
def test_render_gives_nothing_where_nothing_is_drawn(tmp_path: Path, color: str | None) -> None:
    Image.new("RGBA", (10, 10), color or (0, 0, 0, 0)).save(tmp_path / "blank.png")
    assert render(tmp_path / "blank.png", 8) is None


def test_render_does_not_decode_a_huge_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing(0).save(tmp_path / "picture.png")
    monkeypatch.setattr(clipart_folder, "_MAX_PIXELS", 80 * 80 - 1)
    assert render(tmp_path / "picture.png", 8) is None
