"""What a checkpoint says without its data."""

from pathlib import Path

import pytest
import torch

from stillbit import deploy, run
from stillbit.assembly import Trained, build_blank, build_trained, trained_classes
from stillbit.doctor import examine_path
from stillbit.errors import CheckpointError
from stillbit.recipes.load import load
from stillbit.recipes.mapping import to_mapping
from stillbit.training.checkpoint import write_checkpoint
from tests.assembling import assembled

SMALL_DEIT = "model.arguments={img_size: 16, patch_size: 8, embed_dim: 12, depth: 1, num_heads: 2, mlp_ratio: 2}"


@pytest.mark.parametrize("num_classes", [1, 10, 37])
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        pytest.param("digits_w3a3_lsq", [], id="small_mobilenet"),
        pytest.param("digits_deit_w2a2_cga", [SMALL_DEIT], id="two_heads"),
        pytest.param("resnet18_w4a4_lsq", ["model.source=torchvision", "model.name=resnet18", "data.image_size=32"], id="torchvision"),
    ],
)
def test_classes_are_known_from_the_checkpoint(tmp_path, name, overrides, num_classes):
    recipe = load(name, ["data.name=folder", "data.root=none", *overrides])
    model = build_blank(recipe, num_classes)
    write_checkpoint(tmp_path / "last.pt", {"model": model.state_dict(), "recipe": to_mapping(recipe)})
    trained = Trained.read(tmp_path)
    assert trained_classes(trained) == num_classes
    rebuilt = build_trained(trained)
    assert not rebuilt.training
    for key, tensor in model.state_dict().items():
        assert torch.equal(rebuilt.state_dict()[key], tensor)


def test_another_network_than_the_checkpoints_is_refused(tmp_path):
    recipe = load("digits_w3a3_lsq")
    write_checkpoint(tmp_path / "a.pt", {"model": build_blank(recipe, 10).state_dict(), "recipe": to_mapping(recipe)})
    for override, message in (("model.num_classes=7", "of another model"), ("quantization.weight_bits=4", "weight_bits 3; allowed: 4")):
        with pytest.raises(CheckpointError, match=message):
            build_trained(Trained.read(tmp_path / "a.pt", [override]))


@pytest.mark.parametrize("verb", ["validate", "export", "doctor", "start", "resume"])
def test_a_checkpoint_is_read_once(tmp_path, monkeypatch, verb):
    overrides = ("model.weights=random", "data.workers=0", "training.epochs=2", "training.tensorboard=false", "data.batch_size=700")
    quick = ("training.reestimate_batches=0", "training.device=cpu", "training.evaluate_every=2", "training.evaluate_first=false")
    recipe = load("digits_w3a3_lsq", (*overrides, *quick))
    if verb == "resume":

        def kill(*_):
            raise RuntimeError("killed")

        with monkeypatch.context() as context:
            context.setattr("stillbit.training.loop.check_collapse", kill)
            with pytest.raises(RuntimeError, match="killed"):
                run.train(recipe, tmp_path / "run")
    else:
        run.train(recipe, tmp_path / "run")
    read = []
    torch_load = torch.load
    monkeypatch.setattr(torch, "load", lambda file, **options: read.append(file) or torch_load(file, **options))
    last = tmp_path / "run" / "last.pt"
    calls = {
        "validate": lambda: run.validate(tmp_path / "run"),
        "export": lambda: deploy.export(tmp_path / "run", "packed"),
        "doctor": lambda: examine_path(tmp_path / "run"),
        "start": lambda: assembled(load("digits_w3a3_lsq", (*overrides, *quick, f"start={last}"))),
        "resume": lambda: run.train(recipe, tmp_path / "run", resume=True),
    }
    calls[verb]()
    assert [file for file in read if isinstance(file, Path)] == [last]
