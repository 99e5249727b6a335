import pytest
import torch

from stillbit.errors import CheckpointError, RecipeError
from stillbit.recipes.distillation import DistillationConfig
from stillbit.recipes.mapping import from_mapping, to_mapping
from stillbit.recipes.model import ModelConfig, build_model
from stillbit.recipes.small_mobilenet import small_mobilenet
from stillbit.training.config import TrainingConfig
from stillbit.training.data import DataConfig, load_data
from stillbit.training.session import Session

DIGITS = DataConfig(name="digits", image_size=16, channels=1, batch_size=8, workers=0)
SMALL_DEIT = {"img_size": 16, "patch_size": 4, "depth": 1, "embed_dim": 16, "num_heads": 2}


def teacher(name="small_mobilenet", source="stillbit", weights="random", **more):
    return DistillationConfig(ModelConfig(name, source=source, weights=weights, **more))


def built(config, **training):
    return config.build(load_data(DIGITS), Session.start(TrainingConfig(device="cpu", **training)), seed=0)


def test_a_teacher_has_the_weights_of_its_file(tmp_path):
    saved = small_mobilenet()
    torch.save(saved.state_dict(), tmp_path / "w.pt")
    distiller = built(teacher(weights=str(tmp_path / "w.pt")), precision="fp64")
    images = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    assert torch.equal(distiller.teach(images), saved.double().eval()(images))


def test_the_class_head_of_a_distilled_transformer_teaches():
    distiller = built(teacher("deit_tiny_distilled_patch16_224", "timm", arguments=SMALL_DEIT))
    network, images = distiller.teacher, torch.randn(2, 1, 16, 16)
    assert torch.equal(distiller.teach(images), network.head(network.forward_features(images)[:, 0]))


def test_a_random_teacher_is_always_the_same():
    config, images = teacher("resnet10t", "timm"), torch.randn(2, 1, 16, 16)
    assert torch.equal(built(config).teach(images), built(config).teach(images))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param(
            teacher("deit_tiny_distilled_patch16_224", "timm", "pretrained"),
            "distillation.teacher: deit_tiny_distilled_patch16_224 has 1000 classes; allowed: 10, as the data",
            id="pretrained-timm",
        ),
        pytest.param(
            teacher("resnet18", "torchvision", "IMAGENET1K_V1"),
            "distillation.teacher: resnet18 has 1000 classes; allowed: 10, as the data",
            id="pretrained-torchvision",
        ),
        pytest.param(
            teacher("deit_tiny_distilled_patch16_224", "timm", "pretrained", num_classes=10),
            "distillation.teacher: deit_tiny_distilled_patch16_224 has 1000 classes; allowed: 10, as the data",
            id="pretrained-with-a-new-head",
        ),
        pytest.param(
            teacher(num_classes=7), "distillation.teacher: small_mobilenet has 7 classes; allowed: 10, as the data", id="other-number"
        ),
        pytest.param(
            teacher("deit_tiny_patch16_224", "timm", arguments={"img_size": 32, "depth": 1}),
            r"distillation.teacher: deit_tiny_patch16_224 does not take images of 1x16x16: Input height \(16\) doesn't match model \(32\)",
            id="other-image-size",
        ),
        pytest.param(teacher("resnet17", "timm"), "distillation.teacher: model.name: timm has no 'resnet17'", id="unknown-name"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_by_name(config, message):
    with pytest.raises(RecipeError, match=message) as caught:
        built(config)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_number_of_classes_is_refused(tmp_path):
    torch.save(small_mobilenet(num_classes=11).state_dict(), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"^distillation.teacher: weights .*w.pt belong to another network.*size mismatch"):
        built(teacher(weights=str(tmp_path / "w.pt")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"temperature": 0.0}, "temperature is 0.0; allowed: a finite number above 0", id="temperature"),
        pytest.param({"hard_weight": -1.0}, "hard_weight is -1.0; allowed: a finite number of at least 0", id="hard"),
        pytest.param({"soft_weight": 0.0}, "soft_weight is 0.0; allowed: above 0", id="soft"),
        pytest.param({"precision": "fp16"}, "precision is 'fp16'; allowed: fp32, bf16", id="precision"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        DistillationConfig(ModelConfig("resnet18"), **settings)


def test_it_survives_yaml():
    config = teacher("deit_tiny_distilled_patch16_224", "timm", arguments={**SMALL_DEIT, "qkv_bias": True, "depths": (1, 2)})
    assert from_mapping(DistillationConfig, to_mapping(config)) == config


def test_arguments_reach_timm_alone():
    model = build_model(ModelConfig("deit_tiny_patch16_224", weights="random", arguments=SMALL_DEIT), num_classes=10, channels=1)
    assert (len(model.blocks), model.embed_dim) == (1, 16)
    with pytest.raises(RecipeError, match=r"model.arguments of 'resnet18': .* unexpected keyword argument 'dept'"):
        build_model(ModelConfig("resnet18", weights="random", arguments={"dept": 1}), num_classes=10, channels=1)
    with pytest.raises(RecipeError, match=r"arguments is \{'depth': 1\} with source torchvision; allowed: with timm"):
        ModelConfig("resnet18", source="torchvision", arguments={"depth": 1})
