"""A user's own family, as a graph describes it: enough to read what is stored without running any code.

The graph records where its class is (``file.py:Class``), the hash of that code, its settings, and the shape that
readers need: dimension, number of control points, ends, degree and knots. Coefficients need the class itself, which is
loaded elsewhere, with the user's consent (:mod:`mgraph.methods.own`), and added by :meth:`OwnFamily.running`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from typing_extensions import override

from mgraph.errors import InputError, UntrustedError
from mgraph.families.base import Family
from mgraph.families.composite import CompositePath
from mgraph.families.grid import Floats
from mgraph_store.rows.limits import FAMILY_POINTS

_KEYS = ("family", "hash", "dimension", "size", "ends", "order", "knots", "settings")
_MOST_KNOTS = 100_000
_MOST_DIMENSIONS = 8


@dataclass(frozen=True)
class OwnFamily(Family):
    """A family named by its class: ``text`` is the JSON of its description, ``real`` the family itself once loaded."""

    name: ClassVar[str] = "family of your own"
    text: str
    real: Family | None = field(default=None, compare=False)

    @classmethod
    def of(cls, real: Family, spec: str, hash: str) -> OwnFamily:
        """Describe a family whose class is named by ``spec``.

        Raises InputError if it violates the contract of :class:`Family`, or if its fields do not rebuild it.
        """
        require_sound(real)
        known: dict[str, Any] = {"family": spec, "hash": hash, "dimension": real.dimension, "size": real.size}
        known |= {"ends": list(real.ends), "order": real.order, "knots": real.knots.tolist(), "settings": asdict(real)}
        try:
            own = cls.from_description(json.loads(json.dumps(known)))
        except TypeError:
            raise InputError(f"The settings of the family {spec} must be plain numbers, words and lists.") from None
        own.rebuilt(type(real))
        return replace(own, real=real)

    @classmethod
    @override
    def from_description(cls, values: Mapping[str, Any]) -> OwnFamily:
        """Read a description, possibly a stranger's, without running code; raise InputError if it is damaged."""
        own = cls(json.dumps(dict(values), sort_keys=True))
        ends: Any = values.get("ends")
        size: Any = values.get("size")
        dimension: Any = values.get("dimension")
        sound = (
            set(values) == set(_KEYS)
            and _is_count(size, FAMILY_POINTS)
            and _is_count(dimension, _MOST_DIMENSIONS)
            and isinstance(ends, list | tuple)
            and all(isinstance(end, int) and _is_count(end + 1, size) for end in ends)
            and len(set(ends)) == len(ends) == 2**dimension
            and _is_count(values["order"], FAMILY_POINTS)
            and _are_knots(values["knots"])
            and all(isinstance(values[key], str) for key in ("family", "hash"))
            and isinstance(values["settings"], dict)
        )
        if not sound:
            raise InputError(f"The family {values.get('family')!r} of your own is not described as {', '.join(_KEYS)}.")
        return own

    @cached_property
    def known(self) -> dict[str, Any]:
        """The description, as :meth:`describe` returns it."""
        found: dict[str, Any] = json.loads(self.text)
        return found

    @property
    def code(self) -> str:
        """Where its class is, as stored: ``file.py:Class`` relative to the graph, or ``package.module:Class``."""
        return str(self.known["family"])

    def rebuilt(self, cls: Callable[..., Family]) -> Family:
        """Make the family again from its settings; raise InputError if the result is a different one."""
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in self.known["settings"].items()}
        try:
            real = cls(**settings)
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.code} cannot be made with {settings}: {error}.") from None
        shape = (real.dimension, real.size, real.order, tuple(real.ends))
        same_knots = np.array_equal(real.knots, self.knots)
        if shape != (self.dimension, self.size, self.order, self.ends) or not same_knots:
            raise InputError(f"{self.code} makes another family of {settings} than the one that is stored.")
        return real

    def running(self, real: Family) -> OwnFamily:
        """Return it together with its code, so that it has coefficients."""
        return replace(self, real=real)

    @property
    def _real(self) -> Family:
        if self.real is None:
            raise UntrustedError(
                f"{self.code} is a family of your own, whose code is not run for this; commands with --trust run it."
            )
        return self.real

    @property
    @override
    def dimension(self) -> int:
        return int(self.known["dimension"])

    @property
    @override
    def size(self) -> int:
        return int(self.known["size"])

    @property
    @override
    def ends(self) -> tuple[int, ...]:
        return tuple(self.known["ends"])

    @property
    @override
    def knots(self) -> Floats:
        return np.array(self.known["knots"], dtype=np.float64)

    @property
    @override
    def order(self) -> int:
        return int(self.known["order"])

    @override
    def coefficients(self, t: ArrayLike) -> Floats:
        """Return its class's coefficients; at the ends, where they are 1 and 0 in every family, no code is needed."""
        if self.real is None:
            points, corners = self.points(t), self.end_parameters()
            at = (points[:, None] == corners[None]).all(axis=2)
            if at.any(axis=1).all():
                known: Floats = np.eye(self.size)[np.array(self.ends)[at.argmax(axis=1)]]
                return known
        return self._real.coefficients(t)

    @override
    def derivatives(self, t: ArrayLike) -> Floats:
        """Return its class's derivatives."""
        return self._real.derivatives(t)

    @override
    def initial(self) -> Floats:
        """Return its class's initial rows."""
        return self._real.initial()

    @override
    def describe(self) -> dict[str, Any]:
        return dict(self.known)


def with_code(family: Family, load: Callable[[OwnFamily], Family]) -> Family:
    """Add the code to the user's own family, or to those among the pieces of a composite path."""
    if isinstance(family, OwnFamily):
        return family.running(load(family))
    if isinstance(family, CompositePath):
        return replace(
            family, pieces=tuple(replace(piece, family=with_code(piece.family, load)) for piece in family.pieces)
        )
    return family


def own_families(family: Family) -> list[OwnFamily]:
    """Return the user's own families in a family: itself, or those among the pieces of a composite path."""
    if isinstance(family, CompositePath):
        return [own for piece in family.pieces for own in own_families(piece.family)]
    return [family] if isinstance(family, OwnFamily) else []


def require_sound(family: Family) -> None:
    """Raise InputError, naming the property that fails, unless a family keeps the contract of :class:`Family`."""
    who = f"The family {type(family).__name__}"
    corners = Family.end_parameters(family)
    if family.coordinates != family.dimension or not np.array_equal(family.end_parameters(), corners):
        raise InputError(f"{who} must have its ends at the corners of the unit interval, square, ….")
    if len(family.ends) != len(corners):
        raise InputError(f"{who} must have {len(corners)} ends, not {len(family.ends)}.")
    inside = np.random.default_rng(0).uniform(size=(17, family.dimension))
    t = np.concatenate([corners, inside])
    c, slopes, start = (np.asarray(a) for a in (family.coefficients(t), family.derivatives(t), family.initial()))
    shapes = {
        "coefficients": (c.shape, (len(t), family.size)),
        "derivatives": (slopes.shape, (len(t), family.dimension, family.size)),
        "initial": (start.shape, (family.size, len(corners))),
    }
    for what, (shape, expected) in shapes.items():
        if shape != expected:
            raise InputError(f"{who}: {what} must have the shape {expected}, not {shape}.")
    if not np.allclose(c.sum(axis=1), 1.0, atol=1e-9):
        raise InputError(f"{who}: coefficients must sum to one everywhere.")
    if not np.allclose(slopes.sum(axis=2), 0.0, atol=1e-7):
        raise InputError(f"{who}: derivatives must sum to zero everywhere.")
    if not np.array_equal(c[: len(corners)], np.eye(family.size)[list(family.ends)]):
        raise InputError(f"{who}: at an end its coefficient must be exactly 1 and all others exactly 0.")
    if not np.allclose(start.sum(axis=1), 1.0, atol=1e-9):
        raise InputError(f"{who}: each row of initial must sum to one.")
    if not np.array_equal(start[list(family.ends)], np.eye(len(corners))):
        raise InputError(f"{who}: the rows of the ends must start at the ends.")


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _are_knots(value: Any) -> bool:
    if not isinstance(value, list | tuple) or not 2 <= len(value) <= _MOST_KNOTS:
        return False
    if not all(isinstance(knot, int | float) for knot in value):
        return False
    return value[0] == 0 and value[-1] == 1 and bool(np.all(np.diff(value) > 0))
