"""What `import stillbit` loads, and what its names do by themselves."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import stillbit
from stillbit import errors

HEAVY = (
    *("accelerate", "matplotlib", "onnx", "onnx_ir", "onnxruntime", "pandas", "PIL", "pydantic", "rich", "scipy", "sklearn", "tensorboard"),
    *("timm", "torch._dynamo", "torch._inductor", "torchvision", "transformers", "typer", "yaml"),
)
EXTRAS = sorted({library for libraries in errors.EXTRAS.values() for library in libraries})


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_nothing_heavy() -> None:
    assert run(f"import stillbit, sys; print([name for name in {HEAVY} if name in sys.modules])") == "[]"


def test_training_by_hand_needs_no_extra(tmp_path: Path) -> None:
    program = f"""
import sys
sys.modules.update(dict.fromkeys({EXTRAS}))
import torch, stillbit as sb
from torch import nn
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 2))
images, labels = torch.randn(4, 3, 8, 8), torch.arange(4) % 2
sb.prepare(model, sb.QuantConfig.parse("W4A4"), example=images)
sb.calibrate(model, [images])
optimizer = sb.JointOptimizer(torch.optim.SGD(sb.weights(model), lr=0.01), torch.optim.Adam(sb.scales(model), lr=1e-5))
sb.Freezing(model, threshold=0.1).attach(optimizer)
torch.nn.functional.cross_entropy(model(images), labels).backward()
optimizer.step()
sb.reestimate_batchnorm(model, [images])
sb.export_packed(model.eval(), "{tmp_path}/a.safetensors", example=images)
print(torch.equal(sb.load_packed("{tmp_path}/a.safetensors")(images), model(images)))
"""
    assert run(program) == "True"


def test_a_function_that_needs_an_extra_says_which(tmp_path: Path) -> None:
    program = f"""
import sys
sys.modules.update(dict.fromkeys({EXTRAS}))
import torch, stillbit as sb
for call in (lambda: sb.export_onnx(torch.nn.Linear(1, 1), "x.onnx", example=torch.zeros(1, 1)), lambda: sb.inspect("{tmp_path}/a.onnx"),
             lambda: sb.verify("{tmp_path}/a.onnx", torch.nn.Linear(1, 1), [])):
    try:
        call()
    except sb.StillbitError as error:
        print(error)
"""
    (tmp_path / "a.onnx").write_bytes(b"")
    assert [line.partition(" to install it: ")[2] for line in run(program).splitlines()] == ['pip install "stillbit[export]"'] * 3


def test_the_version_is_that_of_the_project() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", stillbit.__version__)
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["version"]["path"] == "src/stillbit/__init__.py"


def test_the_design_page_runs(tmp_path: Path) -> None:
    """The five lines of the README, on a small network."""
    import torch
    from torch import nn

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 8), nn.ReLU(), nn.Linear(8, 4))
    loader = [(torch.randn(6, 3, 8, 8), torch.arange(6) % 4) for _ in range(3)]
    stillbit.prepare(model, stillbit.QuantConfig.parse("W4A4"), example=torch.zeros(1, 3, 8, 8))
    stillbit.calibrate(model, loader, batches=2)
    optimizer = stillbit.JointOptimizer(
        torch.optim.SGD(stillbit.weights(model), lr=0.0033, momentum=0.9), torch.optim.Adam(stillbit.scales(model), lr=1e-5)
    )
    threshold = stillbit.Cosine(0.1, 0.01, 3, begin=0.25, before=0.0)
    freezing = stillbit.Freezing(model, threshold=threshold).attach(optimizer)
    for images, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    divergence = stillbit.reestimate_batchnorm(model, loader)
    assert freezing.step == 3
    assert list(divergence) == ["1"]
    manifest = stillbit.export_onnx(model, tmp_path / "network.onnx", example=torch.zeros(1, 3, 8, 8))
    assert [layer.name for layer in manifest.layers] == ["0", "4", "6"]


def test_the_transformer_lines_of_the_readme_run() -> None:
    import timm
    import torch

    model = timm.create_model(
        "deit_tiny_distilled_patch16_224", img_size=16, patch_size=8, embed_dim=12, depth=1, num_heads=2, num_classes=4
    )
    loader = [(torch.randn(6, 3, 16, 16), torch.arange(6) % 4) for _ in range(4)]
    stillbit.prepare(model, stillbit.QuantConfig.for_vit("W2A2"), example=torch.zeros(1, 3, 16, 16))
    stillbit.calibrate(model, loader)
    optimizer = torch.optim.AdamW(stillbit.parameter_groups(model, weight_decay=0.05, scale_lr=5e-4, decay_norms=False), lr=5e-4)
    annealing = stillbit.Annealing(model, begin=3).attach(optimizer)
    shares = []
    for images, labels in loader:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        shares.append(annealing.metrics()["free"])
    assert shares[0] == 1.0
    assert shares[-1] < 0.2
