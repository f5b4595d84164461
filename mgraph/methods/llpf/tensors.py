"""The tensors of a flat row, one by one, without a loop over them in Python: sums, and changes by a factor for each.

T tensors; all statistics are float64 NumPy arrays of shape (T,), since they steer and are small.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mgraph.families import Floats
from mgraph.network.flat import FlatModel

Indices = NDArray[np.int64]


class Tensors:
    """Where the trainable tensors lie in a row of a network."""

    def __init__(self, flat: FlatModel) -> None:
        self.names = flat.names
        self._columns = [flat.columns(name) for name in flat.names]
        self.sizes: Floats = np.array([c.stop - c.start for c in self._columns], dtype=np.float64)

    def __len__(self) -> int:
        return len(self._columns)

    def views(self, row: Tensor, chosen: ArrayLike | None = None) -> list[Tensor]:
        """Return those of a row's tensors, each flat; all if None."""
        columns = self._columns if chosen is None else [self._columns[i] for i in np.asarray(chosen).tolist()]
        return [row[c] for c in columns]

    def moments(self, views: Sequence[Tensor], sizes: Floats) -> tuple[Floats, Floats]:
        """Return mean and variance (division by the number of elements) of each."""
        if not views:
            return np.zeros(0), np.zeros(0)
        mean = _numbers([view.sum() for view in views]) / sizes
        return mean, np.maximum(squares(views) / sizes - mean**2, 0.0)


def squares(views: Sequence[Tensor]) -> Floats:
    """Return the sum of squares of each, shape (T,)."""
    return np.asarray(_numbers(torch._foreach_norm(list(views))) ** 2)


def move(views: Sequence[Tensor], towards: Sequence[Tensor], share: Floats) -> None:
    """Move each that share of the way: 0 leaves it, 1 puts it there exactly."""
    torch._foreach_lerp_(list(views), list(towards), share.tolist())


def scale(views: Sequence[Tensor], factors: Floats) -> None:
    """Multiply each by a factor."""
    torch._foreach_mul_(list(views), factors.tolist())


def rescale(views: Sequence[Tensor], mean: Floats, factors: Floats) -> None:
    """Multiply the deviations of each from its mean by a factor."""
    torch._foreach_mul_(list(views), factors.tolist())
    torch._foreach_add_(list(views), (mean * (1.0 - factors)).tolist())


def _numbers(scalars: Sequence[Tensor]) -> Floats:
    return torch.stack(list(scalars)).double().cpu().numpy()
