"""Gauss-Legendre quadrature on the unit interval, piece by piece."""

from __future__ import annotations

import numpy as np

from mgraph.families.grid import Floats


def gauss_legendre(knots: Floats, nodes: int) -> tuple[Floats, Floats]:
    """Return points and weights, both shape (S,), with that many nodes between neighbouring knots.

    Exact for polynomials of degree 2·nodes - 1 on every piece; the weights sum to ``knots[-1] - knots[0]``.
    """
    points, weights = np.polynomial.legendre.leggauss(nodes)
    steps = np.diff(knots)[:, None]
    along = knots[:-1, None] + steps * (points + 1.0) / 2.0
    return along.ravel(), (steps * weights / 2.0).ravel()
