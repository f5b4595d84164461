"""What a finished sweep says about its connection: whether it failed, and whether it is sound again.

The train loss decides (or the loss on the first split that was measured). A number that is not finite in less than full
precision says nothing about the connection, for it may be an overflow. A connection that was marked failed is sound
again once a sweep in full precision, at least as fine as those that found the number, has finite losses everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from mgraph.explore.criterion import FULL_PRECISION
from mgraph.explore.sweepdata import COMPLETE
from mgraph_store import Connection, Reader, Sweep

FAILED = "failed"
SOUND = "complete"


@dataclass(frozen=True)
class Verdict:
    """The connection as it is to be stored, if that changes, and what to tell the user."""

    changed: Connection | None = None
    said: str = ""
    notes: tuple[str, ...] = ()


def judged(
    reader: Reader, connection: Connection, sweep: Sweep, deciding: tuple[str, str], ruined: str | None
) -> Verdict:
    """Judge a connection by a sweep whose numbers are about to be stored.

    ``deciding`` are the split and the metric that matter, ``ruined`` says which of these numbers is not finite.
    """
    # What is stored counts: another sweep may have judged it while this one ran.
    connection = reader.get(Connection, id=connection.id)
    if ruined and sweep.precision not in FULL_PRECISION:
        return Verdict(said=f"in {sweep.precision} it makes no edge; measure it in fp32.")
    if ruined:
        return Verdict(replace(connection, status=FAILED, reason=ruined), "it is marked failed and makes no edge.")
    if connection.status != FAILED or sweep.precision not in FULL_PRECISION:
        return Verdict()
    finer = [n for n in _ruined_sweeps(reader, connection, deciding) if n > prod(sweep.grid)]
    if finer:
        return Verdict(
            notes=(
                f"it stays marked failed ({connection.reason}): that was found on {max(finer)} points; sweep it at "
                "least as finely.",
            )
        )
    reason = (
        f"swept again, with a finite {' '.join(deciding)} at {prod(sweep.grid)} points; before: {connection.reason}"
    )
    return Verdict(
        replace(connection, status=SOUND, reason=reason),
        notes=(f"it is no longer marked failed ({connection.reason}): its {' '.join(deciding)} is finite.",),
    )


def _ruined_sweeps(reader: Reader, connection: Connection, deciding: tuple[str, str]) -> list[int]:
    """Return the sizes of the grids, in full precision, on which such a number was not finite."""
    sql = f"""SELECT list_product(w.grid) FROM sweeps w WHERE w.connection_id = ? AND w.status = '{COMPLETE}'
AND w."precision" IN ({", ".join(f"'{p}'" for p in FULL_PRECISION)}) AND EXISTS (
    SELECT 1 FROM evaluations v
    WHERE v.sweep_id = w.id AND v.split = ? AND v.metric = ? AND NOT isfinite(v.value)
)"""
    return [int(row[0]) for row in reader.query(sql, [connection.id, *deciding])[1]]
