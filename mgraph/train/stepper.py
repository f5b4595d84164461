"""What a method is that trains step by step, as the :class:`~mgraph.train.driver.Driver` drives it.

A new one says what one step does and which arrays the next step depends on; budgets, divergence, progress, saved
states and several processes come with the driver.
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
    """Training left the finite numbers, after so many ``steps`` of its segment."""

    def __init__(self, message: str, steps: int) -> None:
        super().__init__(message)
        self.steps = steps


@dataclass(frozen=True)
class TrainingSegment:
    """A stretch of a run under one learning rate: a phase, a cycle. ``steps`` are the most that it takes.

    ``schedule`` is the factor on the learning rate as a function of the share of the steps that are done.
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

    What it does not say for itself (random generators, order of the batches, the network's buffers, steps done, rates
    halved) the driver keeps.
    """

    halvings: ClassVar[int] = 6  # of the learning rate, before a diverging segment is given up
    keeps_rate: ClassVar[bool] = False  # whether a halved learning rate stays for later segments
    saves_between: ClassVar[bool] = False  # whether a state is saved at the start and after every segment

    @abstractmethod
    def start(self) -> None:
        """Begin a run; the network's random generator is seeded."""

    @abstractmethod
    def segment(self) -> TrainingSegment | None:
        """Return the segment that comes next, or is under way; None: there is nothing left to do."""

    @abstractmethod
    def begin(self, segment: TrainingSegment, *, anew: bool) -> None:
        """Get ready for the steps of a segment: from its beginning, or in its midst, right after :meth:`load`."""

    @abstractmethod
    def step(self, batches: Batches, lr: float) -> Tensor | float:
        """Do one step on the next batch, or on several; return its loss, from all processes."""

    @abstractmethod
    def mark(self) -> None:
        """Remember what :meth:`back` needs: a segment is about to begin."""

    @abstractmethod
    def back(self) -> None:
        """Go back to the mark, without momentum: the segment diverged and begins again."""

    @abstractmethod
    def state(self) -> tuple[Mapping[str, Any], Arrays]:
        """Return what the next step depends on: plain values (JSON), and named arrays."""

    @abstractmethod
    def load(self, values: Mapping[str, Any], arrays: Arrays) -> None:
        """Take back what :meth:`state` returned, instead of :meth:`start`."""

    def finished(self) -> str | None:
        """Say why the segment is over before its steps are; None: it is not. Asked before every step."""
        return None

    def after(self, done: int) -> None:
        """Do what follows a step whose loss is finite, the ``done``-th of the segment; by default nothing."""
        del done

    def seen(self, losses: Sequence[float]) -> None:
        """Take the losses of the next steps, as soon as they were read; on an accelerator some steps later."""
        del losses

    @abstractmethod
    def end(self, segment: TrainingSegment, why: str | None) -> None:
        """Conclude a segment, ended for a reason of :meth:`finished` or a spent budget; None: all steps are done.

        A DivergedError is treated as one of a step.
        """

    def where(self) -> str | None:
        """Say where the run stands, for a person; None: by steps and segment."""
        return None

    @abstractmethod
    def leave(self) -> None:
        """Give the network its own point back, whatever happened; may be called more than once."""
