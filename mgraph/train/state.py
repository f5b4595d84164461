"""Where a long computation stands, so that it can go on bit for bit after an interruption (no torch, no store).

A computation is handed a :class:`Checkpointer`. At points where everything it depends on can be written down it asks
whether it is time to :meth:`~Checkpointer.save`; when it begins it asks for what was saved, and goes on there. Who
keeps states on disk is not known here.
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
    """A moment of a computation.

    ``values`` is plain data, as JSON can hold it: positions, counters, the state of NumPy's generators. ``arrays``
    are what is large or must be exact: control points, momenta, the state of torch's generators (uint8). Parts of a
    computation keep theirs under names of their own. ``where`` says it to a person: step 40 of 510.
    """

    values: Mapping[str, Any]
    arrays: Arrays = field(default_factory=dict)
    where: str = ""


class Checkpointer(ABC):
    """Keeps the last state of one computation, and what it has finished on its way."""

    @property
    @abstractmethod
    def last(self) -> State | None:
        """The state to go on from; None: begin."""

    @property
    @abstractmethod
    def due(self) -> bool:
        """Whether it is time to save: cheap enough to be asked at every step."""

    @abstractmethod
    def save(self, state: State) -> None:
        """Keep a state in place of the last one, which stays until this one is complete."""

    @abstractmethod
    def append(self, arrays: Arrays) -> None:
        """Keep something finished (a point of a path) for good, so that no later state repeats it.

        It counts from the next :meth:`save` on; what was appended after the last state is dropped when going on.
        """

    @abstractmethod
    def appended(self, index: int) -> dict[str, NDArray[Any]]:
        """Read what was appended, by its number from 0."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How often something was appended."""


class InMemory(Checkpointer):
    """Keeps everything for as long as the program runs: for computations that nobody resumes, and for tests.

    ``every`` is how many times :attr:`due` is asked between two saves; 0: it is never time. :meth:`again` makes the
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
        """True at every ``every``-th question."""
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
        """Return what was appended, by its number from 0."""
        return dict(self._finished[index])

    @property
    @override
    def count(self) -> int:
        """How often something was appended."""
        return len(self._finished)

    def again(self) -> InMemory:
        """Return a checkpointer with the last state, and what had been appended when it was saved."""
        other = InMemory(self._every)
        other._last = self._last
        other._finished = self._finished[: 0 if self._last is None else self._last[1]]
        return other
