"""Lengths and areas of a family from the Gram matrix of its centred control points.

Because every family is linear in P and Σ_k c'_k = 0, all its geometry follows from the K×K matrix
G = (P - 1p₀ᵀ)(P - 1p₀ᵀ)ᵀ, accumulated in float64. (Uncentred and in float32 the squared speed is off by 10 %
when the points lie 1 % apart.) Lengths are in the L2 norm of weight space.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mgraph.families.base import Family, Floats

_CHUNK = 1 << 18  # columns per float64 block: K blocks of 2 MiB stay in cache


def gram(rows: Sequence[NDArray[np.floating]]) -> Floats:
    """Return G, shape (K, K), from K rows of shape (D,), in float64 by chunks."""
    size = rows[0].shape[0]
    total = np.zeros((len(rows), len(rows)))
    for start in range(0, size, _CHUNK):
        block = np.stack([row[start : start + _CHUNK] for row in rows]).astype(np.float64)
        block -= block[0].copy()
        total += block @ block.T
    return total


def distance(G: Floats, left: Floats, right: Floats) -> Floats:
    """Return ‖θ_left - θ_right‖ for coefficients of shape (…, K); the difference is taken before G."""
    return np.asarray(np.sqrt(_quadratic(G, left - right, left - right)))


def density(family: Family, G: Floats, t: Floats) -> Floats:
    """Return the length or area element at each t, shape (S,).

    A curve: ‖θ'(t)‖ ([G] eq. 1). A surface: √(EG - F²) with E = ∂ᵤcᵀG∂ᵤc etc. ([S] eq. 8). Radicands are
    clamped at 0; where the whole measure is 0 (all control points coincide), it is the uniform one.
    """
    derivative = family.derivatives(t)
    first = derivative[:, 0]
    if family.dimension == 1:
        measure = np.sqrt(_quadratic(G, first, first))
    else:
        second = derivative[:, 1]
        determinant = _quadratic(G, first, first) * _quadratic(G, second, second)
        measure = np.sqrt(np.maximum(determinant - np.einsum("sk,kl,sl->s", first, G, second) ** 2, 0.0))
    return np.asarray(measure if np.any(measure > 0) else np.ones_like(measure))


def arc_length(family: Family, G: Floats, nodes: int = 64) -> float:
    """Return the length of a curve by Gauss-Legendre quadrature with that many nodes."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    derivative = family.derivatives((points[:, None] + 1.0) / 2.0)[:, 0]
    return float(weights @ np.sqrt(_quadratic(G, derivative, derivative)) / 2.0)


def area(family: Family, G: Floats, nodes: int = 24) -> float:
    """Return the area of a surface by Gauss-Legendre quadrature with nodes² points."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    axis = (points + 1.0) / 2.0
    u, v = np.meshgrid(axis, axis, indexing="ij")
    derivative = family.derivatives(np.stack([u.ravel(), v.ravel()], axis=1))
    e = _quadratic(G, derivative[:, 0], derivative[:, 0])
    g = _quadratic(G, derivative[:, 1], derivative[:, 1])
    f = np.einsum("sk,kl,sl->s", derivative[:, 0], G, derivative[:, 1])
    element = np.sqrt(np.maximum(e * g - f**2, 0.0))
    return float(np.outer(weights, weights).ravel() @ element / 4.0)


def length_ratio(family: Family, G: Floats) -> float:
    """Return arc length over chord ([G] table 2); NaN where the ends coincide."""
    first, last = np.eye(family.size)[list(family.ends)]
    chord = float(distance(G, first, last))
    return arc_length(family, G) / chord if chord > 0 else float("nan")


def trapezoid_weights(family: Family, G: Floats, t: Floats, counts: Sequence[int]) -> Floats:
    """Return weights w, Σw = 1, so that Σ wᵢ L(tᵢ) is the trapezoid integral under the arc/area measure."""
    axes = [np.r_[0.5, np.ones(n - 2), 0.5] for n in counts]
    weights = axes[0] if len(axes) == 1 else np.outer(axes[0], axes[1]).ravel()
    weights = weights * density(family, G, t)
    return np.asarray(weights / weights.sum())


def _quadratic(G: Floats, left: Floats, right: Floats) -> Floats:
    return np.asarray(np.maximum(np.einsum("...k,kl,...l->...", left, G, right), 0.0))
