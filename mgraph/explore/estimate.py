"""What a connection will cost, judging by earlier ones (medians)."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from mgraph_store import Connection, Node, Reader, Run, Sweep

COMPLETE = "complete"


@dataclass(frozen=True)
class Estimate:
    """Medians over earlier connections of one method in one space: seconds to connect and to sweep, bytes of tensors.

    ``made`` is how many there are; ``alike`` says whether they were made with exactly the same settings.
    """

    made: int
    alike: bool
    connect: float
    sweep: float
    nbytes: int

    def seconds(self, connections: int, sweeps: int, places: int) -> float:
        """Return how long this many new connections and sweeps of old ones will take, with this many at once."""
        each = self.connect + self.sweep
        return math.ceil(connections / places) * each + math.ceil(sweeps / places) * self.sweep

    @override
    def __str__(self) -> str:
        settings = "the same settings" if self.alike else "other settings"
        return f"the median of {self.made} earlier connection{'' if self.made == 1 else 's'} with {settings}"


def estimate(reader: Reader, space_id: str, method: str, settings: Mapping[str, Any]) -> Estimate | None:
    """Look up what connections by a method have cost so far in a space; None if there are none to judge by.

    Those with the same settings count, or all if there are none.
    """
    made = reader.all(Connection, kind=method, space_id=space_id)
    if not made:
        return None
    wanted = json.loads(json.dumps(dict(settings)))
    alike = [c for c in made if _chosen(c, wanted) == wanted]
    chosen = alike or made
    runs = {r.id: r for r in reader.all(Run, id=[c.run_id for c in chosen if c.run_id is not None])}
    connects = [s for c in chosen if (s := _seconds(runs.get(c.run_id or ""))) is not None]
    if not connects:
        return None
    sweeps = reader.all(Sweep, connection_id=[c.id for c in chosen], status=COMPLETE)
    measured = {r.id: r for r in reader.all(Run, id=[s.run_id for s in sweeps if s.run_id is not None])}
    sweep_seconds = [s for w in sweeps if (s := _seconds(measured.get(w.run_id or ""))) is not None]
    nbytes: dict[str, int] = dict.fromkeys(runs, 0)
    for node in reader.all(Node, run_id=list(runs)):
        nbytes[node.run_id or ""] += node.nbytes
    return Estimate(
        made=len(connects),
        alike=bool(alike),
        connect=statistics.median(connects),
        sweep=_median(sweep_seconds),
        nbytes=int(_median(list(nbytes.values()))),
    )


def _chosen(connection: Connection, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a connection's settings that are the method's own, whatever the graph added to them."""
    return {k: v for k, v in json.loads(connection.settings).items() if k in wanted}


def _seconds(run: Run | None) -> float | None:
    if run is None or run.ended is None or run.status != COMPLETE:
        return None
    return (run.ended - run.started).total_seconds()


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0
