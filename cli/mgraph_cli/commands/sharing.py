"""Parts of a graph for others: pack, unpack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mgraph.errors import InputError
from mgraph_cli.completion import THINGS
from mgraph_cli.finding import find_graph
from mgraph_cli.options import output_options, with_graph
from mgraph_cli.output import emit, emit_one, note

if TYPE_CHECKING:
    from mgraph import Graph


@click.command()
@click.argument("things", nargs=-1, required=True, metavar="NODE|CONNECTION...", shell_complete=THINGS)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The file, NAME.mgraph.zip.")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@with_graph
@output_options
def pack(things: tuple[str, ...], output: Path, overwrite: bool, graph: Graph, form: str) -> None:
    """Write nodes and connections into one file, with everything they need, for another graph.

    A connection comes with its modes, control points, samples, sweeps and numbers; a merged node with the nodes it is
    computed from; and all of them with their spaces and runs. Code that a space names is not packed.

    \b
    Example:
      mgraph pack s -o s.mgraph.zip
    """
    emit_one(graph.pack(*things, path=output, overwrite=overwrite), form=form)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--prefix", default="", help="Prefix for the names of all new nodes and connections.")
@click.option(
    "--new", "directory", type=click.Path(path_type=Path), help="Make a new graph from it, in this directory."
)
@click.option(
    "--graph",
    "graph_path",
    type=click.Path(path_type=Path),
    envvar="MGRAPH_GRAPH",
    help="The graph directory (default: $MGRAPH_GRAPH, or the only *.mgraph here or above).",
)
@output_options
def unpack(bundle: Path, prefix: str, directory: Path | None, graph_path: Path | None, form: str) -> None:
    """Add the contents of a bundle to a graph, all or nothing.

    Every tensor is checked. What the graph already has, by id and content, stays as it is; a name that is taken gets a
    number. Nothing in a bundle is ever run.

    \b
    Example:
      mgraph unpack s.mgraph.zip --prefix theirs-
    """
    import mgraph

    if directory is not None:
        if prefix:
            raise InputError("--prefix is for a graph that already has names; leave it out with --new.")
        arrived = mgraph.unpack(bundle, directory)
        emit(arrived.nodes() + arrived.connections(), ("id", "kind", "name"), form=form)
        return
    result = mgraph.open(graph_path or find_graph(Path.cwd())).unpack(bundle, prefix=prefix)
    for text in result.notes:
        note(f"Note: {text}.")
    if result.present:
        note(f"{len(result.present)} nodes and connections were already there.")
    emit(result.new, ("id", "kind", "name"), form=form, empty="nothing new")
