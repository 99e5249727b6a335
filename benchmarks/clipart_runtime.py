"""Accuracy through the runtime: EfficientNet-Lite0 on clip art, exported, against PyTorch on every validation picture.

    python benchmarks/clipart_runtime.py runs/clipart_runtime

A float network, with ImageNet's weights, is fine-tuned on the folder that `examples/clipart_folder.py` builds; from it W4A4 and W3A3 train
shortly under the policies `lsq_paper` and `integer`. Each becomes an ONNX file, and all validation pictures go through ONNX Runtime and
through PyTorch: top-1 is compared picture by picture, and each difference is listed with PyTorch's margin between the two classes. PyTorch
is compared with itself, too, in float64: where float32 rounds a position to the other side of a boundary, one code becomes another, and in
a network of few bits much behind it.

Everything is resumable: a finished run is not repeated. Writes benchmarks/results/clipart_runtime.json.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from efficientnet_clipart import DATA, FLOAT, TRAINING, build_inputs, train
from run_figures import commit

from stillbit import run
from stillbit.assembly import Trained, build_trained, example
from stillbit.deploy import export
from stillbit.errors import StillbitError
from stillbit.export import capture
from stillbit.export.replay import Replay
from stillbit.training.batches import validation_batches
from stillbit.training.data import load_data
from stillbit.training.record import read_record
from stillbit.training.session import LOCAL

VARIANTS = tuple((bits, policy) for bits in ("w4a4", "w3a3") for policy in ("lsq_paper", "integer"))
QUANTIZED = ("optimizer.lr=0.01", "scale_optimizer.lr=3.0e-4", "training.reestimate_batches=22")


def train_all(workspace: Path, image_size: int, float_epochs: int, epochs: int) -> None:
    """Train the float network and, from it, every variant."""
    build_inputs(workspace)
    common = (f"data.root={workspace / 'clipart'}", f"data.image_size={image_size}", "model.name=tf_efficientnet_lite0", *DATA, *TRAINING)
    start = f"model.weights={workspace / 'start.safetensors'}"
    train("efficientnet_lite0_w4a4_lsq", workspace / "float", (*common, *FLOAT, start, f"training.epochs={float_epochs}"))
    own = (*common, *QUANTIZED, f"training.epochs={epochs}", f"model.weights={workspace / 'float' / run.LAST}")
    for bits, policy in VARIANTS:
        train(f"efficientnet_lite0_{bits}_lsq", workspace / f"{bits}_{policy}", (*own, f"quantization.policy={policy}"))


@torch.no_grad()
def compare(folder: Path, *, exact: bool) -> dict[str, Any]:
    """Export a run, and compare the file with PyTorch on every validation picture."""
    exported = export(folder, "onnx", folder / ("exact.onnx" if exact else "integer.onnx"), exact=exact)
    trained = Trained.read(folder)
    model, data = build_trained(trained), load_data(trained.recipe.data)
    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    exactly = Replay(capture(model, example(trained.recipe)), torch.float64)
    parts: list[tuple[Any, ...]] = []
    for images, wanted in validation_batches(data, LOCAL):
        parts.append((model(images).numpy(), session.run(None, {name: images.numpy()})[0], exactly(images)[1].numpy(), wanted.numpy()))
    ours, theirs, precise, right = (np.concatenate(each) for each in zip(*parts, strict=True))
    files = [Path(path).name for path, _ in data.val.source.samples]
    differ = np.flatnonzero(ours.argmax(1) != theirs.argmax(1))
    return {
        "images": len(right),
        "right_in_pytorch": int((ours.argmax(1) == right).sum()),
        "right_in_onnxruntime": int((theirs.argmax(1) == right).sum()),
        "same_top1": int((ours.argmax(1) == theirs.argmax(1)).sum()),
        "same_top1_of_pytorch_in_float64": int((ours.argmax(1) == precise.argmax(1)).sum()),
        "same_top1_of_file_and_float64": int((theirs.argmax(1) == precise.argmax(1)).sum()),
        "largest_logit_difference": float(np.abs(ours - theirs).max()),
        "largest_logit": float(np.abs(ours).max()),
        "file_bytes": exported.num_bytes,
        "float_bytes": exported.float_bytes,
        "exceptions": [_exception(files[index], ours[index], theirs[index]) for index in differ],
    }


def _exception(name: str, ours: Any, theirs: Any) -> dict[str, Any]:
    """Say how near the two classes are in PyTorch."""
    return {
        "picture": name,
        "margin_in_pytorch": float(ours.max() - ours[theirs.argmax()]),
        "largest_logit_difference": float(np.abs(ours - theirs).max()),
    }


def main() -> None:
    """Parse the command line, train what is missing, compare, and write the results."""
    parser = argparse.ArgumentParser(description="EfficientNet-Lite0 on clip art: ONNX Runtime against PyTorch, picture by picture.")
    parser.add_argument("workspace", type=Path, help="folder for pictures, weights and runs")
    parser.add_argument("--image-size", type=int, default=96, help="in pixels (default 96)")
    parser.add_argument("--float-epochs", type=int, default=4, help="of the float network (default 4)")
    parser.add_argument("--epochs", type=int, default=2, help="of each quantized run (default 2)")
    parser.add_argument("--train-only", action="store_true", help="export and compare nothing")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "clipart_runtime.json", help="file to write")
    options = parser.parse_args()
    try:
        train_all(options.workspace, options.image_size, options.float_epochs, options.epochs)
        if options.train_only:
            return
        compared = {
            f"{bits}_{policy}{'_exact' * exact}": compare(options.workspace / f"{bits}_{policy}", exact=exact)
            for bits, policy in VARIANTS
            for exact in (False, True)
        }
    except StillbitError as error:
        sys.exit(f"error: {error}")
    start = next(read_record(options.workspace / "float" / "record.jsonl"))
    facts = {
        "command": f"python benchmarks/clipart_runtime.py WORKSPACE --image-size {options.image_size} "
        f"--float-epochs {options.float_epochs} --epochs {options.epochs}",
        "commit": commit(),
        "hardware": start["hardware"],
        "versions": start["versions"] | {"onnxruntime": onnxruntime.__version__},
    }
    options.results.write_text(json.dumps({**facts, "runs": compared}, indent=2) + "\n", encoding="utf-8")
    for name, one in compared.items():
        itself = f"float64: {one['same_top1_of_pytorch_in_float64']} as PyTorch, {one['same_top1_of_file_and_float64']} as the file"
        right = f"right {one['right_in_pytorch']} in PyTorch, {one['right_in_onnxruntime']} in ONNX Runtime"
        print(f"{name:22} same top-1 on {one['same_top1']} of {one['images']} ({itself}); {right}")


if __name__ == "__main__":
    main()
