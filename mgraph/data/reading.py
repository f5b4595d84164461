"""Read the items of a Dataset in batches: in this process, or ahead of time in worker processes.

The result never depends on who reads: a batch is the items at given places, delivered in order. Workers are those of
torch's DataLoader. They are started when first needed and kept for later passes; batches are sent to them in pieces, so
that the amount in flight is bounded, however large a batch is.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from mgraph.data.items import Pair, read_batch
from mgraph.data.labels import as_column
from mgraph.data.machine import default_workers
from mgraph.errors import InputError, MGraphError
from mgraph.fields import Fields, tensors_of

Places = NDArray[np.int64]
"""Indices of items in a Dataset."""

AHEAD = 4
"""Pieces that each worker may have in flight."""

PIECE = 1 << 21
"""Most bytes in a piece, unless a single example has more."""

_WORTH_IT = 1 << 23  # bytes: less than this is read directly unless the user asked for workers


@runtime_checkable
class Identified(Protocol):
    """One of our own Datasets, whose examples are identified without being read, and which any process may read."""

    def examples_digest(self, places: Places | None = None) -> bytes:
        """Return what identifies the examples at these places; None: all."""


@dataclass(frozen=True)
class _Failed:
    """A worker's message about a piece that it could not read."""

    text: str


class Reader:
    """Reads items of a Dataset; the splits made from one share it, and its workers.

    ``workers`` is the number of processes that read: 0 means none; None means as many as the machine has processors to
    spare, if the Dataset is one of ours. For any other it is unknown whether forked processes may read it.
    """

    def __init__(self, dataset: Any, name: str, *, columns: bool) -> None:
        """``name`` is what messages call it; with ``columns``, integer targets (N, 1) are taken as (N,)."""
        self.dataset, self.name, self.length = dataset, name, len(dataset)
        self.workers: int | None = None
        self._items = _Items(dataset, name, self.length, columns)
        self._idle: list[_Loader] = []
        self._tried = False

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
        loader = next((one for one in self._idle if (one.workers, one.pinned) == (workers, pinned)), None)
        if loader is None:
            loader = _Loader(self._items, workers, pinned=pinned)
        else:
            self._idle.remove(loader)
        try:
            for number, piece in enumerate(loader.run(pieces)):
                if isinstance(piece, _Failed):
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
        # Also if fewer batches were taken than requested, but not after an error.
        except GeneratorExit:
            self._idle.append(loader)
            raise
        else:
            self._idle.append(loader)

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
        if self.workers is not None:
            return self.workers if examples > 1 else 0
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


@dataclass(frozen=True)
class _Items:
    """What is read: a Dataset, its name in messages, and its initial number of items."""

    dataset: Any
    name: str
    length: int
    columns: bool

    def read(self, places: Places) -> Pair:
        if len(self.dataset) != self.length:
            raise InputError(
                f"{self.name[0].upper()}{self.name[1:]} had {self.length} items and now has {len(self.dataset)}; a "
                f"Dataset must keep its length."
            )
        x, y = read_batch(self.dataset, places.tolist(), self.name)
        return x, as_column(y) if self.columns and isinstance(y, Tensor) else y


class _Loader:
    """Worker processes, and the DataLoader that feeds them the requested pieces."""

    def __init__(self, items: _Items, workers: int, *, pinned: bool) -> None:
        self.workers, self.pinned = workers, pinned
        self._asked: list[Places] = []
        # Its own generator: otherwise the workers' seeds, which nothing depends on, would be drawn from the global one.
        self._loader: DataLoader[Any] = DataLoader(
            _Pieces(items),
            batch_sampler=_Asked(self._asked),  # type: ignore[arg-type]  # arrays serve as lists
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pinned,
            prefetch_factor=AHEAD,
            persistent_workers=True,
            worker_init_fn=_begin,
            multiprocessing_context="fork" if sys.platform == "linux" else None,
            generator=torch.Generator(),
        )

    def run(self, pieces: Sequence[Places]) -> Iterator[Any]:
        self._asked[:] = pieces
        with warnings.catch_warnings(), _own_signals():
            warnings.filterwarnings("ignore", ".*multi-threaded.*fork")  # workers run none of our threads
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more than there are processors
            return iter(self._loader)


class _Asked:
    """The list of requested pieces, as it is when a pass begins."""

    def __init__(self, pieces: list[Places]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[Places]:
        return iter(list(self._pieces))

    def __len__(self) -> int:
        return len(self._pieces)


class _Pieces(torch.utils.data.Dataset[Any]):
    """The Dataset given to a worker, which reads whole pieces."""

    def __init__(self, items: _Items) -> None:
        self._items = items

    def __getitems__(self, places: Places) -> Any:
        try:
            return self._items.read(places)
        except MGraphError as error:
            return _Failed(str(error))

    @override
    def __getitem__(self, place: int) -> Any:
        return self.__getitems__(np.array([place]))


def _as_it_is(piece: Any) -> Any:
    return piece


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep torch from raising an error at an arbitrary point when a worker ends; the next request raises it."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)


def _begin(_: int) -> None:
    """Leave interrupts, and the collection of inherited garbage, to the worker's parent process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()


def _both(a: Fields, b: Fields) -> tuple[list[Tensor], list[Tensor]]:
    return tensors_of(a), tensors_of(b)


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one.flatten().view(torch.uint8), other.flatten().view(torch.uint8))  # NaN equals NaN
