"""Golden ranges of our own: inputs by fixed seeds, numbers by `plain` and numpy (docs/spec/cnn.md, 2)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from tests.data.golden_quantizers import File
from tests.data.plain import PlainGrid


@dataclass(frozen=True)
class Range:
    """One case of a range estimator; `data` names a distribution."""

    name: str
    estimator: str
    bits: int
    data: str
    symmetric: bool = True
    per_channel: bool = False
    percentile: float | None = None
    momentum: float = 0.9
    search: str | None = None
    candidates: int = 100
    margin: float = 0.5


_RANGE = (
    Range("current_minmax_pt_asym", "current_minmax", 4, "two_sided", symmetric=False),
    Range("current_minmax_pc_sym", "current_minmax", 3, "two_sided", per_channel=True),
    Range("current_minmax_percentile_pt_asym", "current_minmax", 5, "two_sided", symmetric=False, percentile=2.0),
    Range("current_minmax_percentile_pc_sym", "current_minmax", 4, "two_sided", per_channel=True, percentile=5.0),
    Range("running_minmax_pt_asym", "running_minmax", 8, "two_sided", symmetric=False),
    Range("running_minmax_pc_sym", "running_minmax", 4, "two_sided", per_channel=True, momentum=0.7),
    Range("mse_grid1d_sym_pt", "MSE", 4, "two_sided", search="grid"),
    Range("mse_grid1d_sym_pc_margin", "MSE", 3, "two_sided", per_channel=True, search="grid", candidates=50, margin=0.1),
    Range("mse_grid1d_sym_onesided", "MSE", 3, "one_sided", search="grid"),
    Range("mse_grid1d_asym_onesided", "MSE", 2, "one_sided", symmetric=False, search="grid", candidates=70),
    Range("mse_grid2d_asym_pt", "MSE", 3, "two_sided", symmetric=False, search="grid", candidates=50),
    Range("mse_grid2d_asym_pc", "MSE", 4, "two_sided", symmetric=False, per_channel=True, search="grid", candidates=30),
    Range("mse_golden_sym_pt", "MSE", 4, "two_sided", search="golden_section"),
    Range("mse_golden_sym_onesided", "MSE", 3, "one_sided", search="golden_section"),
    Range("current_minmax_pc_sym_silent_channels", "current_minmax", 4, "silent", per_channel=True),
)

# Where a golden section ends depends on the last digit of float32 sums: sums of two terms, twice, are the same on every processor.
_SHAPES = {None: (5, 3, 4, 3), "grid": (5, 3, 4, 3), "golden_section": (2, 2)}


def range_files() -> Iterator[File]:
    for number, case in enumerate(_RANGE):
        generator = torch.Generator().manual_seed(8000 + number)
        batches = [torch.randn(_SHAPES[case.search], generator=generator) * 0.8 + 0.2 for _ in range(3)]
        batches = [batch.relu() if case.data == "one_sided" else batch for batch in batches]
        for batch in batches:
            batch[:2] *= torch.tensor([0.0, 1e-9]).reshape(2, 1, 1, 1) if case.data == "silent" else 1.0
        config = {
            "op": "range",
            "estimator": case.estimator,
            "n_bits": case.bits,
            "symmetric": case.symmetric,
            "per_channel": case.per_channel,
            "percentile": case.percentile,
            "momentum": case.momentum,
            "opt_method": case.search,
            "num_candidates": case.candidates,
            "range_margin": case.margin,
            "one_sided": case.data == "one_sided",
            "n_batches": len(batches),
        }
        yield f"range_{number:02d}_{case.name}", config, _range_tensors(case, batches)


def _range_tensors(case: Range, batches: list[Tensor]) -> dict[str, Tensor]:
    search = MSESearch(case, batches[0]) if case.search else None
    tensors: dict[str, Tensor] = {}
    ends: tuple[Tensor, Tensor] | None = None
    for index, batch in enumerate(batches):
        ends = search.update(batch) if search else _min_max(case, batch, ends)
        grid, delta, zeta = _fit(case, *ends)
        axes = (-1, *[1] * (batch.dim() - 1)) if case.per_channel else (-1,)
        out = grid.quantize(batch, delta.reshape(axes), zeta if zeta is None else zeta.reshape(axes))[1]
        found = {"batch": batch, "xmin": ends[0], "xmax": ends[1], "delta": delta, "out": out}
        found |= {} if zeta is None else {"zero_float": zeta}
        tensors |= {f"{name}_{index}": tensor for name, tensor in found.items()}
    return tensors | ({"loss_array": search.table} if search and case.search == "grid" else {})


def _fit(case: Range, low: Tensor, high: Tensor) -> tuple[PlainGrid, Tensor, Tensor | None]:
    grid = PlainGrid(case.bits, symmetric=case.symmetric, signed=bool((low < 0).any()) if case.symmetric else None)
    return grid, *grid.initial(low, high)


def _min_max(case: Range, batch: Tensor, before: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    rows = batch.numpy().reshape(len(batch) if case.per_channel else 1, -1)
    if case.percentile:
        ends = np.percentile(rows, [case.percentile, 100 - case.percentile], axis=1)
        return torch.from_numpy(ends[0]), torch.from_numpy(ends[1])
    low, high = (torch.from_numpy(end(rows, axis=1)) for end in (np.min, np.max))
    if before is None or case.estimator == "current_minmax":
        return low, high
    keep = case.momentum
    return (1 - keep) * low + keep * before[0], (1 - keep) * high + keep * before[1]


class MSESearch:
    """The searches of docs/spec/cnn.md, 2.4, one candidate at a time; the golden section by scipy, as published."""

    def __init__(self, case: Range, first: Tensor) -> None:
        self.case = case
        self.one_sided = bool(first.min() >= 0)
        self.bottom, self.top = float(first.min()) - case.margin, float(first.max()) + case.margin
        self.flat = case.symmetric or self.one_sided
        limit = max(abs(float(first.min())), float(first.max())) + case.margin
        self.limit = limit if self.flat else max(abs(self.top), abs(self.bottom))
        skews = () if self.flat else (2**case.bits // 4, 2)
        self.table = torch.zeros(len(first) if case.per_channel else 1, case.candidates + 1, *skews, dtype=torch.float64)
        self.table[:, 0] = torch.inf

    def update(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        if self.case.search == "golden_section":
            return self._section(batch)
        for index in np.ndindex(self.table.shape[1:]):
            if index[0] > 0:
                self.table[:, *index] += self._losses(batch, *self._ends(*index))
        best = [np.unravel_index(int(row.argmin()), row.shape) for row in self.table]
        found = torch.tensor([self._ends(*map(int, index)) for index in best], dtype=torch.float64).float()
        return found[:, 0].clone(), found[:, 1].clone()

    def _ends(self, candidate: int, shift: int = 0, direction: int = 0) -> tuple[float, float]:
        reach = candidate * (self.limit / self.case.candidates)
        if self.flat:
            return (0.0 if self.one_sided else -reach), reach
        skew = (1 - 2 * direction) * shift * (2 * reach / (2**self.case.bits - 1))
        return max(-reach + skew, self.bottom), min(reach + skew, self.top)

    def _losses(self, batch: Tensor, low: float, high: float) -> Tensor:
        grid, delta, zeta = _fit(self.case, torch.tensor(low), torch.tensor(high))
        errors = (batch.double() - grid.quantize(batch, delta, zeta)[1].double()) ** 2
        return errors.flatten(1).sum(1) if self.case.per_channel else errors.sum()[None]

    def _section(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Search symmetric ranges; as published, the loss is summed, and given to scipy, in float32."""

        def loss(reach: float) -> np.float32:
            grid, delta, zeta = _fit(self.case, torch.tensor(0.0 if self.one_sided else -float(reach)), torch.tensor(float(reach)))
            errors = (batch - grid.quantize(batch, delta, zeta)[1]) ** 2
            return np.float32(errors.flatten(1).sum(1).sum())

        reach = float(minimize_scalar(loss, bounds=(0.01 * self.limit, self.limit), method="bounded").x)
        return torch.tensor([0.0 if self.one_sided else -reach]), torch.tensor([reach])
