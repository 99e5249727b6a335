import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stillbit.errors import CheckpointError, RecipeError
from stillbit.recipes import catalog
from stillbit.recipes.load import load
from stillbit.recipes.model import ModelConfig, build_model, load_weights
from stillbit.recipes.small_mobilenet import small_mobilenet

SHIPPED = {(model.source, model.name): model for model in (load(name).model for name in catalog.names())}


@pytest.mark.parametrize("source_and_name", SHIPPED, ids="-".join)
def test_shipped_networks_exist(source_and_name):
    source, name = source_and_name
    channels = 1 if source == "stillbit" else 3
    model = build_model(ModelConfig(name, source=source, weights="random"), num_classes=12, channels=channels)
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert layers[-1].out_features == 12


def test_a_named_number_of_classes_holds():
    config = ModelConfig("resnet18", weights="random", num_classes=5)
    assert build_model(config, num_classes=12, channels=1).fc.out_features == 5


@pytest.mark.parametrize(
    "wrap", [pytest.param(dict, id="bare"), *(pytest.param(lambda s, k=k: {k: s, "step": 3}, id=k) for k in ("state_dict", "model"))]
)
def test_weights_of_a_torch_file(tmp_path, wrap):
    saved = small_mobilenet()
    torch.save(wrap(saved.state_dict()), tmp_path / "w.pt")
    _assert_loads(saved, tmp_path / "w.pt")


def test_weights_of_a_safetensors_file(tmp_path):
    saved = small_mobilenet()
    save_file(saved.state_dict(), tmp_path / "w.safetensors")
    _assert_loads(saved, tmp_path / "w.safetensors")


def _assert_loads(saved, path):
    config = ModelConfig("small_mobilenet", source="stillbit", weights=str(path))
    loaded = build_model(config, num_classes=10, channels=1)
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_file_cut_in_half_is_refused(tmp_path, suffix):
    path = tmp_path / f"w.{suffix}"
    state = small_mobilenet().state_dict()
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _assert_refused(path, rf"^weights {path}: cut or damaged \(\w+\)$")


def test_a_missing_file_is_refused(tmp_path):
    _assert_refused(tmp_path / "none.pt", f"^weights {tmp_path}/none.pt: no such file$")


def test_code_in_a_file_is_refused(tmp_path):
    torch.save({"state_dict": small_mobilenet()}, tmp_path / "w.pt")
    _assert_refused(tmp_path / "w.pt", r": not a file of tensors alone \(UnpicklingError\)$")


def test_something_else_in_a_file_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "w.pt")
    _assert_refused(tmp_path / "w.pt", r": holds a list; allowed: a state dict$")


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "w.pt")
    _assert_refused(tmp_path / "w.pt", r"^weights .* belong to another network than EfficientNet: Missing key\(s\) in state_dict: ")


def test_weights_of_another_width_are_refused_and_nothing_is_loaded(tmp_path):
    torch.save(small_mobilenet(num_classes=11).state_dict(), tmp_path / "w.pt")
    _assert_refused(tmp_path / "w.pt", r"belong to another network than EfficientNet: size mismatch for classifier.weight")


def _assert_refused(path, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(small_mobilenet(), path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("config", "channels", "message"),
    [
        pytest.param(ModelConfig("resnet81"), 3, "model.name: timm has no 'resnet81'; did you mean 'resnet18'?", id="timm"),
        pytest.param(
            ModelConfig("mobilenet_v22", source="torchvision"),
            3,
            "model.name: torchvision has no 'mobilenet_v22'; did you mean 'mobilenet_v2'?",
            id="torchvision",
        ),
        pytest.param(
            ModelConfig("tiny", source="stillbit", weights="random"),
            3,
            "model.name: stillbit has no 'tiny'; allowed: small_mobilenet",
            id="stillbit",
        ),
        pytest.param(
            ModelConfig("resnet18", source="torchvision"),
            1,
            "data.channels is 1; allowed: 3 (networks of torchvision take RGB images)",
            id="grey_images",
        ),
    ],
)
def test_a_network_that_is_not_there(config, channels, message):
    with pytest.raises(RecipeError) as caught:
        build_model(config, num_classes=10, channels=channels)
    assert str(caught.value) == message


def test_a_name_far_from_all_is_answered_in_one_line():
    with pytest.raises(RecipeError, match=r"timm has no 'zzz'; allowed: the \d+ names that it lists$"):
        build_model(ModelConfig("zzz"), num_classes=10, channels=3)


def test_a_network_without_pretrained_weights():
    with pytest.raises(CheckpointError, match=r"^model.weights: those of 'mobilenetv2_035' cannot be fetched from timm: No pretrained"):
        build_model(ModelConfig("mobilenetv2_035"), num_classes=10, channels=3)


def test_a_machine_without_network(monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(CheckpointError, match=r"^model.weights: those of 'resnet18' cannot be fetched from torchvision: no route to host$"):
        build_model(ModelConfig("resnet18", source="torchvision"), num_classes=10, channels=3)


@pytest.mark.parametrize("weights", ["pretrained", "IMAGENET1K_V1"])
def test_the_classifier_of_a_pretrained_torchvision_network_fits_the_data(monkeypatch, weights):
    from torchvision.models import resnet18

    pretrained = resnet18().state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_args, **_kwargs: dict(pretrained))
    config = ModelConfig("resnet18", source="torchvision", weights=weights)
    model = build_model(config, num_classes=12, channels=3)
    assert model.fc.out_features == 12
    assert torch.equal(model.conv1.weight, pretrained["conv1.weight"])
    assert torch.equal(build_model(config, num_classes=1000, channels=3).fc.weight, pretrained["fc.weight"])


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"name": "swin_t", "source": "torchvision"}, id="torchvision"),
        pytest.param({"name": "vit_tiny_patch16_224", "arguments": {"depth": 2, "drop_path_rate": 0.9}}, id="timm"),
    ],
)
def test_branches_are_left_out_unless_all_are_kept(config):
    images = torch.randn(2, 3, 224, 224)
    for drop_path in (True, False):
        torch.manual_seed(0)
        model = build_model(ModelConfig(weights="random", drop_path=drop_path, **config), num_classes=3, channels=3).train()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)  # timm's heads begin at zero
        assert torch.equal(model(images), model.eval()(images)) == (not drop_path)
