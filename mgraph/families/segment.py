"""The straight segment between two points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike
from typing_extensions import override

from mgraph.families.base import Family
from mgraph.families.grid import Floats


@dataclass(frozen=True)
class Segment(Family):
    """θ(t) = (1-t) A + t B: two ends, and nothing to train."""

    name: ClassVar[str] = "segment"

    @property
    @override
    def dimension(self) -> int:
        return 1

    @property
    @override
    def size(self) -> int:
        return 2

    @property
    @override
    def ends(self) -> tuple[int, ...]:
        return (0, 1)

    @override
    def coefficients(self, t: ArrayLike) -> Floats:
        """Return (1-t, t), shape (S, 2)."""
        t = self.points(t)
        return np.concatenate([1.0 - t, t], axis=1)

    @override
    def derivatives(self, t: ArrayLike) -> Floats:
        """Return (-1, 1) everywhere, shape (S, 1, 2)."""
        return np.broadcast_to([-1.0, 1.0], (self.points(t).shape[0], 1, 2))

    @override
    def initial(self) -> Floats:
        """The rows are the ends."""
        return np.eye(2)
