"""The Bézier curve with any number of bends [G, appendix A.1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from numpy.typing import ArrayLike
from typing_extensions import override

from mgraph.families.bernstein import bernstein, bernstein_derivative
from mgraph.families.grid import Floats
from mgraph.families.path import BentPath


@dataclass(frozen=True)
class BezierCurveFamily(BentPath):
    """θ(t) = Σ_i B_{i,n}(t) P_i of degree n = bends + 1; its ends are the first and last control point."""

    name: ClassVar[str] = "bezier-curve"
    noun: ClassVar[str] = "Bézier curve"

    @property
    @override
    def order(self) -> int:
        """The degree of the curve."""
        return self.bends + 1

    @override
    def coefficients(self, t: ArrayLike) -> Floats:
        """Return the Bernstein basis, shape (S, K)."""
        return bernstein(self.order, self.points(t)[:, 0])

    @override
    def derivatives(self, t: ArrayLike) -> Floats:
        """Return its derivative, shape (S, 1, K)."""
        return bernstein_derivative(self.order, self.points(t)[:, 0])[:, None, :]
