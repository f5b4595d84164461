"""Reading the items of a Dataset by batches: in this process, or ahead of time in worker processes.

What is read never depends on who reads it: a batch is the items at given places, and comes in its turn. Workers are
those of torch's DataLoader. They are started when they are first needed and kept for later passes; batches go to them
in pieces, so that what is under way is bounded, however large a batch is.
"""

from __future__ import annotations

import gc
import signal
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
"""Where items are in a Dataset."""

AHEAD = 4
"""Pieces that each worker may have under way."""

PIECE = 1 << 21
"""Bytes of a piece, at most, unless a single example has more."""

_WORTH_IT = 1 << 23  # bytes: what is less is read at once, without workers that nobody asked for


@runtime_checkable
class Identified(Protocol):
    """A Dataset of ours, whose examples are identified without being read, and that any process may read."""

    def examples_digest(self, places: Places | None = None) -> bytes:
        """Return what identifies the examples at these places; None: all."""


@dataclass(frozen=True)
class _Failed:
    """What a worker says of a piece that it cannot read."""

    text: str


class Reader:
    """Reads items of a Dataset; the splits made of one share it, and its workers.

    ``workers`` is how many processes read, 0 none, None as many as the machine has processors left for it, where the
    Dataset is one of ours: of another one it is not known whether processes that are forked may read it.
    """

    def __init__(self, dataset: Any, name: str, *, columns: bool) -> None:
        """``name`` is what it is called in messages; with ``columns`` integer targets (N, 1) are taken as (N,)."""
        self.dataset, self.name, self.length = dataset, name, len(dataset)
        self.workers: int | None = None
        self._items = _Items(dataset, name, self.length, columns)
        self._idle: list[_Loader] = []
        self._tried = False

    def read(self, places: Places) -> Pair:
        """Read the items at these places as one batch, as they are; as :func:`mgraph.data.items.read_batch`."""
        return self._items.read(places)

    def batches(self, batches: Sequence[Places], *, pinned: bool) -> Iterator[list[Pair]]:
        """Read one batch after the other, each in one or more pieces, in memory that a GPU reads if it is ``pinned``.

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
        # Also where fewer batches were taken than were asked for; not after an error.
        except GeneratorExit:
            self._idle.append(loader)
            raise
        else:
            self._idle.append(loader)

    def _try(self, places: Places, theirs: Pair) -> None:
        """Raise InputError if a Dataset that we do not know reads differently in a worker."""
        if self._tried or isinstance(self.dataset, Identified):
            return
        self._tried = True
        ours = self.read(places)
        pairs = [pair for a, b in zip(ours, theirs, strict=True) for pair in zip(*_both(a, b), strict=True)]
        if not all(_equal(mine, other) for mine, other in pairs):
            raise InputError(
                f"{self.name[0].upper()}{self.name[1:]} has other items in a worker process than here: its files are "
                f"perhaps opened before the workers start. Open them when an item is asked for, or leave out --workers."
            )

    def _workers(self, examples: int) -> int:
        if self.workers is not None:
            return self.workers if examples > 1 else 0
        if not isinstance(self.dataset, Identified) or examples * self._example < _WORTH_IT:
            return 0
        return default_workers()

    def _pieces(self, places: Places) -> list[Places]:
        """Divide a batch into parts as equal as can be."""
        parts = -(-len(places) // max(1, PIECE // max(1, self._example)))
        size = -(-len(places) // parts)
        return [places[start : start + size] for start in range(0, len(places), size)]

    @cached_property
    def _example(self) -> int:
        """Bytes of the input of one example."""
        return sum(tensor.nbytes for tensor in tensors_of(self.read(np.zeros(1, np.int64))[0]))


@dataclass(frozen=True)
class _Items:
    """What is read: a Dataset, under what name, and how many items it had in the beginning."""

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
    """Worker processes, and the DataLoader that feeds them whatever is asked for next."""

    def __init__(self, items: _Items, workers: int, *, pinned: bool) -> None:
        self.workers, self.pinned = workers, pinned
        self._asked: list[Places] = []
        # Its own generator: seeds of workers, which nothing depends on, would else be drawn from the global one.
        self._loader: DataLoader[Any] = DataLoader(
            _Pieces(items),
            batch_sampler=_Asked(self._asked),  # type: ignore[arg-type]  # arrays serve as lists
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pinned,
            prefetch_factor=AHEAD,
            persistent_workers=True,
            worker_init_fn=_begin,
            generator=torch.Generator(),
        )

    def run(self, pieces: Sequence[Places]) -> Iterator[Any]:
        self._asked[:] = pieces
        with warnings.catch_warnings(), _own_signals():
            warnings.filterwarnings("ignore", ".*multi-threaded.*fork")  # workers run no thread of ours
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more than there are processors
            return iter(self._loader)


class _Asked:
    """The list of what is asked for, as it is when a pass begins."""

    def __init__(self, pieces: list[Places]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[Places]:
        return iter(list(self._pieces))

    def __len__(self) -> int:
        return len(self._pieces)


class _Pieces(torch.utils.data.Dataset[Any]):
    """What a worker is given: it reads whole pieces."""

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
    """Keep torch from raising an error wherever this process is when a worker ends: the next piece asked for does."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)


def _begin(_: int) -> None:
    """Leave interruptions to the process that the worker belongs to, and so what that process throws away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()


def _both(a: Fields, b: Fields) -> tuple[list[Tensor], list[Tensor]]:
    return tensors_of(a), tensors_of(b)


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one.flatten().view(torch.uint8), other.flatten().view(torch.uint8))  # also where it is NaN
