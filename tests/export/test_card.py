"""Model cards: facts that are right, and what a user wrote is kept."""

from pathlib import Path

import pytest
import torch
from torch import nn

from stillbit.errors import ExportError
from stillbit.export.card import model_card
from stillbit.export.packed_model import load_packed
from stillbit.export.packed_writer import export_packed
from stillbit.prepare.size import float_bytes
from tests.export.networks import MODELS, image


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return MODELS["plain-W4A32"]()


def test_a_card_says_what_the_file_is(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    export_packed(
        model, path, example=image(), recipe={"seed": 3}, preprocessing={"image_size": 32}, classes=["a", "b"], accuracy={"top1": 0.71234}
    )
    card = path.with_suffix(".md").read_text()
    assert "\n# small\n" in card
    assert "`Plain` with 8-bit weights in most of its 3 quantized layers (input 3 x 32 x 32, 2 classes)" in card
    assert f"{path.stat().st_size:,} bytes" in card
    assert f"{float_bytes(model):,}" in card
    assert "| top1 | 71.23% |" in card
    assert "| second | conv2d | 36 | 4 | float |" in card
    assert "seed: 3" in card
    assert "image_size: 32" in card
    assert "stillbit predict small.safetensors" in card
    assert "## Licence and sources\n\nTo be filled in" in card


def test_the_code_of_a_card_works(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_packed(model, tmp_path / "small.safetensors", example=image())
    card = (tmp_path / "small.md").read_text()
    assert "Not measured" in card
    assert "predict" not in card
    monkeypatch.chdir(tmp_path)
    names: dict[str, torch.Tensor] = {}
    exec(card.partition("```python\n")[2].partition("```")[0], names)
    assert names["output"].shape == (1, 2)


def test_a_long_network_has_a_short_table(tmp_path: Path) -> None:
    path = tmp_path / "swin.safetensors"
    card = model_card(path, export_packed(MODELS["swin-qkr_token"](), path, example=image()))
    rows = card.partition("## Bits\n")[2].partition("\n\n")[0].splitlines()[2:]
    assert sum(int(row.split("|")[1]) for row in rows) == 27
    assert "| 2 | 464 | 8 | 8 | patch_embed.proj, head.fc |" in rows
    assert card == model_card(path, load_packed(path))


def test_what_the_user_wrote_is_kept(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    export_packed(model, path, example=image())
    card = path.with_suffix(".md")
    card.write_text(card.read_text().partition("To be filled in")[0] + "CC-BY, ours.\n\n## Thanks\n")
    export_packed(model, path, example=image(), accuracy={"top1": 1.0})
    assert "100.00%" in card.read_text()
    assert card.read_text().endswith("## Licence and sources\n\nCC-BY, ours.\n\n## Thanks\n")


def test_another_text_is_not_replaced(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "small.md").write_text("# My notes\n")
    with pytest.raises(ExportError, match=r"small.md: exists and is no model card of stillbit; allowed: another name"):
        export_packed(model, tmp_path / "small.safetensors", example=image())
    with pytest.raises(ExportError, match=r"small.md: is the name of a model card"):
        export_packed(model, tmp_path / "small.md", example=image())
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.md"]
    assert (tmp_path / "small.md").read_text() == "# My notes\n"
