"""Packed files of whole networks: codes, outputs and every other entry come back exactly, without the code that trained them."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stillbit.errors import ExportError
from stillbit.export import packed_writer
from stillbit.export.packed_container import Content, read_content, write_content
from stillbit.export.packed_model import PackedModel, load_packed
from stillbit.export.packed_writer import export_packed
from stillbit.prepare import QuantConfig, calibrate, prepare
from stillbit.prepare.size import float_bytes
from stillbit.quantizers import Quantizer, weight_sites
from tests.export.networks import MODELS, image
from tests.prepare import vits

KINDS = ["mobilenet-hard_swish", "resnet-asymmetric", "plain-W4A32", "vit-qkr_tensor", "swin-qkr_token", "swin-torchvision"]
RECIPE = {"model": {"name": "network"}, "quantization": {"bits": "W4A4"}}


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, PackedModel]:
    """A network and what its file gives."""
    model = MODELS[request.param]()
    path = tmp_path_factory.mktemp("packed") / "network.safetensors"
    export_packed(model, path, example=image(), recipe=RECIPE)
    return model, load_packed(path)


def test_output_is_the_models_bit_for_bit_at_any_batch(pair: tuple[nn.Module, PackedModel]) -> None:
    model, packed = pair
    with torch.no_grad():
        for batch in (1, 3):
            assert torch.equal(packed(image(batch)), model(image(batch)))


def test_codes_are_those_of_the_weight_quantizers(pair: tuple[nn.Module, PackedModel]) -> None:
    model, packed = pair
    sites = weight_sites(model)
    assert list(packed.codes) == [site.name for site in sites]
    for site in sites:
        codes = packed.codes[site.name]
        assert codes.dtype in (torch.int8, torch.uint8)
        assert torch.equal(codes.float(), site.quantizer.code(site.latent()))
        assert packed.manifest["packed"][packed.manifest["sites"][site.name]]["bits"] == site.quantizer.bits


def test_every_other_entry_of_the_state_comes_back_exactly(pair: tuple[nn.Module, PackedModel]) -> None:
    model, packed = pair
    latents = {id(parameter) for site in weight_sites(model) for parameter in site.parameters}
    left_out = {name for name, parameter in model.named_parameters() if id(parameter) in latents}
    left_out |= {f"{name}.pins" for name, module in model.named_modules() if isinstance(module, Quantizer) and module.pins is not None}
    state = model.state_dict()
    assert set(packed.entries) == set(state) - left_out
    for name, entry in packed.entries.items():
        assert entry.dtype == state[name].dtype
        assert entry.shape == state[name].shape
        assert torch.equal(entry, state[name]), name


def test_the_tree_is_plain_and_named_as_the_network(pair: tuple[nn.Module, PackedModel]) -> None:
    _, packed = pair
    parts = {type(module) for name, module in packed.network.named_modules() if name}
    assert parts == {nn.Module}
    assert not list(packed.parameters())
    assert {name for name in packed.entries if name.endswith("bias")} & set(packed.network.state_dict())
    assert packed.manifest["recipe"] == RECIPE


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return MODELS["plain-W4A32"]()


def test_a_weight_that_is_not_quantized_is_an_entry(tmp_path: Path) -> None:
    model = MODELS["plain-W4A32"]()
    (*_, head) = weight_sites(model)
    head.quantizer.bypass = True
    packed = export_packed(model, tmp_path / "a.safetensors", example=image())
    assert torch.equal(packed.entries["head.weight"], model.head.weight)
    assert "head" not in packed.codes
    assert "first.weight" not in packed.entries


def test_a_weight_that_is_quantized_in_part_is_an_entry(tmp_path: Path) -> None:
    model = MODELS["vit-qkr_tensor"]()
    attention = model.blocks[0].attn
    attention.products.value_weight_quantizer.bypass = True  # the products of queries and keys are codes still
    packed = export_packed(model, tmp_path / "a.safetensors", example=image())
    assert torch.equal(packed.entries["blocks.0.attn.qkv.weight"], attention.qkv.weight)
    assert "blocks.1.attn.qkv.weight" not in packed.entries


def test_inputs_of_another_shape_are_refused(model: nn.Module, tmp_path: Path) -> None:
    packed = export_packed(model, tmp_path / "a.safetensors", example=image())
    with pytest.raises(ExportError, match=r"input has shape \(1, 3, 64, 64\); allowed: \(batch, 3, 32, 32\)"):
        packed(torch.zeros(1, 3, 64, 64))


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2), nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.body(x).relu()
        return self.first(hidden), self.second(hidden)


def test_two_outputs_and_a_training_model_on_top(tmp_path: Path) -> None:
    model, x = TwoHeads(), torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    prepare(model, QuantConfig.parse("W4A4"), example=x)
    calibrate(model, [(x,)])
    model.train()
    packed = export_packed(model, tmp_path / "a.safetensors", example=x)
    assert model.training
    with torch.no_grad():
        assert all(torch.equal(found, expected) for found, expected in zip(packed(x), model.eval()(x), strict=True))


class ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.body(x) + x @ self.body.weight)
        return output


def test_a_latent_that_is_read_as_a_float_too_is_an_entry(tmp_path: Path) -> None:
    model, x = ReadTwice(), torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    prepare(model, QuantConfig.parse("W4A4"), example=x)
    calibrate(model, [(x,)])
    packed = export_packed(model, tmp_path / "a.safetensors", example=x)
    assert {"body.weight", "head.weight"} - set(packed.entries) == {"head.weight"}
    assert torch.equal(packed.codes["body"].float(), model.body.weight_quantizer.code(model.body.weight))


def test_float_bytes_are_the_float_networks() -> None:
    model = MODELS["vit-plain_tensor"]()
    network = vits.vit()
    own = [*network.parameters(), *(buffer for buffer in network.buffers() if buffer.is_floating_point())]
    assert float_bytes(model) == 4 * sum(one.numel() for one in own)


def test_a_program_that_names_what_is_not_allowed_is_refused(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    export_packed(model, path, example=image())
    content = read_content(path)
    for operation, message in (("aten.from_file.default", "does more"), ("os.system.default", "not allowed")):
        document: dict[str, Any] = {**content.document, "program": {**content.document["program"]}}
        call = {"name": "made", "operation": operation, "arguments": ["touch file"]}
        document["program"]["calls"] = [call, *document["program"]["calls"]]
        write_content(path, Content(content.manifest, document, content.tensors), {})
        with pytest.raises(ExportError, match=message) as caught:
            load_packed(path)
        assert str(caught.value).startswith(f"{path}: operation {operation}")
        assert "\n" not in str(caught.value)


def test_a_file_without_a_program_is_one_line(tmp_path: Path) -> None:
    for document in ({}, {"entries": ["none"]}, {"entries": []}, {"entries": [], "program": {}}, {"entries": [], "program": 3}):
        write_content(tmp_path / "a", Content({"sites": {}}, document, {}), {})
        with pytest.raises(ExportError, match=r"a: \w") as caught:
            load_packed(tmp_path / "a")
        assert "\n" not in str(caught.value)


def test_what_cannot_be_exported_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: nn.Module) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(ExportError, match="has no quantizers"):
        export_packed(nn.Linear(2, 2), path, example=torch.zeros(1, 2))
    with pytest.raises(ExportError, match="the manifest cannot be written as JSON"):
        export_packed(model, path, example=image(), recipe={"key": object()})
    monkeypatch.setattr(packed_writer, "_equal", lambda found, expected: False if found.shape == (1, 2) else torch.equal(found, expected))
    with pytest.raises(ExportError, match=r"a.safetensors: not written, because it does not compute what the model does"):
        export_packed(model, path, example=image())
    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(ExportError, match="No space left on device"):
        export_packed(model, path, example=image())
    assert not list(tmp_path.iterdir())


def test_codes_are_read_without_this_package_as_the_page_says(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = export_packed(model, tmp_path / "network.safetensors", example=image())
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    (reading,) = (block for block in page.split("```python\n") if "unpackbits" in block)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(reading.partition("```")[0], names)
    assert torch.equal(torch.from_numpy(names["codes"]), packed.network.get_buffer(names["name"]).long())


LOADING = """
import sys, types
for name in ("stillbit", "stillbit.export"):  # their __init__ would import every room; loading needs none of them
    package = types.ModuleType(name)
    package.__path__ = [sys.argv[1] + "/" + name.replace(".", "/")]
    sys.modules[name] = package
import torch
from stillbit.export.packed_model import load_packed
print(load_packed(sys.argv[2])(torch.ones(2, 3, 32, 32)).tolist())
rooms = {name.split(".")[1] for name in sys.modules if name.startswith("stillbit.")}
print(sorted(rooms), [name for name in ("timm", "torchvision", "onnx", "accelerate", "yaml", "scipy") if name in sys.modules])
"""


def test_loading_needs_torch_safetensors_and_two_rooms(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    export_packed(model, path, example=image())
    source = Path(packed_writer.__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", LOADING, str(source), str(path)], capture_output=True, text=True, check=True)
    with torch.no_grad():
        output = model(torch.ones(2, 3, 32, 32)).tolist()
    assert run.stdout.splitlines() == [str(output), "['errors', 'export', 'files', 'numerics'] []"]
