"""Soups: averages of models, as weights over them (NumPy).

Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time (ICML 2022): uniform, greedy (recipe 1), and learned.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mgraph.families import Floats

SOUPS = ("uniform", "greedy", "learned")

_FIRST_STEP = 1.0  # largest first step in the logarithm of the weights


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


def learned_soup(
    size: int, loss: Callable[[Floats], float], gradient: Callable[[], Floats], *, steps: int = 30
) -> Floats:
    """Return convex weights, shape (M,), that lower a loss, by exponentiated gradient steps from equal weights.

    ``loss`` measures an average, ``gradient`` returns the gradient for the weights measured last, shape (M,). A step
    that does not lower the loss is halved and tried again, so the result is never worse than the equal average;
    ``steps`` is how often the loss is measured (Kivinen, Warmuth, Information and Computation 132, 1997). Single
    members are tried at the end, so the result is not worse than the best of these either.
    """
    weights = np.full(size, 1.0 / size)
    best = loss(weights)
    slope = gradient()
    step = _FIRST_STEP
    for _ in range(steps - 1):
        steepest = np.abs(slope - slope @ weights).max()
        if not np.isfinite(steepest) or steepest < 1e-12 or step < 1e-4:
            break
        powers = -step * (slope - slope @ weights) / steepest
        tried = weights * np.exp(powers - powers.max())
        tried /= tried.sum()
        value = loss(tried)
        if value < best:
            weights, best, slope, step = tried, value, gradient(), step * 1.5
        else:
            step /= 2.0
    for single in np.eye(size):
        value = loss(single)
        if value < best:
            weights, best = single, value
    return weights
