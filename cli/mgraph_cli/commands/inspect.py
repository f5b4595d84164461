"""Looking: ls, show, log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mgraph.errors import InputError
from mgraph_cli.commands.connect import edge_table, say_doubts, summary_table
from mgraph_cli.commands.measures import MEASURE_COLUMNS, measure_tables
from mgraph_cli.options import output_options, space_option, with_graph
from mgraph_cli.output import emit, emit_one, note
from mgraph_cli.terminal import echo

if TYPE_CHECKING:
    from mgraph.graph.graph import Graph

_CONNECTION_COLUMNS = ("name", "id", "kind", "ends", "status", "peak", "barrier")
_KINDS = ("mode", "control", "pivot", "sample", "merged")


@click.command()
@click.option(
    "--kind", help=f"Only this kind: {', '.join(_KINDS)} or connection (default: modes, merged, connections)."
)
@click.option("--where", metavar="EXPR", help="Only what this is true of, e.g. \"test_accuracy > 0.9 and tag = 'x'\".")
@click.option("--sort", metavar="COLUMN,…", help="Sort by columns, - before those that descend [default: created].")
@click.option("--limit", type=int, metavar="N", help="At most so many nodes, and so many connections.")
@click.option("--columns", metavar="COLUMN,…", help="Show these columns, with + before the first: these as well.")
@click.option("--list-columns", is_flag=True, help="List the columns with their meaning, and nothing else.")
@space_option
@with_graph
@output_options
def ls(
    kind: str | None,
    where: str | None,
    sort: str | None,
    limit: int | None,
    columns: str | None,
    list_columns: bool,
    space: str | None,
    graph: Graph,
    form: str,
) -> None:
    """List modes, merged nodes and connections.

    Peak and barrier of a connection are those of its worst pair of ends, on the train loss. EXPR compares columns with
    values: = != < <= > >=, like 'a%', in (…), is null, and, or, not; tag, end and note.KEY are columns, too. What names
    a column that only nodes or only connections have lists only these.

    \b
    Example:
      mgraph ls
      mgraph ls --kind mode --where "test_accuracy > 0.9 and tag = 'good'" --sort -test_accuracy --limit 5
      mgraph ls --where "end = 'a' and barrier < 0.1"
    """
    if kind is not None and kind not in (*_KINDS, "connection"):
        raise InputError(f"There is no kind {kind!r}; choose from {', '.join(_KINDS)}, connection.")
    from mgraph.bookkeeping import listing

    sides = {None: listing.SIDES, "connection": ("connections",)}.get(kind, ("nodes",))
    if list_columns:
        emit(listing.list_columns(graph.session.store, sides), ("of", "name", "type", "unit", "meaning"), form=form)
        return
    wanted = [] if columns is None else listing.sort_keys(columns.removeprefix("+"))
    named = listing.columns_named(where, sort) + wanted
    sides = listing.sides_with(graph.session.store, named, sides)
    found: dict[str, list[dict[str, Any]]] = {}
    options: dict[str, Any] = {"space": space, "where": where, "sort": sort or (), "limit": limit}
    if "nodes" in sides:
        found["nodes"] = graph.nodes(*([kind] if kind else []), **options)
    if "connections" in sides:
        found["connections"] = graph.connections(**options)
    if form != "table":
        both = [{"type": side[:-1], **row} for side, rows in found.items() for row in rows]
        emit(both, ("type", *listing.node_columns(graph.session.store)), form=form)
        return
    usual = {"nodes": listing.node_columns(graph.session.store), "connections": _CONNECTION_COLUMNS}
    for side, rows in found.items():
        if not rows and len(found) > 1 and (side == "connections" or where is not None):
            continue
        shown = _shown(usual[side], rows, named, wanted if columns and not columns.startswith("+") else None)
        empty = _EMPTY[side] if where is None else f"No {side} of which this is true."
        emit(rows, shown, title=side, empty=empty)
    if where is not None and len(found) > 1 and not any(found.values()):
        echo("Nothing of which this is true.")


_EMPTY = {
    "nodes": "No nodes yet; add one with mgraph train or mgraph add-mode.",
    "connections": "No connections yet.",
}


def _shown(
    usual: tuple[str, ...], rows: list[dict[str, Any]], named: list[str], only: list[str] | None
) -> tuple[str, ...]:
    """Choose columns: the usual ones, those that were named, and tags where there are any."""
    if only is not None:
        return tuple(only)
    tags = ["tags"] if any(row["tags"] for row in rows) else []
    return tuple(dict.fromkeys([*usual, *named, *tags]))


@click.command()
@click.argument("what")
@click.option("--table", is_flag=True, help="The papers' tables of a connection's finest sweep.")
@click.option("--series", is_flag=True, help="Every number that was observed on the way to it.")
@click.option("--ancestry", is_flag=True, help="What it was made from, back to training runs and files.")
@with_graph
@output_options
def show(what: str, table: bool, series: bool, ancestry: bool, graph: Graph, form: str) -> None:
    """Tell everything about a node or connection, by name, id, or id prefix.

    With --table, what the papers print: the minimum, the integral over the path or surface (Int) and the maximum of
    train loss, train error and test error, and the length ratio of a path; of a surface or simplex also the test
    accuracy of the point that is best on validation data, of the mean and of the corners. 'oracle' is the best on
    test data; it is never the result. A task's own primary metric stands in the place of error and accuracy.

    With --series, what was noted on the way, one number a row. Of a mode trained here: loss, accuracy, learning rate
    and distance from the start, by step. Of a walk (LLPF): the loss, the iterations and the seconds of each tick,
    distance, step and variance of each layer, and the loss at the points that were kept.

    \b
    Example:
      mgraph show s
      mgraph show s --table
      mgraph show m --ancestry
      mgraph show path --series --csv
    """
    if table + series + ancestry > 1:
        raise InputError("Show one of --table, --series and --ancestry.")
    if ancestry:
        _print_ancestry(graph.find(what).ancestry(), form)
        return
    if table:
        _print_tables(graph.connection(what).table(), form)
        return
    if series:
        rows = graph.find(what).series()
        emit(rows, ("quantity", "subject", "position", "value"), form=form, empty="Nothing was observed.")
        return
    row = graph.find(what).describe()
    if form == "table":
        row.pop("sweep", None)
    if form == "table" and row["run"]:
        row["run"] = _run_line(row["run"])
    if form == "table" and "pieces" in row.get("family", {}):
        row["family"] = {
            "family": row["family"]["family"],
            "pieces": [p["family"]["family"] for p in row["family"]["pieces"]],
        }
    if form == "table":
        row["series"] = f"{len(row['series'])}; --series prints them" if row["series"] else None
    if form == "table" and "summary" in row:
        geometry = {s["statistic"]: s["value"] for s in row["summary"] if s["metric"] == "geometry"}
        ensembles = [s for s in row["summary"] if s["statistic"].startswith("ensemble")]
        row |= {"geometry": geometry, "summary": summary_table(row["summary"]), "ensembles": ensembles}
        row |= _shortened(row)
    edges: tuple[str, ...] = ()
    if "edges" in row:
        say_doubts(row["edges"])
        if form == "table":
            row["edges"], edges = edge_table(row["edges"])
    if form == "table" and "measures" in row:
        row |= measure_tables(row.pop("measures"))
    emit_one(
        row,
        form=form,
        tables={
            "control_points": ("row", "node", "kind", "name"),
            "terms": ("node", "c"),
            "evaluations": ("split", "metric", "value", "standard_error", "count", "batchnorm", "sweep_id"),
            **MEASURE_COLUMNS,
            "sweeps": ("id", "grid", "batchnorm", "precision"),
            "summary": ("split", "metric", "min", "max", "mean", "integral", "integral_uniform"),
            "ensembles": ("split", "metric", "statistic", "value"),
            "cycles": ("cycle", "pivots", "saddle", "length", "train_loss", "lr", "seconds"),
            "edges": edges,
            "checks": ("check", "value"),
            "layers": ("layer", "first_distance", "last_distance", "left"),
            "weights": ("weight", "first_variance", "last_variance"),
        },
    )


def _print_ancestry(tree: dict[str, Any], form: str) -> None:
    from mgraph.bookkeeping.ancestry import tree_lines

    if form == "csv":
        raise InputError("A tree is not a table; print it as text or with --json.")
    if form == "json":
        emit_one(tree, form=form)
        return
    echo(*tree_lines(tree))


_MOST_ROWS = 12  # of control points in a table for people


def _shortened(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out of a connection what fills screens: places of many bends, and their nodes."""
    checks = row["checks"] or {}
    short: dict[str, Any] = {
        "checks": [{"check": k.replace("_", " "), "value": v} for k, v in checks.items() if v is not None],
    }
    if row["family"].get("at"):
        short["family"] = {k: v for k, v in row["family"].items() if k != "at"}
    if len(row["control_points"]) > _MOST_ROWS:
        short["control_points"] = row["control_points"][:2] + row["control_points"][-2:]
        short["rows"] = f"{len(row['control_points'])}, of which the first and last are shown; --json has all"
    return short


_MODELS = {
    "best": "best on validation data",
    "mean": "mean of all points",
    "corners": "mean of the corners",
}


def _print_tables(table: dict[str, Any], form: str) -> None:
    from mgraph.report.tables import table_cells

    if form == "json":
        emit_one(table, form=form)
        return
    if form == "csv":
        emit(table_cells(table), ("quantity", "statistic", "value", "standard_error"), form=form)
        return
    samples = [
        f"{split} {table['examples'][split]} (subset {name})"
        for split, name in table["subsets"].items()
        if name != "all"
    ]
    facts = {key: table[key] for key in ("connection", "kind", "ends", "grid", "points", "batchnorm", "precision")}
    emit_one(facts | {"length_ratio": table["length_ratio"], "examples": ", ".join(samples)})
    echo()
    statistics = ("min", "int", "max")
    rows = [
        {"": row["quantity"]} | {s: _with_error(row[s], row[f"{s}_standard_error"]) for s in statistics}
        for row in table["rows"]
    ]
    emit(rows, ("", *statistics), empty="The sweep measured nothing of what is shown here.")
    models = table["models"]
    if models is not None:
        rows = [
            {"": text, models["quantity"]: _number(models[what])}
            for what, text in _MODELS.items()
            if models[what] is not None
        ]
        emit(rows, ("", models["quantity"]))
        emit_one({"oracle": f"{_number(models['oracle'])}, the best on test data: no result"})


def _number(model: dict[str, Any]) -> str:
    return _with_error(model["value"], model["standard_error"])


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"


def _run_line(run: dict[str, Any]) -> str:
    parts = {name: version for name, version in run["versions"].items() if name != "code"}
    parts |= {f"code of {role}": hash[:8] for role, hash in run["versions"].get("code", {}).items()}
    versions = ", ".join(f"{name} {version}" for name, version in parts.items())
    seed = "" if run["seed"] is None else f", seed {run['seed']}"
    update = f", {run['update']} update" if run["update"] else ""
    times = len(run["resumptions"])
    resumed = "" if not times else ", resumed once" if times == 1 else f", resumed {times} times"
    if any(resumption.get("other", {}).get("code") for resumption in run["resumptions"]):
        resumed += " (with other code than it began with)"
    return (
        f"{run['id']}: {run['command']}, {run['status']}{resumed}{seed}, {run['device']}, "
        f"{run['threads']} thread{'' if run['threads'] == 1 else 's'}{update} ({versions})"
    )


@click.command()
@with_graph
@output_options
def log(graph: Graph, form: str) -> None:
    """List everything that was run, with its status.

    A run whose process is gone is interrupted; what can go on, and from where, is said below the table. Seeds, devices
    and more are in --json and --csv.

    \b
    Example:
      mgraph log
    """
    columns = ("id", "command", "name", "status", "seconds", "started", "reason")
    rows = graph.runs()
    if form != "table":
        emit(rows, columns, form=form)
        return
    emit([row | {"started": row["started"][:16].replace("T", " ")} for row in rows], columns)
    for row in rows:
        if row["resumable"]:
            where = f"from {row['saved']}, saved {row['saved_when']}" if row["saved"] else "from its beginning"
            note(f"{row['command'].capitalize()} {row['id']} can go on {where}: mgraph resume {row['id']}")
