"""The straight connections: the segment of two modes, the bilinear surface of four, the simplex of any number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from mgraph.errors import InputError
from mgraph.families import BezierSurfaceFamily, Family, Segment, SimplexFamily
from mgraph.methods.base import Method, Outcome, Start, wrong_ends

if TYPE_CHECKING:
    from mgraph.data.task import Task
    from mgraph.network.flat import FlatModel
    from mgraph.progress import ProgressCallback
    from mgraph.train.state import Checkpointer


@dataclass(frozen=True, kw_only=True)
class Straight(Method):
    """A method that trains nothing."""

    @override
    def cost(self, family: Family, examples: int) -> float:
        return 0.0

    @override
    def run(
        self,
        flat: FlatModel,
        task: Task,
        family: Family,
        start: Start,
        progress: ProgressCallback,
        checkpointer: Checkpointer | None = None,
    ) -> Outcome:
        return Outcome(start.points())


@dataclass(frozen=True, kw_only=True)
class Linear(Straight):
    """Linear interpolation, without training. Two ends give a segment, four a bilinear surface."""

    name: ClassVar[str] = "linear"
    summary: ClassVar[str] = "straight segment of 2 modes, or bilinear surface of 4; trains nothing"

    @override
    def family(self, ends: int) -> Family:
        """Return the segment for two ends, the surface of degree (1, 1) for four."""
        if ends == 2:
            return Segment()
        if ends == 4:
            return BezierSurfaceFamily((1, 1))
        expected = "2 modes (a segment) or 4 (a bilinear surface); --simplex takes any number from 3 on"
        raise InputError(wrong_ends("--linear", ends, expected))


@dataclass(frozen=True, kw_only=True)
class Simplex(Straight):
    """The simplex of three or more modes, in barycentric coordinates, without training."""

    name: ClassVar[str] = "simplex"
    summary: ClassVar[str] = "straight simplex of 3 or more modes; trains nothing"
    references: ClassVar[tuple[str, ...]] = (
        "Ren, Chen, Wang (2025). Revisiting Mode Connectivity in Neural Networks with Bezier Surface. ICLR 2025",
    )

    @override
    def family(self, ends: int) -> Family:
        """Return the simplex; it takes three or more ends."""
        if ends < 3:
            raise InputError(wrong_ends("--simplex", ends, "3 or more modes"))
        return SimplexFamily(ends)
