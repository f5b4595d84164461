"""The interface of a method that trains step by step, driven by the :class:`~mgraph.train.driver.Driver`.

A new method says what one step does and which arrays the next step depends on; budgets, divergence, progress, saved
states and multiple processes come with the driver.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import override

from mgraph.errors import NonFiniteError
from mgraph.train.batches import Batches
from mgraph.train.schedules import constant_schedule
from mgraph.train.state import Arrays


class DivergedError(NonFiniteError):
    """Training produced non-finite numbers, after ``steps`` steps of its segment."""

    def __init__(self, message: str, steps: int) -> None:
        super().__init__(message)
        self.steps = steps


@dataclass(frozen=True)
class TrainingSegment:
    """A stretch of a run with one learning rate: a phase or a cycle. ``steps`` is the most that it takes.

    ``schedule`` is the factor on the learning rate as a function of the fraction of steps done.
    """

    name: str
    steps: int
    lr: float
    kind: str = "phase"
    schedule: Callable[[float], float] = constant_schedule

    @override
    def __str__(self) -> str:
        return self.name if self.name.startswith(self.kind) else f"{self.kind} {self.name}"


class Stepper(ABC):
    """A method that trains step by step: what a step does, and what the next one depends on.

    The driver keeps track of everything else: random generators, order of batches, the network's buffers, steps done,
    halvings of the learning rate.
    """

    halvings: ClassVar[int] = 6  # of the learning rate, before giving up on a diverging segment
    keeps_rate: ClassVar[bool] = False  # whether a halved learning rate stays for later segments
    saves_between: ClassVar[bool] = False  # whether a state is saved at the start and after every segment

    @abstractmethod
    def start(self) -> None:
        """Begin a run; the network's random generator has been seeded."""

    @abstractmethod
    def segment(self) -> TrainingSegment | None:
        """Return the next segment, or the current one; None if there is nothing left to do."""

    @abstractmethod
    def begin(self, segment: TrainingSegment, *, anew: bool) -> None:
        """Prepare for the steps of a segment: from its beginning (``anew``), or partway, right after :meth:`load`."""

    @abstractmethod
    def step(self, batches: Batches, lr: float) -> Tensor | float:
        """Do one step on the next batch, or several; return its loss over all processes."""

    @abstractmethod
    def mark(self) -> None:
        """Remember what :meth:`back` needs: a segment is about to begin."""

    @abstractmethod
    def back(self) -> None:
        """Go back to the mark, without momentum: the segment diverged and will start again."""

    @abstractmethod
    def state(self) -> tuple[Mapping[str, Any], Arrays]:
        """Return what the next step depends on: plain values (JSON), and named arrays."""

    @abstractmethod
    def load(self, values: Mapping[str, Any], arrays: Arrays) -> None:
        """Restore what :meth:`state` returned, instead of :meth:`start`."""

    def finished(self) -> str | None:
        """Return why the segment is over early, or None if it is not. Called before every step."""
        return None

    def after(self, done: int) -> None:
        """Do what follows a step with a finite loss, the ``done``-th of the segment; by default nothing."""
        del done

    def seen(self, losses: Sequence[float]) -> None:
        """Take the next steps' losses as soon as they are read, which on an accelerator is some steps later."""
        del losses

    @abstractmethod
    def end(self, segment: TrainingSegment, why: str | None) -> None:
        """Conclude a segment; ``why`` says why it ended early, and is None if all its steps are done.

        The reason is that of :meth:`finished`, or a spent budget. A DivergedError here is treated like one in a step.
        """

    def where(self) -> str | None:
        """Describe where the run is, for a person; None means by step and segment."""
        return None

    @abstractmethod
    def leave(self) -> None:
        """Give the network back its own point, whatever happened; may be called more than once."""
