"""Grids: the points of a family's domain at which it is measured, and how they are connected.

A grid knows its points, which of them are neighbours, which are the ends, and the weights that integrate a piecewise
linear function over the domain. There are two kinds: a tensor product of axes (curves, surfaces) and the barycentric
grid of a simplex.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import comb

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from mgraph.errors import InputError
from mgraph_store.rows.limits import SWEEP_POINTS

Floats = NDArray[np.float64]


class Grid(ABC):
    """S points of a domain, in a fixed order."""

    @property
    @abstractmethod
    def counts(self) -> tuple[int, ...]:
        """The number of points along each axis; on a simplex, along an edge."""

    @property
    @abstractmethod
    def points(self) -> Floats:
        """The parameters, shape (S, coordinates)."""

    @property
    @abstractmethod
    def weights(self) -> Floats:
        """Trapezoid weights under the uniform measure, shape (S,), Σ = 1."""

    @property
    @abstractmethod
    def neighbours(self) -> tuple[tuple[int, ...], ...]:
        """The neighbours of each point."""

    @property
    @abstractmethod
    def ends(self) -> tuple[int, ...]:
        """The point at each end of the family, in the order of its ends."""

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True, eq=False)
class TensorGrid(Grid):
    """All combinations of coordinates along one or two axes, the last axis fastest.

    Neighbours differ by at most one step along every axis: 2 on a curve, 8 on a surface. The ends of a family lie at
    the corners, or at the points nearest to ``places``.
    """

    axes: tuple[Floats, ...]
    places: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        if not self.axes:
            raise InputError("A grid needs at least one axis.")
        for axis in self.axes:
            whole = axis.ndim == 1 and len(axis) >= 2 and axis[0] == 0.0 and axis[-1] == 1.0
            if not whole or not np.all(np.diff(axis) > 0):
                raise InputError("The axes of a grid must rise from 0 to 1.")

    @classmethod
    def even(cls, counts: Sequence[int]) -> TensorGrid:
        """Space the points evenly, ``counts`` along each axis."""
        return cls(tuple(np.linspace(0.0, 1.0, n) for n in counts))

    @property
    @override
    def counts(self) -> tuple[int, ...]:
        return tuple(len(axis) for axis in self.axes)

    @cached_property
    @override
    def points(self) -> Floats:
        """Every combination, shape (S, number of axes)."""
        return np.array(list(product(*self.axes)))

    @cached_property
    @override
    def weights(self) -> Floats:
        """The product of the axes' trapezoid weights."""
        total = np.ones(1)
        for axis in self.axes:
            steps = np.diff(axis)
            total = np.outer(total, (np.r_[steps, 0.0] + np.r_[0.0, steps]) / 2.0).ravel()
        return total

    @cached_property
    @override
    def neighbours(self) -> tuple[tuple[int, ...], ...]:
        """The points at most one step away along every axis."""
        near = []
        for position in product(*map(range, self.counts)):
            around = (range(max(0, p - 1), min(n, p + 2)) for p, n in zip(position, self.counts, strict=True))
            others = (o for o in product(*around) if o != position)
            near.append(tuple(int(np.ravel_multi_index(o, self.counts)) for o in others))
        return tuple(near)

    @property
    @override
    def ends(self) -> tuple[int, ...]:
        """The corners, the last axis fastest; or the points at the ``places``."""
        if self.places is not None:
            nearest = ([int(np.argmin(np.abs(a - v))) for a, v in zip(self.axes, p, strict=True)] for p in self.places)
            return tuple(int(np.ravel_multi_index(tuple(place), self.counts)) for place in nearest)
        corners = product(*((0, n - 1) for n in self.counts))
        return tuple(int(np.ravel_multi_index(c, self.counts)) for c in corners)

    @property
    def is_even(self) -> bool:
        """Whether it is the evenly spaced grid with these counts."""
        return all(np.array_equal(axis, np.linspace(0.0, 1.0, len(axis))) for axis in self.axes)


@dataclass(frozen=True, eq=False)
class SimplexGrid(Grid):
    """Barycentric coordinates that are multiples of 1/steps; neighbours differ by moving one unit between corners."""

    corners: int
    steps: int

    def __post_init__(self) -> None:
        if self.corners < 2 or self.steps < 1:
            raise InputError(f"A simplex grid needs 2 or more corners and 1 step; got {self.corners} and {self.steps}.")

    @property
    @override
    def counts(self) -> tuple[int, ...]:
        return (self.steps + 1,)

    @cached_property
    def _units(self) -> NDArray[np.int64]:
        rows: list[tuple[int, ...]] = [()]
        for _ in range(self.corners - 1):
            rows = [(*r, i) for r in rows for i in range(self.steps - sum(r), -1, -1)]
        return np.array([(*r, self.steps - sum(r)) for r in rows], dtype=np.int64)

    @cached_property
    @override
    def points(self) -> Floats:
        """Barycentric coordinates, shape (S, corners), with the first corner's descending."""
        return self._units / self.steps

    @cached_property
    @override
    def weights(self) -> Floats:
        """The fraction of small simplices around each point: 1/(z+1)! with z coordinates at zero.

        With up to three corners this is the trapezoid rule; with more it is exact for linear functions.
        """
        zeros = np.count_nonzero(self._units == 0, axis=1)
        weights = np.array([1.0 / float(np.prod(np.arange(1, z + 2))) for z in zeros])
        return np.asarray(weights / weights.sum())

    @cached_property
    @override
    def neighbours(self) -> tuple[tuple[int, ...], ...]:
        """The points reached by moving one unit from one corner to another."""
        place = {tuple(u): i for i, u in enumerate(self._units.tolist())}
        near = []
        for units in self._units.tolist():
            around = []
            for giver, taker in product(range(self.corners), repeat=2):
                if giver != taker and units[giver] > 0:
                    moved = list(units)
                    moved[giver] -= 1
                    moved[taker] += 1
                    around.append(place[tuple(moved)])
            near.append(tuple(sorted(around)))
        return tuple(near)

    @property
    @override
    def ends(self) -> tuple[int, ...]:
        return tuple(int(np.flatnonzero(column == self.steps)[0]) for column in self._units.T)


def check_points(number: int) -> None:
    """Raise InputError for more points than a sweep may have."""
    if number > SWEEP_POINTS:
        raise InputError(f"This grid has {number} points; a sweep may have at most {SWEEP_POINTS}.")


def simplex_steps(corners: int, most: int = 121) -> int:
    """Return the default number of steps along an edge: at most 10, with no more than ``most`` points in all."""
    return max(s for s in range(1, 11) if s == 1 or comb(s + corners - 1, corners - 1) <= most)
