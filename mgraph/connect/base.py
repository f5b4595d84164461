"""What a connection method is.

A method is a frozen dataclass of settings. Given modes and a task it yields progress and produces a
connection. Describing one needs no torch; running one imports it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from mgraph.families import Family
from mgraph.settings import Settings, setting

if TYPE_CHECKING:
    from mgraph.data.task import Task
    from mgraph.network.flat import FlatModel
    from mgraph.progress import Report
    from mgraph.train.engine import Phase


@dataclass(frozen=True)
class Outcome:
    """What a method produced: control points P, shape (K, D), canonical, and the update that moved them."""

    control_points: NDArray[np.float32]
    update: str | None = None


@dataclass(frozen=True, kw_only=True)
class Method(Settings, ABC):
    """A way to connect modes; its fields are its settings."""

    name: ClassVar[str]
    summary: ClassVar[str]
    references: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def family(self, ends: int) -> Family:
        """Return the family for that many ends; InputError if the method does not take so many."""

    @abstractmethod
    def run(
        self,
        flat: FlatModel,
        task: Task,
        ends: Sequence[NDArray[np.float32]],
        report: Report,
    ) -> Outcome:
        """Connect the ends, each of shape (D,); their rows of the outcome are the ends bit for bit."""


@dataclass(frozen=True, kw_only=True)
class TrainedMethod(Method):
    """A method that trains the free control points of a family by sampling its parameter."""

    seed: int = setting(0, "seed of the order of examples, the sampled parameters and dropout", low=0, high=2**63 - 1)
    lr: float = setting(0.1, "learning rate at the start of each phase", above=0, high=1e30)
    batch_size: int = setting(64, "examples per step", unit="examples", low=1)
    samples: int = setting(1, "parameter values per batch and curve, each seeing the whole batch", low=1)
    momentum: float = setting(0.9, "SGD momentum", low=0, below=1)
    weight_decay: float = setting(0.0, "L2 penalty on the sampled point", low=0)
    update: str = setting("auto", "control-point update: auto chooses by size", choices=("auto", "eager", "compiled"))

    @abstractmethod
    def phases(self, family: Family) -> tuple[Phase, ...]:
        """Return the phases of training, in order."""

    def run(
        self,
        flat: FlatModel,
        task: Task,
        ends: Sequence[NDArray[np.float32]],
        report: Report,
    ) -> Outcome:
        """Start at the family's initial control points and train its free rows."""
        import torch

        from mgraph.train.engine import train_phases

        family = self.family(len(ends))
        start = initial_points(family, ends)
        P = torch.stack([flat.pack(torch.from_numpy(row)) for row in start])
        update = train_phases(
            flat,
            task.loss,
            task.train,
            P,
            self.phases(family),
            lr=self.lr,
            batch_size=self.batch_size,
            samples=self.samples,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            seed=self.seed,
            update=self.update,
            report=report,
        )
        for k in family.free:
            start[k] = flat.unpack(P[k]).numpy()
        return Outcome(start, update)


def initial_points(family: Family, ends: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return P, shape (K, D): the ends in their rows, the others interpolated between them."""
    from mgraph_store.kernel import combine

    return np.stack([combine(list(c), ends) for c in family.initial()])


def wrong_ends(method: str, given: int, expected: str) -> str:
    """Phrase the error for a number of ends that a method does not take."""
    return f"{method} joins {expected}; {given} given."
