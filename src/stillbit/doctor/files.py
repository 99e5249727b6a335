"""Rules on exported files."""

from collections.abc import Iterator

from stillbit.doctor.subjects import FileSubject
from stillbit.export.inspect import LayerRow
from stillbit.export.runtime import PRECISE
from stillbit.export.saturation import INT16, INT32
from stillbit.oscillation.optimizer_rules import Found

MOSTLY = 0.5  # of the multiplications
WIDER = 2.05  # times their width: 4-bit weights in 8 bits are a container's choice
_LARGE = 65_536  # bytes of weights: below, alignment and tables decide

_FLOAT_INPUT = "its input is float"
_FLOAT_WEIGHT = "its weights are float"
_FLOAT_OUTPUT = "its output stays float: a sum, a pool or a hard-swish follows without a quantizer between"
_PRODUCT = "a product of activations whose operands are not both codes of one scale along what is summed"
_CURES = {
    _FLOAT_INPUT: "nothing for the first layer of an image in floats; policy: integer quantizes the image, too",
    _FLOAT_WEIGHT: "no override to 32 bits for this layer",
    _FLOAT_OUTPUT: "train with policy: integer, which quantizes what is summed and pooled",
    _PRODUCT: "activation_scales: tensor",
}


def mostly_float(subject: FileSubject) -> Iterator[Found]:
    """Less than half of the multiplications run on integers."""
    inspection = subject.inspection
    if inspection.runtime is not None and inspection.layers and inspection.integer_share < MOSTLY:
        what = f"{inspection.integer_share:.0%} of the multiplications run on integer kernels of {inspection.runtime}"
        yield Found(subject.path.name, what, "see float-kernel; docs/export.md says which policy leaves which layers in floats")


def float_kernel(subject: FileSubject) -> Iterator[Found]:
    """A layer that runs in floats: largest first."""
    if subject.inspection.runtime is None:
        return
    total = sum(row.macs for row in subject.inspection.layers)
    for row in sorted(subject.inspection.layers, key=lambda one: -one.macs):
        if not row.integer:
            why = _why_float(subject, row)
            what = f"{row.kernel or 'no kernel found'}, {row.macs / max(total, 1):.1%} of the multiplications: {why}"
            yield Found(row.name, what, _CURES[why])


def accumulator_overflow(subject: FileSubject) -> Iterator[Found]:
    """Sums that 32 bits do not hold."""
    for one in subject.inspection.saturation:
        if not one.accumulator_fits:
            what = f"a sum can reach {one.accumulator:,}, 32 bits hold {INT32:,}"
            yield Found(one.layer, what, "fewer bits for this layer, or export with --exact")


def pair_saturation(subject: FileSubject) -> Iterator[Found]:
    """Pair sums that 16 bits do not hold. PyTorch, which runs packed files in floats, has no such kernels."""
    if subject.inspection.runtime is None:
        return
    for one in sorted(subject.inspection.saturation, key=lambda one: -one.pair):
        if not one.pair_fits:
            what = f"sums of two products can reach {one.pair:,}, 16 bits hold {INT16:,}: wrong on processors with AVX2 and no VNNI"
            yield Found(one.layer, what, f"there: session option {'='.join(PRECISE)}; or export with --exact")


def wider_than_bits(subject: FileSubject) -> Iterator[Found]:
    """Weights that take more than twice the bytes of their codes."""
    rows = [row for row in subject.inspection.layers if row.bits is not None and row.bytes]
    needed, held = sum(row.bits * row.weights / 8 for row in rows if row.bits), sum(row.bytes for row in rows)
    if held > _LARGE and held > WIDER * needed:
        what = f"weights take {held:,} bytes, their codes {needed:,.0f}: {held / needed:.1f} times as many"
        yield Found(subject.path.name, what, "export with --container packed (true width), or auto")


def notes_of_the_file(subject: FileSubject) -> Iterator[Found]:
    """What the exporter wrote into the file for its readers."""
    for note in subject.inspection.notes:
        where, _, what = note.rpartition(": ") if ": " in note else (subject.path.name, "", note)
        yield Found(where, what, "stillbit verify FILE RUN says how many codes and classes it changes")


def _why_float(subject: FileSubject, row: LayerRow) -> str:
    if row.bits is None:
        return _PRODUCT
    if row.bits == 32:
        return _FLOAT_WEIGHT
    codes_by_codes = {one.layer for one in subject.inspection.saturation}
    return _FLOAT_OUTPUT if row.name in codes_by_codes else _FLOAT_INPUT
