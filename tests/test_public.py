"""The public list is short, and importing it is cheap."""

import subprocess
import sys
from pathlib import Path

import stillbit

HEAVY = ("timm", "torchvision", "onnx", "onnxruntime", "matplotlib", "accelerate", "rich", "typer", "yaml")


def test_import_loads_nothing_heavy() -> None:
    code = f"import stillbit, sys; print([name for name in {HEAVY} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


def test_list_is_short() -> None:
    public = [name for name, thing in vars(stillbit).items() if not name.startswith("_") and type(thing).__name__ != "module"]
    assert 20 < len(public) <= 30, public


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
