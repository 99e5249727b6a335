"""load_published: from a checkpoint of a published codebase to a model of ours, whole or not at all."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from stillbit.errors import CheckpointError
from stillbit.interop import cnn, vit
from stillbit.interop.placing import Placing, Target
from stillbit.interop.reading import PublishedCheckpoint, read_published
from stillbit.interop.report import ImportReport
from stillbit.quantizers.base import Quantizer
from stillbit.quantizers.site import weight_sites

_FLOAT = "float"


def load_published(model: nn.Module, source: Path | str | Mapping[str, object] | PublishedCheckpoint) -> ImportReport:
    """Put a published checkpoint into a model: a quantized one into a prepared model, a float one into a float model.

    Every tensor is placed, or ignored for a reason, or the import is refused and nothing changes. Signs and ranges of quantizers come
    along, so the model is ready for use.

    Args:
        model: The same network. For a quantized checkpoint of the ViT code, prepared by `QuantConfig.for_vit(bits, published=True)`;
            for one of the CNN code, by the configuration that it was trained with.
        source: A file, a state dict, what a file holds, or what `read_published` gave.

    Returns:
        What went where.

    Raises:
        CheckpointError: If the source cannot be read, is of another network, codebase, width or image size, or holds a tensor that
            has no place.
    """
    checkpoint = source if isinstance(source, PublishedCheckpoint) else read_published(source)
    if vit.is_of_vit_code(checkpoint.state):
        kind, allowed, placing = vit.KIND, vit.ALLOWED, vit.place_vit(checkpoint, model)
    elif cnn.is_of_cnn_code(checkpoint.state):
        kind, allowed, placing = cnn.KIND, cnn.ALLOWED, cnn.place_cnn(checkpoint, model)
    else:
        kind, allowed, placing = _FLOAT, "the network that the checkpoint was saved from", _place_float(checkpoint, model)
    placing.finish(allowed)
    return ImportReport(kind, placing.placed, placing.ignored, placing.filled, _notes(checkpoint, model))


def _place_float(checkpoint: PublishedCheckpoint, model: nn.Module) -> Placing:
    if any(isinstance(module, Quantizer) for module in model.modules()):
        raise CheckpointError(
            f"{checkpoint.origin}: holds float weights, and the model is prepared; allowed: a float model (quantization null)"
        )
    placing = Placing(checkpoint.origin, model)
    for key, tensor in checkpoint.state.items():
        placing.place(key, tensor, (Target(key),))
    placing.keep_counters()
    return placing


def _notes(checkpoint: PublishedCheckpoint, model: nn.Module) -> tuple[str, ...]:
    notes = []
    if checkpoint.taken:
        besides = f", rather than {', '.join(checkpoint.passed_over)}" if checkpoint.passed_over else ""
        notes.append(f"taken from the key {checkpoint.taken}{besides}")
    quantized = any(isinstance(module, Quantizer) for module in model.modules())
    if quantized and None in (checkpoint.width("wq_bitw"), checkpoint.width("aq_bitw")):
        widths = sorted({site.quantizer.bits for site in weight_sites(model)})
        notes.append(
            f"the checkpoint does not record its widths; the model's ({', '.join(map(str, widths))} bits in weights) are taken on trust"
        )
    return tuple(notes)
