"""`export_onnx`: one ONNX file of a trained network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stillbit.errors import ExportError, requires
from stillbit.export.capture import capture
from stillbit.export.manifest import Manifest
from stillbit.export.program import Program
from stillbit.files import write_whole


@requires("export")
def export_onnx(
    model: nn.Module | Program,
    path: Path | str,
    *,
    example: Tensor | None = None,
    container: str = "auto",
    runtime: str | None = None,
    exact: bool = False,
    recipe: Mapping[str, Any] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
) -> Manifest:
    """Write a trained network as an ONNX file that runtimes execute on integer kernels.

    Args:
        model: A prepared and trained model, in float32, or a program of it; stays as it is.
        path: The file; an old one is replaced, as a whole or not at all.
        example: An input of the model, e.g. zeros of shape (1, 3, 224, 224); the file takes any batch of that size.
            A program needs none.
        container: How weights are stored: "int8", "int4", "packed", or "auto", for each weight the smallest of these.
        runtime: The oldest ONNX Runtime that has to load the file, e.g. "1.23"; None: the installed one. It decides for "auto".
        exact: Run a layer in floats where no bias in whole units of its accumulator gives the exact codes (the first layer, where image and
            weights have 8 bits). Otherwise it runs on integers, and a few codes are one step off; a note in the file names it.
        recipe: What the network was trained with; goes into the file.
        preprocessing: From an image to an input; goes into the file.
        classes: Names of the outputs; go into the file.

    Returns:
        What the file says of itself.

    Raises:
        ExportError: If the model has no ranges, holds an operation that has no ONNX form here, or the file cannot be written.
    """
    from stillbit.export.onnx import Container, to_onnx  # late: it loads onnx, which `import stillbit` does not

    chosen = Container.parse(container, runtime)
    if isinstance(model, nn.Module):
        if example is None:
            raise ExportError("example is missing; allowed: an input of the model, e.g. torch.zeros(1, 3, 224, 224)")
        program = capture(model, example)
    else:
        program = model
    proto, manifest = to_onnx(program, chosen, exact=exact, recipe=recipe, preprocessing=preprocessing, classes=classes)
    write_whole(Path(path), proto.SerializeToString())
    return manifest
