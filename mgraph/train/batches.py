"""An endless stream of shuffled batches that can be written down and taken up again where it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgraph.data.splits import Batch, Split


class Batches:
    """Batches of one epoch after another, each shuffled anew.

    A last batch of fewer than ``least`` examples is left out (batch statistics need two), unless it is the only one.
    """

    def __init__(
        self, split: Split, batch_size: int, order: torch.Generator, device: torch.device, least: int = 2
    ) -> None:
        self._split, self._size, self._order, self._device = split, batch_size, order, device
        count = len(split)
        rest = count % batch_size
        self._used = count - rest if 0 < rest < least and rest < count else count
        self._begin()

    def next(self) -> Batch:
        """Return the next batch, (x, y) on the device."""
        if self._position >= self._used:
            self._begin()
        x, y = next(self._coming)
        self._position += len(y)
        return x, y

    def state(self) -> tuple[int, NDArray[np.uint8]]:
        """Return what :meth:`go_on` needs: how many examples of the epoch are past, and the epoch's generator."""
        return self._position, self._before.numpy().copy()

    def go_on(self, position: int, generator: NDArray[Any]) -> None:
        """Take up the stream where :meth:`state` left it."""
        self._order.set_state(torch.from_numpy(np.array(generator, dtype=np.uint8)))
        self._begin(position)

    def _begin(self, position: int = 0) -> None:
        self._before: Tensor = self._order.get_state()
        permutation = torch.randperm(len(self._split), generator=self._order)[position : self._used]
        self._position = position
        self._coming: Iterator[Batch] = self._split.batches(self._size, order=permutation, device=self._device)
