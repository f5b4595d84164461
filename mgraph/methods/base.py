"""The interface of connection methods.

A method is a frozen dataclass of settings. Given modes and a task, it reports progress and produces a connection.
Describing a method needs no torch; running one imports it.
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
"""Draws on a matplotlib axis in the given colour."""


@dataclass(frozen=True)
class Start:
    """Where control points start: linear combinations of R given points, ``matrix`` (K, R) times ``rows`` (R, D).

    ``augment`` is the augmentation of the images from which BatchNorm statistics of points between them are to be
    estimated, as in :class:`mgraph.evaluate.batchnorm.BatchNormPolicy`.
    """

    matrix: Floats
    rows: Sequence[Array]
    augment: str = ""

    @classmethod
    def between(cls, family: Family, ends: Sequence[Array]) -> Start:
        """Interpolate between the ends the way the family does."""
        return cls(family.initial(), ends)

    def points(self) -> Array:
        """Return P, shape (K, D); a one-hot row reproduces its given point bit for bit."""
        from mgraph_store.tensors.kernel import combine

        return np.stack([combine(list(c), self.rows) for c in self.matrix])


@dataclass(frozen=True)
class Outcome:
    """What a method produced: the control points P, K canonical rows of shape (D,), and how it got there.

    The rows may be a lazy sequence that reads each row on demand, for when they do not all fit in memory. ``update``
    says how they were updated (eager or compiled); ``trained`` names the parameters that could move, None means all.
    ``family`` is the family of the control points if the method determines it only while running (how many pivots, and
    where). ``series`` are the method's observations, stored with the connection. ``found_end``: the family's last end
    was found by the method rather than given to it, and becomes a mode. ``stopped`` names the budget that ran out
    before the method ended by itself.
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
    """Numbers that a method observed while running: the ``values`` of a quantity of a subject, by position.

    The quantity is what was observed (train_loss, distance, variance, step, seconds), the subject what it was observed
    on (a layer's name, or empty for the whole network), and the positions are when (tick, step or cycle; increasing).
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
    node_kind: ClassVar[str] = "control"  # the kind of the points it finds besides the ends

    @abstractmethod
    def family(self, ends: int) -> Family:
        """Return the family for that many ends; raise InputError if the method does not take that many."""

    def check(self, flat: FlatModel, task: Task, family: Family) -> None:
        """Raise InputError early for settings that do not suit the network, the task or the family."""
        del flat, task, family

    def check_start(self, flat: FlatModel, task: Task, start: Start) -> None:
        """Raise InputError early for ends, or a start, that the method cannot use."""
        del flat, task, start

    def starting_from(self, family: Family, source: Family, ends: Sequence[int]) -> tuple[Family, Floats, bool]:
        """Return where to start from another connection, whose end number ``ends[i]`` is the i-th end here.

        Returns the family, its control points as combinations of the source's, shape (K, K_source), and whether they
        lie on the source; by default, the least-squares fit. Raises InputError for a source the method cannot start
        from.
        """
        return family, refit(family, source, ends), is_exact(family, source, ends)

    def cost(self, family: Family, examples: int) -> float | None:
        """Return the least number of examples a run passes forward and backward, given the size of the training split.

        None if that cannot be known in advance.
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
        """Connect the ends; their rows stay exactly as they are in ``start``, bit for bit.

        If ``checkpointer`` holds the state of this run, interrupted earlier, continue from it. With None, nothing is
        kept.
        """

    @classmethod
    def describe(cls, series: Sequence[Observation], data: SweepData | None) -> dict[str, Any]:
        """Return what ``series`` say about how a connection came about, as tables by name (empty without series).

        ``data`` is a sweep of the connection, if there is one.
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
        """Return the method's own matplotlib figure, or None if the usual figure of a path or surface will do."""
        del series, data, ends, title, before
        return None

    @classmethod
    def panel(cls, series: Sequence[Observation]) -> Panel | None:
        """Return a function that draws an extra panel beside those of a path, if ``series`` have something to show."""
        del series
        return None


def wrong_ends(method: str, given: int, expected: str) -> str:
    """Phrase the error for a number of ends that a method does not take."""
    return f"{method} joins {expected}; {given} given."
