"""The Bézier surface of four modes, trained from its outer curves inwards [S §4.2, Alg. 1 and 2]."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mgraph.connect.base import TrainedMethod, wrong_ends
from mgraph.errors import InputError
from mgraph.families import BezierSurfaceFamily, Family, Floats
from mgraph.families.bernstein import bernstein
from mgraph.settings import setting

if TYPE_CHECKING:
    from mgraph.train.engine import Phase


@dataclass(frozen=True, kw_only=True)
class BezierSurface(TrainedMethod):
    """A Bézier surface with four modes at its corners; everything but the corners is trained.

    Corner order a b c d: a = θ(0,0), b = θ(0,1), c = θ(1,0), d = θ(1,1).
    """

    name: ClassVar[str] = "surface"
    summary: ClassVar[str] = "Bézier surface with 4 modes at its corners, trained in three phases"
    references: ClassVar[tuple[str, ...]] = (
        "Ren, Chen, Wang (2025). Revisiting Mode Connectivity in Neural Networks with Bezier Surface. ICLR 2025",
    )
    degree: tuple[int, int] = setting((2, 2), "degree n,m: (n+1)×(m+1) control points", low=1)
    epochs: tuple[int, int, int] = setting(
        (10, 10, 40),
        "passes per phase: edge curves, cross curves, whole surface; any may be 0",
        unit="epochs",
        low=0,
    )

    def family(self, ends: int) -> Family:
        """Return the surface; four ends."""
        if ends != 4:
            raise InputError(wrong_ends("--surface", ends, "exactly 4 modes"))
        return BezierSurfaceFamily(self.degree)

    def phases(self, family: Family) -> tuple[Phase, ...]:
        """Return the three phases, outer to inner.

        1. the edge curves u = 0 and u = 1 train P_0j and P_nj, 0 < j < m; 2. for every j the curve over u
        through P_0j … P_nj trains the inner rows 0 < i < n (rows trained in phase 1 stay); 3. the whole
        surface trains everything but the corners.
        """
        from mgraph.train.engine import Curve, Phase

        assert isinstance(family, BezierSurfaceFamily)
        n, m = family.degree
        outer = tuple(family.row(i, j) for i in (0, n) for j in range(1, m))
        inner = tuple(family.row(i, j) for i in range(1, n) for j in range(m + 1))
        edges = tuple(Curve(1, partial(_edge, family, u)) for u in (0.0, 1.0))
        columns = tuple(Curve(1, partial(_column, family, j)) for j in range(m + 1))
        whole = Curve(2, family.coefficients)
        first, second, third = self.epochs
        return (
            Phase("edge curves", first, edges, outer),
            Phase("cross curves", second, columns, inner),
            Phase("surface", third, (whole,), family.free),
        )


def _edge(family: BezierSurfaceFamily, u: float, v: Floats) -> Floats:
    """Coefficients of the surface's own curve at fixed u, for v of shape (S, 1)."""
    return family.coefficients(np.concatenate([np.full_like(v, u), v], axis=1))


def _column(family: BezierSurfaceFamily, j: int, u: Floats) -> Floats:
    """Coefficients of the Bézier curve over u through P_0j … P_nj; for 0 < j < m it is not on the surface."""
    n, _ = family.degree
    coefficients = np.zeros((len(u), family.size))
    coefficients[:, [family.row(i, j) for i in range(n + 1)]] = bernstein(n, u[:, 0])
    return coefficients
