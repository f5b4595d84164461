"""The Bézier curve with any number of bends [G, appendix A.1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from mgraph.errors import InputError
from mgraph.families.base import Family
from mgraph.families.bernstein import bernstein, bernstein_derivative
from mgraph.families.grid import Floats


@dataclass(frozen=True)
class BezierCurveFamily(Family):
    """θ(t) = Σ_i B_{i,n}(t) P_i of degree n = bends + 1; its ends are the first and last control point."""

    name: ClassVar[str] = "bezier-curve"
    bends: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.bends, int) or self.bends < 0:
            raise InputError(f"The bends of a Bézier curve are a whole number of at least 0, not {self.bends!r}.")

    @property
    def dimension(self) -> int:
        """A path."""
        return 1

    @property
    def size(self) -> int:
        """Bends plus two ends."""
        return self.bends + 2

    @property
    def ends(self) -> tuple[int, ...]:
        """First and last row."""
        return (0, self.size - 1)

    @property
    def order(self) -> int:
        """The degree of the curve."""
        return self.bends + 1

    def coefficients(self, t: ArrayLike) -> Floats:
        """Return the Bernstein basis, shape (S, K)."""
        return bernstein(self.order, self.points(t)[:, 0])

    def derivatives(self, t: ArrayLike) -> Floats:
        """Return its derivative, shape (S, 1, K)."""
        return bernstein_derivative(self.order, self.points(t)[:, 0])[:, None, :]

    def initial(self) -> Floats:
        """Spread the bends evenly over the segment [G]."""
        along = np.linspace(0.0, 1.0, self.size)[:, None]
        return np.concatenate([1.0 - along, along], axis=1)
