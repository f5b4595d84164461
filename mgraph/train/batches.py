"""An endless, resumable stream of shuffled, possibly augmented batches that uses each example once per pass."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from typing_extensions import override

from mgraph.data.splits import Batch, Split
from mgraph.train.augmentation import Augmentation


class Batches(Iterator[Batch]):
    """Batches of one size; examples left over in a pass are dropped from it, or form a smaller batch."""

    def __init__(
        self,
        split: Split,
        batch_size: int,
        order: torch.Generator,
        device: torch.device,
        *,
        least: int | None = None,
        augment: Augmentation | None = None,
    ) -> None:
        """Draw the order of every pass from ``order``; a batch is at most the whole split.

        The examples left over form a batch of their own if there are ``least`` or more of them; with None, they never
        do. ``augment`` changes every batch before it is handed out.
        """
        self._split, self._order, self._device = split, order, device
        self._augment, self._number = augment, 0
        self._size, self._used = min(batch_size, len(split)), _used(len(split), batch_size, least)
        self.per_pass = batches_per_pass(len(split), batch_size, least)
        self._batches: Iterator[Batch] = iter(())
        self.begin_pass()

    @override
    def __next__(self) -> Batch:
        if self._position == self.per_pass:
            self.begin_pass()
        if self._position == 0:
            self._shuffle()
        self._position += 1
        self._number += 1
        batch = next(self._batches)
        return batch if self._augment is None else self._augment(*batch, self._number)

    def begin_pass(self) -> None:
        """Begin a new pass: the next batch will be its first."""
        self._before = self._order.get_state()
        self._position = 0

    @property
    def position(self) -> int:
        """The number of batches taken in the current pass."""
        return self._position

    @property
    def pass_state(self) -> Tensor:
        """The state of the generator just before it draws, or drew, the order of the current pass."""
        return self._before

    @property
    def number(self) -> int:
        """The total number of batches taken."""
        return self._number

    def go_to(self, position: int, pass_state: Tensor, number: int) -> None:
        """Continue where another stream of the same split was: at this position of this pass, ``number`` batches in."""
        self._before, self._position, self._number = pass_state.clone(), position, number
        self._order.set_state(self._before)
        if position:
            self._shuffle()

    def _shuffle(self) -> None:
        order = torch.randperm(len(self._split), generator=self._order)
        rest = order[self._position * self._size : self._used]
        self._batches = self._split.batches(self._size, order=rest, device=self._device)


def batches_per_pass(count: int, batch_size: int, least: int | None = None) -> int:
    """Return the number of batches in a pass over ``count`` examples; ``least`` is as for :class:`Batches`."""
    return -(-_used(count, batch_size, least) // min(batch_size, count))


def _used(count: int, batch_size: int, least: int | None) -> int:
    """Return how many examples a pass uses."""
    rest = count % min(batch_size, count)
    return count if least is not None and rest >= least else count - rest
