"""Golden cases: files of numbers that the published implementations produced, found on disk, one test each."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

SHARED = Path(os.environ.get("STILLBIT_GOLDEN", Path(__file__).parents[2].parent / "shared" / "golden"))
OWN = Path(__file__).parents[1] / "data" / "golden"


@dataclass(frozen=True)
class Case:
    """One file: its configuration and its tensors."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def load(cls, path: Path) -> "Case":
        with safe_open(path, framework="pt") as file:
            config = json.loads(file.metadata()["config"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if path.parent.name == "vit":  # there float64 tensors are stored as float32 where that loses nothing
            dtype = getattr(torch, config["compute_dtype"])
            tensors = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
        return cls(path, config, tensors)

    def sibling(self, stem: str) -> "Case":
        return Case.load(self.path.with_name(f"{stem}.safetensors"))


def find(folder: Path) -> list[Path]:
    return [path for paper in ("cnn", "vit") for path in sorted((folder / paper).glob("*.safetensors"))]


def close(given: Tensor, wanted: Tensor, tolerance: float, name: str, *, floor: float = 0.0) -> float:
    """Asserts that the largest error is at most `tolerance` of the largest wanted entry; gives the largest absolute error."""
    assert given.numel() == wanted.numel(), f"{name}: {tuple(given.shape)} against {tuple(wanted.shape)}"
    given, wanted = given.detach().double().flatten(), wanted.double().flatten()
    if given.numel() == 0:
        return 0.0
    error = float((given - wanted).abs().max())
    largest = max(float(wanted.abs().max()), floor)
    assert error <= tolerance * largest, f"{name}: error {error:.3g} of {largest:.3g}, allowed {tolerance:g} of it"
    return error


def within(given: Tensor, wanted: Tensor, name: str, *, atol: float, rtol: float) -> float:
    """Asserts that each error is at most `atol` plus `rtol` of the wanted entry; gives the largest absolute error."""
    assert given.numel() == wanted.numel(), f"{name}: {tuple(given.shape)} against {tuple(wanted.shape)}"
    given, wanted = given.detach().double().flatten(), wanted.double().flatten()
    errors = (given - wanted).abs()
    worst = float((errors - rtol * wanted.abs()).max()) if errors.numel() else 0.0
    assert worst <= atol, f"{name}: an error exceeds {rtol:g} of the entry by {worst:.3g}, allowed {atol:g}"
    return float(errors.max()) if errors.numel() else 0.0


def equal(given: Tensor, wanted: Tensor, name: str) -> float:
    """Asserts equality in every element, shapes apart; gives 0."""
    given, wanted = given.detach().flatten(), wanted.flatten()
    differing = int((given.to(torch.float64) != wanted.to(torch.float64)).sum())
    assert differing == 0, f"{name}: {differing} of {wanted.numel()} differ"
    return 0.0
