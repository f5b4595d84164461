"""What a run of AutoNEB notes: every cycle, where it stands, and what it came to (no torch)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class CycleRecord:
    """What a cycle came to; cycle 0 is the start."""

    cycle: int
    saddle: float
    at: float  # share of the length
    length: float
    pivots: int
    lr: float
    train_loss: float | None  # mean over its steps and pivots, of mini-batches
    seconds: float  # since the start


@dataclass
class CycleLog:
    """What a run has come to so far, as plain data."""

    cycle: int = 0  # cycles that are done, or were skipped
    summed: float = 0.0  # of the mean losses of this cycle's steps
    best: int = 0  # place in the history of the lowest saddle
    ended: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Relaxed:
    """The best chain that was found, points of shape (N, D), canonical; how it came about, and why it ended.

    ``stopped`` says which budget was spent before it ended by itself.
    """

    points: Array
    history: tuple[CycleRecord, ...]
    best: CycleRecord
    ended: str
    notes: tuple[str, ...]
    stopped: str | None = None
