"""Output shared by several commands: modes and connections with their numbers and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mgraph_cli.output import emit, emit_one, note
from mgraph_cli.terminal import echo

_EDGES = ("source", "target", "split", "metric", "peak", "barrier", "drop", "length", "resolution")
_SUMMARY = ("split", "metric", "min", "max", "mean", "integral", "integral_uniform")
MEASURE_COLUMNS = {
    "sharpness": ("radius", "mean", "std", "max", "directions", "split", "examples", "run"),
    "flatness": ("relative_flatness", "standard_error", "split", "examples", "run"),
}


def print_mode(row: dict[str, Any], form: str) -> None:
    """Print a mode with its numbers."""
    if form == "table":
        measured = {f"{e['split']} {e['metric']}": e["value"] for e in row["evaluations"]}
        row = {key: row[key] for key in ("id", "name", "kind", "space", "digest")} | measured
    emit_one(row, form=form)


def print_connection(row: dict[str, Any], form: str, *, points: int | None = None) -> None:
    """Print a connection with one of its sweeps and, given its number of ``points``, which one that is."""
    if form != "table":
        emit_one(row, form=form)
        return
    named = {} if points is None else {"sweep": f"{row['sweep']} of {points} points; summary and edges are of this one"}
    emit_one({key: row[key] for key in ("id", "name", "kind", "status", "ends")} | named)
    echo()
    emit(summary_table(row["summary"]), _SUMMARY, title="summary", empty="")
    edges = [e for e in row["edges"] if (e["split"], e["metric"]) in (("train", "loss"), ("test", row["compared_by"]))]
    rows, columns = edge_table(edges)
    alone = len(row["ends"]) == 1 and row["summary"]  # a plane around one node
    emit(rows, columns, title="edges", empty="It has one end, so it makes no edge." if alone else "Not swept yet.")
    say_doubts(row["edges"])


def edge_table(edges: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return edges and the columns of their table: where routes were chosen, the oracle's barrier is one."""
    rows = [dict(edge) for edge in edges]
    if not any("oracle_barrier" in row for row in rows):
        return rows, _EDGES
    return [row | {"oracle": row.get("oracle_barrier")} for row in rows], (*_EDGES, "oracle")


def say_doubts(edges: Sequence[Mapping[str, Any]]) -> None:
    """Say which edges do not count, and why."""
    for edge in edges:
        if edge.get("doubt"):
            what = f"{edge['split']} {edge['metric']} from {edge['source']} to {edge['target']}"
            note(f"Note: the {what} does not count: {edge['doubt']}")


def summary_table(summary: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Turn one row per statistic into one row per split and metric."""
    table: dict[tuple[str, str], dict[str, Any]] = {}
    for s in summary:
        if s["statistic"] in _SUMMARY:
            row = table.setdefault((s["split"], s["metric"]), {"split": s["split"], "metric": s["metric"]})
            row[s["statistic"]] = s["value"]
    return list(table.values())


def measure_tables(measures: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Turn one row per number into a table of sharpness, one row per radius and run, and one of flatness."""
    sharp: dict[tuple[Any, ...], dict[str, Any]] = {}
    flat = []
    for m in measures:
        where = {"split": m["split"], "examples": m["examples"], "run": m["run_id"]}
        if m["quantity"] == "sharpness":
            row = {"radius": m["radius"], "directions": m["samples"]} | where
            sharp.setdefault(tuple(row.values()), row)[m["statistic"]] = m["value"]
        elif m["quantity"] == "relative_flatness":
            flat.append({"relative_flatness": m["value"], "standard_error": m["standard_error"]} | where)
    return {"sharpness": list(sharp.values()), "flatness": flat}


def print_models(facts: Mapping[str, Any], primary: str, form: str) -> None:
    """Print what was found out about models, and then these, with their numbers and the primary metric's error."""
    plain = {key: value for key, value in facts.items() if key != "models"}
    columns: tuple[str, ...] = ("what", f"valid_{primary}", f"test_{primary}", "test_error_bar")
    if primary != "loss":
        columns += ("valid_loss", "test_loss")
    if form == "json":
        emit_one({**plain, "models": facts["models"]}, form=form)
    elif form == "csv":
        emit(facts["models"], columns, form=form)
    else:
        emit_one(plain)
        echo()
        emit(facts["models"], columns)
