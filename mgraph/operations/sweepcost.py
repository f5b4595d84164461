"""Estimate what a sweep will cost, and tell the user once, before it starts, if that is a lot."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mgraph.durations import spoken
from mgraph.query.sweepdata import COMPLETE
from mgraph_store import Reader

LARGE = 10_000_000
"""Examples passed through the network from which a sweep is large, if there is no estimate of the time."""
LONG = 60.0
"""Seconds from which it is long."""
_LEAST = 1000  # examples from which an earlier sweep is informative
_OF_BATCHNORM = re.compile(r"recompute\(examples=([0-9]+)")


@dataclass(frozen=True)
class Cost:
    """The number of points and, for each, the examples to be measured and those for its BatchNorm statistics."""

    points: int
    examples: int
    batchnorm: int = 0

    @property
    def passes(self) -> int:
        """The total number of examples that go through the network."""
        return self.points * (self.examples + self.batchnorm)

    def said(self, seconds_each: float | None) -> str | None:
        """Describe it in words, with the time if it is known how long an example takes; None if it is short."""
        seconds = None if seconds_each is None else self.passes * seconds_each
        if self.passes < LARGE if seconds is None else seconds < LONG:
            return None
        text = f"{self.points} points × {self.examples} examples"
        text += f" (and {self.batchnorm} for BatchNorm statistics)" if self.batchnorm else ""
        if seconds is None:
            return f"{text}: {self.passes / 1e6:.3g} million through the network; --examples takes fewer."
        return f"{text}: about {spoken(seconds)}, judging by the last sweep of this space; --examples takes fewer."


def examples_of_policy(policy: str) -> int:
    """Return how many examples the BatchNorm policy of that name uses for each point."""
    found = _OF_BATCHNORM.match(policy)
    return int(found[1]) if found else 0


def seconds_each(reader: Reader, space_id: str, device: str) -> float | None:
    """Return the time per example in the last sweep of a space on this kind of device; None if unknown."""
    sql = f"""SELECT w.id, w.run_id, epoch(r.ended - r.started), w.batchnorm
FROM sweeps w JOIN connections c ON c.id = w.connection_id JOIN runs r ON r.id = w.run_id
WHERE c.space_id = ? AND r.device = ? AND w.status = '{COMPLETE}' AND r.status = 'complete' AND r.resumptions = '[]'
ORDER BY w.created DESC"""
    measured = """SELECT sum(count), count(DISTINCT node_id) FROM evaluations
WHERE sweep_id = ? AND run_id = ? AND metric = 'loss'"""
    for sweep_id, run_id, seconds, policy in reader.query(sql, [space_id, device])[1]:
        ((examples, points),) = reader.query(measured, [sweep_id, run_id])[1]
        if points:  # else it reused all numbers
            passes = int(examples) + int(points) * examples_of_policy(policy)
            return float(seconds) / passes if passes >= _LEAST else None
    return None
