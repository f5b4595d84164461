"""The polygonal chain with any number of bends [G, appendix A.1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike
from typing_extensions import override

from mgraph.errors import InputError
from mgraph.families.grid import Floats, Grid, TensorGrid
from mgraph.families.path import BentPath

_MOST_INNER = 9  # points of a sweep on a piece: with fewer, a bump between pivots would go unseen
_MOST_POINTS = 400  # points of a whole sweep, though every piece gets at least one


@dataclass(frozen=True)
class PolygonalChainFamily(BentPath):
    """Straight pieces through bends + 2 control points; the coefficients are hat functions.

    The knots are evenly spaced in t, or the bends are ``at`` given values between 0 and 1: a path without a natural
    parameter (a band of pivots) is parametrised by its length.
    """

    name: ClassVar[str] = "polygonal-chain"
    noun: ClassVar[str] = "polygonal chain"
    at: tuple[float, ...] | None = None

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.at is not None and (
            len(self.at) != self.bends or not np.all(np.diff([0.0, *self.at, 1.0]) > 0)  # NaN is not above 0
        ):
            raise InputError(f"A chain with {self.bends} bends has them at as many rising values between 0 and 1.")

    @classmethod
    def by_length(cls, lengths: ArrayLike) -> PolygonalChainFamily:
        """Make the chain whose knots are its cumulative length over the total, from the lengths of its pieces.

        Raises InputError if there are no pieces, or if a length is not above 0 before or after division by the total.
        """
        pieces = np.asarray(lengths, dtype=np.float64)
        if pieces.ndim != 1 or len(pieces) == 0 or not np.all(np.isfinite(pieces)) or not np.all(pieces > 0):
            raise InputError("The pieces of a chain must have lengths above 0; leave out points that coincide.")
        reached = np.cumsum(pieces)
        return cls(len(pieces) - 1, tuple((reached[:-1] / reached[-1]).tolist()))

    @property
    @override
    def knots(self) -> Floats:
        """The t of each control point."""
        return super().places if self.at is None else np.array([0.0, *self.at, 1.0])

    @property
    @override
    def places(self) -> Floats:
        """The control points start at the knots."""
        return self.knots

    @override
    def coefficients(self, t: ArrayLike) -> Floats:
        """Return the hat functions, shape (S, K): at most two per row are not 0."""
        piece, along = self._place(self.points(t)[:, 0])
        c = np.zeros((len(piece), self.size))
        c[np.arange(len(piece)), piece] = 1.0 - along
        c[np.arange(len(piece)), piece + 1] = along
        return c

    @override
    def derivatives(self, t: ArrayLike) -> Floats:
        """Return the slopes of the hats, shape (S, 1, K): right derivatives at knots, left at t = 1."""
        piece, _ = self._place(self.points(t)[:, 0])
        steep = np.full(self.size - 1, self.size - 1.0) if self.at is None else 1.0 / np.diff(self.knots)
        slopes = np.zeros((len(piece), 1, self.size))
        slopes[np.arange(len(piece)), 0, piece] = -steep[piece]
        slopes[np.arange(len(piece)), 0, piece + 1] = steep[piece]
        return slopes

    @property
    @override
    def sweep_grid(self) -> Grid:
        """61 points [G]; if the bends are at given values, those and up to nine points on every piece."""
        if self.at is None:
            return super().sweep_grid
        inner = max(1, min(_MOST_INNER, _MOST_POINTS // (self.size - 1) - 1))
        return self.pieces_grid(inner)

    def pieces_grid(self, inner: int) -> Grid:
        """Return the grid of the control points and ``inner`` evenly spaced points on every piece between them.

        Raises InputError for a negative number.
        """
        if not isinstance(inner, int) or inner < 0:
            raise InputError(f"On each piece of a chain lie a whole number of points of at least 0, not {inner!r}.")
        knots = self.knots
        along = np.arange(inner + 1) / (inner + 1)
        axis = (knots[:-1, None] + np.diff(knots)[:, None] * along).ravel()
        return TensorGrid((np.append(axis, 1.0),))

    def _place(self, t: Floats) -> tuple[np.ndarray, Floats]:
        """Return the piece on which each t lies and how far along it, 0 to 1: exactly 0 at its knot."""
        knots = self.knots
        piece = np.minimum(np.searchsorted(knots, t, side="right") - 1, self.size - 2)
        left, right = knots[piece], knots[piece + 1]
        return piece, (t - left) / (right - left)
