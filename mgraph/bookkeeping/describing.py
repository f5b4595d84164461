"""Everything about one node or connection, as plain rows for tables and programs (no torch)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from mgraph.bookkeeping.labels import labels_of
from mgraph.bookkeeping.listing import timestamp
from mgraph.metric import from_json, primary_of
from mgraph.query.criterion import ORACLE
from mgraph.query.damaged import contradiction
from mgraph.query.edges import current_edges
from mgraph.query.observed import ConnectionSeries
from mgraph.query.sweepdata import COMPLETE, family_of, finest_sweep, load_sweep
from mgraph.session.members import label, rows_and_ends
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
from mgraph_store.underway import versions_of

if TYPE_CHECKING:
    from mgraph.methods.base import Method

Row = dict[str, Any]


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
        "created": timestamp(node.created),
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
        rows, ends = rows_and_ends(reader, connection)
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
        "created": timestamp(connection.created),
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
