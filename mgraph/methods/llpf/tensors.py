"""Per-tensor sums and scalings of a flat row, without looping over the tensors in Python.

There are T tensors. All statistics are float64 NumPy arrays of shape (T,), since they are small and steer the walk.
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
        """Return the chosen tensors of a row (None: all), each flattened."""
        columns = self._columns if chosen is None else [self._columns[i] for i in np.asarray(chosen).tolist()]
        return [row[c] for c in columns]

    def moments(self, views: Sequence[Tensor], sizes: Floats) -> tuple[Floats, Floats]:
        """Return the mean and the (biased) variance of each tensor."""
        if not views:
            return np.zeros(0), np.zeros(0)
        mean = _numbers([view.sum() for view in views]) / sizes
        return mean, np.maximum(squares(views) / sizes - mean**2, 0.0)


def squares(views: Sequence[Tensor]) -> Floats:
    """Return the sum of squares of each tensor, shape (T,)."""
    return np.asarray(_numbers(torch._foreach_norm(list(views))) ** 2)


def move(views: Sequence[Tensor], towards: Sequence[Tensor], share: Floats) -> None:
    """Move each tensor by its share of the way: 0 leaves it in place, 1 puts it exactly at its target."""
    torch._foreach_lerp_(list(views), list(towards), share.tolist())


def scale(views: Sequence[Tensor], factors: Floats) -> None:
    """Multiply each tensor by its factor."""
    torch._foreach_mul_(list(views), factors.tolist())


def rescale(views: Sequence[Tensor], mean: Floats, factors: Floats) -> None:
    """Multiply each tensor's deviations from its mean by its factor."""
    torch._foreach_mul_(list(views), factors.tolist())
    torch._foreach_add_(list(views), (mean * (1.0 - factors)).tolist())


def _numbers(scalars: Sequence[Tensor]) -> Floats:
    return torch.stack(list(scalars)).double().cpu().numpy()
