"""What a finished sweep says about its connection: whether it failed, and whether it is sound again.

The train loss decides (or the loss on the first split that was measured). A number that is not finite in lower
precision says nothing about the connection, because it may be an overflow. A connection that was marked failed is sound
again once a sweep in full precision has measured the points in question anew and finds finite losses everywhere.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from mgraph.query.criterion import FULL_PRECISION
from mgraph.query.sweepdata import COMPLETE
from mgraph_store import Connection, Reader, Sweep

FAILED = "failed"
SOUND = "complete"


@dataclass(frozen=True)
class Verdict:
    """The connection to be stored, if it changes, and what to tell the user."""

    changed: Connection | None = None
    since: Connection | None = None  # the stored connection from which it was made
    said: str = ""
    notes: tuple[str, ...] = ()


def judged(
    reader: Reader,
    connection: Connection,
    sweep: Sweep,
    deciding: tuple[str, str],
    ruined: str | None,
    points: Collection[str],
) -> Verdict:
    """Judge a connection by a sweep whose numbers are about to be stored.

    ``deciding`` are the split and the metric that matter, ``ruined`` says which of these numbers is not finite, and
    ``points`` are the nodes that were measured.
    """
    # The stored status counts: another sweep may have judged it while this one ran.
    connection = reader.get(Connection, id=connection.id)
    if ruined and sweep.precision not in FULL_PRECISION:
        return Verdict(said=f"in {sweep.precision} it makes no edge; measure it in fp32.")
    if ruined:
        return Verdict(
            replace(connection, status=FAILED, reason=ruined), connection, "it is marked failed and makes no edge."
        )
    if connection.status != FAILED or sweep.precision not in FULL_PRECISION:
        return Verdict()
    what = " ".join(deciding)
    if _ruined_points(reader, connection, deciding) - set(points):
        return Verdict(
            notes=(
                f"it stays marked failed ({connection.reason}), because that point was not measured again: use a grid "
                "that contains it, and --no-reuse.",
            )
        )
    reason = f"swept again, and its {what} is finite; before, it was marked failed: {connection.reason}"
    said = f"it is no longer marked failed ({connection.reason}): its {what} is finite."
    return Verdict(replace(connection, status=SOUND, reason=reason), connection, notes=(said,))


def _ruined_points(reader: Reader, connection: Connection, deciding: tuple[str, str]) -> set[str]:
    """Return the points at which such a number, in full precision, was not finite in an earlier sweep."""
    full = ", ".join(f"'{p}'" for p in FULL_PRECISION)
    sql = f"""SELECT DISTINCT v.node_id FROM evaluations v JOIN sweeps w ON w.id = v.sweep_id
WHERE w.connection_id = ? AND w.status = '{COMPLETE}' AND w."precision" IN ({full})
AND v.split = ? AND v.metric = ? AND NOT isfinite(v.value)"""
    return {row[0] for row in reader.query(sql, [connection.id, *deciding])[1]}
