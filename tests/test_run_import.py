"""A published checkpoint becomes a run folder, which is evaluated, and which another run begins with."""

import argparse

import pytest
import torch

from stillbit import run
from stillbit.assembly import known_classes
from stillbit.errors import CheckpointError, DataError, StillbitError
from stillbit.recipes.load import load
from tests.assembling import assembled
from tests.interop.networks import published_deit, small_deit

SMALL = "model.arguments={img_size: 16, patch_size: 8, embed_dim: 12, depth: 1, num_heads: 2, mlp_ratio: 2}"


def recipe(*overrides):
    quick = ("distillation=null", "data.batch_size=256", "training.tensorboard=false", "training.evaluate_first=false")
    return load("digits_deit_w2a2_cga", ["published=true", SMALL, *quick, *overrides])


@pytest.fixture
def source(tmp_path):
    options = argparse.Namespace(wq_bitw=2, aq_bitw=2)
    torch.save({"state_dict": published_deit(colours=1, classes=10), "args": options, "epoch": 329}, tmp_path / "published.pth.tar")
    return tmp_path / "published.pth.tar"


def test_an_imported_network_is_evaluated_and_trained_further(source, tmp_path):
    report = run.import_checkpoint(recipe(), source, tmp_path / "imported")
    assert len(report.placed) == 56
    assert run.validate(tmp_path / "imported").count == 360
    begun = recipe(f"start={tmp_path / 'imported' / 'last.pt'}", "training.epochs=0", "annealing.epochs=1")
    model = assembled(begun).model
    state = published_deit(colours=1, classes=10)
    assert torch.equal(model.blocks[0].attn.qkv.weight[12:24], state["blocks.0.attn.k.weight"])
    assert run.train(begun, tmp_path / "annealed")["epoch"] == 1


def test_a_float_checkpoint_becomes_float_weights(tmp_path):
    source = small_deit(colours=1, classes=10)
    torch.save({"model": source.state_dict()}, tmp_path / "float.pth")
    run.import_checkpoint(load("digits_deit_float", [SMALL]), tmp_path / "float.pth", tmp_path / "imported")
    parts = assembled(recipe(f"model.weights={tmp_path / 'imported' / 'last.pt'}"))
    assert torch.equal(parts.model.head.weight, source.head.weight)


def test_an_imported_network_is_no_run_to_resume(source, tmp_path):
    run.import_checkpoint(recipe(), source, tmp_path / "imported")
    with pytest.raises(CheckpointError, match=r"holds an imported network and no run; allowed: a new run, with start="):
        run.train(recipe(), tmp_path / "imported", resume=True)
    with pytest.raises(CheckpointError, match="holds a run already"):
        run.import_checkpoint(recipe(), source, tmp_path / "imported")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["quantization.weight_bits=4"], "trained with wq_bitw 2, and the model has 4 bits there"),
        (["quantization.published=false"], "prepared otherwise; allowed: .*published=true"),
        (["model.num_classes=7"], r"head\.weight is \(10, 12\); allowed: \(7, 12\)"),
        (["data.image_size=24", SMALL.replace("16", "24")], "has 6 elements; allowed: 11, .*serves one image size"),
        (["quantization=null", "tracking=null", "annealing=null"], "the model is in full precision"),
    ],
    ids=["widths", "not published", "classes", "image size", "float recipe"],
)
def test_what_does_not_fit_leaves_no_folder(source, tmp_path, overrides, message):
    with pytest.raises(StillbitError, match=message):
        run.import_checkpoint(recipe(*overrides), source, tmp_path / "runs" / "imported")
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_filled_is_taken_back(source, tmp_path, monkeypatch):
    def fail(path, _content):
        path.write_bytes(b"half")
        raise CheckpointError("disk full")

    monkeypatch.setattr(run, "write_checkpoint", fail)
    with pytest.raises(CheckpointError, match="disk full"):
        run.import_checkpoint(recipe(), source, tmp_path / "runs" / "imported")
    assert not (tmp_path / "runs").exists()


def test_the_data_is_needed_only_for_the_number_of_classes(source, tmp_path):
    elsewhere = ("data.name=folder", "data.root=none")
    run.import_checkpoint(recipe(*elsewhere, "model.num_classes=10"), source, tmp_path / "given")
    with pytest.raises(DataError, match=r"no folder none/train.*; or model\.num_classes"):
        run.import_checkpoint(recipe(*elsewhere, "model.weights=random"), source, tmp_path / "unknown")
    assert known_classes(load("deit_t_w2a2", ["data.root=none"])) == 1000  # as the pretrained ones
