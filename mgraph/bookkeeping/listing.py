"""The contents of a graph, as plain rows for tables and programs (no torch)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from mgraph.errors import InputError
from mgraph.metric import LOSS, from_json, primary_of
from mgraph_store import GraphStore, Node, Run, Space
from mgraph_store.index import filters
from mgraph_store.rows.metrics import RECORDED, names_in
from mgraph_store.rows.relations import CONNECTIONS, Relation, nodes

Row = dict[str, Any]


def list_nodes(
    store: GraphStore,
    *,
    kinds: Sequence[str] = (),
    space: Space | None = None,
    where: str | None = None,
    sort: Sequence[str] = (),
    limit: int | None = None,
) -> list[Row]:
    """List nodes of some kinds (default all) with their own losses and metrics, oldest first unless sorted.

    ``where`` is an expression of :mod:`mgraph_store.index.filters`, ``sort`` are column names, with ``-`` if
    descending. Raises InputError for invalid ones, and for a limit below 1.
    """
    inside = [f"kind IN ({', '.join('?' * len(kinds))})"] if kinds else []
    return _listed(store, _relations(store)["nodes"], inside, list(kinds), space, where, sort, limit)


def list_connections(
    store: GraphStore,
    *,
    space: Space | None = None,
    where: str | None = None,
    sort: Sequence[str] = (),
    limit: int | None = None,
) -> list[Row]:
    """List connections with the worst edge of each on the train loss; arguments and errors as :func:`list_nodes`."""
    return _listed(store, CONNECTIONS, [], [], space, where, sort, limit)


def _listed(
    store: GraphStore,
    relation: Relation,
    inside: list[str],
    parameters: list[Any],
    space: Space | None,
    where: str | None,
    sort: Sequence[str],
    limit: int | None,
) -> list[Row]:
    if limit is not None and limit < 1:
        raise InputError(f"A limit must be a whole number of at least 1, not {limit}.")
    parts = list(inside)
    if space is not None:
        parts.append("space = ?")
        parameters = [*parameters, space.name]
    if where is not None:
        condition = filters.parse(where, relation.by_name)
        parts.append(condition.sql)
        parameters = [*parameters, *condition.parameters]
    ordered = filters.order([*sort, "created", "id"], relation.by_name)
    sql = "SELECT * FROM ({}){} ORDER BY {}{}".format(
        relation.select(),
        f" WHERE {' AND '.join(parts)}" if parts else "",
        ordered,
        "" if limit is None else f" LIMIT {int(limit)}",
    )
    with store.reading() as reader:
        names, rows = reader.query(sql, parameters)
    when = names.index("created")
    return [dict(zip(names, row, strict=True)) | {"created": timestamp(row[when])} for row in rows]


SIDES = ("nodes", "connections")
"""The sides of a listing: nodes and connections, each with its own columns."""


def _relations(store: GraphStore) -> Mapping[str, Relation]:
    """Return what can be listed; nodes have a column for every metric of every space of the graph."""
    with store.reading() as reader:
        metrics = names_in(row[0] for row in reader.query(RECORDED["spaces"].format(db="main"))[1])
    return {"nodes": nodes(metrics), "connections": CONNECTIONS}


def list_columns(store: GraphStore, sides: Sequence[str] = SIDES) -> list[Row]:
    """List the columns that can be shown, filtered and sorted by."""
    relations = _relations(store)
    return [
        {"of": side, "name": f.name, "type": f.type, "unit": f.unit, "meaning": f.meaning}
        for side in sides
        for f in relations[side].fields
    ]


def node_columns(store: GraphStore) -> tuple[str, ...]:
    """Return the columns of nodes that are shown by default: the train loss, and the primary metric of each space."""
    with store.reading() as reader:
        primary = list(dict.fromkeys(primary_of(from_json(s.metrics)).name for s in reader.all(Space)))
    splits = [f"{split}_{name}" for name in primary for split in ("valid", "test")]
    return ("name", "id", "kind", "space", f"train_{LOSS.name}", *splits)


def columns_named(where: str | None, sort: str | Sequence[str]) -> list[str]:
    """List the columns that an expression and sort keys name; InputError if the expression cannot be read."""
    keys = [key.lstrip("-+") for key in sort_keys(sort)] if sort else []
    several = {"tag": "tags", "end": "ends"}
    named = [several.get(n, "notes" if n.startswith("note.") else n) for n in filters.names_in(where or "")]
    return list(dict.fromkeys([*named, *keys]))


def sides_with(store: GraphStore, named: Sequence[str], sides: Sequence[str] = SIDES) -> tuple[str, ...]:
    """Return those of the sides that have all columns; InputError if none has."""
    if not named:
        return tuple(sides)
    relations = _relations(store)
    having = tuple(side for side in sides if all(name in relations[side].by_name for name in named))
    if having or not sides:
        return having
    for name in named:
        if not any(name in relations[side].by_name for side in sides):
            raise InputError(filters.unknown(name, (n for side in sides for n in relations[side].by_name)))
    raise InputError(f"No list has all of {', '.join(named)}: some belong to nodes, some to connections.")


def sort_keys(given: str | Sequence[str]) -> list[str]:
    """Split sort keys given as one comma-separated text."""
    return [key.strip() for key in given.split(",")] if isinstance(given, str) else list(given)


def list_spaces(store: GraphStore) -> list[Row]:
    """List the spaces with their size and number of modes."""
    from mgraph_store import Layout

    with store.reading() as reader:
        spaces = reader.all(Space)
        modes = reader.all(Node, kind="mode")
    rows = []
    for s in spaces:
        layout = Layout.from_json(s.layout)
        rows.append(
            {
                "id": s.id,
                "name": s.name,
                "arch": s.arch,
                "data": s.data,
                "loss": s.loss,
                "metrics": [metric.stored() for metric in from_json(s.metrics)],
                "parameters": layout.size,
                "tensors": len(layout.tensors),
                "codec": s.codec,
                "modes": sum(m.space_id == s.id for m in modes),
            }
        )
    return rows


def list_runs(store: GraphStore) -> list[Row]:
    """List every run with its status, oldest first; one whose process is gone is interrupted.

    For incomplete runs, ``saved`` is the position of the newest state, and ``resumable`` says whether it can be
    resumed.
    """
    from mgraph.operations.resume import RunStatus

    with store.reading() as reader:
        runs = reader.all(Run)
    rows = []
    for run in runs:
        standing = RunStatus.of(store, run)
        rows.append(
            {
                "id": run.id,
                "command": run.command,
                "name": standing.name,
                "status": standing.status,
                "reason": standing.reason,
                "seed": run.seed,
                "device": run.device,
                "seconds": _seconds(run),
                "started": timestamp(run.started),
                "resumable": standing.can_go_on,
                "saved": standing.at,
                "saved_when": None if standing.saved is None else timestamp(standing.saved),
                "resumed": len(json.loads(run.resumptions)),
                "host": run.host,
                "pid": run.pid,
            }
        )
    return rows


def _seconds(run: Run) -> float | None:
    """Return how long a finished run took, without the time between interruption and resumption."""
    if run.ended is None:
        return None
    pauses = [
        datetime.fromisoformat(r["when"]) - datetime.fromisoformat(r["stopped"]) for r in json.loads(run.resumptions)
    ]
    return (run.ended - run.started).total_seconds() - sum(pause.total_seconds() for pause in pauses)


def timestamp(moment: datetime) -> str:
    """Write a moment, which is in UTC, as rows have it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
