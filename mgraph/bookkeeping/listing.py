"""The contents of a graph, as plain rows for tables and programs (no torch)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mgraph.bookkeeping.labels import labels_of
from mgraph.errors import InputError
from mgraph.metric import LOSS, from_json, primary_of
from mgraph.query.criterion import ORACLE
from mgraph.query.damaged import contradiction
from mgraph.query.edges import current_edges
from mgraph.query.observed import ConnectionSeries
from mgraph.query.sweepdata import COMPLETE, family_of, finest_sweep, load_sweep
from mgraph.session.members import ends_of, label, rows_of
from mgraph_store import (
    Connection,
    Edge,
    Evaluation,
    GraphStore,
    Measure,
    Member,
    Node,
    NodeTerm,
    Reader,
    Run,
    Series,
    Space,
    Summary,
    Sweep,
    columns,
)
from mgraph_store.index import filters
from mgraph_store.rows.metrics import RECORDED, names_in
from mgraph_store.rows.relations import CONNECTIONS, Relation, nodes
from mgraph_store.underway import versions_of

if TYPE_CHECKING:
    from mgraph.methods.base import Method

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
    return [dict(zip(names, row, strict=True)) | {"created": _when(row[when])} for row in rows]


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


def describe_node(store: GraphStore, node: Node) -> Row:
    """Describe a node completely: where it comes from, its terms, its numbers, its connections."""
    with store.reading() as reader:
        space = reader.get(Space, id=node.space_id)
        terms = reader.all(NodeTerm, node_id=node.id)
        sources = {n.id: label(n) for n in reader.all(Node, id=[t.source_id for t in terms])} if terms else {}
        evaluations = reader.all(Evaluation, node_id=node.id)
        measures = reader.all(Measure, node_id=node.id)
        series = reader.all(Series, node_id=node.id)
        members = reader.all(Member, node_id=node.id)
        connections = {c.id: c for c in reader.all(Connection, id=[m.connection_id for m in members])}
        run = _run(reader, node.run_id)
        labels = labels_of(reader, node)
    return {
        "id": node.id,
        "name": node.name,
        "kind": node.kind,
        "space": space.name,
        "stored": node.tensor_key is not None,
        "digest": node.digest,
        "nbytes": node.nbytes,
        # If only some layers of a node were trained, these coordinates are its own and the others a sum of terms.
        "own_coordinates": None if node.columns is None else columns.count(columns.from_json(node.columns)),
        "selected_on": node.selected_on,
        "created": _when(node.created),
        "info": json.loads(node.info),
        **labels,
        "run": run,
        "terms": [{"node": sources[t.source_id], "c": t.coefficient} for t in terms],
        "evaluations": [_evaluation(e) for e in evaluations],
        "measures": [{f.name: getattr(m, f.name) for f in fields(m) if f.name != "node_id"} for m in measures],
        "series": ConnectionSeries.of(series).summary(),
        "connections": sorted(
            {
                f"{m.role} of {label(connections[m.connection_id])} ({connections[m.connection_id].kind})"
                for m in members
            }
        ),
    }


def describe_connection(
    store: GraphStore, connection: Connection, sweep: Sweep | None = None, method: type[Method] | None = None
) -> Row:
    """Describe a connection completely: ends, control points, settings, its edges and a sweep, usually the finest.

    The ``method`` that made it may add its own tables, if its class is available.
    """
    from mgraph.methods.registry import tables_of

    with store.reading() as reader:
        space = reader.get(Space, id=connection.space_id)
        ends = ends_of(reader, connection)
        rows = rows_of(reader, connection)
        sweeps = reader.all(Sweep, connection_id=connection.id, status=COMPLETE)
        shown = sweep or finest_sweep(reader, connection)
        summaries = reader.all(Summary, connection_id=connection.id)
        series = reader.all(Series, connection_id=connection.id)
        data = load_sweep(reader, connection, shown) if series and sweeps else None
        measured = reader.all(Edge, sweep_id=shown.id) if shown else []
        run = _run(reader, connection.run_id)
        labels = labels_of(reader, connection)
    names = {n.id: label(n) for n in ends}
    if sweep is None:  # if the finest sweep lacks a split, the edge that counts is from another one
        measured += [e for e in current_edges(store, connections=[connection.id]) if e.sweep_id != _id(shown)]
    facts = {
        "id": connection.id,
        "name": connection.name,
        "kind": connection.kind,
        "space": space.name,
        "status": connection.status,
        "reason": connection.reason,
        "created": _when(connection.created),
        "ends": [label(n) for n in ends],
        "family": family_of(connection).describe(),
        "control_points": [{"row": k, "node": n.id, "kind": n.kind, "name": n.name} for k, n in enumerate(rows)],
        "settings": json.loads(connection.settings),
        **labels,
        "run": run,
        "sweeps": [
            {
                "id": s.id,
                "grid": list(s.grid),
                "axes": None if s.axes is None else json.loads(s.axes),
                "batchnorm": s.batchnorm,
                "precision": s.precision,
            }
            for s in sweeps
        ],
        "summary": [
            {k: getattr(s, k) for k in ("split", "metric", "statistic", "value", "standard_error")}
            for s in summaries
            if shown is not None and s.sweep_id in (shown.id, None)
        ],
        "sweep": _id(shown),
        "compared_by": primary_of(from_json((shown or space).metrics)).cost_name,
        "edges": _edge_rows(measured, names),
    }
    tables = {name: rows for name, rows in tables_of(method, series, data).items() if name not in facts}
    return facts | tables | {"series": ConnectionSeries.of(series).summary()}


_QUANTITIES = ("peak", "barrier", "drop")


def _edge_rows(edges: Sequence[Edge], names: dict[str, str]) -> list[Row]:
    """Make a row for every pair, split and metric, with the oracle's numbers beside those that count."""
    rows: dict[tuple[str, ...], Row] = {}
    for e in edges:
        if not {e.source_id, e.target_id} <= names.keys():
            raise contradiction(e.connection_id, "an edge is between nodes that are not its ends")
        key = (e.source_id, e.target_id, e.split, e.metric)
        row = rows.setdefault(
            key,
            {"source": names[e.source_id], "target": names[e.target_id], "split": e.split, "metric": e.metric},
        )
        if e.chosen_on == ORACLE:
            row |= {f"oracle_{name}": getattr(e, name) for name in _QUANTITIES}
        else:
            row |= {name: getattr(e, name) for name in (*_QUANTITIES, "length", "resolution", "examples")}
            row |= {name: getattr(e, name) for name in ("batchnorm", "precision", "chosen_on", "doubt")}
    return list(rows.values())


def _id(sweep: Sweep | None) -> str | None:
    return None if sweep is None else sweep.id


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
                "started": _when(run.started),
                "resumable": standing.can_go_on,
                "saved": standing.at,
                "saved_when": None if standing.saved is None else _when(standing.saved),
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


def _when(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _run(reader: Reader, run_id: str | None) -> Row | None:
    if run_id is None:
        return None
    run = reader.get(Run, id=run_id)
    return {
        "id": run.id,
        "command": run.command,
        "status": run.status,
        "seed": run.seed,
        "device": run.device,
        "threads": run.threads,
        "update": run.update,
        "resumptions": json.loads(run.resumptions),
        "settings": json.loads(run.settings),
        "versions": versions_of(run),
    }


def _evaluation(e: Evaluation) -> Row:
    names = ("split", "metric", "value", "standard_error", "count", "batchnorm", "subset", "sweep_id")
    return {name: getattr(e, name) for name in names}
