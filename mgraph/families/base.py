"""The interface of a family: a map from a parameter domain to points, linear in its control points.

``θ(t) = c(t)ᵀ P`` with control points stacked as P, shape (K, D), coefficients c(t) that sum to one, and t in the unit
interval, the unit square, or the barycentric coordinates of a simplex. A family provides coefficients, their
derivatives, the rows at which its ends sit, and where its free rows start. Sampling, gradients of control points,
lengths and areas are implemented once, elsewhere, without knowing which family they are given.

They rely on four properties, which the tests check for every registered family:

- coefficients sum to one everywhere, derivatives to zero (coefficients may be negative, like those of a spline);
- the ends are exact: at an end's parameter, its coefficient is exactly 1 and all others exactly 0, so that a mode on a
  path is that mode, bit for bit;
- the start is straight: with the rows at :meth:`Family.initial`, a path is the segment between its ends, a surface the
  bilinear one between its corners, up to rounding;
- ``order`` is the polynomial degree between knots, from which quadratures derive their number of nodes.

Shapes: S samples, K control points, E ends, d the dimension of the domain. Everything is float64 NumPy: K is small, and
no torch is needed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from mgraph.errors import InputError
from mgraph.families.grid import Floats, Grid, TensorGrid, check_points
from mgraph.families.quadrature import gauss_legendre


@dataclass(frozen=True)
class Family(ABC):
    """A map from its domain to points, linear in K control points; the domain is ``[0, 1]^d`` by default."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def dimension(self) -> int:
        """d, the dimension of the domain: 1 for a path, 2 for a surface, n - 1 for a simplex of n modes."""

    @property
    def coordinates(self) -> int:
        """The number of coordinates of a parameter: d, except on a simplex."""
        return self.dimension

    @property
    @abstractmethod
    def size(self) -> int:
        """K, the number of control points."""

    @property
    @abstractmethod
    def ends(self) -> tuple[int, ...]:
        """The row of each end, in the order in which ends are given."""

    @abstractmethod
    def coefficients(self, t: ArrayLike) -> Floats:
        """Return c(t), shape (S, K), for t of shape (S, coordinates); rows sum to one."""

    def factors(self, axes: Sequence[Floats]) -> tuple[Floats, ...] | None:
        """Return c on a grid as products of functions of one parameter each: their values on each axis, shape (N, K).

        None, by default, if c is not such a product. Where one is used instead of c, it is compared with it first.
        """
        return None

    @abstractmethod
    def derivatives(self, t: ArrayLike) -> Floats:
        """Return ∂c/∂t, shape (S, d, K), from the right where it jumps (from the left at 1); rows sum to zero."""

    @abstractmethod
    def initial(self) -> Floats:
        """Return each row's start as a combination of the ends, shape (K, E)."""

    @cached_property
    def free(self) -> tuple[int, ...]:
        """Rows that are not ends: the ones a method may train."""
        return tuple(k for k in range(self.size) if k not in self.ends)

    @property
    def knots(self) -> Floats:
        """Where the derivatives of a path may jump, including 0 and 1."""
        return np.array([0.0, 1.0])

    @property
    def order(self) -> int:
        """The polynomial degree of c(t) along any line between knots; 1 by default."""
        return 1

    def quadrature(self, nodes: int, knots: Floats | None = None) -> tuple[Floats, Floats]:
        """Return points, shape (S, coordinates), and weights, shape (S,), of an integral over the domain.

        Gauss-Legendre with that many nodes between neighbouring knots (by default the family's own) along every axis.
        The weights sum to the volume of the domain.
        """
        axis, weights = gauss_legendre(self.knots if knots is None else knots, nodes)
        total = np.ones(1)
        for _ in range(self.dimension):
            total = np.outer(total, weights).ravel()
        return np.stack(np.meshgrid(*[axis] * self.dimension, indexing="ij"), axis=-1).reshape(len(total), -1), total

    def end_parameters(self) -> Floats:
        """Return the parameter at which each end sits, shape (E, coordinates): by default the corners of the domain."""
        return np.array(list(product((0.0, 1.0), repeat=self.dimension)))

    def points(self, t: ArrayLike) -> Floats:
        """Check parameters: finite, inside the domain, shape (S, coordinates).

        Raises InputError for anything else.
        """
        points = self._numbers(t)
        if not np.all((points >= 0) & (points <= 1)):
            raise InputError(f"Parameters lie in [0, 1]; got {points.tolist()}.")
        return points

    def _numbers(self, t: ArrayLike) -> Floats:
        try:
            points = np.atleast_2d(np.asarray(t, dtype=np.float64))
        except (TypeError, ValueError):  # strings, or rows of different lengths
            points = np.empty((0, 0))
        if points.ndim != 2 or points.shape[1] != self.coordinates:
            given = t.tolist() if isinstance(t, np.ndarray) else t
            raise InputError(f"A parameter of a {self.name} is {self.parameter_format}, not {given}.")
        return points

    @property
    def parameter_format(self) -> str:
        """How messages describe a parameter."""
        return "one number t" if self.dimension == 1 else f"{self.dimension} numbers u,v"

    def grid(self, counts: int | Sequence[int]) -> Grid:
        """Return an evenly spaced grid that includes the corners; a single number applies to every direction.

        Raises InputError for counts that are not whole numbers of at least 2, one per direction.
        """
        counts = tuple(counts) if isinstance(counts, Sequence) else (counts,)
        if len(counts) == 1:
            counts *= self.dimension
        if len(counts) != self.dimension or not all(isinstance(n, int | np.integer) and n >= 2 for n in counts):
            shape = "a whole number" if self.dimension == 1 else "whole numbers, e.g. 11,11,"
            raise InputError(f"A grid for a {self.name} is {shape} of at least 2; got {counts}.")
        check_points(prod(counts))
        return TensorGrid.even(counts)

    def grid_on(self, axes: Sequence[Floats]) -> Grid:
        """Return the grid of all combinations of these values along each parameter."""
        return TensorGrid(tuple(axes))

    @property
    def default_grid(self) -> tuple[int, ...]:
        """Points of a sweep along each parameter: 61 on a curve [G], 11×11 on a surface [S]."""
        return (61,) if self.dimension == 1 else (11,) * self.dimension

    @property
    def sweep_grid(self) -> Grid:
        """The default grid of a sweep."""
        return self.grid(self.default_grid)

    @classmethod
    def from_description(cls, values: Mapping[str, Any]) -> Family:
        """Rebuild it from the fields of :meth:`describe`, with lists as tuples."""
        return cls(**values)

    def describe(self) -> dict[str, Any]:
        """Return the family as plain data, the inverse of :func:`mgraph.families.family_from`."""
        return {"family": self.name} | {key: value for key, value in asdict(self).items() if value is not None}
