"""Connections: connect, sweep."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mgraph.connect.registry import METHODS
from mgraph.errors import InputError
from mgraph_cli.options import (
    chosen_settings,
    grid_option,
    output_options,
    settings_options,
    with_computing_graph,
)
from mgraph_cli.output import emit, emit_one, note
from mgraph_cli.progress import progress_bars

if TYPE_CHECKING:
    from mgraph.graph.graph import Graph


_EDGES = ("source", "target", "split", "metric", "peak", "barrier", "drop", "length", "resolution")
_SUMMARY = ("split", "metric", "min", "max", "mean", "integral")


def _method_flags(command: Any) -> Any:
    for name, method in reversed(METHODS.items()):
        command = click.option(f"--{name}", "methods", flag_value=name, multiple=True, help=method.summary)(command)
    return command


@click.command()
@click.argument("ends", nargs=-1, required=True)
@_method_flags
@click.option("--name", help="Name of the connection.")
@click.option("--no-sweep", is_flag=True, help="Do not evaluate it now.")
@grid_option("Points of the sweep: n or n,m (default: 61 on a curve, 11,11 on a surface).")
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
    same_layout: bool,
    buffers_from: str | None,
    pairs: tuple[str, ...],
    config: Path | None,
    graph: Graph,
    form: str,
    **flags: Any,
) -> None:
    """Connect modes by exactly one method, and sweep the result.

    Corner order of a surface A B C D: A = (0,0), B = (0,1), C = (1,0), D = (1,1). mgraph methods NAME lists the
    settings of a method.

    \b
    Example:
      mgraph connect a b --curve --bends 1
      mgraph connect a b c d --surface --degree 2,2 --name s
    """
    if len(methods) != 1:
        raise InputError(f"Name exactly one method: {', '.join('--' + m for m in METHODS)}.")
    method = chosen_settings(METHODS[methods[0]], flags, pairs, config)
    with progress_bars("connect") as report:
        connected = graph.connect(
            *ends,
            method=method,
            name=name,
            sweep=False,
            grid=grid,
            same_layout=same_layout,
            buffers_from=buffers_from,
            report=report,
        )
        shown = connected.name or connected.id
        if len(ends) == 4:
            a, b, c, d = ends
            note(f"Corners: {a} (0,0), {b} (0,1), {c} (1,0), {d} (1,1); opposite are {a}-{d} and {b}-{c}.")
        if not no_sweep:
            # The connection is stored by now: after Ctrl-C only its sweep is missing.
            click.get_current_context().obj.command = _sweep_command(shown, grid)
            connected.sweep(grid, report=report)
    _print_connection(connected.describe(), form)


def _sweep_command(name: str, grid: Sequence[int] | None) -> str:
    """Write the command that does what is left, with the options that were given."""
    words = ["mgraph", "sweep", name]
    words += [] if grid is None else ["--grid", ",".join(map(str, grid))]
    context = click.get_current_context()
    for option, flag in (("graph_path", "--graph"), ("device", "--device"), ("threads", "--threads")):
        if context.get_parameter_source(option) is ParameterSource.COMMANDLINE:
            words += [flag, str(context.params[option])]
    return shlex.join(words)


@click.command()
@click.argument("connection")
@grid_option("Points: n or n,m (default: 61 on a curve, 11,11 on a surface).")
@click.option("--splits", default="train,valid,test", show_default=True, help="Splits to measure.")
@click.option("--examples", type=int, help="Use a fixed random subset of so many examples per split.")
@click.option("--bn-examples", type=int, help="Examples for BatchNorm statistics (default: at most 2000).")
@with_computing_graph
@output_options
def sweep(
    connection: str,
    grid: list[int] | None,
    splits: str,
    examples: int | None,
    bn_examples: int | None,
    graph: Graph,
    form: str,
) -> None:
    """Measure a connection on a grid; points, numbers and edges are stored.

    BatchNorm statistics are recomputed for every point. The finest sweep of a connection decides its edges.

    \b
    Example:
      mgraph sweep s --grid 21,21
    """
    connected = graph.connection(connection)
    with progress_bars("sweep") as report:
        connected.sweep(
            grid,
            splits=[s.strip() for s in splits.split(",")],
            examples=examples,
            bn_examples=bn_examples,
            report=report,
        )
    _print_connection(connected.describe(), form)


def _print_connection(row: dict[str, Any], form: str) -> None:
    if form != "table":
        emit_one(row, form=form)
        return
    emit_one({key: row[key] for key in ("id", "name", "kind", "status", "ends")})
    click.echo()
    emit(summary_table(row["summary"]), _SUMMARY, title="summary", empty="")
    edges = [e for e in row["edges"] if (e["split"], e["metric"]) in (("train", "loss"), ("test", "error"))]
    emit(edges, _EDGES, title="edges", empty="Not swept yet.")


def summary_table(summary: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Turn one row per statistic into one row per split and metric."""
    table: dict[tuple[str, str], dict[str, Any]] = {}
    for s in summary:
        if s["statistic"] in _SUMMARY:
            row = table.setdefault((s["split"], s["metric"]), {"split": s["split"], "metric": s["metric"]})
            row[s["statistic"]] = s["value"]
    return list(table.values())
