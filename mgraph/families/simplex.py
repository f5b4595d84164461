"""The simplex of n modes, in barycentric coordinates [S §4.1]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, factorial
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike
from typing_extensions import override

from mgraph.errors import InputError
from mgraph.families.base import Family
from mgraph.families.grid import Floats, Grid, SimplexGrid, check_points, simplex_steps

_ROUNDING = 1e-9  # tolerance on the sum of coordinates that were typed or computed by division


@dataclass(frozen=True)
class SimplexFamily(Family):
    """θ(α) = Σ α_i P_i with α ≥ 0, Σ α = 1: all rows are ends, and nothing is trained."""

    name: ClassVar[str] = "simplex"
    corners: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.corners, int) or self.corners < 2:
            raise InputError(f"The corners of a simplex are a whole number of at least 2, not {self.corners!r}.")

    @property
    @override
    def dimension(self) -> int:
        return self.corners - 1

    @property
    @override
    def coordinates(self) -> int:
        """One barycentric coordinate per corner."""
        return self.corners

    @property
    @override
    def size(self) -> int:
        return self.corners

    @property
    @override
    def ends(self) -> tuple[int, ...]:
        return tuple(range(self.corners))

    @override
    def coefficients(self, t: ArrayLike) -> Floats:
        """Return α itself, shape (S, K)."""
        return self.points(t)

    @override
    def derivatives(self, t: ArrayLike) -> Floats:
        """Return ∂c/∂α_i at the expense of the last corner, i < n - 1: constant, shape (S, n-1, K)."""
        moves = np.concatenate([np.eye(self.dimension), -np.ones((self.dimension, 1))], axis=1)
        return np.broadcast_to(moves, (len(self.points(t)), *moves.shape))

    @override
    def initial(self) -> Floats:
        """The rows are the ends."""
        return np.eye(self.corners)

    @override
    def quadrature(self, nodes: int, knots: Floats | None = None) -> tuple[Floats, Floats]:
        """Return the default grid, whatever the nodes: exact for linear functions, the only ones that occur here.

        The weights sum to 1/(n-1)!, the volume over which the first n - 1 coordinates range.
        """
        grid = self.grid(self.default_grid)
        return grid.points, grid.weights / factorial(self.dimension)

    @override
    def end_parameters(self) -> Floats:
        return np.eye(self.corners)

    @override
    def points(self, t: ArrayLike) -> Floats:
        """Check barycentric coordinates: shape (S, n), none negative, each row summing to 1."""
        points = self._numbers(t)
        if not np.all(points >= 0) or not np.all(np.abs(points.sum(axis=1) - 1.0) <= _ROUNDING):
            raise InputError(f"Barycentric coordinates are 0 or more and sum to 1; got {points.tolist()}.")
        return points

    @property
    @override
    def parameter_format(self) -> str:
        """How messages describe a parameter."""
        return f"{self.corners} barycentric coordinates"

    @override
    def grid(self, counts: int | Sequence[int]) -> Grid:
        """Return the barycentric grid with that many points along an edge."""
        counts = tuple(counts) if isinstance(counts, Sequence) else (counts,)
        if len(counts) != 1 or not isinstance(counts[0], int | np.integer) or counts[0] < 2:
            raise InputError(f"A grid for a simplex is one whole number of at least 2; got {counts}.")
        check_points(comb(int(counts[0]) + self.corners - 2, self.corners - 1))
        return SimplexGrid(self.corners, int(counts[0]) - 1)

    @property
    @override
    def default_grid(self) -> tuple[int, ...]:
        """11 points along an edge for three modes (66 in all), fewer for more."""
        return (simplex_steps(self.corners) + 1,)
