"""Phases of training: which curves are sampled, which rows move, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mgraph.families import Family, Floats
from mgraph.families.gram import density

_NODES = 16  # quadrature nodes per axis and piece, for the mean density


@dataclass(frozen=True)
class Curve:
    """What a phase samples: a family whose control points are the given ``rows`` of the K control points.

    The gradients of its rows are multiplied by ``weight``.
    """

    family: Family
    rows: tuple[int, ...]
    size: int
    weight: float = 1.0

    @classmethod
    def whole(cls, family: Family, weight: float = 1.0) -> Curve:
        """Sample the family itself."""
        return cls(family, tuple(range(family.size)), family.size, weight)

    def coefficients(self, t: Floats) -> Floats:
        """Return coefficients on all K rows, shape (S, K), at t of shape (S, d)."""
        c = np.zeros((len(t), self.size))
        c[:, self.rows] = self.family.coefficients(t)
        return c

    def relative_density(self, G: Floats, t: Floats) -> Floats:
        """Return the length or area element divided by its mean, shape (S,), from the Gram matrix of all K rows."""
        mine = G[np.ix_(self.rows, self.rows)]
        points, weights = self.family.quadrature(_NODES)
        # One call for both: a measure that is 0 everywhere counts as uniform.
        q = density(self.family, mine, np.concatenate([t, points]))
        return np.asarray(q[: len(t)] / (weights @ q[len(t) :]))

    def slopes(self, G: Floats, t: Floats) -> Floats:
        """Return c'(t) / √(q q̄) on all K rows, shape (S, K), where q is the length element of a path and q̄ its mean.

        The outer product of a row with itself, times P, is ∂q/∂P / q̄ = c' θ'ᵀ / (q q̄). Where q is 0, the row is 0.
        """
        mine = G[np.ix_(self.rows, self.rows)]
        points, weights = self.family.quadrature(_NODES)
        slopes = self.family.derivatives(t)[:, 0]
        squares = np.einsum("si,ij,sj->s", slopes, mine, slopes)
        product = np.sqrt(np.maximum(squares, 0.0)) * (weights @ density(self.family, mine, points))
        c = np.zeros((len(t), self.size))
        c[:, self.rows] = np.divide(
            slopes, np.sqrt(product)[:, None], where=product[:, None] > 0, out=np.zeros_like(slopes)
        )
        return c


@dataclass(frozen=True)
class Phase:
    """A stretch of training: which curves are sampled and which rows move.

    Every batch draws the same number of values on each curve; losses are summed over curves and averaged over the
    values. ``lr`` is the phase's own learning rate; None means the run's. Only the first ``steps`` of its epochs are
    done (None: all), with the schedule of the whole phase.
    """

    name: str
    epochs: int
    curves: tuple[Curve, ...]
    free: tuple[int, ...]
    lr: float | None = None
    steps: int | None = None
