"""Shifted windows (Swin, arXiv 2103.14030) on maps (B, H, W, C): cut into windows, put together again, and what may see what."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that PyTorch itself gives it

_HIDDEN = -100.0  # what the mask adds to the score of a pair from two regions, as in the original


class Windows(NamedTuple):
    """How a map of one size is cut.

    Attributes:
        height: Of the map, padded to whole windows.
        width: Likewise.
        window: Height and width of a window.
        shift: How far the map is rolled before it is cut; 0 along an axis that is one window long.
    """

    height: int
    width: int
    window: tuple[int, int]
    shift: tuple[int, int]

    @classmethod
    def of(cls, x: Tensor, window: tuple[int, int], shift: tuple[int, int]) -> "Windows":
        """Plan the windows of a map (B, H, W, C)."""
        height, width = (-(-size // side) * side for size, side in zip(x.shape[1:3], window, strict=True))
        kept = (0 if window[0] >= height else shift[0], 0 if window[1] >= width else shift[1])
        return cls(height, width, window, kept)

    def cut(self, x: Tensor) -> Tensor:
        """Pad with zeros, roll, and cut (B, H, W, C) into (B windows, tokens, C)."""
        batch, height, width, channels = x.shape
        x = F.pad(x, (0, 0, 0, self.width - width, 0, self.height - height))
        if any(self.shift):
            x = x.roll((-self.shift[0], -self.shift[1]), dims=(1, 2))
        rows, columns = self.window
        x = x.view(batch, self.height // rows, rows, self.width // columns, columns, channels)
        return x.transpose(2, 3).reshape(-1, rows * columns, channels)

    def join(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Undo `cut`, for a map of height and width `size`."""
        rows, columns = self.window
        x = x.view(-1, self.height // rows, self.width // columns, rows, columns, x.shape[-1])
        x = x.transpose(2, 3).reshape(-1, self.height, self.width, x.shape[-1])
        if any(self.shift):
            x = x.roll(self.shift, dims=(1, 2))
        return x[:, : size[0], : size[1]]

    def mask(self, like: Tensor) -> Tensor | None:
        """Return what to add to scores, (windows, 1, tokens, tokens), so that only neighbours of the map see each other.

        Rolling brings far ends of the map together in one window. None where nothing was rolled. Padding is not hidden, as in the
        original.
        """
        if not any(self.shift):
            return None
        of_rows = _rolled_over(self.height, self.shift[0], like)
        of_columns = _rolled_over(self.width, self.shift[1], like)
        regions = self._cut_regions(2 * of_rows[:, None] + of_columns)
        return torch.where(regions[:, None] == regions[:, :, None], 0.0, _HIDDEN).to(like.dtype)[:, None]

    def _cut_regions(self, regions: Tensor) -> Tensor:
        rows, columns = self.window
        regions = regions.view(self.height // rows, rows, self.width // columns, columns)
        return regions.transpose(1, 2).reshape(-1, rows * columns)


def _rolled_over(size: int, shift: int, like: Tensor) -> Tensor:
    """Mark by 1 the places of an axis that rolling brought from its other end.

    The original numbers three regions an axis; the first two never share a window.
    """
    return (torch.arange(size, device=like.device) >= size - shift).long()


def position_bias(table: Tensor, index: Tensor, tokens: int) -> Tensor:
    """Look up the bias of each pair of places in a window."""
    return table[index.flatten()].view(1, tokens, tokens, -1).permute(0, 3, 1, 2)
