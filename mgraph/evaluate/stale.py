"""Stale BatchNorm statistics: compare a point's loss with its own statistics and with recomputed ones.

An average of weights that were never run, or a file whose statistics belong to other weights, can be excellent and look
hopeless: a train loss of 77 with the file's statistics became 0.04 after one pass over the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mgraph.data.task import Task
from mgraph.evaluate.batchnorm import BatchNormPolicy, recompute_statistics
from mgraph.evaluate.metrics import LOSS, Measured, Subset, measure
from mgraph.network.flat import FlatModel

_EXAMPLES = 2000
_SHARE, _ERRORS = 0.5, 4.0  # how much larger a loss must be: relative to the other, and in standard errors


@dataclass(frozen=True)
class Statistics:
    """Train losses of one point on the same examples, with its own BatchNorm statistics and with recomputed ones."""

    own: Measured
    recomputed: Measured

    @property
    def stale(self) -> bool:
        """Whether its own do so much worse that they can hardly be intended."""
        own, other = self.own, self.recomputed
        if not math.isfinite(other.value):
            return False
        if not math.isfinite(own.value):
            return True
        error = math.hypot(own.standard_error or 0.0, other.standard_error or 0.0)
        return own.value - other.value > max(_ERRORS * error, _SHARE * abs(other.value), 1e-3)


def compare_statistics(flat: FlatModel, task: Task, policy: BatchNormPolicy) -> Statistics | None:
    """Measure the current point on at most 2000 training examples with the statistics it holds, then recomputed.

    The network keeps the recomputed ones. For a network without running statistics, return None and change nothing.
    """
    if not flat.statistics:
        return None
    subset = Subset.random(len(task.train), _EXAMPLES)
    own = measure(flat, task, "train", subset)[LOSS]
    recompute_statistics(flat, task.train, policy)
    return Statistics(own, measure(flat, task, "train", subset)[LOSS])
