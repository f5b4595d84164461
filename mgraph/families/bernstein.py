"""Bernstein basis polynomials and their derivatives, by de Casteljau's stable recurrence."""

from __future__ import annotations

import numpy as np

from mgraph.families.grid import Floats


def bernstein(degree: int, t: Floats) -> Floats:
    """Return B_{i,n}(t), i = 0 … n, shape (S, n+1), for t of shape (S,) ([S] eq. 6, [G] A.1).

    Only sums of non-negative products: exact at t = 0 and t = 1, and accurate in between.
    """
    basis = np.ones((t.shape[0], 1))
    for _ in range(degree):
        grown = np.zeros((t.shape[0], basis.shape[1] + 1))
        grown[:, :-1] += (1.0 - t)[:, None] * basis
        grown[:, 1:] += t[:, None] * basis
        basis = grown
    return basis


def bernstein_derivative(degree: int, t: Floats) -> Floats:
    """Return B'_{i,n}(t) = n (B_{i-1,n-1}(t) - B_{i,n-1}(t)), shape (S, n+1)."""
    if degree == 0:
        return np.zeros((t.shape[0], 1))
    lower = bernstein(degree - 1, t)
    derivative = np.zeros((t.shape[0], degree + 1))
    derivative[:, 1:] += degree * lower
    derivative[:, :-1] -= degree * lower
    return derivative
