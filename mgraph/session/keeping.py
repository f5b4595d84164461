"""States of a run on disk: the :class:`~mgraph.train.state.Checkpointer` of whoever computes in a graph (no torch)."""

from __future__ import annotations

import math
import os
import time
import warnings
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from mgraph.errors import InputError, MGraphWarning, StoreError
from mgraph.train.state import Arrays, Checkpointer, State
from mgraph_store.states import SavedState, StateFiles

SECONDS = 30.0
SECONDS_VARIABLE = "MGRAPH_SAVE_SECONDS"
_SHARE = 10.0  # saving may take at most one part in this many of the time


class NotSavedWarning(MGraphWarning):
    """The state of a run could not be saved; the run continues."""


class OnDisk(Checkpointer):
    """Saves a state, and items with it, at intervals of some seconds; failing to save one does not stop the run.

    Nothing is read or written before somebody asks for the last state or saves one. If saving is slow, it is done less
    often.
    """

    def __init__(self, files: StateFiles, seconds: float) -> None:
        self._files, self._seconds = files, seconds
        self._due_at = time.monotonic() + seconds
        self._waiting: dict[int, dict[str, NDArray[Any]]] = {}
        self._warned = False

    @cached_property
    def _found(self) -> SavedState | None:
        found = self._files.newest()
        self._written = 0 if found is None else found.items
        return found

    @property
    @override
    def last(self) -> State | None:
        """The newest complete state on disk when this run began or was resumed; CorruptError if none is complete."""
        found = self._found
        return None if found is None else State(found.values, found.arrays, found.where)

    @property
    @override
    def due(self) -> bool:
        """Whether the interval has passed."""
        return time.monotonic() >= self._due_at

    @override
    def save(self, state: State) -> None:
        """Write what was appended, then the state; warn once if that fails."""
        began = time.monotonic()
        try:
            count = self.count
            for index in sorted(self._waiting):
                self._files.append(index, self._waiting[index])
                self._written = index + 1
                del self._waiting[index]
            self._files.save(state.values, state.arrays, items=count, where=state.where)
        except StoreError as error:
            self._warn(error)
        now = time.monotonic()
        self._due_at = now + max(self._seconds, _SHARE * (now - began) if self._seconds else 0.0)

    @override
    def append(self, arrays: Arrays) -> None:
        """Keep a copy in memory until the next state is saved."""
        self._waiting[self.count] = {name: np.array(array) for name, array in arrays.items()}

    @override
    def appended(self, index: int) -> dict[str, NDArray[Any]]:
        """Return an item from memory or from disk; CorruptError if it is damaged there."""
        if index in self._waiting:
            return dict(self._waiting[index])
        if not 0 <= index < self.count:
            raise IndexError(f"There are {self.count} items, none with number {index}.")
        return self._files.item(index)

    @property
    @override
    def count(self) -> int:
        """The number of items."""
        self._found  # noqa: B018  (counts those on disk)
        return self._written + len(self._waiting)

    def _warn(self, error: StoreError) -> None:
        if not self._warned:
            warnings.warn(
                f"{error} The run continues, but if it is interrupted, it can only be resumed from the state before.",
                NotSavedWarning,
                stacklevel=3,
            )
        self._warned = True


def save_seconds() -> float:
    """Return the seconds between two states: $MGRAPH_SAVE_SECONDS, or 30; 0: as few as possible."""
    text = os.environ.get(SECONDS_VARIABLE, "")
    try:
        seconds = float(text or SECONDS)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise InputError(f"{SECONDS_VARIABLE} must be a number of seconds ≥ 0, not {text!r}.")
    return seconds
