"""Connections: connect, sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgraph.errors import InputError
from mgraph.evaluate.known import HOW_TO_NAME
from mgraph.methods.registry import METHODS, method_named
from mgraph_cli.commands.auto import LIMITS, auto_options, connect_auto
from mgraph_cli.options import (
    SectionedCommand,
    SectionOption,
    chosen_settings,
    grid_option,
    inner_option,
    output_options,
    preset_option,
    settings_options,
    with_computing_graph,
)
from mgraph_cli.output import emit, emit_one, note
from mgraph_cli.progress import progress_bars
from mgraph_cli.terminal import echo

if TYPE_CHECKING:
    from mgraph.graph.graph import Graph


_GRID = (
    "n or n,m (default: 61 on a path, 11,11 on a surface, at most 11 along an edge of a simplex; of a band its pivots "
    "and 9 points in every gap)"
)
_EDGES = ("source", "target", "split", "metric", "peak", "barrier", "drop", "length", "resolution")
_SUMMARY = ("split", "metric", "min", "max", "mean", "integral", "integral_uniform")


def _method_flags(command: Any) -> Any:
    for name, method in reversed(METHODS.items()):
        command = click.option(
            f"--{name}",
            "methods",
            cls=SectionOption,
            section="Methods",
            flag_value=name,
            multiple=True,
            help=f"{method.summary[0].upper()}{method.summary[1:]}.",
        )(command)
    return command


@click.command(cls=SectionedCommand)
@click.argument("ends", nargs=-1, required=True)
@_method_flags
@click.option(
    "--method",
    "methods",
    cls=SectionOption,
    section="Methods",
    multiple=True,
    metavar="CODE",
    help="Your own method, or the family of a path to train, as file.py:Class; runs its code.",
)
@auto_options
@click.option("--name", help="Name of the connection.")
@click.option("--no-sweep", is_flag=True, help="Do not sweep it now.")
@grid_option(f"Points of the sweep: {_GRID}.")
@inner_option
@click.option("--init", metavar="CONN", help="Start from the control points of this connection of the same ends.")
@preset_option(METHODS)
@click.option("--same-layout", is_flag=True, help="Connect across tasks, on the first end's task.")
@click.option("--buffers-from", help="The end whose buffers to use where they differ.")
@settings_options(METHODS)
@with_computing_graph
@output_options
def connect(
    ends: tuple[str, ...],
    methods: tuple[str, ...],
    name: str | None,
    no_sweep: bool,
    grid: list[int] | None,
    inner: int | None,
    init: str | None,
    preset: str | None,
    same_layout: bool,
    buffers_from: str | None,
    pairs: tuple[str, ...],
    config: Path | None,
    graph: Graph,
    form: str,
    **flags: Any,
) -> None:
    """Connect modes by exactly one method, and sweep the result.

    With --auto and a limit, methods are tried from the cheapest to the most expensive until one meets the limit.
    Settings go to every method that has them, and every attempt is kept, called NAME-METHOD.

    Corner order of a surface A B C D: A = (0,0), B = (0,1), C = (1,0), D = (1,1). mgraph methods NAME prints the
    settings of one method. Under torchrun, all processes train one connection together.

    \b
    Example:
      mgraph connect a b --curve --bends 1
      mgraph connect a b c d --surface --degree 2,2 --name s
      mgraph connect a b --curve --bends 3 --init s
      mgraph connect a b c --simplex --grid 6
      mgraph connect a b --neb --preset quick
      mgraph connect a b --method paths.py:Spline --bends 3 -s lr=0.02
      mgraph connect a b --auto --max-barrier 0.1 --budget 30m --name ab
    """
    if len(methods) != 1:
        raise InputError(
            f"Name exactly one method: {', '.join('--' + m for m in METHODS)}; --method file.py:Class; or --auto."
        )
    limits = {key: flags.pop(key) for key in LIMITS}
    if methods == ("auto",):
        connect_auto(
            graph,
            ends,
            limits,
            flags,
            pairs,
            config,
            form,
            name=name,
            no_sweep=no_sweep,
            grid=grid,
            init=init,
            preset=preset,
            same_layout=same_layout,
            buffers_from=buffers_from,
        )
        return
    for key, value in limits.items():
        if value is not None:
            raise InputError(f"--{key.replace('_', '-')} is an option of --auto.")
    method = chosen_settings(method_named(methods[0]), flags, pairs, config, preset)
    from mgraph.train.parallel import follows

    with progress_bars("connect") as progress:
        connected = graph.connect(
            *ends,
            method=method,
            name=name,
            sweep=not no_sweep,
            grid=grid,
            inner=inner,
            init=init,
            same_layout=same_layout,
            buffers_from=buffers_from,
            progress=progress,
        )
    if follows():
        return
    if len(ends) == 4:
        a, b, c, d = ends
        note(f"Corners: {a} (0,0), {b} (0,1), {c} (1,0), {d} (1,1); opposite are {a}-{d} and {b}-{c}.")
    print_connection(connected.describe(), form)


@click.command()
@click.argument("connection")
@grid_option(f"Points: {_GRID}.")
@inner_option
@click.option("--splits", default="train,valid,test", show_default=True, help="Splits to measure.")
@click.option("--examples", type=int, help="Use a fixed random subset of this many examples per split.")
@click.option("--bn-examples", type=int, help="Examples for BatchNorm statistics (default: at most 2000).")
@click.option("--precision", default="fp32", show_default=True, help="Compute in fp32, tf32 or bf16.")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help=f"Measure this too: {HOW_TO_NAME}; may be repeated.",
)
@click.option("--refine", type=float, metavar="BOUND", help="Add points until the interpolation error is below this.")
@click.option("--refine-on", metavar="SPLIT:METRIC", help="What --refine looks at. [default: train:loss]")
@click.option("--max-points", type=int, help="Largest number of points with --refine. [default: 2000]")
@click.option(
    "--route-on",
    default="train",
    show_default=True,
    metavar="SPLIT",
    help="train or valid: whose loss chooses the route between two ends of a surface or simplex.",
)
@click.option("--no-reuse", is_flag=True, help="Measure everything again, even what is already stored.")
@with_computing_graph
@output_options
def sweep(
    connection: str,
    grid: list[int] | None,
    inner: int | None,
    splits: str,
    metrics: tuple[str, ...],
    refine: float | None,
    refine_on: str | None,
    max_points: int | None,
    no_reuse: bool,
    graph: Graph,
    form: str,
    **options: Any,
) -> None:
    """Measure a connection on a grid, and store points, numbers and edges.

    BatchNorm statistics are recomputed for every point. The finest sweep of a connection decides its edges. On a
    surface or simplex, the train loss chooses the route between two ends, and every split is measured along it; the
    oracle, for comparison, is the route that is best by a number itself. Numbers that an earlier sweep measured under
    the same conditions are reused, and the same command continues a sweep that was stopped.

    Your own metric is a function (outputs, targets) that returns one number for each example or one for a whole split,
    an mgraph.Metric, or one of torchmetrics; naming it here runs its code. A metric with a direction makes edges;
    ?better=lower or ?better=higher after the name gives it one.

    \b
    Example:
      mgraph sweep s --grid 21,21
      mgraph sweep curve --refine 0.005 --metric top5 --metric ece
    """
    if refine is None and (refine_on is not None or max_points is not None):
        raise InputError("--refine-on and --max-points go with --refine BOUND.")
    options |= {k: v for k, v in (("refine_on", refine_on), ("max_points", max_points)) if v is not None}
    connected = graph.connection(connection)
    with progress_bars("sweep") as progress:
        swept = connected.sweep(
            grid,
            inner=inner,
            splits=[s.strip() for s in splits.split(",")],
            metrics=metrics,
            refine=refine,
            reuse=not no_reuse,
            progress=progress,
            **options,
        )
    for text in swept.notes:
        note(f"Note: {text}")
    finest = connected.swept().sweep
    if finest.id != swept.sweep.id:
        note(f"Note: there is a finer sweep, of {prod(finest.grid)} points: its edges count, not these.")
    print_connection(graph.connection(connected.id).describe(swept.sweep), form)


def print_connection(row: dict[str, Any], form: str) -> None:
    """Print a connection with one of its sweeps."""
    if form != "table":
        emit_one(row, form=form)
        return
    emit_one({key: row[key] for key in ("id", "name", "kind", "status", "ends")})
    echo()
    emit(summary_table(row["summary"]), _SUMMARY, title="summary", empty="")
    edges = [e for e in row["edges"] if (e["split"], e["metric"]) in (("train", "loss"), ("test", row["compared_by"]))]
    rows, columns = edge_table(edges)
    emit(rows, columns, title="edges", empty="Not swept yet.")
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
