"""The Bézier surface of degree (n, m) [S eq. 6]; degree (1, 1) is the bilinear surface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike
from typing_extensions import override

from mgraph.errors import InputError
from mgraph.families.base import Family
from mgraph.families.bernstein import bernstein, bernstein_derivative
from mgraph.families.grid import Floats


@dataclass(frozen=True)
class BezierSurfaceFamily(Family):
    """θ(u,v) = Σ_ij B_{i,n}(u) B_{j,m}(v) P_ij, rows k = i·(m+1) + j.

    Corner order a, b, c, d: a = θ(0,0), b = θ(0,1), c = θ(1,0), d = θ(1,1); a-d and b-c are the diagonals.
    """

    name: ClassVar[str] = "bezier-surface"
    degree: tuple[int, int] = (2, 2)

    def __post_init__(self) -> None:
        degree = self.degree
        whole = isinstance(degree, tuple) and all(isinstance(n, int) and n >= 1 for n in degree)
        if not whole or len(degree) != 2:
            raise InputError(f"A surface's degree is two whole numbers of at least 1, not {degree!r}.")

    @property
    @override
    def dimension(self) -> int:
        return 2

    @property
    @override
    def size(self) -> int:
        n, m = self.degree
        return (n + 1) * (m + 1)

    @property
    @override
    def ends(self) -> tuple[int, ...]:
        """Rows of the corners P_00, P_0m, P_n0, P_nm."""
        n, m = self.degree
        return (self.row(0, 0), self.row(0, m), self.row(n, 0), self.row(n, m))

    @property
    @override
    def order(self) -> int:
        """n + m, reached along a diagonal."""
        return sum(self.degree)

    def row(self, i: int, j: int) -> int:
        """Row of control point P_ij."""
        return i * (self.degree[1] + 1) + j

    @override
    def coefficients(self, t: ArrayLike) -> Floats:
        """Return the tensor-product Bernstein basis, shape (S, K)."""
        u, v = self.points(t).T
        n, m = self.degree
        return _outer(bernstein(n, u), bernstein(m, v))

    @override
    def factors(self, axes: Sequence[Floats]) -> tuple[Floats, ...]:
        """Return the Bernstein bases of u and of v, for each control point its own."""
        u, v = axes
        n, m = self.degree
        return np.repeat(bernstein(n, u), m + 1, axis=1), np.tile(bernstein(m, v), n + 1)

    @override
    def derivatives(self, t: ArrayLike) -> Floats:
        """Return (∂c/∂u, ∂c/∂v), shape (S, 2, K)."""
        u, v = self.points(t).T
        n, m = self.degree
        along_u = _outer(bernstein_derivative(n, u), bernstein(m, v))
        along_v = _outer(bernstein(n, u), bernstein_derivative(m, v))
        return np.stack([along_u, along_v], axis=1)

    @override
    def initial(self) -> Floats:
        """Bilinear interpolation of the corners at (i/n, j/m) [S, Alg. 2]."""
        n, m = self.degree
        u = np.repeat(np.arange(n + 1) / n, m + 1)
        v = np.tile(np.arange(m + 1) / m, n + 1)
        return np.stack([(1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v], axis=1)


def _outer(left: Floats, right: Floats) -> Floats:
    return (left[:, :, None] * right[:, None, :]).reshape(left.shape[0], -1)
