"""What is under way in a graph: how far its runs have come, their losses, and how long they will take."""

from __future__ import annotations

import json
from typing import Any

from mgraph.operations.resume import RunStatus
from mgraph.page.plain import number, plain
from mgraph_store import Connection, GraphStore, Run
from mgraph_store.headway import HeadwayFile
from mgraph_store.rows.records import now

Row = dict[str, Any]


def under_way(store: GraphStore) -> list[Row]:
    """Return the runs whose process is alive, or may be, oldest first.

    ``headway`` is what the process last wrote (None in the first seconds); ``seconds`` since the run began, and
    ``seconds_left`` of its phase, as far as the pace so far tells.
    """
    with store.reading() as reader:
        runs = reader.all(Run, status="running", order="started, rowid")
        names = {c.id: c.name for c in reader.all(Connection)} if runs else {}
    rows = []
    for run in runs:
        standing = RunStatus.of(store, run)
        if standing.status != "running":
            continue
        headway = HeadwayFile(store.folder.root, run.id).read()
        connection = json.loads(run.settings).get("connection")
        name = standing.name or (names.get(connection) if isinstance(connection, str) else None)
        row: Row = {
            "id": run.id,
            "command": run.command,
            "name": name,
            "reason": standing.reason,
            "started": run.started,
            "seconds": max(0.0, (now() - run.started).total_seconds()),
            "saved": standing.at,
            "host": run.host,
            "pid": run.pid,
            "headway": None,
        }
        if headway is not None:
            left = headway.seconds_left
            row["headway"] = {
                "phase": headway.phase,
                "done": headway.done,
                "total": headway.total,
                "loss": headway.loss,
                "when": headway.when,
                "seconds_left": None if left is None else number(left, 3),
                "losses": [[phase, done, number(loss, 4)] for phase, done, loss in headway.losses],
            }
        rows.append(plain(row))
    return rows
