"""What a notebook shows of a graph, of its nodes and of its connections, as plain data (no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mgraph.notebook import MOST_ROWS

if TYPE_CHECKING:
    from mgraph.graph.graph import Graph

_OF_SPACE = ("name", "arch", "data", "parameters", "modes")
_OF_EDGE = ("source", "target", "split", "metric", "peak", "barrier", "drop", "length", "resolution")
_OF_SUMMARY = ("min", "max", "mean")


def of_graph(graph: Graph) -> dict[str, Any]:
    """Show a graph's spaces, and the first of its modes and connections, as ``mgraph ls`` lists them."""
    spaces = [{key: row[key] for key in _OF_SPACE} for row in graph.spaces()]
    listed = graph.ls(limit=MOST_ROWS)
    shown = {
        side: [{column: row.get(column) for column in listed.columns[side]} for row in rows]
        for side, rows in listed.rows.items()
    }
    more = [side for side, rows in listed.rows.items() if len(rows) == MOST_ROWS]
    note = f"the first {MOST_ROWS} {' and '.join(more)} are shown" if more else None
    return {"path": str(graph.path), "note": note, "spaces": spaces} | shown


def of_node(row: Mapping[str, Any]) -> dict[str, Any]:
    """Show what a node is, and its numbers: one row for each split and metric."""
    facts = {key: row[key] for key in ("id", "name", "kind", "space", "digest", "tags", "notes", "connections")}
    numbers = [{key: e[key] for key in ("split", "metric", "value", "standard_error")} for e in row["evaluations"]]
    return facts | {"numbers": numbers}


def of_connection(row: Mapping[str, Any]) -> dict[str, Any]:
    """Show what a connection is, and of its finest sweep the summary and the edges that are compared first."""
    facts = {key: row[key] for key in ("id", "name", "kind", "space", "status", "ends", "tags", "notes", "sweep")}
    compared = (("train", "loss"), ("test", row["compared_by"]))
    edges = [{key: e[key] for key in _OF_EDGE} for e in row["edges"] if (e["split"], e["metric"]) in compared]
    return facts | {"summary": _summary(row["summary"]), "edges": edges}


def _summary(statistics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for s in statistics:
        if s["statistic"] in _OF_SUMMARY:
            key = s["split"], s["metric"]
            rows.setdefault(key, {"split": key[0], "metric": key[1]})[s["statistic"]] = s["value"]
    return list(rows.values())
