"""Looking: ls, show, log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from mgraph import KINDS, Listing
from mgraph.errors import InputError
from mgraph_cli.completion import THINGS
from mgraph_cli.options import given, keyword_options, output_options, with_graph
from mgraph_cli.output import emit, emit_one, note
from mgraph_cli.tables import MEASURE_COLUMNS, edge_table, measure_tables, say_doubts, summary_table
from mgraph_cli.terminal import echo

if TYPE_CHECKING:
    from mgraph import Connected, Graph, Point


@click.command()
@click.option(
    "--kind", help=f"Only this kind: {', '.join(KINDS[:-1])} or {KINDS[-1]} (default: modes, merged, connections)."
)
@click.option(
    "--columns", metavar="COLUMN,…", help="Show these columns; with + before the first, in addition to the usual ones."
)
@click.option("--list-columns", is_flag=True, help="Only list the columns with their meaning.")
@keyword_options(Listing)
@with_graph
@output_options
def ls(kind: str | None, columns: str | None, list_columns: bool, graph: Graph, form: str, **which: Any) -> None:
    """List modes, merged nodes and connections.

    Peak and barrier of a connection are those of its worst pair of ends, on the train loss. EXPR compares columns with
    values: = != < <= > >=, like 'a%', in (…), is null, and, or, not; tag, end and note.KEY are columns too. Naming a
    column that only nodes or only connections have lists only these.

    \b
    Example:
      mgraph ls
      mgraph ls --kind mode --where "test_accuracy > 0.9 and tag = 'good'" --sort -test_accuracy --limit 5
      mgraph ls --where "end = 'a' and barrier < 0.1"
    """
    if list_columns:
        emit(graph.columns(kind), ("of", "name", "type", "unit", "meaning"), form=form)
        return
    found, where = graph.ls(kind, columns=columns, **given(which)), which["where"]
    if form != "table":
        both = [{"type": side[:-1], **row} for side, rows in found.rows.items() for row in rows]
        emit(both, ("type", *found.columns.get("nodes", ())), form=form)
        return
    for side, rows in found.rows.items():
        if not rows and len(found.rows) > 1 and (side == "connections" or where is not None):
            continue
        empty = _EMPTY[side] if where is None else f"No {side} for which this is true."
        emit(rows, found.columns[side], title=side, empty=empty)
    if where is not None and len(found.rows) > 1 and not any(found.rows.values()):
        echo("Nothing for which this is true.")


_EMPTY = {
    "nodes": "No nodes yet; add one with mgraph train or mgraph add-mode.",
    "connections": "No connections yet.",
}


@click.command()
@click.argument("what", shell_complete=THINGS)
@click.option("--table", is_flag=True, help="Print the papers' tables for the connection's finest sweep.")
@click.option("--series", is_flag=True, help="Print every number that was recorded on the way to it.")
@click.option("--ancestry", is_flag=True, help="Show what it was made from, back to training runs and files.")
@click.option("--basins", is_flag=True, help="Print the basins of the connection's finest sweep, and their saddles.")
@click.option("--split", default=None, help="With --basins: train (default), valid or test.")
@click.option("--metric", default=None, help="With --basins: any metric that was swept (default: loss).")
@click.option("--depth", type=float, default=None, help="With --basins: the least depth (default: 1 % of the range).")
@with_graph
@output_options
def show(
    what: str, table: bool, series: bool, ancestry: bool, basins: bool, graph: Graph, form: str, **flooding: Any
) -> None:
    """Show everything about a node or connection, by name, id, or id prefix.

    --table prints what the papers print: the minimum, the integral over the path or surface (Int) and the maximum of
    train loss, train error and test error, and the length ratio of a path; for a surface or simplex also the test
    accuracy of the point that is best on validation data, of the mean and of the corners. 'oracle' is the best on test
    data; it is never the result. A task's own primary metric takes the place of error and accuracy.

    --series prints what was recorded on the way, one number per row: for a mode trained here, the loss, the accuracy,
    the learning rate and the distance from the start, by step; for a walk (LLPF), the loss, the iterations and the
    seconds of each tick, the distance, step and variance of each layer, and the loss at the points that were kept.

    --basins prints every minimum of the swept values that is not a ripple, and the saddle over which it joins a deeper
    one, as a tree like that of mgraph dendrogram.

    \b
    Example:
      mgraph show s
      mgraph show s --table
      mgraph show s --basins
      mgraph show m --ancestry
      mgraph show path --series --csv
    """
    if table + series + ancestry + basins > 1:
        raise InputError("Give only one of --table, --series, --ancestry and --basins.")
    if basins:
        _print_basins(graph.connection(what), form, flooding)
        return
    if any(value is not None for value in flooding.values()):
        raise InputError("--split, --metric and --depth are for --basins.")
    if ancestry:
        _print_ancestry(graph.find(what), form)
        return
    if table:
        _print_tables(graph.connection(what), form)
        return
    if series:
        rows = graph.find(what).series()
        emit(rows, ("quantity", "subject", "position", "value"), form=form, empty="Nothing was recorded.")
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
    measured = row.get("evaluations", ())
    known = {
        "control_points": ("row", "node", "kind", "name"),
        "terms": ("node", "c"),
        "evaluations": (*_EVALUATION, *(["subset"] if any(e["subset"] != "all" for e in measured) else [])),
        **MEASURE_COLUMNS,
        "sweeps": ("id", "grid", "batchnorm", "precision"),
        "summary": ("split", "metric", "min", "max", "mean", "integral", "integral_uniform"),
        "ensembles": ("split", "metric", "statistic", "value"),
        "cycles": ("cycle", "pivots", "saddle", "length", "train_loss", "lr", "seconds"),
        "edges": edges,
        "checks": ("check", "value"),
        "layers": ("layer", "first_distance", "last_distance", "left"),
        "weights": ("weight", "first_variance", "last_variance"),
    }
    emit_one(row, form=form, tables=known | _further_tables(row, known))


_EVALUATION = ("split", "metric", "value", "standard_error", "count", "batchnorm", "sweep_id")


def _print_ancestry(subject: Point | Connected, form: str) -> None:
    if form == "csv":
        raise InputError("A tree is not a table; print it as text or with --json.")
    if form == "json":
        emit_one(subject.ancestry(), form=form)
        return
    echo(*subject.ancestry_lines())


def _print_basins(connected: Connected, form: str, flooding: dict[str, Any]) -> None:
    found = connected.basins(**given(flooding))
    columns = ("basin", "value", "saddle", "at", "depth", "joins")
    if form == "json":
        emit_one(found.to_dict(), form=form)
        return
    if form == "csv":
        emit(found.rows(), columns, form=form)
        return
    echo(f"{found.split} {found.metric.cost_name} at which basins join")
    echo(*str(found.tree).split("\n"))
    echo()
    emit(found.rows(), columns)
    if found.said:
        note(f"Note: {found.said}")


def _further_tables(row: dict[str, Any], known: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Find the tables that a method of the user's own has added."""
    return {
        key: tuple(value[0])
        for key, value in row.items()
        if key not in known and isinstance(value, list) and value and all(isinstance(one, dict) for one in value)
    }


_MOST_ROWS = 12  # control points in a table for people


def _shortened(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out what would fill the screen: the rows of many bends, and their nodes."""
    checks = row["checks"] or {}
    short: dict[str, Any] = {
        "checks": [{"check": k.replace("_", " "), "value": v} for k, v in checks.items() if v is not None],
    }
    if row["family"].get("at"):
        short["family"] = {k: v for k, v in row["family"].items() if k != "at"}
    if len(row["control_points"]) > _MOST_ROWS:
        short["control_points"] = row["control_points"][:2] + row["control_points"][-2:]
        short["rows"] = f"{len(row['control_points'])}, only the first and last are shown; --json has all"
    return short


_MODELS = {
    "best": "best on validation data",
    "mean": "mean of all points",
    "corners": "mean of the corners",
}


def _print_tables(connected: Connected, form: str) -> None:
    table = connected.table()
    if form == "json":
        emit_one(table, form=form)
        return
    if form == "csv":
        emit(connected.table_cells(), ("quantity", "statistic", "value", "standard_error"), form=form)
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
    emit(rows, ("", *statistics), empty="The sweep measured none of the numbers shown here.")
    models = table["models"]
    if models is not None:
        rows = [
            {"": text, models["quantity"]: _number(models[what])}
            for what, text in _MODELS.items()
            if models[what] is not None
        ]
        emit(rows, ("", models["quantity"]))
        emit_one({"oracle": f"{_number(models['oracle'])}, the best on test data, not a result"})


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

    A run whose process is gone is interrupted; below the table are the runs that can be resumed, and from where. Seeds,
    devices and more are in --json and --csv.

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
            where = f"from {row['saved']}, saved {row['saved_when']}" if row["saved"] else "from the start"
            note(f"{row['command'].capitalize()} {row['id']} can be resumed {where}: mgraph resume {row['id']}")
