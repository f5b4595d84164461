"""What a connection method is.

A method is a frozen dataclass of settings. Given modes and a task it yields progress and produces a
connection. Describing one needs no torch; running one imports it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mgraph.families import Family, Floats
from mgraph.families.refit import is_exact, refit
from mgraph.settings import Settings

if TYPE_CHECKING:
    from mgraph.data.task import Task
    from mgraph.network.flat import FlatModel
    from mgraph.progress import ProgressCallback
    from mgraph.query.observed import Observation
    from mgraph.query.sweepdata import SweepData
    from mgraph.train.state import Checkpointer

Array = NDArray[np.float32]
Panel = Callable[[Any, str], None]
"""Draws on a matplotlib axis in a colour."""


@dataclass(frozen=True)
class Start:
    """Where control points start: sums of R given points, ``matrix`` (K, R) times ``rows``, R of shape (D,)."""

    matrix: Floats
    rows: Sequence[Array]

    @classmethod
    def between(cls, family: Family, ends: Sequence[Array]) -> Start:
        """Interpolate between the ends as the family does."""
        return cls(family.initial(), ends)

    def points(self) -> Array:
        """Return P, shape (K, D); a one-hot row is a given point bit for bit."""
        from mgraph_store.tensors.kernel import combine

        return np.stack([combine(list(c), self.rows) for c in self.matrix])


@dataclass(frozen=True)
class Outcome:
    """What a method produced: control points P, K rows of shape (D,), canonical, and how.

    The rows may be a sequence that reads each when it is asked for, where all do not fit in memory.
    ``update`` moved them (eager or compiled); ``trained`` names the parameters that could move, None for all.
    ``family`` is the one they belong to where the method only finds it on its way (how many pivots, and where).
    ``series`` are what the method observed, to be kept with the connection. ``found_end``: the family's last end is
    a point that the method found, not one that it was given; it becomes a mode. ``stopped`` says which budget was
    spent before the method ended by itself.
    """

    control_points: Sequence[Array] | Array
    update: str | None = None
    notes: tuple[str, ...] = ()
    trained: frozenset[str] | None = None
    family: Family | None = None
    series: tuple[SeriesData, ...] = ()
    found_end: bool = False
    stopped: str | None = None


@dataclass(frozen=True)
class SeriesData:
    """Numbers that a method observed on its way: ``values`` of a quantity of a subject, by position.

    The quantity says what (train_loss, distance, variance, step, seconds), the subject of what (a layer's name; empty:
    the whole), positions when (tick, step, cycle; rising).
    """

    quantity: str
    subject: str
    positions: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Method(Settings, ABC):
    """A way to connect modes; its fields are its settings."""

    name: ClassVar[str]
    summary: ClassVar[str]
    references: ClassVar[tuple[str, ...]] = ()
    node_kind: ClassVar[str] = "control"  # of what it finds besides the ends

    @abstractmethod
    def family(self, ends: int) -> Family:
        """Return the family for that many ends; InputError if the method does not take so many."""

    def check(self, flat: FlatModel, task: Task, family: Family) -> None:
        """Raise InputError now for settings that do not suit the network, the task or the family."""
        del flat, task, family

    def check_start(self, flat: FlatModel, task: Task, start: Start) -> None:
        """Raise InputError now for ends, or a start, that the method cannot use."""
        del flat, task, start

    def starting_from(self, family: Family, source: Family, ends: Sequence[int]) -> tuple[Family, Floats, bool]:
        """Return where to start from another connection, whose end number ``ends[i]`` is the i-th end here.

        The family, its control points as combinations of the source's, shape (K, K_source), and whether they lie on
        the source: by default the least-squares fit. InputError for a source that the method cannot start from.
        """
        return family, refit(family, source, ends), is_exact(family, source, ends)

    def cost(self, family: Family, examples: int) -> float | None:
        """Tell how many examples a run passes forward and backward, at the least, of that many in the training split.

        None where that cannot be told before.
        """
        del family, examples
        return None

    @abstractmethod
    def run(
        self,
        flat: FlatModel,
        task: Task,
        family: Family,
        start: Start,
        progress: ProgressCallback,
        checkpointer: Checkpointer | None = None,
    ) -> Outcome:
        """Connect; the rows of the ends stay what they are at the start, bit for bit.

        Where ``checkpointer`` has a state of this very run, interrupted, it goes on from there; None: nothing is kept.
        """

    @classmethod
    def describe(cls, series: Sequence[Observation], data: SweepData | None) -> dict[str, Any]:
        """Return what ``series`` say of how a connection came about, as tables by name; each empty without any.

        ``data`` is a sweep of it, if there is one.
        """
        del series, data
        return {}

    @classmethod
    def figure(
        cls,
        series: Sequence[Observation],
        data: SweepData,
        ends: Sequence[str],
        *,
        title: str = "",
        before: SweepData | None = None,
    ) -> Any:
        """Return a matplotlib figure of the method's own; None where the figure of any path or surface serves."""
        del series, data, ends, title, before
        return None

    @classmethod
    def panel(cls, series: Sequence[Observation]) -> Panel | None:
        """Return what draws a further panel beside those of a path, if ``series`` have something to show."""
        del series
        return None


def wrong_ends(method: str, given: int, expected: str) -> str:
    """Phrase the error for a number of ends that a method does not take."""
    return f"{method} joins {expected}; {given} given."
