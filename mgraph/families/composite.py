"""A path through pieces of other families, joined at control points: one route over several connections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import override

from mgraph.errors import InputError
from mgraph.families.base import Family
from mgraph.families.grid import Floats, Grid, TensorGrid

_SUBDIVIDED = 16  # pieces into which a curve is divided, so that t follows its length
_PER_PIECE = 60  # steps of a sweep on a smooth piece, as on a curve [G]
_MOST_STEPS = 400  # steps of a whole sweep, though there is at least one between neighbouring waypoints


@dataclass(frozen=True)
class Piece:
    """A way through one family's domain: straight lines between waypoints, from one end of the family to another.

    ``rows`` says which control point of the whole path each control point of the family is.
    """

    family: Family
    rows: tuple[int, ...]
    waypoints: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if len(set(self.rows)) != self.family.size or len(self.rows) != self.family.size:
            raise InputError(f"A {self.family.name} has {self.family.size} different control points: {self.rows}.")
        if len(self.waypoints) < 2:
            raise InputError("A piece of a composite path needs at least two waypoints.")
        self.family.points(self.waypoints)
        if self.family.dimension == 1:
            along = sorted(point[0] for point in self.waypoints)
            missing = [k for k in self.family.knots.tolist() if along[0] < k < along[-1] and k not in along]
            if missing:
                raise InputError(
                    f"A piece of a {self.family.name} needs waypoints at its knots; none is at {missing[0]:g}."
                )

    @property
    def start(self) -> int:
        """The control point of the whole path at which it starts; raises InputError if it starts at none."""
        return self._end(0)

    @property
    def goal(self) -> int:
        """The control point of the whole path at which it stops; raises InputError if it stops at none."""
        return self._end(-1)

    def _end(self, which: int) -> int:
        c = self.family.coefficients([self.waypoints[which]])[0]
        (rows,) = np.nonzero(c)
        if len(rows) != 1 or c[rows[0]] != 1.0:
            raise InputError(f"A piece begins and stops at control points; {self.waypoints[which]} is not one.")
        return self.rows[int(rows[0])]


def path_waypoints(family: Family, *, backwards: bool = False) -> tuple[tuple[float, ...], ...]:
    """Return the waypoints of a whole path: its knots, and more between them where its speed varies.

    Raises InputError for a family that is not a path.
    """
    first, last = (family.end_parameters()[i] for i in (0, -1))
    if len(family.ends) != 2:
        raise InputError(f"A {family.name} has {len(family.ends)} ends; say between which of them the path runs.")
    if family.coordinates > 1:  # a simplex of two modes
        points = np.stack([first, last])
    else:
        inner = 1 if family.order == 1 else _SUBDIVIDED
        steps = [np.linspace(left, right, inner + 1)[:-1] for left, right in pairwise(family.knots)]
        points = np.append(np.concatenate(steps), 1.0)[:, None]
    return tuple(map(tuple, (points[::-1] if backwards else points).tolist()))


@dataclass(frozen=True)
class CompositePath(Family):
    """A sequence of pieces; each begins at the control point where the one before it stops.

    ``at`` holds the t of every inner waypoint, piece by piece, including joints: between neighbouring waypoints t runs
    evenly through the domain of the piece. :meth:`by_length` places them by length.
    """

    name: ClassVar[str] = "composite"
    pieces: tuple[Piece, ...] = ()
    at: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.pieces:
            raise InputError("A composite path needs at least one piece.")
        for one, other in pairwise(self.pieces):
            if one.goal != other.start:
                raise InputError("Every piece of a composite path must begin where the one before it stops.")
        if self.pieces[0].start == self.pieces[-1].goal:
            raise InputError("A composite path must begin and stop at different control points.")
        used = {row for piece in self.pieces for row in piece.rows}
        if used != set(range(len(used))):
            raise InputError("The pieces of a composite path number its control points from 0, leaving none out.")
        steps = sum(len(piece.waypoints) - 1 for piece in self.pieces)
        if len(self.at) != steps - 1 or not np.all(np.diff([0.0, *self.at, 1.0]) > 0):  # NaN is not above 0
            raise InputError(f"A composite path of {steps} steps has {steps - 1} rising values between 0 and 1.")

    @classmethod
    def by_length(cls, pieces: Sequence[Piece], lengths: ArrayLike) -> CompositePath:
        """Make the path on which t is the cumulative length over the total, from the lengths between waypoints.

        Steps without length get a millionth of the whole, so that t increases. Raises InputError unless there is a
        finite length for every step, none negative and at least one above 0.
        """
        given = np.asarray(lengths, dtype=np.float64)
        steps = sum(len(piece.waypoints) - 1 for piece in pieces)
        good = given.shape == (steps,) and bool(np.all(np.isfinite(given)) and np.all(given >= 0) and given.any())
        if not good:
            raise InputError(f"A composite path of {steps} steps needs as many lengths, one of them above 0.")
        reached = np.cumsum(np.maximum(given, 1e-6 * given.sum()))
        return cls(tuple(pieces), tuple((reached[:-1] / reached[-1]).tolist()))

    @classmethod
    @override
    def from_description(cls, values: Mapping[str, Any]) -> CompositePath:
        """Rebuild it from the fields of :meth:`describe`; raise InputError if they are not valid."""
        from mgraph.families import family_from

        try:
            pieces = tuple(
                Piece(family_from(p["family"]), tuple(p["rows"]), tuple(map(tuple, p["waypoints"])))
                for p in values["pieces"]
            )
            return cls(pieces, tuple(values["at"]))
        except (KeyError, TypeError):
            raise InputError("A composite path is described by its pieces (family, rows, waypoints) and at.") from None

    @override
    def describe(self) -> dict[str, Any]:
        """Return it as plain data, including its pieces' families."""
        pieces = [
            {"family": p.family.describe(), "rows": list(p.rows), "waypoints": [list(w) for w in p.waypoints]}
            for p in self.pieces
        ]
        return {"family": self.name, "pieces": pieces, "at": list(self.at)}

    @property
    @override
    def dimension(self) -> int:
        return 1

    @cached_property
    @override
    def size(self) -> int:
        """The number of control points of all pieces, counting shared ones once."""
        return 1 + max(row for piece in self.pieces for row in piece.rows)

    @property
    @override
    def ends(self) -> tuple[int, ...]:
        """The control points where the first piece starts and the last one stops."""
        return (self.pieces[0].start, self.pieces[-1].goal)

    @property
    def joints(self) -> tuple[int, ...]:
        """The control points between pieces."""
        return tuple(piece.start for piece in self.pieces[1:])

    @property
    def joint_parameters(self) -> Floats:
        """The t of the joints, shape (pieces - 1,)."""
        return self.knots[self._first[1:]]

    @cached_property
    @override
    def knots(self) -> Floats:
        """The t of all waypoints."""
        return np.array([0.0, *self.at, 1.0])

    @property
    @override
    def order(self) -> int:
        """The highest order among the pieces."""
        return max(piece.family.order for piece in self.pieces)

    @cached_property
    def _first(self) -> NDArray[np.int64]:
        """The first step of each piece."""
        return np.cumsum([0, *(len(piece.waypoints) - 1 for piece in self.pieces[:-1])])

    @override
    def coefficients(self, t: ArrayLike) -> Floats:
        """Return the coefficients of the pieces, shape (S, K): all 0 except at the control points of one piece."""
        result = np.zeros((len(self.points(t)), self.size))
        for part in self._parts(t):
            c = part.piece.family.coefficients(part.parameters())
            result[part.samples[:, None], part.piece.rows] = c
        return result

    @override
    def derivatives(self, t: ArrayLike) -> Floats:
        """Return the pieces' derivatives by the chain rule, shape (S, 1, K): from the right, or the left at t = 1."""
        result = np.zeros((len(self.points(t)), 1, self.size))
        for part in self._parts(t):
            # A path that is straight between waypoints has a single slope there; the midpoint belongs to no other step.
            straight = part.piece.family.order == 1
            slopes = part.piece.family.derivatives(part.parameters(0.5 if straight else None))
            result[part.samples[:, None], 0, part.piece.rows] = np.einsum("sd,sdk->sk", part.speed(), slopes)
        return result

    def _parts(self, t: ArrayLike) -> Iterator[_Part]:
        values = self.points(t)[:, 0]
        step = np.minimum(np.searchsorted(self.knots, values, side="right") - 1, len(self.knots) - 2)
        left, width = self.knots[step], np.diff(self.knots)[step]
        number = np.searchsorted(self._first, step, side="right") - 1
        for i, piece in enumerate(self.pieces):
            here = np.flatnonzero(number == i)
            if len(here):
                along = (values[here] - left[here]) / (self.knots[step[here] + 1] - left[here])
                yield _Part(piece, here, step[here] - self._first[i], along, width[here])

    @override
    def initial(self) -> Floats:
        """Spread the control points over the segment: a path's as its family does, a surface's by its corners.

        Corners other than the route's two stay in between: the nearer to one in the domain, the nearer to it here.
        """
        along = np.full(self.size, np.nan)
        reached = np.array([0.0, *self.joint_parameters, 1.0])
        for piece, (begin, end) in zip(self.pieces, pairwise(reached), strict=True):
            corners = piece.family.end_parameters()
            to_start, to_goal = (np.abs(corners - piece.waypoints[i]).sum(axis=1) for i in (0, -1))
            places = piece.family.initial() @ (begin + (end - begin) * to_start / (to_start + to_goal))
            rows = np.array(piece.rows)
            along[rows] = np.where(np.isnan(along[rows]), places, along[rows])
        along[[piece.start for piece in self.pieces]] = reached[:-1]
        along[self.pieces[-1].goal] = 1.0
        return np.stack([1.0 - along, along], axis=1)

    @property
    @override
    def sweep_grid(self) -> Grid:
        """Every waypoint, and more points between them: about 60 steps on every piece, at most 400 in all."""
        per_piece = min(_PER_PIECE, _MOST_STEPS // len(self.pieces))
        axis = []
        for first, piece in zip(self._first, self.pieces, strict=True):
            knots = self.knots[first : first + len(piece.waypoints)]
            shares = np.maximum(1, np.rint(per_piece * np.diff(knots) / (knots[-1] - knots[0]))).astype(int)
            axis += [np.linspace(a, b, n + 1)[:-1] for (a, b), n in zip(pairwise(knots), shares, strict=True)]
        return TensorGrid((np.append(np.concatenate(axis), 1.0),))


@dataclass(frozen=True)
class _Part:
    """The samples on one piece: which they are, on which steps, how far along, and how much t a step takes."""

    piece: Piece
    samples: NDArray[np.int64]
    step: NDArray[np.int64]
    along: Floats
    width: Floats

    @cached_property
    def _ways(self) -> tuple[Floats, Floats]:
        ways = np.array(self.piece.waypoints)
        return ways[self.step], ways[self.step + 1]

    def parameters(self, along: float | None = None) -> Floats:
        """Return where the samples are in the piece's domain, or ``along`` their steps; exact at waypoints."""
        left, right = self._ways
        share = self.along[:, None] if along is None else along
        return (1.0 - share) * left + share * right

    def speed(self) -> Floats:
        """Return how fast the parameter changes with t along each direction of the domain, shape (S, d)."""
        left, right = self._ways
        return (right - left)[:, : self.piece.family.dimension] / self.width[:, None]
