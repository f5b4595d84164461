"""The state of a long computation, from which it continues bit for bit after an interruption (no torch, no store).

A computation is given a :class:`Checkpointer`. Whenever everything it depends on can be saved, it asks whether it is
time to :meth:`~Checkpointer.save`; at its start it asks for the saved state and continues from there. This module does
not know who keeps states on disk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class State:
    """The state of a computation at one moment.

    ``values`` is plain data that JSON can hold: positions, counters, the state of NumPy's generators. ``arrays`` hold
    what is large or must be exact: control points, momenta, the state of torch's generators (uint8). Parts of a
    computation keep their arrays under their own names. ``where`` describes the state to a person: step 40 of 510.
    """

    values: Mapping[str, Any]
    arrays: Arrays = field(default_factory=dict)
    where: str = ""


class Checkpointer(ABC):
    """Keeps the last state of one computation, and the results it has finished along the way."""

    @property
    @abstractmethod
    def last(self) -> State | None:
        """The state to continue from; None means start from the beginning."""

    @property
    @abstractmethod
    def due(self) -> bool:
        """Whether it is time to save; cheap enough to be called at every step."""

    @abstractmethod
    def save(self, state: State) -> None:
        """Replace the last state by this one; the old one stays until the new one is complete."""

    @abstractmethod
    def append(self, arrays: Arrays) -> None:
        """Keep something finished (a point of a path) for good, so that later states need not repeat it.

        It takes effect with the next :meth:`save`; what was appended after the last state is dropped on resuming.
        """

    @abstractmethod
    def appended(self, index: int) -> dict[str, NDArray[Any]]:
        """Read an appended item by its index, from 0."""

    @property
    @abstractmethod
    def count(self) -> int:
        """The number of items appended."""


class InMemory(Checkpointer):
    """Keeps everything for as long as the program runs: for computations that nobody resumes, and for tests.

    ``every`` is how many times :attr:`due` is read between two saves; with 0, it is never time. :meth:`again` makes the
    checkpointer that an interrupted computation would find.
    """

    def __init__(self, every: int = 0) -> None:
        self._every, self._asked = every, 0
        self._last: tuple[State, int] | None = None
        self._finished: list[dict[str, NDArray[Any]]] = []

    @property
    @override
    def last(self) -> State | None:
        return None if self._last is None else self._last[0]

    @property
    @override
    def due(self) -> bool:
        """True on every ``every``-th read."""
        self._asked += 1
        return self._every > 0 and self._asked % self._every == 0

    @override
    def save(self, state: State) -> None:
        copy = {name: np.array(array) for name, array in state.arrays.items()}
        self._last = State(dict(state.values), copy, state.where), len(self._finished)

    @override
    def append(self, arrays: Arrays) -> None:
        self._finished.append({name: np.array(array) for name, array in arrays.items()})

    @override
    def appended(self, index: int) -> dict[str, NDArray[Any]]:
        """Return an appended item by its index, from 0."""
        return dict(self._finished[index])

    @property
    @override
    def count(self) -> int:
        """The number of items appended."""
        return len(self._finished)

    def again(self) -> InMemory:
        """Return a checkpointer with the last state and what had been appended when it was saved."""
        other = InMemory(self._every)
        other._last = self._last
        other._finished = self._finished[: 0 if self._last is None else self._last[1]]
        return other
