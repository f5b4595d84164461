"""The straight connections: the segment of two modes, the bilinear surface of four."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from mgraph.connect.base import Method, Outcome, initial_points, wrong_ends
from mgraph.errors import InputError
from mgraph.families import BezierSurfaceFamily, Family, Segment

if TYPE_CHECKING:
    from mgraph.data.task import Task
    from mgraph.network.flat import FlatModel
    from mgraph.progress import Report


@dataclass(frozen=True, kw_only=True)
class Linear(Method):
    """Linear interpolation: nothing is trained. Two ends give a segment, four a bilinear surface."""

    name: ClassVar[str] = "linear"
    summary: ClassVar[str] = "straight segment of 2 modes, or bilinear surface of 4; trains nothing"

    def family(self, ends: int) -> Family:
        """Segment for two ends, surface of degree (1, 1) for four."""
        if ends == 2:
            return Segment()
        if ends == 4:
            return BezierSurfaceFamily((1, 1))
        raise InputError(wrong_ends("--linear", ends, "2 modes (a segment) or 4 (a bilinear surface)"))

    def run(self, flat: FlatModel, task: Task, ends: Sequence[NDArray[np.float32]], report: Report) -> Outcome:
        """Return the ends as they are."""
        return Outcome(initial_points(self.family(len(ends)), ends))
