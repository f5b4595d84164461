"""What all paths with bends share: two ends, a number of control points between them, and a straight start.

To add a path of your own, subclass :class:`BentPath` and give it a ``name``, coefficients and derivatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from typing_extensions import override

from mgraph.errors import InputError
from mgraph.families.base import Family
from mgraph.families.grid import Floats


@dataclass(frozen=True)
class BentPath(Family):
    """A path between two ends with ``bends`` control points between them, in the order of its rows."""

    noun: ClassVar[str] = "path"  # for messages: "The bends of a path …"
    bends: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.bends, int) or self.bends < 0:
            raise InputError(f"The bends of a {self.noun} are a whole number of at least 0, not {self.bends!r}.")

    @property
    @override
    def dimension(self) -> int:
        return 1

    @property
    @override
    def size(self) -> int:
        """The number of bends plus two ends."""
        return self.bends + 2

    @property
    @override
    def ends(self) -> tuple[int, ...]:
        """The first and the last row."""
        return (0, self.size - 1)

    @property
    def places(self) -> Floats:
        """Where along the segment each row starts, shape (K,), including 0 and 1: evenly spread [G]."""
        return np.linspace(0.0, 1.0, self.size)

    @override
    def initial(self) -> Floats:
        """Spread the rows over the segment, at :attr:`places`."""
        along = self.places[:, None]
        return np.concatenate([1.0 - along, along], axis=1)
