"""Bytes of packed files: no file may take more than 1.1 times the bytes of its codes and floats.

    python -m benchmarks.export_sizes

Networks have random weights. Each float that is not a quantized weight (scales, biases, norms, shifts, position tables) gets noise, so that
no two are equal and none compresses, as after training. The bound counts codes at their width, those floats of the state dict, and scales
that follow from weights. The program, names, counters, masks and index tables come on top. Every file is read again and run.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from benchmarks.export_networks import BITS, CNNS, VITS
from benchmarks.result import header, parse, parser, write
from stillbit import QuantConfig, RangeConfig, calibrate, prepare, weight_sites
from stillbit.export import PackedModel, export_packed

MINMAX = RangeConfig(estimator="current_minmax")
TARGET = 1.1


def cnn(bits: str) -> QuantConfig:
    return QuantConfig.parse(bits, weight_range=MINMAX, activation_range=MINMAX)


def plain_attention(bits: str) -> QuantConfig:
    return QuantConfig.for_vit(bits, attention="plain")


FORMS: dict[str, tuple[Callable[[str], QuantConfig], dict[str, str]]] = {
    "lsq_paper": (cnn, CNNS),
    "vit, query-key reparameterization": (QuantConfig.for_vit, VITS),
    "vit, plain attention": (plain_attention, VITS),
}


def quantized(model: nn.Module, config: QuantConfig, image: Tensor) -> nn.Module:
    """Prepare and calibrate a network, and add noise to its floats."""
    prepare(model, config, example=image)
    calibrate(model, [(image,)])
    latents = {id(parameter) for site in weight_sites(model) for parameter in site.parameters}
    with torch.no_grad():
        trained = [*model.parameters(), *(buffer for name, buffer in model.named_buffers() if "running_" in name)]  # not masks
        for tensor in trained:
            if id(tensor) not in latents:
                tensor.mul_(1 + 0.05 * torch.rand_like(tensor)).add_(1e-3 * torch.rand_like(tensor))
    return model.eval()


def bound(packed: PackedModel) -> dict[str, int]:
    """Return the bytes of codes and of floats."""
    forms = packed.manifest["packed"].values()
    codes = sum(-(-torch.Size(form["shape"]).numel() * form["bits"] // 8) for form in forms)
    entries = sum(entry.nbytes for entry in packed.entries.values() if entry.is_floating_point())
    scales = {name: scale for name, scale in packed.network.state_dict().items() if name.endswith("weight_quantizer.grid_scale")}
    scales |= {name: scale for name, scale in packed.network.state_dict().items() if name.endswith("product_quantizer.grid_scale")}
    derived = sum(scale.nbytes for name, scale in scales.items() if f"{name.removesuffix('grid_scale')}scale" not in packed.entries)
    return {"codes": codes, "floats": entries + derived}


def measure(name: str, form: str, bits: str, folder: Path) -> dict[str, Any]:
    """Write one file, and return its bytes."""
    config, networks = FORMS[form]
    architecture = networks[name]
    torch.manual_seed(0)
    image = torch.randn(1, 3, 224, 224)
    path = folder / f"{architecture}.safetensors"
    packed = export_packed(quantized(timm.create_model(architecture), config(bits), image), path, example=image)
    parts, size = bound(packed), path.stat().st_size
    return {
        "network": name,
        "policy": form,
        "bits": bits,
        "file": size,
        **parts,
        "ratio": round(size / (parts["codes"] + parts["floats"]), 4),
        "float32": packed.manifest["float_bytes"],
        "times_smaller": round(packed.manifest["float_bytes"] / size, 2),
        "header": 8 + int.from_bytes(path.read_bytes()[:8], "little"),
    }


def main() -> None:
    """Write each file, and write the result."""
    given = parse(parser("export_sizes", __doc__))
    record, rows = header(given.command, "timm"), []
    with tempfile.TemporaryDirectory() as folder:
        for form, (_, networks) in FORMS.items():
            for name in networks:
                for bits in BITS:
                    rows.append(measure(name, form, bits, Path(folder)))
                    print(rows[-1], flush=True)
    what = {"what": "bytes; ratio: file / (codes + floats)", "target": TARGET, "largest_ratio": max(row["ratio"] for row in rows)}
    write(given.output, record | what | {"rows": rows})


if __name__ == "__main__":
    main()
