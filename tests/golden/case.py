"""Golden cases: files of numbers that the published implementations produced, found on disk, one test each."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from stillbit.numerics.limits import SCALE_FLOOR

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
        config = read_config(path)
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if "compute_dtype" in config:  # float64 tensors are stored as float32 where that loses nothing
            dtype = getattr(torch, config["compute_dtype"])
            tensors = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
        return cls(path, config, tensors)

    def sibling(self, kind: str) -> "Case":
        """Return the one case of a kind in the same folder."""
        found = [path for path in sorted(self.path.parent.glob("*.safetensors")) if read_config(path)["op"] == kind]
        assert len(found) == 1, f"{self.path} needs one case of kind {kind!r} beside it, there are {len(found)}"
        return Case.load(found[0])


def find(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def read_config(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    assert "config" in metadata, f"{path} has no `config` in its metadata, so its kind is unknown"
    config: dict[str, Any] = json.loads(metadata["config"])
    assert "op" in config, f"{path} has no `op` in its config, so its kind is unknown"
    return config


def floored(scale: Tensor) -> Tensor:
    """Return a calibrated scale as a grid uses it: a published scale below our floor is the floor with us."""
    return scale.detach().clamp(min=SCALE_FLOOR)


def close(given: Tensor, wanted: Tensor, tolerance: float, name: str, *, floor: float = 0.0) -> float:
    """Assert that the largest error is at most `tolerance` of the largest wanted entry; return the largest absolute error."""
    assert given.numel() == wanted.numel(), f"{name}: {tuple(given.shape)} against {tuple(wanted.shape)}"
    given, wanted = given.detach().double().flatten(), wanted.double().flatten()
    if given.numel() == 0:
        return 0.0
    error = float((given - wanted).abs().max())
    largest = max(float(wanted.abs().max()), floor)
    assert error <= tolerance * largest, f"{name}: error {error:.3g} of {largest:.3g}, allowed {tolerance:g} of it"
    return error


def within(given: Tensor, wanted: Tensor, name: str, *, atol: float, rtol: float) -> float:
    """Assert that each error is at most `atol` plus `rtol` of the wanted entry; return the largest absolute error."""
    assert given.numel() == wanted.numel(), f"{name}: {tuple(given.shape)} against {tuple(wanted.shape)}"
    given, wanted = given.detach().double().flatten(), wanted.double().flatten()
    errors = (given - wanted).abs()
    worst = float((errors - rtol * wanted.abs()).max()) if errors.numel() else 0.0
    assert worst <= atol, f"{name}: an error exceeds {rtol:g} of the entry by {worst:.3g}, allowed {atol:g}"
    return float(errors.max()) if errors.numel() else 0.0


def equal(given: Tensor, wanted: Tensor, name: str) -> float:
    """Assert equality in every element, whatever the shapes; return 0."""
    given, wanted = given.detach().flatten(), wanted.flatten()
    differing = int((given.to(torch.float64) != wanted.to(torch.float64)).sum())
    assert differing == 0, f"{name}: {differing} of {wanted.numel()} differ"
    return 0.0
