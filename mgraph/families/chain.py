"""The polygonal chain with any number of bends [G, appendix A.1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from mgraph.errors import InputError
from mgraph.families.base import Family
from mgraph.families.grid import Floats


@dataclass(frozen=True)
class PolygonalChainFamily(Family):
    """Straight pieces through bends + 2 control points, at knots evenly spaced in t; hat functions."""

    name: ClassVar[str] = "polygonal-chain"
    bends: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.bends, int) or self.bends < 0:
            raise InputError(f"The bends of a polygonal chain are a whole number of at least 0, not {self.bends!r}.")

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
    def knots(self) -> Floats:
        """The t of the control points."""
        return np.linspace(0.0, 1.0, self.size)

    def coefficients(self, t: ArrayLike) -> Floats:
        """Return the hat functions, shape (S, K): at most two of a row are not 0."""
        piece, along = self._place(self.points(t)[:, 0])
        c = np.zeros((len(piece), self.size))
        c[np.arange(len(piece)), piece] = 1.0 - along
        c[np.arange(len(piece)), piece + 1] = along
        return c

    def derivatives(self, t: ArrayLike) -> Floats:
        """Return the slopes of the hats, shape (S, 1, K); right derivatives at knots, left at t = 1."""
        piece, _ = self._place(self.points(t)[:, 0])
        slopes = np.zeros((len(piece), 1, self.size))
        slopes[np.arange(len(piece)), 0, piece] = -(self.size - 1.0)
        slopes[np.arange(len(piece)), 0, piece + 1] = self.size - 1.0
        return slopes

    def initial(self) -> Floats:
        """Spread the bends evenly over the segment [G]."""
        along = self.knots[:, None]
        return np.concatenate([1.0 - along, along], axis=1)

    def _place(self, t: Floats) -> tuple[np.ndarray, Floats]:
        """Return the piece each t lies on and how far along it, 0 to 1: exactly 0 at its knot."""
        knots = self.knots
        piece = np.minimum(np.searchsorted(knots, t, side="right") - 1, self.size - 2)
        left, right = knots[piece], knots[piece + 1]
        return piece, (t - left) / (right - left)
