"""The Bézier curve between two modes [G]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mgraph.connect.base import TrainedMethod, wrong_ends
from mgraph.errors import InputError
from mgraph.families import BezierCurveFamily, Family
from mgraph.settings import setting

if TYPE_CHECKING:
    from mgraph.train.engine import Phase


@dataclass(frozen=True, kw_only=True)
class BezierCurve(TrainedMethod):
    """A Bézier curve whose inner control points are trained at uniform t ([G] eq. 3)."""

    name: ClassVar[str] = "curve"
    summary: ClassVar[str] = "Bézier curve between 2 modes with trained bends"
    references: ClassVar[tuple[str, ...]] = (
        "Garipov, Izmailov, Podoprikhin, Vetrov, Wilson (2018). Loss Surfaces, Mode Connectivity, and Fast "
        "Ensembling of DNNs. arXiv:1802.10026",
    )
    bends: int = setting(1, "trained control points between the two ends", low=1)
    epochs: int = setting(30, "passes over the training data", unit="epochs", low=1)

    def family(self, ends: int) -> Family:
        """Return the curve; two ends."""
        if ends != 2:
            raise InputError(wrong_ends("--curve", ends, "exactly 2 modes"))
        return BezierCurveFamily(self.bends)

    def phases(self, family: Family) -> tuple[Phase, ...]:
        """Return the single phase: the whole curve, all bends free."""
        from mgraph.train.engine import Curve, Phase

        return (Phase("curve", self.epochs, (Curve(1, family.coefficients),), family.free),)
