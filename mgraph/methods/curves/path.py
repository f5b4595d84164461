"""The trained paths between two modes: the Bézier curve and the polygonal chain [G]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from mgraph.errors import InputError
from mgraph.families import BezierCurveFamily, Family, PolygonalChainFamily
from mgraph.methods.base import wrong_ends
from mgraph.methods.curves.trained import TrainedMethod
from mgraph.settings import setting

if TYPE_CHECKING:
    from mgraph.train.phases import Phase

_PAPER = (
    "Garipov, Izmailov, Podoprikhin, Vetrov, Wilson (2018). Loss Surfaces, Mode Connectivity, and Fast "
    "Ensembling of DNNs. arXiv:1802.10026"
)


@dataclass(frozen=True, kw_only=True)
class TrainedPath(TrainedMethod):
    """A path whose inner control points are trained at uniform t ([G] eq. 3)."""

    references: ClassVar[tuple[str, ...]] = (_PAPER,)
    bends: int = setting(1, "control points between the two ends", low=1, high=100)
    epochs: int = setting(30, "passes over the training data; 0 leaves the path where it starts", unit="epochs", low=0)

    @override
    def plan(self, family: Family) -> tuple[Phase, ...]:
        """Return the single phase: the whole path, moving every bend that is not fixed."""
        from mgraph.train.phases import Curve, Phase

        return (Phase(self.name, self.epochs, (Curve.whole(family),), self.moving(family.free)),)


@dataclass(frozen=True, kw_only=True)
class BezierCurve(TrainedPath):
    """A Bézier curve whose inner control points are trained."""

    name: ClassVar[str] = "curve"
    summary: ClassVar[str] = "Bézier curve between 2 modes with trained bends"

    @override
    def family(self, ends: int) -> Family:
        """Return the curve; it takes two ends."""
        if ends != 2:
            raise InputError(wrong_ends("--curve", ends, "exactly 2 modes"))
        return BezierCurveFamily(self.bends)


@dataclass(frozen=True, kw_only=True)
class PolygonalChain(TrainedPath):
    """A polygonal chain whose bends are trained."""

    name: ClassVar[str] = "chain"
    summary: ClassVar[str] = "polygonal chain between 2 modes with trained bends"
    # At 0.2 prototypes ended in NaN: at its knot a bend gets the full gradient, a Bézier point at most half of it.
    lr: float = setting(0.05, "learning rate at the start of each phase", above=0, high=1e30)

    @override
    def family(self, ends: int) -> Family:
        """Return the chain; it takes two ends."""
        if ends != 2:
            raise InputError(wrong_ends("--chain", ends, "exactly 2 modes"))
        return PolygonalChainFamily(self.bends)
