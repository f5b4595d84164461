"""How a band came about: the results of each cycle, as rows and as a picture (matplotlib is imported only to draw)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mgraph.query.observed import Observation

Row = dict[str, Any]

COLUMNS = ("cycle", "pivots", "saddle", "length", "train_loss", "lr", "seconds")


def cycle_rows(series: Iterable[Observation]) -> list[Row]:
    """Turn a band's series into one row per cycle, starting with cycle 0; empty for other connections."""
    found = {s.quantity: dict(zip(s.positions, s.values, strict=True)) for s in series if not s.subject}
    if "saddle" not in found:
        return []
    rows = []
    for cycle in found["saddle"]:
        row: Row = {"cycle": int(cycle)} | {name: found.get(name, {}).get(cycle) for name in COLUMNS[1:]}
        row["pivots"] = None if row["pivots"] is None else int(row["pivots"])
        rows.append(row)
    return rows


def draw_cycles(rows: Sequence[Row], axis: Any, colour: str) -> None:
    """Draw the saddle by cycle on a logarithmic axis, labelling each point with its number of pivots."""
    cycles, saddles = [row["cycle"] for row in rows], [row["saddle"] for row in rows]
    axis.plot(cycles, saddles, "o-", color=colour, clip_on=False, zorder=3)
    if min(saddles) > 0:
        axis.set_yscale("log")
    for row in rows:
        axis.annotate(
            str(row["pivots"]), (row["cycle"], row["saddle"]), xytext=(4, 5), textcoords="offset points", fontsize=7
        )
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("cycle   (numbers: pivots)")
    axis.set_ylabel("saddle: largest train loss")
    axis.grid(alpha=0.3)
