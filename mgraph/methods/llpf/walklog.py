"""What a walk records tick by tick, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field

from mgraph.families import Floats
from mgraph.methods.llpf.legs import Leg
from mgraph.methods.llpf.thinning import Kept


@dataclass
class Log:
    """What was observed: of each tick, and every ``log_every`` ticks of each unit and each weight."""

    ticks: list[dict[str, float]] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)
    distances: list[Floats] = field(default_factory=list)
    lengths: list[Floats] = field(default_factory=list)
    variances: list[Floats] = field(default_factory=list)

    def column(self, name: str) -> list[float]:
        """Return one quantity for every tick."""
        return [tick[name] for tick in self.ticks]


@dataclass(frozen=True)
class Walked:
    """The result of a walk: the points kept after the start, what was observed, and where and why each phase ended.

    ``stopped`` names the budget that ran out before the walk ended by itself.
    """

    start_loss: float
    kept: tuple[Kept, ...]
    log: Log
    reasons: tuple[str, ...]
    distances: Floats
    leg: Leg
    stopped: str | None = None
