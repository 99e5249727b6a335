from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.loading import NO_LOADER, Trained, measure, write_files
from stillbit.numerics.fast import settings

PICTURES = [np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8) for size in ((400, 700, 3), (300, 300, 3))]


def test_files_are_jpeg_photographs_of_one_size_in_both_splits(tmp_path: Path) -> None:
    files = write_files(tmp_path, 9, PICTURES)
    found = [Image.open(BytesIO(file.read_bytes())) for file in tmp_path.glob("val/*/*.jpg")]
    assert len(found) == len(files) == 9
    assert {(image.format, image.size) for image in found} == {("JPEG", (500, 375))}
    assert len(list((tmp_path / "train").iterdir())) == 8
    assert files[0].read_bytes() != files[2].read_bytes()  # of one picture


def test_steps_count_images_and_the_share_of_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(float(second) for second in range(100))
    monkeypatch.setattr("benchmarks.loading.time.perf_counter", lambda: next(clock))
    trained = Trained.__new__(Trained)
    monkeypatch.setattr(Trained, "learn", lambda *_: None)
    batches = iter([("images", [0] * 4), ("images", [0] * 6)])
    # The clock is asked at the start, at the end, and twice a step: it goes from 0 to 5, and each batch takes 1 of it.
    assert trained.take(batches, steps=2) == (10 / 5, 2 / 5)  # type: ignore[arg-type]


def test_a_small_run_gives_the_whole_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "compile", False)  # compiling takes longer than the rest
    record = measure(images=8, rounds=1, steps=1, batch=2, workers=(0, 1), network="mobilenetv2_050", image_size=32, pictures=PICTURES)
    assert set(record["loader_images_per_second"]) == {"workers 0", "workers 1", "workers 1, decoded before"}
    assert set(record["step_images_per_second"]) == set(record["step_waits_share"]) == {NO_LOADER, "workers 0", "workers 1"}
    assert "read and decode" in record["parts_ms_per_image"]
    for title in ("parts_ms_per_image", "loader_images_per_second", "step_images_per_second"):
        assert all(0 < own["range"][0] <= own["median"] <= own["range"][1] for own in record[title].values())
    needed = record["step_images_per_second"][NO_LOADER]["median"]
    for name, times in record["loader_to_step"].items():
        assert times == pytest.approx(record["loader_images_per_second"][name]["median"] / needed, rel=0.1)  # rounded
