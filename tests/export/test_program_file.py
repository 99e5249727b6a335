"""Programs of torch.export: equal to the model, and readable where there is no stillbit."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from stillbit.errors import ExportError
from stillbit.export import program_file
from stillbit.export.program_file import DESCRIPTION, export_program
from stillbit.quantizers import weight_sites
from tests.export.networks import ASYMMETRIC, MODELS, cnn, image
from tests.prepare.networks import Plain

LOADING = """
import sys
sys.modules["stillbit"] = None  # whoever imports it fails
import pathlib, torch
folder = pathlib.Path(sys.argv[1])
for path in folder.glob("*.pt2"):
    network = torch.export.load(path).module()
    torch.save([network(batch) for batch in torch.load(folder / "batches")], path.with_suffix(".outputs"))
    targets = {str(node.target) for node in network.graph.nodes if node.op == "call_function"}
    assert all(target.startswith(("aten.", "<built-in function")) for target in targets), targets
"""


@pytest.mark.end_to_end
def test_a_process_without_stillbit_computes_what_the_model_does(tmp_path: Path) -> None:
    models = {name: MODELS[name]() for name in ("mobilenet-hard_swish", "vit-qkr_token")}
    models["asymmetric"] = cnn(Plain, policy="integer", **ASYMMETRIC)()
    torch.save([image(1), image(3)], tmp_path / "batches")
    for name, model in models.items():
        export_program(model, tmp_path / f"{name}.pt2", example=image())
    subprocess.run([sys.executable, "-c", LOADING, str(tmp_path)], check=True)
    for name, model in models.items():
        with torch.no_grad():
            for output, batch in zip(torch.load(tmp_path / f"{name}.outputs"), (1, 3), strict=True):
                assert torch.equal(output, model(image(batch))), name


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return MODELS["plain-W4A32"]()


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.9 of itself, in loading
def test_the_file_holds_codes_and_a_description_and_no_picture(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "network.pt2"
    given = export_program(model, path, example=image(), recipe={"seed": 3}, preprocessing={"size": 32}, classes=("a", "b"))
    state = given.state_dict
    for site in weight_sites(model):
        codes = state[f"{site.quantizer.label}.codes"]
        assert codes.dtype == torch.int8
        assert torch.equal(codes.float(), site.quantizer.code(site.latent()))
    extra = {DESCRIPTION: ""}
    torch.export.load(path, extra_files=extra)
    description = json.loads(extra[DESCRIPTION])
    assert description.pop("stillbit")
    assert description == {"recipe": {"seed": 3}, "preprocessing": {"size": 32}, "classes": ["a", "b"]}
    assert given.example_inputs is None
    archive = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
    source = str(Path(program_file.__file__).parent)
    assert not any(source.encode() in archive.read(name) for name in archive.namelist())


def test_what_computes_something_else_leaves_no_file(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "network.pt2"
    with pytest.raises(ExportError, match="its description cannot be written as JSON"):
        export_program(model, path, example=image(), recipe={"seed": object()})
    wrong = {"stillbit.dequantize.default": lambda codes, scale, *_: codes.to(scale.dtype) * scale * 1.001}
    monkeypatch.setattr(program_file, "_PLAIN", wrong)
    with pytest.raises(ExportError, match=r"network.pt2: not written, because what torch.export gives computes something else"):
        export_program(model, path, example=image())
    assert not list(tmp_path.iterdir())
    path.write_bytes(b"old")
    with pytest.raises(ExportError, match="not written"):
        export_program(model, path, example=image())
    assert path.read_bytes() == b"old"
