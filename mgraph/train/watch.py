"""Observers of a row of weights as it is trained step by step, which change nothing."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from mgraph.data.task import ACCURACY, Task
from mgraph.train.losses import Loss
from mgraph.train.snapshots import to_array, to_tensor
from mgraph.train.state import Arrays

_ENTRIES = 50  # entries of a history, or one per epoch if there are more epochs
_BATCHES = 8  # batches between two entries on which accuracy is measured; at most every tenth, to keep it cheap
_STRIDE = 10


class Watch(ABC):
    """Observes a segment of training; resumes after an interruption together with the training."""

    @abstractmethod
    def begin(self) -> None:
        """Begin afresh: the segment begins, or starts again after it diverged."""

    @abstractmethod
    def after(self, done: int, lr: float) -> None:
        """Look at the row after the ``done``-th step, which had this learning rate."""

    def seen(self, losses: Sequence[float]) -> None:
        """Take the losses of the next steps not yet seen; they may come later than :meth:`after`."""
        del losses

    @abstractmethod
    def state(self) -> tuple[Mapping[str, Any], Arrays]:
        """Return what later observations depend on: plain values (JSON), and named arrays."""

    @abstractmethod
    def load(self, values: Mapping[str, Any], arrays: Arrays) -> None:
        """Restore what :meth:`state` returned."""


class RunningAverage(Watch):
    """Keeps ``mean ← d·mean + (1-d)·row`` of a row, shape (T,), that is trained in place.

    After n steps, d is (1 + n) / (10 + n) as long as that is below the decay, so that the average soon forgets where
    the row began.
    """

    def __init__(self, row: Tensor, decay: float) -> None:
        self._row, self._decay = row, decay
        self.begin()

    @override
    def begin(self) -> None:
        self.mean, self._steps = self._row.clone(), 0

    @override
    @torch.no_grad()
    def after(self, done: int, lr: float) -> None:
        """Include the row in the average."""
        decay = min(self._decay, (1.0 + self._steps) / (10.0 + self._steps))
        self.mean.lerp_(self._row, 1.0 - decay)
        self._steps += 1

    @override
    def state(self) -> tuple[Mapping[str, Any], Arrays]:
        return {"steps": self._steps}, {"mean": to_array(self.mean)}

    @override
    def load(self, values: Mapping[str, Any], arrays: Arrays) -> None:
        self.mean, self._steps = to_tensor(arrays["mean"]).to(self._row), values["steps"]


class EqualAverage(Watch):
    """Keeps the mean of a row, shape (T,), over its values after some of the steps, with equal weights.

    This is stochastic weight averaging (Izmailov et al. 2018, algorithm 1): ``mean ← (n·mean + row) / (n + 1)``.
    """

    def __init__(self, row: Tensor, steps: Collection[int]) -> None:
        """``steps`` are the numbers of steps after which the row is included."""
        self._row, self._steps = row, frozenset(steps)
        self.begin()

    @override
    def begin(self) -> None:
        self.mean, self.taken = torch.zeros_like(self._row), 0

    @override
    @torch.no_grad()
    def after(self, done: int, lr: float) -> None:
        """Include the row, if this is one of the steps."""
        if done in self._steps:
            self.taken += 1
            self.mean.lerp_(self._row, 1.0 / self.taken)

    @override
    def state(self) -> tuple[Mapping[str, Any], Arrays]:
        return {"taken": self.taken}, {"mean": to_array(self.mean)}

    @override
    def load(self, values: Mapping[str, Any], arrays: Arrays) -> None:
        self.mean, self.taken = to_tensor(arrays["mean"]).to(self._row), values["taken"]


@dataclass(frozen=True)
class Observed:
    """Values of a quantity by step (the positions, increasing), as :class:`mgraph.query.observed.Observation`."""

    quantity: str
    subject: str
    positions: tuple[float, ...]
    values: tuple[float, ...]


class History(Watch):
    """Records how training went, 50 times evenly spread over it, or at every epoch if there are more.

    Each entry holds the mean loss since the previous entry, accuracy on some of those batches (if the task has it), the
    learning rate of the last step, and the distance of the row from where it began. The losses are those that the
    driver reads anyway.
    """

    def __init__(self, row: Tensor | Callable[[], Tensor], start: Tensor, steps: int, per_epoch: int) -> None:
        """``row``, shape (T,), is trained in place, or returns the current point; it is trained from ``start``."""
        self._row, self._start = row, start
        self._every = max(1, min(per_epoch, math.ceil(steps / _ENTRIES)))
        self._stride = max(_STRIDE, self._every // _BATCHES)
        self.begin()

    @override
    def begin(self) -> None:
        self._losses: list[float] = []
        self._entries: list[tuple[int, float, float]] = []  # step, learning rate, distance
        self._metric: list[tuple[int, float]] = []  # step, accuracy of its batch
        self._unread: list[tuple[int, Tensor]] = []
        self._last, self._looked = (0, 0.0), 0

    def watching(self, loss: Loss, task: Task) -> Loss:
        """Return the loss, wrapped to record the accuracy of some batches here, at the first call in a step."""
        function = next(
            (m.function for m in task.metrics if m.name == ACCURACY.name and m.identity == "built in"), None
        )
        if function is None:
            return loss

        def watched(outputs: Any, targets: Any) -> Tensor:
            step = self._last[0] + 1
            plain = isinstance(outputs, Tensor) and isinstance(targets, Tensor) and not targets.is_floating_point()
            if step % self._stride == 1 and step != self._looked and plain:
                self._looked = step
                with torch.no_grad():
                    right = function(*task.without_void(outputs, targets))
                    self._unread.append((step, right.mean()))
            return loss(outputs, targets)

        return watched

    @override
    def after(self, done: int, lr: float) -> None:
        """Make an entry when it is time."""
        self._last = done, lr
        if done % self._every == 0:
            self._enter(done, lr)

    @override
    def seen(self, losses: Sequence[float]) -> None:
        self._losses += losses

    @override
    def state(self) -> tuple[Mapping[str, Any], Arrays]:
        self._read()
        arrays = {"losses": self._losses, "entries": self._entries, "metric": self._metric}
        return {"last": self._last}, {k: np.array(v, np.float64) for k, v in arrays.items()}

    @override
    def load(self, values: Mapping[str, Any], arrays: Arrays) -> None:
        self._last, self._unread = tuple(values["last"]), []
        self._looked = self._last[0]
        self._losses = arrays["losses"].tolist()
        self._entries = [(int(step), lr, d) for step, lr, d in arrays["entries"].reshape(-1, 3).tolist()]
        self._metric = [(int(step), value) for step, value in arrays["metric"].reshape(-1, 2).tolist()]

    def series(self) -> tuple[Observed, ...]:
        """Return what was recorded, up to the last step: train_loss, train_accuracy, learning_rate and distance."""
        done, lr = self._last
        if done and (not self._entries or self._entries[-1][0] < done):
            self._enter(done, lr)
        self._read()
        if len(self._losses) < done:  # resumed from a state of an older version, which recorded nothing
            return ()
        steps = [0, *(step for step, _, _ in self._entries)]
        taken = dict(self._metric)
        windows = list(pairwise(steps))
        losses = [(end, float(np.mean(self._losses[begin:end]))) for begin, end in windows]
        values = [(end, [taken[s] for s in range(begin + 1, end + 1) if s in taken]) for begin, end in windows]
        found = {
            "train_loss": losses,
            "train_accuracy": [(step, float(np.mean(some))) for step, some in values if some],
            "learning_rate": [(step, lr) for step, lr, _ in self._entries],
            "distance": [(step, distance) for step, _, distance in self._entries],
        }
        return tuple(
            Observed(quantity, "", tuple(float(step) for step, _ in pairs), tuple(value for _, value in pairs))
            for quantity, pairs in found.items()
            if pairs
        )

    def _enter(self, done: int, lr: float) -> None:
        row = self._row() if callable(self._row) else self._row
        self._entries.append((done, lr, float(torch.linalg.vector_norm(row - self._start))))
        self._read()

    def _read(self) -> None:
        self._metric += [(step, float(value)) for step, value in self._unread]
        self._unread = []
