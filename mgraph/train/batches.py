"""An endless stream of shuffled batches that knows where it stands, for training that is counted in steps."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mgraph.data.splits import Batch, Split


class Batches:
    """Batches of equal size, each example once in a pass; the few that fill no batch wait for the next pass."""

    def __init__(self, split: Split, batch_size: int, order: torch.Generator, device: torch.device) -> None:
        """Draw the passes' orders from ``order``; a batch is at most the whole split."""
        self._split, self._order, self._device = split, order, device
        self._size = min(batch_size, len(split))
        self._per_pass = len(split) // self._size
        self._batches: Iterator[Batch]
        self._shuffle()

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        """Return the next batch."""
        if self._position == self._per_pass:
            self._shuffle()
        self._position += 1
        return next(self._batches)

    @property
    def position(self) -> int:
        """How many batches of the present pass were taken."""
        return self._position

    @property
    def pass_state(self) -> Tensor:
        """State of the generator before it drew the present order."""
        return self._before

    def go_to(self, position: int, pass_state: Tensor) -> None:
        """Go on where a stream of the same split was that stood at this position of this pass."""
        self._before = pass_state.clone()
        self._order.set_state(self._before)
        self._begin(position)

    def _shuffle(self) -> None:
        self._before = self._order.get_state()  # of the generator, when it drew the present order
        self._begin(0)

    def _begin(self, position: int) -> None:
        order = torch.randperm(len(self._split), generator=self._order)
        rest = order[position * self._size : self._per_pass * self._size]
        self._batches = self._split.batches(self._size, order=rest, device=self._device)
        self._position = position
