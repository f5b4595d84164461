"""What a family is: a map from a parameter domain to points, linear in its control points.

``θ(t) = c(t)ᵀ P`` with control points stacked as P, shape (K, D), coefficients c(t) that sum to one, and t in
the unit interval (dimension 1) or unit square (dimension 2). A family gives coefficients, their derivatives,
the rows at which its ends sit, and where its free rows start. Drawing samples, gradients of control points,
lengths and areas are written once, elsewhere, and never ask which family they hold.

Shapes: S samples, K control points, E ends. Everything is float64 NumPy: K is small, and no torch is needed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mgraph.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Family(ABC):
    """A map from ``[0, 1]^dimension`` to points, linear in K control points."""

    name: ClassVar[str]
    dimension: ClassVar[int]

    @property
    @abstractmethod
    def size(self) -> int:
        """K, the number of control points."""

    @property
    @abstractmethod
    def ends(self) -> tuple[int, ...]:
        """Row of each end, in the order in which ends are given."""

    @abstractmethod
    def coefficients(self, t: ArrayLike) -> Floats:
        """Return c(t), shape (S, K), for t of shape (S, dimension); rows sum to one."""

    @abstractmethod
    def derivatives(self, t: ArrayLike) -> Floats:
        """Return ∂c/∂t, shape (S, dimension, K); every row sums to zero."""

    @abstractmethod
    def initial(self) -> Floats:
        """Return each row's start as a combination of the ends, shape (K, E)."""

    @cached_property
    def free(self) -> tuple[int, ...]:
        """Rows that are no end: the ones a method may train."""
        return tuple(k for k in range(self.size) if k not in self.ends)

    def end_parameters(self) -> Floats:
        """Return the parameter at which each end sits, shape (E, dimension): the corners of the domain."""
        return np.array(list(product((0.0, 1.0), repeat=self.dimension)))

    def points(self, t: ArrayLike) -> Floats:
        """Check parameters: finite, inside the domain, shape (S, dimension).

        Raises InputError for anything else.
        """
        try:
            points = np.atleast_2d(np.asarray(t, dtype=np.float64))
        except (TypeError, ValueError):  # words, or rows of different lengths
            points = np.empty((0, 0))
        if points.ndim != 2 or points.shape[1] != self.dimension:
            what = "one number t" if self.dimension == 1 else f"{self.dimension} numbers u,v"
            given = t.tolist() if isinstance(t, np.ndarray) else t
            raise InputError(f"A parameter of a {self.name} is {what}, not {given}.")
        if not np.all((points >= 0) & (points <= 1)):
            raise InputError(f"Parameters lie in [0, 1]; got {points.tolist()}.")
        return points

    def grid(self, counts: int | Sequence[int]) -> Floats:
        """Return an evenly spaced grid with its corners, shape (S, dimension), last parameter fastest."""
        counts = tuple(counts) if isinstance(counts, Sequence) else (counts,) * self.dimension
        if len(counts) != self.dimension or not all(isinstance(n, int | np.integer) and n >= 2 for n in counts):
            shape = "a whole number" if self.dimension == 1 else "whole numbers, e.g. 11,11,"
            raise InputError(f"A grid for a {self.name} is {shape} of at least 2; got {counts}.")
        axes = [np.linspace(0.0, 1.0, n) for n in counts]
        return np.array(list(product(*axes)))

    @property
    def default_grid(self) -> tuple[int, ...]:
        """Points of a sweep along each parameter: 61 on a curve [G], 11×11 on a surface [S]."""
        return (61,) if self.dimension == 1 else (11,) * self.dimension

    def describe(self) -> dict[str, Any]:
        """Return the family as plain data, the inverse of :func:`mgraph.families.family_from`."""
        return {"family": self.name, **asdict(self)}
