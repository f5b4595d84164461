"""What a run of AutoNEB records: every cycle, its position, and its result (no torch)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class CycleRecord:
    """The result of a cycle; cycle 0 is the start."""

    cycle: int
    saddle: float
    at: float  # as a fraction of the length
    length: float
    pivots: int
    lr: float
    train_loss: float | None  # mini-batch loss, averaged over the cycle's steps and pivots
    seconds: float  # since the start


@dataclass
class CycleLog:
    """The results of a run so far, as plain data."""

    cycle: int = 0  # cycles done or skipped
    summed: float = 0.0  # sum of the mean losses of this cycle's steps
    best: int = 0  # index of the lowest saddle in the history
    ended: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Relaxed:
    """The best chain found, canonical points of shape (N, D), with how it came about and why the run ended.

    ``stopped`` names the budget that ran out before the run ended by itself.
    """

    points: Array
    history: tuple[CycleRecord, ...]
    best: CycleRecord
    ended: str
    notes: tuple[str, ...]
    stopped: str | None = None
