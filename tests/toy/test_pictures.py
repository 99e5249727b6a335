"""Pictures hold what they should, and the animation moves and begins again."""

from io import BytesIO

import pytest
from PIL import Image

from stillbit.toy import animation
from stillbit.toy.animation import animate
from stillbit.toy.experiments import Findings
from stillbit.toy.pictures import draw_laws, draw_methods


def test_methods_are_drawn_side_by_side(findings: Findings) -> None:
    with Image.open(BytesIO(draw_methods(findings.methods))) as image:
        assert (image.format, image.size) == ("PNG", (1430, 728))
        assert colours(image) > 100


def test_laws_are_drawn(findings: Findings) -> None:
    with Image.open(BytesIO(draw_laws(findings))) as image:
        assert (image.format, image.size) == ("PNG", (1248, 988))
        assert colours(image) > 100


def test_the_animation_has_a_frame_a_step_and_loops(findings: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(animation, "STEPS", 7)
    with Image.open(BytesIO(animate(findings.methods))) as image:
        assert (image.format, image.size, image.n_frames, image.info["loop"]) == ("GIF", (800, 540), 7, 0)  # type: ignore[attr-defined]
        frames, durations = [], []
        for number in range(7):
            image.seek(number)
            frames.append(image.convert("RGB").tobytes())
            durations.append(image.info["duration"])
    assert len(set(frames)) == 7
    assert durations == [100] * 6 + [3000]


def test_the_animation_is_small(findings: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(animation, "STEPS", 20)
    assert len(animate(findings.methods)) < 20 * 10_000  # 1.3 MB for all


def test_a_background_is_white(findings: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(animation, "STEPS", 2)
    with Image.open(BytesIO(animate(findings.methods))) as image:
        assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)


def colours(image: Image.Image) -> int:
    return len(image.convert("RGB").getcolors(maxcolors=1 << 20))
