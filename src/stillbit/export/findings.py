"""What `verify` found: by weight, by activation quantizer, and of the outputs; whether it is within its bounds; and its report."""

from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from torch import Tensor

from stillbit.export.replay import Quantized
from stillbit.export.runtime import Array

_LISTED = 10  # exceptions that a report names


@dataclass(frozen=True)
class Bounds:
    """What is allowed.

    Attributes:
        equal: Share of a quantizer's codes that must equal PyTorch's on the same input; one may always differ.
        tie: Where the file's code is not the exact one: steps of the grid by which the exact position may miss its range. Float32 explains
            some 1e-3; a bias in whole units of an accumulator of few narrow codes, some 1e-2.
        logits: Difference of outputs, relative to the largest, where both sides have the same codes.
    """

    equal: float = 0.9995
    tie: float = 0.05
    logits: float = 1e-3


@dataclass(frozen=True)
class WeightCheck:
    """Codes of a weight: their number, how many differ, and why."""

    name: str
    count: int
    different: int
    reason: str = ""


@dataclass(frozen=True)
class QuantizerCheck:
    """Codes of an activation quantizer.

    Attributes:
        name: Of the quantizer.
        count: Codes compared.
        different_free: That differ from those of PyTorch's own run, end to end.
        different: That differ from what PyTorch gives for the runtime's own input.
        file_right: Of these, where exact arithmetic gives the file's code.
        program_right: Where it gives PyTorch's.
        as_written: Of these, where the file's own arithmetic gives its code, each operation by itself: the rounding of a bias or a scale.
        largest_step: Largest difference of codes.
        distance: Where the file is not right: steps by which the exact position misses the range of its code, at most.
    """

    name: str
    count: int = 0
    different_free: int = 0
    different: int = 0
    file_right: int = 0
    program_right: int = 0
    as_written: int = 0
    largest_step: int = 0
    distance: float = 0.0

    @classmethod
    def of(cls, name: str, found: Tensor, free: Tensor, single: Tensor, exact: Quantized, written: Tensor) -> "QuantizerCheck":
        """Compare one batch: the runtime's codes with PyTorch's own; with PyTorch's, the exact and the file's on the runtime's input."""
        found = found.double()
        differs, wrong = found != single, found != exact.codes
        misses = (exact.positions - found).abs() - 0.5
        return cls(
            name,
            count=found.numel(),
            different_free=int((found != free).sum()),
            different=int(differs.sum()),
            file_right=int((differs & ~wrong).sum()),
            program_right=int((differs & (single == exact.codes)).sum()),
            as_written=int((differs & (single == exact.codes) & (found == written)).sum()),
            largest_step=int((found - single).abs().max()) if found.numel() else 0,
            distance=max(0.0, float(misses[wrong].max())) if wrong.any() else 0.0,
        )

    def __add__(self, other: "QuantizerCheck") -> "QuantizerCheck":
        """Sum up two batches."""
        return QuantizerCheck(
            self.name,
            self.count + other.count,
            self.different_free + other.different_free,
            self.different + other.different,
            self.file_right + other.file_right,
            self.program_right + other.program_right,
            self.as_written + other.as_written,
            max(self.largest_step, other.largest_step),
            max(self.distance, other.distance),
        )

    @property
    def equal(self) -> float:
        """Share of codes that are equal on the runtime's own input."""
        return 1 - self.different / self.count if self.count else 1.0

    def within(self, bounds: Bounds) -> bool:
        """Return whether few enough differ, by one step, and at ties."""
        allowed = ceil((1 - bounds.equal) * self.count)
        return self.different <= allowed and self.largest_step <= 1 and self.distance <= bounds.tie

    def __str__(self) -> str:
        """Return how many differ, by how much, and who is right."""
        return (
            f"{self.name}: {self.different} of {self.count} codes differ on the same input ({_percent(self.equal)} equal), by up to "
            f"{self.largest_step} step{'s' * (self.largest_step != 1)}; exact arithmetic gives the file's code for {self.file_right}, "
            f"PyTorch's for {self.program_right} ({self.as_written} by the file's own rounding, {self.program_right - self.as_written} by "
            f"a kernel's); where not the file's, it misses it by up to {self.distance:.2g} steps"
        )


@dataclass(frozen=True)
class Logits:
    """Outputs of the file against PyTorch's.

    Attributes:
        images: Compared.
        same_top1: Images whose largest output is the same one.
        exceptions: Numbers of the others, from 0.
        largest: Difference, end to end.
        relative: The same, relative to the batch's largest output.
        replayed: Likewise, PyTorch on the runtime's own codes.
        watching: Likewise, what the file gives when its codes are outputs, too, against what it gives untouched.
    """

    images: int = 0
    same_top1: int = 0
    exceptions: tuple[int, ...] = ()
    largest: float = 0.0
    relative: float = 0.0
    replayed: float = 0.0
    watching: float = 0.0

    @classmethod
    def of(cls, found: Array, expected: Array, watched: Array, replayed: Array, begin: int) -> "Logits":
        """Compare one batch; `begin` is the number of its first image."""
        same = found.reshape(len(found), -1).argmax(-1) == expected.reshape(len(expected), -1).argmax(-1)
        size = max(float(np.abs(expected).max()), 1e-30)
        largest, replayed_by, watching = (float(np.abs(a - b).max()) for a, b in ((found, expected), (watched, replayed), (found, watched)))
        exceptions = tuple(int(begin + one) for one in np.flatnonzero(~same))
        return cls(len(found), int(same.sum()), exceptions, largest, largest / size, replayed_by / size, watching / size)

    def __add__(self, other: "Logits") -> "Logits":
        """Sum up two batches."""
        return replace(
            self,
            images=self.images + other.images,
            same_top1=self.same_top1 + other.same_top1,
            exceptions=self.exceptions + other.exceptions,
            largest=max(self.largest, other.largest),
            relative=max(self.relative, other.relative),
            replayed=max(self.replayed, other.replayed),
            watching=max(self.watching, other.watching),
        )

    def __str__(self) -> str:
        """Describe differences and top-1."""
        listed = ", ".join(map(str, self.exceptions[:_LISTED])) + (" ..." if len(self.exceptions) > _LISTED else "")
        others = f"; not on image {listed}" if self.exceptions else ""
        return (
            f"outputs differ by up to {self.largest:.3g} ({self.relative:.2%} of the largest), on the same codes by {self.replayed:.2g} of "
            f"it; same top-1 on {self.same_top1} of {self.images}{others}"
        )


@dataclass(frozen=True)
class Verification:
    """All that was found.

    Attributes:
        path: The file.
        runtime: Name and version.
        weights: By weight.
        quantizers: By activation quantizer, in the program's order.
        missing: Quantizers of the network whose codes the file does not name.
        logits: The outputs.
        notes: What a reader should know.
        bounds: What is allowed.
    """

    path: str
    runtime: str
    weights: tuple[WeightCheck, ...]
    quantizers: tuple[QuantizerCheck, ...]
    missing: tuple[str, ...]
    logits: Logits
    notes: tuple[str, ...]
    bounds: Bounds

    @property
    def ok(self) -> bool:
        """Whether everything is within the bounds."""
        return not self.problems

    @property
    def problems(self) -> list[str]:
        """What is not, one line each, in order."""
        lines = [f"weight {one.name}: {one.different} of {one.count} codes: {one.reason}" for one in self.weights if one.different]
        lines += [f"{name}: the file does not say where its codes are" for name in self.missing]
        lines += [str(one) for one in self.quantizers if not one.within(self.bounds)]
        if not self.logits.replayed <= self.bounds.logits:  # NaN is a problem, too
            lines.append(f"outputs differ by {self.logits.replayed:.2g} of the largest on the same codes; allowed: {self.bounds.logits:g}")
        if not self.logits.watching <= self.bounds.logits:
            lines.append(
                f"outputs differ by {self.logits.watching:.2g} of the largest once codes are outputs, too: verified is another graph"
            )
        return lines

    def __str__(self) -> str:
        """The report."""
        weights = sum(one.count for one in self.weights)
        same = weights - sum(one.different for one in self.weights)
        lines = [
            f"{self.path} in {self.runtime}: {self.logits.images} inputs, {len(self.weights)} weights, {len(self.quantizers)} quantizers",
            f"weights: {same} of {weights} codes equal",
            *self._codes(),
            str(self.logits),
            *(f"note: {note}" for note in self.notes),
            *(f"problem: {line}" for line in self.problems),
            "verified" if self.ok else f"not verified: {len(self.problems)} problem{'s' * (len(self.problems) != 1)}",
        ]
        return "\n".join(lines)

    def _codes(self) -> list[str]:
        if not self.quantizers:
            return ["activations: none is quantized"]
        count, different = sum(one.count for one in self.quantizers), sum(one.different for one in self.quantizers)
        free = sum(one.different_free for one in self.quantizers)
        worst = min(self.quantizers, key=lambda one: one.equal)
        first = next((one for one in self.quantizers if one.different), None)
        line = f"activations: {count - different} of {count} codes equal on the same input ({_percent(1 - different / count)}; least "
        line += f"{_percent(worst.equal)}, {worst.name}), {_percent(1 - free / count)} end to end"
        return [line, *([] if first is None else [f"first that differs: {first}"])]


def _percent(share: float) -> str:
    """Truncate a share, so that less than 100 % never prints as 100 %.

    >>> _percent(1.0), _percent(0.99995), _percent(0.9999999)
    ('100 %', '99.995 %', '99.999 %')
    """
    return "100 %" if share == 1 else f"{int(share * 1e5) / 1e3:.3f} %"
