"""Pictures: plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mgraph_cli.options import with_computing_graph
from mgraph_cli.output import note
from mgraph_cli.progress import progress_bars

if TYPE_CHECKING:
    from mgraph.graph.graph import Graph


@click.command()
@click.argument("connection")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Picture: .png, .pdf or .svg.")
@click.option("--no-before", is_flag=True, help="Only the connection itself, without the straight one beside it.")
@with_computing_graph
def plot(
    connection: str,
    output: Path,
    no_before: bool,
    graph: Graph,
) -> None:
    """Draw the newest sweep: loss and accuracy as heat maps of a surface or simplex of three, as curves along t.

    A trained connection is drawn beside the straight one of the same ends (before and after training). If that was
    never made, it is connected by --linear and swept now, and stays in the graph.

    \b
    Example:
      mgraph plot s -o surface.png
    """
    connected = graph.connection(connection)
    connected.check_plot(output)
    before = None
    if not no_before and connected.trained:
        before = connected.straight()
        if before is None:
            note("Connecting the same ends by --linear, to show them before training.")
            with progress_bars("plot") as report:
                before = connected.connect_straight(report=report)
    path = connected.plot(output, before=before)
    click.echo(str(path))
