"""Soups: averages of swept points, as coefficients over the same control points (NumPy)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mgraph.families import Floats


def uniform_soup(coefficients: Floats) -> Floats:
    """Average all S points; shape (S, K) → (K,)."""
    return np.asarray(coefficients.mean(axis=0))


def greedy_soup(coefficients: Floats, ranking: Floats, score: Callable[[Floats], float]) -> Floats:
    """Add points from best to worst, keeping each whose average does not lower the validation score.

    ``ranking`` orders the S points (highest first), ``score`` measures an average of shape (K,).
    """
    order = np.argsort(-ranking, kind="stable")
    chosen = [order[0]]
    best = score(coefficients[order[0]])
    for candidate in order[1:]:
        value = score(coefficients[[*chosen, candidate]].mean(axis=0))
        if value >= best:
            chosen.append(candidate)
            best = value
    return np.asarray(coefficients[chosen].mean(axis=0))
