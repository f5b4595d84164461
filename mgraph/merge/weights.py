"""Which members of an ensemble count, and how much: learned on validation data from the likelihood of labels (NumPy).

A mixture's likelihood of an example is the weighted mean of its members'. So all that is needed from M members is one
number per label, p of shape (M, N), however many classes there are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mgraph.errors import InputError

Floats = NDArray[np.float64]
_TINY = 1e-300


def mixture_nll(likelihoods: ArrayLike, weights: ArrayLike) -> float:
    """Return the mean negative log-likelihood of a mixture; shapes (M, N) and (M,)."""
    mixed = np.asarray(weights, np.float64) @ np.asarray(likelihoods, np.float64)
    return float(-np.log(np.maximum(mixed, _TINY)).mean())


def convex_weights(likelihoods: ArrayLike, *, steps: int = 2000, tolerance: float = 1e-4) -> Floats:
    """Return the weights ≥ 0, Σ = 1, of the mixture with the highest likelihood, shape (M,).

    Uses expectation maximisation (Dempster, Laird, Rubin 1977), which never leaves the simplex and never gets worse. It
    starts from equal weights and ends when the loss is within ``tolerance`` of the least possible, which the convexity
    of the problem tells: the largest factor by which a weight would grow is 1 at the optimum, and above that it bounds
    what is left to gain. It also ends after so many ``steps``.
    """
    p = np.maximum(np.asarray(likelihoods, np.float64), _TINY)
    weights = np.full(len(p), 1.0 / len(p))
    for _ in range(steps):
        growth = (p / (weights @ p)).mean(axis=1)
        if growth.max() - 1 < tolerance:
            break
        weights = weights * growth
    return np.asarray(weights / weights.sum())


def greedy_members(likelihoods: ArrayLike, most: int) -> list[int]:
    """Choose at most ``most`` members one after another, each the one that helps most, as long as any helps.

    Forward selection by the likelihood of the equal mixture (Caruana, Niculescu-Mizil, Crew, Ksikes, Ensemble selection
    from libraries of models, ICML 2004), each member once. Raises InputError for a budget below 1.
    """
    if most < 1:
        raise InputError(f"A greedy ensemble may have at least 1 member, not {most}.")
    p = np.asarray(likelihoods, np.float64)
    chosen: list[int] = []
    total, best = np.zeros(p.shape[1]), np.inf
    while len(chosen) < min(most, len(p)):
        left = [i for i in range(len(p)) if i not in chosen]
        values = [float(-np.log(np.maximum((total + p[i]) / (len(chosen) + 1), _TINY)).mean()) for i in left]
        first = int(np.argmin(values))
        if not values[first] < best:
            break
        best = values[first]
        chosen.append(left[first])
        total = total + p[left[first]]
    return chosen
