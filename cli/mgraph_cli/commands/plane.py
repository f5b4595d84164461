"""Planes: plane."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgraph import PlaneOptions
from mgraph.errors import InputError
from mgraph_cli.completion import CONNECTIONS, NODES
from mgraph_cli.options import check_dark, dark_option, given, keyword_options, output_options, with_computing_graph
from mgraph_cli.output import note
from mgraph_cli.progress import progress_bars
from mgraph_cli.tables import print_connection
from mgraph_cli.terminal import echo

if TYPE_CHECKING:
    from mgraph import Graph


@click.command()
@click.argument("nodes", nargs=-1, required=True, shell_complete=NODES)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Draw it: .png, .pdf or .svg.")
@click.option(
    "--path",
    "paths",
    multiple=True,
    metavar="CONN",
    shell_complete=CONNECTIONS,
    help="Project this path on it, with its distance from the plane.",
)
@dark_option
@keyword_options(PlaneOptions)
@click.option("--no-sweep", is_flag=True, help="Do not sweep it now.")
@with_computing_graph
@output_options
def plane(
    nodes: tuple[str, ...],
    output: Path | None,
    paths: tuple[str, ...],
    dark: bool,
    no_sweep: bool,
    graph: Graph,
    form: str,
    **options: Any,
) -> None:
    """Measure loss and accuracy on the plane through three nodes, beyond the triangle, and draw it.

    NODES are modes, merged nodes or control points. BatchNorm statistics are recomputed for every cell. With --random
    the plane lies around one node, along two filter-normalised random directions, made orthogonal; with --pca it is
    that of the two principal components of three or more nodes (of a trajectory: in order), and goes through the last.

    The plane is a connection, and its cells are points of it: sweep, show --basins, merge --at U,V, export and plot
    work on it. A plane of the same nodes is taken up again, and only what is missing is measured. A path is projected
    orthogonally; how far it lies from the plane is drawn below.

    \b
    Example:
      mgraph plane a b c --path curve --grid 5 -o plane.png
      mgraph plane a --random --grid 5 --name around-a
      mgraph plane a b c d --pca --grid 5
    """
    if paths and output is None:
        raise InputError("--path is drawn; say where: -o plane.png")
    check_dark(output, dark=dark)
    if output is not None:
        if no_sweep:
            raise InputError("A picture needs a sweep; leave out --no-sweep or -o.")
        graph.check_picture(output)
        graph.check_paths(paths)
    with progress_bars("plane") as progress:
        made = graph.plane(*nodes, sweep=not no_sweep, progress=progress, **given(options))
    if output is None:
        print_connection(made.describe(), form)
        return
    note(f"The plane is {made.name or made.id}: {made.record.reason}.")
    echo(str(made.plot(output, paths=paths, dark=dark)))
