"""Is the best of many points better than a corner, or did it only win because so many were tried? (NumPy)

The best of S points on validation data looks better than it is: among 121 equal points, one has the luckiest examples.
There are two ways to allow for that, and benchmarks/merge_rule.py compares them.

:func:`halves`: the point is chosen on one half of the examples, and its paired difference is compared with 1.96
standard errors on the other half. This is valid whatever was tried, in whatever order, including a search that derives
its next point from earlier results. `merge` decides in this way.

:func:`decide` with all points that were tried: what the best of S would show by luck is found by redrawing the examples
with replacement, the same for all points (the reality check of White, Econometrica 68, 2000): each time, the largest
difference, less each point's true one, in standard errors, is recorded (the studentised maximum of Hansen, Journal of
Business & Economic Statistics 23, 2005), and 97.5 % of these must lie below the difference found, which must be at
least 1.96. Points far worse than the corner are left out, so that a wall does not drown out a good point. No choice has
to be repeated, so this judges points that were chosen in another way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.025  # on each side, like 1.96 standard errors
LEAST = 1.96
_DRAWS, _CHUNK = 1000, 100


@dataclass(frozen=True)
class Decision:
    """How a chosen point compares with a corner on validation data, after ``looked_at`` points were tried.

    ``value`` is the mean paired difference and ``standard_error`` its error; ``threshold`` is how many of these are
    required. ``p`` is the fraction of redrawn data sets in which the best point did as well by luck; ``p_worse`` is the
    same for the other side, for the chosen point alone.
    """

    value: float
    p: float
    p_worse: float
    looked_at: int
    standard_error: float = 0.0
    threshold: float = LEAST

    @property
    def errors(self) -> float:
        """The difference in standard errors; 0 if there is no difference at all."""
        return self.value / self.standard_error if self.standard_error > 0 else 0.0

    @property
    def verdict(self) -> str:
        """Return 'better' or 'worse' if luck achieves that in at most 2.5 % of cases, else 'even'."""
        if self.standard_error > 0 and self.errors >= self.threshold:
            return "better"
        return "worse" if self.p_worse <= LEVEL and self.errors <= -LEAST else "even"


def decide(candidates: ArrayLike, chosen: int, baseline: ArrayLike, *, seed: int = 0) -> Decision:
    """Compare the chosen one of S points with a baseline, by scores per example; a higher score is better.

    ``candidates`` has shape (S, N), all points that were tried; ``baseline`` has shape (N,).
    """
    differences = np.asarray(candidates, np.float32) - np.asarray(baseline, np.float32)
    size, examples = differences.shape
    means = differences.mean(axis=1, dtype=np.float64)
    value = float(means[chosen])
    if examples < 2 or not differences[chosen].any():
        return Decision(value, 1.0, 1.0, size)
    errors = differences.std(axis=1, ddof=1, dtype=np.float64) / np.sqrt(examples)
    if errors[chosen] == 0.0:  # every example gives the same difference, unlike real data
        return Decision(value, 1.0, 1.0, size)
    far = means < -errors * np.sqrt(2.0 * np.log(max(np.log(examples), 1.0 + 1e-9)))
    counts = ~far & (errors > 0)
    counts[chosen] = True
    luckiest, own = _redrawn(differences - means[:, None].astype(np.float32), errors, counts, chosen, seed)
    found, rounding = value / errors[chosen], 1e-6
    p = (1 + np.count_nonzero(luckiest >= found - rounding)) / (_DRAWS + 1)
    p_worse = (1 + np.count_nonzero(own <= found + rounding)) / (_DRAWS + 1)
    threshold = max(LEAST, float(np.quantile(luckiest, 1.0 - LEVEL)))
    return Decision(value, float(p), float(p_worse), size, float(errors[chosen]), threshold)


def halves(examples: int, *, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide N examples at random but reproducibly: search on the first half, decide on the second."""
    order = np.random.default_rng(seed).permutation(examples)
    return np.sort(order[: examples // 2]), np.sort(order[examples // 2 :])


def _redrawn(
    centred: NDArray[np.float32], errors: NDArray[np.float64], counts: NDArray[np.bool_], chosen: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return, over redrawn examples, the largest mean in standard errors of counting rows, and the chosen row's."""
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(counts)
    examples = centred.shape[1]
    taken = np.ascontiguousarray(centred[rows].T)
    own_place = int(np.flatnonzero(rows == chosen)[0])
    largest, own = [], []
    for _ in range(0, _DRAWS, _CHUNK):
        drawn = rng.poisson(1.0, size=(_CHUNK, examples)).astype(np.float32)  # how often each example is drawn
        means = drawn @ taken / examples / errors[rows]
        largest.append(means.max(axis=1))
        own.append(means[:, own_place])
    return np.concatenate(largest).astype(np.float64), np.concatenate(own).astype(np.float64)
