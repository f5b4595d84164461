"""Worker processes that read the items of Datasets ahead of time.

They are those of torch's DataLoader, started when first needed and kept for later passes. All splits of a task share
them, so that there are never more than were asked for (unless two passes overlap).
"""

from __future__ import annotations

import gc
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from mgraph.data.items import Pair, read_batch
from mgraph.data.labels import as_column
from mgraph.errors import InputError, MGraphError

Places = NDArray[np.int64]
"""Indices of items in a Dataset."""

Piece = tuple[int, Places]
"""The number of a Dataset, and places in it."""

AHEAD = 4
"""Pieces that each worker may have in flight."""


@dataclass(frozen=True)
class Failed:
    """A worker's message about a piece that it could not read."""

    text: str


@dataclass(frozen=True)
class Items:
    """What is read: a Dataset, its name in messages, and its initial number of items."""

    dataset: Any
    name: str
    length: int
    columns: bool

    def read(self, places: Places) -> Pair:
        """Read the items at these places as one batch, unchanged; raises InputError if the Dataset has grown since."""
        if len(self.dataset) != self.length:
            raise InputError(
                f"{self.name[0].upper()}{self.name[1:]} had {self.length} items and now has {len(self.dataset)}; a "
                f"Dataset must keep its length."
            )
        x, y = read_batch(self.dataset, places.tolist(), self.name)
        return x, as_column(y) if self.columns and isinstance(y, Tensor) else y


class Workers:
    """Processes that read for one task: ``count`` of them, 0 for none; None if nobody said."""

    def __init__(self, count: int | None) -> None:
        self.count = count
        self._known: list[Items] = []
        self._idle: list[_Loader] = []

    def read_for(self, items: Items) -> None:
        """Let processes that are started from now on know these items."""
        if not any(one is items for one in self._known):
            self._known.append(items)

    @contextmanager
    def loader(self, items: Items, count: int, *, pinned: bool) -> Iterator[_Loader]:
        """Lend processes that know these items, and keep them for the next unless an error was raised."""
        fits = (one for one in self._idle if (one.workers, one.pinned) == (count, pinned) and one.knows(items))
        found = next(fits, None)
        if found is None:
            self._idle.clear()  # these processes end
            found = _Loader(self._known, count, pinned=pinned)
        else:
            self._idle.remove(found)
        try:
            yield found
        except GeneratorExit:  # fewer batches were taken than requested
            self._idle.append(found)
            raise
        self._idle.append(found)


class _Loader:
    """Worker processes, and the DataLoader that feeds them the requested pieces."""

    def __init__(self, known: Sequence[Items], workers: int, *, pinned: bool) -> None:
        self.workers, self.pinned = workers, pinned
        self._known, self._asked = tuple(known), list[Piece]()
        # Its own generator: otherwise the workers' seeds, which nothing depends on, would be drawn from the global one.
        self._loader: DataLoader[Any] = DataLoader(
            _Pieces(self._known),
            batch_sampler=_Asked(self._asked),  # type: ignore[arg-type]  # a piece serves as a list of places
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pinned,
            prefetch_factor=AHEAD,
            persistent_workers=True,
            worker_init_fn=_begin,
            multiprocessing_context="fork" if sys.platform == "linux" else None,
            generator=torch.Generator(),
        )

    def knows(self, items: Items) -> bool:
        return any(one is items for one in self._known)

    def run(self, items: Items, pieces: Sequence[Places]) -> Iterator[Any]:
        number = next(i for i, one in enumerate(self._known) if one is items)
        self._asked[:] = [(number, places) for places in pieces]
        with warnings.catch_warnings(), _own_signals():
            warnings.filterwarnings("ignore", ".*multi-threaded.*fork")  # workers run none of our threads
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more than there are processors
            return iter(self._loader)


class _Asked:
    """The list of requested pieces, as it is when a pass begins."""

    def __init__(self, pieces: list[Piece]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[Piece]:
        return iter(list(self._pieces))

    def __len__(self) -> int:
        return len(self._pieces)


class _Pieces(torch.utils.data.Dataset[Any]):
    """What a worker is given: Datasets, of which it reads whole pieces."""

    def __init__(self, known: Sequence[Items]) -> None:
        self._known = known

    def __getitems__(self, piece: Piece) -> Any:
        number, places = piece
        try:
            return self._known[number].read(places)
        except MGraphError as error:
            return Failed(str(error))

    @override
    def __getitem__(self, piece: Piece) -> Any:
        return self.__getitems__(piece)


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
