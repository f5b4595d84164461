"""Graphs and spaces: init, add-space, spaces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgraph import SpaceOptions
from mgraph.errors import InputError
from mgraph_cli.completion import ARCHS, DATA
from mgraph_cli.options import keyword_options, output_options, with_graph
from mgraph_cli.output import emit, emit_one, note

if TYPE_CHECKING:
    from mgraph import Graph


_COLUMNS = ("name", "id", "arch", "data", "loss", "parameters", "modes", "codec")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--arch",
    required=True,
    help="Architecture: a spec, or a factory pkg.module:fn or file.py:fn.",
    shell_complete=ARCHS,
)
@click.option(
    "--data", required=True, help="Data: a spec, or a factory pkg.module:fn or file.py:fn.", shell_complete=DATA
)
@keyword_options(SpaceOptions)
@click.option("--tensors", metavar="URL", help="Keep the tensors at this URL: s3://bucket/path, gs://…, az://….")
@click.option(
    "--shared", metavar="PLACE", help="Share the graph at this URL, or in this directory, for others to join."
)
@output_options
def init(
    directory: Path, arch: str, data: str, tensors: str | None, shared: str | None, form: str, **space: Any
) -> None:
    """Make a graph and its first space.

    mgraph archs and mgraph datasets list the built-in names. A factory is your own code: naming it trusts it.

    \b
    Example:
      mgraph init digits.mgraph --arch "cnn?channels=16,32&hidden=64" --data digits
    """
    import mgraph

    if shared is None:
        graph = mgraph.create(directory, arch=arch, data=data, tensors=tensors, **space)
    elif tensors is None:
        graph = mgraph.share(shared, directory, arch=arch, data=data, **space)
    else:
        raise InputError("A shared graph has its tensors where it is shared: give only one of the two places.")
    note(f"Made {directory}.")
    emit_one(_shown(graph.spaces()[0], form), form=form)


@click.command()
@click.argument("place")
@click.argument("directory", type=click.Path(path_type=Path))
@output_options
def join(place: str, directory: Path, form: str) -> None:
    """Make this machine's directory of a graph that is shared at a place, a URL or a directory.

    Such a graph was made with mgraph init --shared PLACE. Every machine works in a directory of its own, sees what the
    others have committed whenever it opens the graph or commits, and can commit itself.

    \b
    Example:
      mgraph join s3://bucket/digits digits.mgraph
    """
    import mgraph

    graph = mgraph.join(place, directory)
    note(f"Joined {place} in {directory}.")
    emit(graph.spaces(), _COLUMNS, form=form)


@click.command("add-space")
@click.option("--arch", required=True, help="Architecture spec or factory.", shell_complete=ARCHS)
@click.option("--data", required=True, help="Data spec or factory.", shell_complete=DATA)
@keyword_options(SpaceOptions)
@with_graph
@output_options
def add_space(arch: str, data: str, graph: Graph, form: str, **options: Any) -> None:
    """Add a space: another architecture, data set or loss. If the space exists already, it is returned.

    \b
    Example:
      mgraph add-space --arch "mlp?hidden=64" --data digits --name mlp
    """
    space = graph.add_space(arch, data, **options)
    emit_one(_shown(next(row for row in graph.spaces() if row["id"] == space.id), form), form=form)


@click.command()
@with_graph
@output_options
def spaces(graph: Graph, form: str) -> None:
    """List the spaces of the graph.

    \b
    Example:
      mgraph spaces
    """
    emit(graph.spaces(), _COLUMNS, form=form)


def _shown(space: dict[str, Any], form: str) -> dict[str, Any]:
    """Put a space's metrics into words where people read them."""
    if form == "json":
        return space
    said = [f"{m['name']} ({m['better']} is better)" if "better" in m else m["name"] for m in space["metrics"]]
    return space | {"metrics": ", ".join(said) or "none but the loss"}
