"""Packed files read: a network of codes without the code that it was trained with. Needs torch, safetensors, and rooms to the right."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stillbit.errors import ExportError
from stillbit.export.document import from_document
from stillbit.export.packed_container import read_content
from stillbit.export.program import Program


class PackedModel(nn.Module):
    """A network out of a packed file: called like the one that was exported, and equal to it in evaluation.

    Args:
        program: What it computes.
        manifest: What the file says of itself: "versions", "network" (its class), "input_shape", "float_bytes", "sites" (names of code
            tensors by layer), "packed" (bits, sign and shape of each), and what the exporter was given: "recipe", "preprocessing",
            "classes", "accuracy".
        entries: All other entries of the exported network's state dict, exactly: batch-norm statistics and counters, biases, learned
            scales as they were trained. Not in it are latent weights, whose codes are what is kept, and pins: only training needs them.

    Attributes:
        network: The tree of tensors, named as in the exported network, with what runs on them.
    """

    def __init__(self, program: Program, manifest: dict[str, Any], entries: dict[str, Tensor]) -> None:
        super().__init__()
        self.program = program
        self.network = program.module
        self.manifest = manifest
        self.entries = entries

    @property
    def codes(self) -> dict[str, Tensor]:
        """The codes of all quantized weights by layer, int8 or uint8."""
        return {site: self.network.get_buffer(name) for site, name in self.manifest["sites"].items()}

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for a batch.

        Args:
            x: float32, (batch, *manifest["input_shape"]).

        Raises:
            ExportError: If the batch has another shape.
        """
        if tuple(x.shape[1:]) != self.program.input_shape:
            allowed = ", ".join(map(str, self.program.input_shape))
            raise ExportError(f"input has shape {tuple(x.shape)}; allowed: (batch, {allowed})")
        return self.program(x)


def load_packed(path: Path | str) -> PackedModel:
    """Read a network that `export_packed` wrote, onto the CPU. Nothing in the file is executed but PyTorch's own operations.

    Args:
        path: The file.

    Raises:
        ExportError: If there is no such file, or it is cut, damaged, changed, foreign, or of a newer stillbit.
    """
    path = Path(path)
    content = read_content(path)
    try:
        entries = {str(name): content.tensors[name] for name in content.document["entries"]}
        program = from_document(content.document["program"], content.tensors)
        for name in content.manifest["sites"].values():
            program.module.get_buffer(name)
    except (KeyError, TypeError, AttributeError, ExportError) as error:
        raise ExportError(f"{path}: {str(error).strip(chr(39))}") from error
    return PackedModel(program, content.manifest, entries).eval()
