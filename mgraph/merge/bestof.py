"""Is the best of many points better than a corner, or did it only win because many were looked at? (NumPy)

The best of S points on validation data looks better than it is: of 121 equal points one has the luckiest examples. So
the difference to the corner is not held against its own standard error, but against what the best of all S would have
shown by luck: the examples are drawn again with replacement, the same for all points, and each time the largest
difference, less what each point really has, is noted (the reality check of White, Econometrica 68, 2000). Points that
are far worse than the corner have no part in it (Hansen, Journal of Business & Economic Statistics 23, 2005), so
that a wall does not drown a good point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.025  # on either side, as two standard errors are
_DRAWS, _CHUNK = 1000, 100


@dataclass(frozen=True)
class Decision:
    """How a chosen point stands against a corner on validation data, after ``looked_at`` points were looked at.

    ``value`` is the mean paired difference, ``p`` the share of redrawn data sets in which the best point did as well by
    luck; ``p_worse`` likewise for the other side, of the chosen point alone.
    """

    value: float
    p: float
    p_worse: float
    looked_at: int

    @property
    def verdict(self) -> str:
        """Say 'better' or 'worse' where luck does so in 2.5 % of the cases at most, else 'even'."""
        if self.p <= LEVEL:
            return "better"
        return "worse" if self.p_worse <= LEVEL else "even"


def decide(candidates: ArrayLike, chosen: int, baseline: ArrayLike, *, seed: int = 0) -> Decision:
    """Compare the chosen one of S points with a baseline, by scores per example; a higher score is better.

    ``candidates`` has shape (S, N), all points that were looked at; ``baseline`` has shape (N,).
    """
    differences = np.asarray(candidates, np.float32) - np.asarray(baseline, np.float32)
    size, examples = differences.shape
    means = differences.mean(axis=1, dtype=np.float64)
    value = float(means[chosen])
    if examples < 2 or not differences[chosen].any():
        return Decision(value, 1.0, 1.0, size)
    errors = differences.std(axis=1, ddof=1, dtype=np.float64) / np.sqrt(examples)
    far = means < -errors * np.sqrt(2.0 * np.log(max(np.log(examples), 1.0 + 1e-9)))
    far[chosen] = False
    luckiest, own = _redrawn(differences - means[:, None].astype(np.float32), ~far, chosen, seed)
    rounding = 1e-6
    p = (1 + np.count_nonzero(luckiest >= value - rounding)) / (_DRAWS + 1)
    p_worse = (1 + np.count_nonzero(own <= value + rounding)) / (_DRAWS + 1)
    return Decision(value, float(p), float(p_worse), size)


def _redrawn(
    centred: NDArray[np.float32], near: NDArray[np.bool_], chosen: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return, over redrawn examples, the largest mean of the rows that are ``near``, and that of the chosen row."""
    rng = np.random.default_rng(seed)
    examples = centred.shape[1]
    largest, own = [], []
    for _ in range(0, _DRAWS, _CHUNK):
        drawn = rng.poisson(1.0, size=(_CHUNK, examples)).astype(np.float32)  # how often each example is drawn
        means = drawn @ centred.T / examples
        largest.append(means[:, near].max(axis=1))
        own.append(means[:, chosen])
    return np.concatenate(largest).astype(np.float64), np.concatenate(own).astype(np.float64)
