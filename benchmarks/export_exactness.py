"""Does an exported file compute what was trained? Every network, width and setting, in ONNX Runtime against PyTorch.

    python -m benchmarks.export_exactness [--only NAME,...] [--images N] [--folder PICTURES]

Write each file, verify it on real images (codes of weights; codes of activations layer by layer on the runtime's own inputs; top-1) and
inspect it (bytes, share of multiplications on integer kernels). Each row is written as it comes; rows in the result are not repeated.
"""

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.export_networks import BITS, CNNS, VITS, photos, quantized, settings
from benchmarks.result import earlier, header, parse, parser, write
from stillbit.export import Program, capture, export_onnx, export_packed
from stillbit.export.findings import Verification
from stillbit.export.inspect import Inspection, inspect
from stillbit.export.replay import Replay
from stillbit.export.verify import verify


def main() -> None:
    """Measure what is missing, and print the table."""
    options = parser("export_exactness", __doc__)
    options.add_argument("--only", default=",".join([*CNNS, *VITS]), help="names of networks (default: %(default)s)")
    options.add_argument("--bits", default=",".join(BITS), help="widths (default: %(default)s)")
    options.add_argument("--images", type=int, default=12, help="number of images (default: 12)")
    options.add_argument("--folder", type=Path, help="pictures (default: scikit-image's photographs)")
    given = parse(options)
    warnings.filterwarnings("ignore")
    images = photos(given.folder, given.images)
    record = header(given.command, "timm", "onnx", "onnxruntime") | {"images": len(images), "rows": earlier(given.output).get("rows", {})}
    for name in given.only.split(","):
        for bits in given.bits.split(","):
            for setting, exact in ways(name):
                key = f"{name} {bits} {setting}{', exact' * exact}"
                if key in record["rows"]:
                    continue
                model = quantized(name, settings(name)[setting](bits), images)
                record["rows"][key] = row = measure(model, images, exact=exact)
                print(key, json.dumps(row), flush=True)
                write(given.output, record)
    print(table(record["rows"]))


def ways(name: str) -> list[tuple[str, bool]]:
    """Return the settings of a network; `integer` also in its exact form, with floats where no integer kernel is exact."""
    return [(setting, exact) for setting in settings(name) for exact in (False, True) if not exact or setting == "integer"]


def measure(model: nn.Module, images: Tensor, *, exact: bool) -> dict[str, Any]:
    program = capture(model, images[:1])
    with tempfile.TemporaryDirectory() as folder:
        path, packed = Path(folder) / "net.onnx", Path(folder) / "net.safetensors"
        export_onnx(program, path, exact=exact)
        export_packed(model, packed, example=images[:1])
        found = verify(path, program, [(batch,) for batch in images.split(4)], precise=True)
        own = same_in_float64(program, images)
        return figures(found, inspect(path)) | {"pytorch_float64_same_top1": own, "packed_bytes": packed.stat().st_size} | needed(program)


def same_in_float64(program: Program, images: Tensor) -> int:
    """Count the images to which PyTorch itself gives the same class in float32 and in float64."""
    exact = Replay(program, torch.float64)
    with torch.no_grad():
        return sum(int((program(one).argmax(-1) == exact(one)[1].argmax(-1)).sum()) for one in images.split(4))


def figures(found: Verification, inspected: Inspection) -> dict[str, Any]:
    worst = min(found.quantizers, key=lambda one: one.equal)
    return {
        "ok": found.ok,
        "problems": found.problems[:3],
        "weights_different": sum(one.different for one in found.weights),
        "quantizers": len(found.quantizers),
        "below_99.95": sum(one.equal < 0.9995 for one in found.quantizers),
        "worst_equal": worst.equal,
        "worst": worst.name,
        "largest_step": max(one.largest_step for one in found.quantizers),
        "largest_distance": max(one.distance for one in found.quantizers),
        "same_top1": found.logits.same_top1,
        "images": found.logits.images,
        "exceptions": list(found.logits.exceptions),
        "logits_same_codes": found.logits.replayed,
        "logits_end_to_end": found.logits.relative,
        "integer_share": inspected.integer_share,
        "float_layers": [row.name for row in inspected.layers if not row.integer],
        "onnx_bytes": inspected.bytes,
    }


def needed(program: Program) -> dict[str, int]:
    """Return the bytes of codes at their width, and of everything else that the program reads."""
    tensors = program.tensors()
    named = {}
    for node in program.module.graph.nodes:
        if str(node.target) == "stillbit.dequantize.default":
            named[str(node.args[0].target)] = int(node.args[4])
    codes = sum(-(-tensors[name].numel() * bits // 8) for name, bits in named.items())
    others = sum(tensor.nbytes for name, tensor in tensors.items() if name not in named)
    floats = sum(4 * tensors[name].numel() for name in named) + others
    return {"code_bytes": codes, "other_bytes": others, "float_bytes": floats}


def table(rows: dict[str, Any]) -> str:
    lines = [
        "| network | worst layer | steps | top-1 | PyTorch, float64 | MACs on integers | ONNX / needed | packed / needed | needed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key, row in rows.items():
        need = row["code_bytes"] + row["other_bytes"]
        lines.append(
            f"| {key} | {row['worst_equal']:.3%} | {row['largest_step']} | {row['same_top1']} of {row['images']} | "
            f"{row['pytorch_float64_same_top1']} | {row['integer_share']:.1%} | "
            f"{row['onnx_bytes'] / need:.3f} | {row['packed_bytes'] / need:.3f} | {need / 1e6:.2f} MB |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
