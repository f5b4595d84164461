"""Read the items of a Dataset in batches: in this process, or ahead of time in worker processes.

The result never depends on who reads: a batch is the items at given places, delivered in order. Batches are sent to
workers (:mod:`mgraph.data.workers`) in pieces, so that the amount in flight is bounded, however large a batch is.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from mgraph.data.items import Pair
from mgraph.data.machine import default_workers
from mgraph.data.workers import Failed, Items, Places, Workers
from mgraph.errors import InputError
from mgraph.fields import Fields, tensors_of

PIECE = 1 << 21
"""Most bytes in a piece, unless a single example has more."""

_WORTH_IT = 1 << 23  # bytes: less than this is read directly unless the user asked for workers


@runtime_checkable
class Identified(Protocol):
    """One of our own Datasets, whose examples are identified without being read, and which any process may read."""

    def examples_digest(self, places: Places | None = None) -> bytes:
        """Return what identifies the examples at these places; None: all."""


class Reader:
    """Reads items of a Dataset; the splits made from one share it.

    ``workers`` read for it, and maybe for other readers, too. If nobody said how many there are, they are as many as
    the machine has processors to spare, if the Dataset is one of ours. For any other it is unknown whether forked
    processes may read it.
    """

    def __init__(self, dataset: Any, name: str, *, columns: bool) -> None:
        """``name`` is what messages call it; with ``columns``, integer targets (N, 1) are taken as (N,)."""
        self.dataset, self.name, self.length = dataset, name, len(dataset)
        self._items = Items(dataset, name, self.length, columns)
        self._tried = False
        self.join(Workers(None))

    def join(self, workers: Workers) -> None:
        """Have these workers read."""
        self.workers = workers
        workers.read_for(self._items)

    def read(self, places: Places) -> Pair:
        """Read the items at these places as one batch, unchanged, like :func:`mgraph.data.items.read_batch`."""
        return self._items.read(places)

    def batches(self, batches: Sequence[Places], *, pinned: bool) -> Iterator[list[Pair]]:
        """Read one batch after another, each in one or more pieces, in page-locked memory if ``pinned``.

        Raises InputError if an item cannot be read, or a worker has ended.
        """
        workers = self._workers(sum(map(len, batches)))
        if not workers:
            for places in batches:
                yield [self.read(places)]
            return
        pieces = [self._pieces(places) for places in batches]
        read = self._ahead([piece for parts in pieces for piece in parts], workers, pinned=pinned)
        for parts in pieces:
            yield [next(read) for _ in parts]

    def _ahead(self, pieces: Sequence[Places], workers: int, *, pinned: bool) -> Iterator[Pair]:
        with self.workers.loader(self._items, workers, pinned=pinned) as loader:
            try:
                for number, piece in enumerate(loader.run(self._items, pieces)):
                    if isinstance(piece, Failed):
                        raise InputError(piece.text)
                    if number == 0:
                        self._try(pieces[0], piece)
                    yield piece
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise InputError(
                    f"A process that read {self.name} ended before it was done (killed, or out of memory?); give the "
                    f"command again, with fewer --workers, or 0 for none."
                ) from error

    def _try(self, places: Places, theirs: Pair) -> None:
        """Raise InputError if a Dataset that is not ours reads differently in a worker."""
        if self._tried or isinstance(self.dataset, Identified):
            return
        self._tried = True
        ours = self.read(places)
        pairs = [pair for a, b in zip(ours, theirs, strict=True) for pair in zip(*_both(a, b), strict=True)]
        if not all(_equal(mine, other) for mine, other in pairs):
            raise InputError(
                f"{self.name[0].upper()}{self.name[1:]} has other items in a worker process than here: its files may "
                f"have been opened before the workers start. Open them when an item is requested, or leave out "
                f"--workers."
            )

    def _workers(self, examples: int) -> int:
        if multiprocessing.current_process().daemon:  # which may not start processes
            return 0
        if (count := self.workers.count) is not None:
            return count if examples > 1 else 0
        if not isinstance(self.dataset, Identified) or examples * self._example < _WORTH_IT:
            return 0
        return default_workers()

    def _pieces(self, places: Places) -> list[Places]:
        """Divide a batch into parts that are as equal as possible."""
        parts = -(-len(places) // max(1, PIECE // max(1, self._example)))
        size = -(-len(places) // parts)
        return [places[start : start + size] for start in range(0, len(places), size)]

    @cached_property
    def _example(self) -> int:
        """The size of one example's input in bytes."""
        return sum(tensor.nbytes for tensor in tensors_of(self.read(np.zeros(1, np.int64))[0]))


def _both(a: Fields, b: Fields) -> tuple[list[Tensor], list[Tensor]]:
    return tensors_of(a), tensors_of(b)


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one.flatten().view(torch.uint8), other.flatten().view(torch.uint8))  # NaN equals NaN
