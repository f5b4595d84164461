"""The report page: report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mgraph_cli.options import with_graph
from mgraph_cli.output import note
from mgraph_cli.terminal import echo

if TYPE_CHECKING:
    from mgraph import Graph


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Page: .html.")
@click.option(
    "--watch",
    type=float,
    metavar="SECONDS",
    help="Write it again every so many seconds, with how far runs under way have come, until Ctrl-C.",
)
@with_graph
def report(output: Path, watch: float | None, graph: Graph) -> None:
    """Write a page of the graph: one file for a browser, which needs nothing else and requests nothing.

    It has the graph as nodes and links, tables of nodes, connections and runs that can be sorted and filtered, the tree
    of merges and the matrix of all pairs, where everything came from, and a view of every connection: its heat map or
    curve, the numbers of each point, and the command that exports it.

    With --watch, the page reloads itself and shows progress, losses and the time left of runs under way. Ctrl-C writes
    it a last time and ends the command.

    \b
    Example:
      mgraph report -o report.html
      mgraph report -o report.html --watch 10
    """
    if watch is None:
        echo(str(graph.report(output)))
        return

    first = True

    def written(path: Path) -> None:
        nonlocal first
        if first:
            note(f"Writing {path} every {watch:g} s; Ctrl-C ends this.")
        first = False

    echo(str(graph.report(output, watch=watch, written=written)))
