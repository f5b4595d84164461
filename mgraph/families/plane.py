"""A rectangle of a plane in weight space, beyond the nodes that span it ([G] figs. 1, 7, 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from typing_extensions import override

from mgraph.errors import InputError
from mgraph.families.base import Family
from mgraph.families.grid import Floats, Grid, TensorGrid, check_points

_SAME = 1e-12  # parameters closer than this are the same point, as for what is stored


@dataclass(frozen=True)
class PlaneFamily(Family):
    """θ(u,v) = Σ_k (origin_k + u·across_k + v·up_k) P_k on the unit square: an affine map, so K points span it.

    ``rows`` are the control points that are ends, and ``at`` says where in the square each lies: anywhere, not at a
    corner. ``x`` and ``y`` are the coordinates on the page of u = 0 and 1, and of v = 0 and 1: distances in weight
    space, or multiples of a direction.
    """

    name: ClassVar[str] = "plane"
    origin: tuple[float, ...] = (1.0, 0.0, 0.0)
    across: tuple[float, ...] = (-1.0, 1.0, 0.0)
    up: tuple[float, ...] = (-1.0, 0.0, 1.0)
    rows: tuple[int, ...] = (0, 1, 2)
    at: tuple[tuple[float, float], ...] = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
    x: tuple[float, float] = (0.0, 1.0)
    y: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        try:
            map_ = np.array([self.origin, self.across, self.up], dtype=np.float64)
            at = np.array(self.at, dtype=np.float64)
            page = np.array([self.x, self.y], dtype=np.float64)
        except (TypeError, ValueError):
            map_ = at = page = np.empty(0)
        good = map_.ndim == 2 and map_.shape[1] >= 3 and at.shape == (len(self.rows), 2) and page.shape == (2, 2)
        good = good and bool(np.isfinite(map_).all() and (at >= 0).all() and (at <= 1).all())
        good = good and bool(np.allclose(map_.sum(axis=1), [1.0, 0.0, 0.0], atol=1e-9)) and len(self.rows) > 0
        if not good or not (np.diff(page, axis=1) > 0).all() or not self._fits(map_, at):
            raise InputError("A plane is described by origin, across and up, with a number for each control point.")

    def _fits(self, map_: Floats, at: Floats) -> bool:
        """Return whether the map has its ends where it says."""
        if len({*self.rows}) != len(self.rows) or not all(row in range(map_.shape[1]) for row in self.rows):
            return False
        found = map_[0] + at[:, :1] * map_[1] + at[:, 1:] * map_[2]
        return bool(np.allclose(found, np.eye(map_.shape[1])[list(self.rows)], atol=1e-6))

    @classmethod
    @override
    def from_description(cls, values: Mapping[str, Any]) -> PlaneFamily:
        """Rebuild it from the fields of :meth:`describe`; raise InputError if they are not valid."""
        try:
            return cls(**{**values, "at": tuple(map(tuple, values["at"]))})
        except (KeyError, TypeError):
            raise InputError("A plane is described by origin, across, up, rows, at, x and y.") from None

    @override
    def describe(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"family": self.name} | asdict(self) | {"at": [list(place) for place in self.at]}

    @property
    @override
    def dimension(self) -> int:
        return 2

    @property
    @override
    def size(self) -> int:
        return len(self.origin)

    @property
    @override
    def ends(self) -> tuple[int, ...]:
        return self.rows

    @override
    def end_parameters(self) -> Floats:
        """Return where its ends lie, shape (E, 2)."""
        return np.array(self.at, dtype=np.float64)

    @override
    def coefficients(self, t: ArrayLike) -> Floats:
        """Return the affine map, shape (S, K); at an end, exactly that end."""
        points = self.points(t)
        c = np.array(self.origin) + points[:, :1] * np.array(self.across) + points[:, 1:] * np.array(self.up)
        for row, place in zip(self.rows, self.end_parameters(), strict=True):
            c[np.abs(points - place).max(axis=1) <= _SAME] = np.eye(self.size)[row]
        return np.asarray(c)

    @override
    def derivatives(self, t: ArrayLike) -> Floats:
        """Return (∂c/∂u, ∂c/∂v): constant, shape (S, 2, K)."""
        return np.broadcast_to([self.across, self.up], (len(self.points(t)), 2, self.size))

    @override
    def initial(self) -> Floats:
        """Every other control point starts at the mean of the ends."""
        start = np.full((self.size, len(self.rows)), 1.0 / len(self.rows))
        start[list(self.rows)] = np.eye(len(self.rows))
        return start

    @override
    def grid(self, counts: int | Sequence[int]) -> Grid:
        """Return a grid on which the ends lie, and which is even between their lines.

        Raises InputError for fewer points along a direction than that takes: at most 5.
        """
        even = super().grid(counts)
        axes = []
        for count, places in zip(even.counts, self.end_parameters().T, strict=True):
            lines = _distinct([0.0, *places.tolist(), 1.0])
            if count < len(lines):
                raise InputError(
                    f"The grid of this plane has at least {len(lines)} points along each direction, not {count}: its "
                    "sides, and the lines on which its nodes lie."
                )
            axes.append(_spread(lines, count))
        check_points(len(axes[0]) * len(axes[1]))
        return self.grid_on(axes)

    @override
    def grid_on(self, axes: Sequence[Floats]) -> Grid:
        """Return the grid of these axes, which knows where the ends are."""
        return TensorGrid(tuple(axes), self.at)

    @property
    @override
    def default_grid(self) -> tuple[int, ...]:
        """21×21 points, as [G] draws planes."""
        return (21, 21)

    def page(self, t: ArrayLike) -> Floats:
        """Return the coordinates of parameters on the page, shape (S, 2)."""
        points, low = self.points(t), np.array([self.x[0], self.y[0]])
        return np.asarray(low + points * (np.array([self.x[1], self.y[1]]) - low))

    def place_of(self, row: int) -> Floats | None:
        """Return the parameter at which a control point lies, shape (2,); None if it is not on the rectangle."""
        map_ = np.array([self.across, self.up]).T
        found, *_ = np.linalg.lstsq(map_, np.eye(self.size)[row] - np.array(self.origin))
        on = np.allclose(np.array(self.origin) + map_ @ found, np.eye(self.size)[row], atol=1e-9)
        return np.asarray(found) if on and bool(((found >= 0) & (found <= 1)).all()) else None

    def directions(self) -> Floats:
        """Return how coefficients change along x and y, per unit on the page, shape (2, K)."""
        sides = np.array([self.x[1] - self.x[0], self.y[1] - self.y[0]])
        return np.asarray(np.array([self.across, self.up]) / sides[:, None])


def _distinct(values: Sequence[float]) -> list[float]:
    kept: list[float] = []
    for value in sorted(values):
        if not kept or value - kept[-1] > _SAME:
            kept.append(value)
    return kept


def _spread(lines: Sequence[float], count: int) -> Floats:
    """Return ``count`` values from 0 to 1, among them these lines, as evenly as that can be."""
    gaps = np.diff(lines)
    steps = np.ones(len(gaps), dtype=int)
    for _ in range(count - len(lines)):  # the widest step is divided next
        steps[np.argmax(gaps / steps)] += 1
    parts = [np.linspace(a, b, n + 1)[:-1] for (a, b), n in zip(pairwise(lines), steps, strict=True)]
    return np.append(np.concatenate(parts), 1.0)
