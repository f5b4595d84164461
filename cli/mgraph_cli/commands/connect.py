"""Connections: connect, sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mgraph import METHODS, ConnectOptions, SweepOptions, method_named
from mgraph.errors import InputError
from mgraph_cli.commands.auto import LIMITS, auto_options, connect_auto
from mgraph_cli.completion import CONNECTIONS, NODES
from mgraph_cli.options import (
    GivenSettings,
    SectionedCommand,
    SectionOption,
    given,
    keyword_options,
    output_options,
    settings_options,
    with_computing_graph,
)
from mgraph_cli.output import note
from mgraph_cli.progress import follows, progress_bars
from mgraph_cli.tables import print_connection

if TYPE_CHECKING:
    from mgraph import Graph


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
@click.argument("ends", nargs=-1, required=True, shell_complete=NODES)
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
@keyword_options(ConnectOptions)
@click.option("--no-sweep", is_flag=True, help="Do not sweep it now.")
@settings_options(METHODS, presets=True)
@with_computing_graph
@output_options
def connect(
    ends: tuple[str, ...],
    methods: tuple[str, ...],
    no_sweep: bool,
    settings: GivenSettings,
    graph: Graph,
    form: str,
    **options: Any,
) -> None:
    """Connect modes by exactly one method, and sweep the result.

    With --auto and a limit, methods are tried from the cheapest to the most expensive until one meets the limit.
    Settings go to every method that has them, and every attempt is kept, called NAME-METHOD.

    Corner order of a surface A B C D: A = (0,0), B = (0,1), C = (1,0), D = (1,1). Name a method before --help
    (mgraph connect --surface --help) to see its settings. Under torchrun, all processes train one connection together.

    \b
    Example:
      mgraph connect a b --curve --bends 1
      mgraph connect a b c d --surface --degree 2,2 --name s
      mgraph connect a b --curve --bends 3 --init s
      mgraph connect a b c --simplex --grid 6
      mgraph connect a b --linear --align
      mgraph connect a b --neb --preset quick
      mgraph connect a b --method paths.py:Spline --bends 3 -s lr=0.02
      mgraph connect a b --auto --max-barrier 0.1 --budget 30m --name ab
    """
    if len(methods) != 1:
        raise InputError(
            f"Name exactly one method: {', '.join('--' + m for m in METHODS)}; --method file.py:Class; or --auto."
        )
    limits = {key: options.pop(key) for key in LIMITS}
    if methods == ("auto",):
        connect_auto(graph, ends, settings, given(limits), options, no_sweep=no_sweep, form=form)
        return
    for key in given(limits):
        raise InputError(f"--{key.replace('_', '-')} is an option of --auto.")
    method = settings.of(method_named(methods[0]))
    with progress_bars("connect") as progress:
        connected = graph.connect(*ends, method=method, sweep=not no_sweep, progress=progress, **given(options))
    if follows():
        return
    if len(ends) == 4:
        a, b, c, d = ends
        note(f"Corners: {a} (0,0), {b} (0,1), {c} (1,0), {d} (1,1); opposite are {a}-{d} and {b}-{c}.")
    print_connection(connected.describe(), form)


@click.command()
@click.argument("connection", shell_complete=CONNECTIONS)
@keyword_options(ConnectOptions, only=("grid",))
@keyword_options(SweepOptions)
@with_computing_graph
@output_options
def sweep(connection: str, grid: list[int] | None, graph: Graph, form: str, **options: Any) -> None:
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
    chosen = given(options)
    if "refine" not in chosen and ("refine_on" in chosen or "max_points" in chosen):
        raise InputError("--refine-on and --max-points go with --refine BOUND.")
    connected = graph.connection(connection)
    with progress_bars("sweep") as progress:
        swept = connected.sweep(grid, progress=progress, **chosen)
    for text in swept.notes:
        note(f"Note: {text}")
    finest = connected.swept()
    if finest.sweep.id != swept.sweep.id:
        which = f"{finest.sweep.id} of {len(finest.node_ids)} points"
        note(f"Note: there is a finer sweep, {which}: its edges count, not these.")
    row = graph.connection(connected.id).describe(swept.sweep)
    print_connection(row, form, points=len(swept.node_ids))
