"""Asking: components, route (and compose), mst, dendrogram, neighbours, isolated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgraph import Criteria
from mgraph.errors import InputError
from mgraph_cli.completion import CONNECTIONS, NODES
from mgraph_cli.options import (
    Decorator,
    check_dark,
    dark_option,
    given,
    grid_option,
    keyword_options,
    output_options,
    space_option,
    with_computing_graph,
    with_graph,
)
from mgraph_cli.output import emit, emit_one, note
from mgraph_cli.progress import progress_bars
from mgraph_cli.tables import print_connection
from mgraph_cli.terminal import echo

if TYPE_CHECKING:
    from mgraph import Criterion, Graph, Link

_EDGE_COLUMNS = ("source", "target", "connection", "method", "peak", "barrier", "drop", "length", "resolution")


def criteria_options(*, by: bool = True) -> Decorator:
    """Add the options that say how edges are compared, and which of them count."""
    return keyword_options(Criteria, without=() if by else ("by",))


def thin_option(command: Any) -> Any:
    """Add ``--thin``."""
    return click.option(
        "--thin",
        type=float,
        metavar="SHARE",
        help="Thin it to a chain of as few points as keep it within this share of its length, e.g. 0.01.",
    )(command)


@click.command()
@criteria_options(by=False)
@space_option
@with_graph
@output_options
def components(space: str | None, graph: Graph, form: str, **criteria: Any) -> None:
    """Print which modes are connected at a threshold, and the edges that connect them.

    For every connection and pair, the finest sweep counts; of parallel connections, the lowest is enough. Edges with
    fewer than 11 points, or on fewer than 1000 examples of a larger split, are marked uncertain.

    \b
    Example:
      mgraph components --max-barrier 0.1
      mgraph components --max-drop 0.01 --split test --certified
    """
    found = graph.components(space=space, **given(criteria))
    _say(found.notes)
    groups = [
        {"component": i, "size": len(group), "nodes": [vertex.label for vertex in group]}
        for i, group in enumerate(found.groups, start=1)
    ]
    if form == "json":
        rows = [edge.row() for edge in found.edges]
        facts = {"threshold": _criterion(found.criterion), "components": groups}
        emit_one(facts | {"edges": rows, "notes": found.notes}, form=form)
        return
    if form == "csv":
        emit(groups, ("component", "size", "nodes"), form=form)
        return
    echo(f"{_count(len(groups), 'component')} at {found.criterion}")
    echo()
    emit(groups, ("component", "size", "nodes"))
    _print_edges(found.edges, title="edges", empty="No edge is below the threshold.")


@click.command()
@click.argument("start", metavar="A", shell_complete=NODES)
@click.argument("goal", metavar="B", shell_complete=NODES)
@click.option("--save", metavar="NAME", help="Make it one connection with this name, and sweep it (see compose).")
@thin_option
@criteria_options()
@space_option
@with_computing_graph
@output_options
def route(
    start: str,
    goal: str,
    save: str | None,
    thin: float | None,
    space: str | None,
    graph: Graph,
    form: str,
    **criteria: Any,
) -> None:
    """Find the best way from A to B, over as many connections as it takes.

    The best way has the lowest possible largest peak (or --by barrier or drop) and, among those, is the shortest. On a
    surface it follows the swept minimax route between two corners.

    \b
    Example:
      mgraph route a d
      mgraph route a d --by barrier --save ad
    """
    if thin is not None and save is None:
        raise InputError("--thin needs --save NAME.")
    found = graph.route(start, goal, space=space, **given(criteria))
    if save is not None:
        with progress_bars("route") as progress:
            saved = graph.compose(found, name=save, thin=thin, progress=progress)
        note(f"Saved as {save}: {saved.record.reason}.")
    _say(found.notes)
    if form == "json":
        emit_one(found.row(), form=form)
        return
    rows = [step.row() for step in found.steps]
    if form == "csv":
        emit(rows, _EDGE_COLUMNS, form=form)
        return
    through = " → ".join(vertex.label for vertex in found.vertices)
    echo(f"{through}: {_quantity(found.criterion)} {found.value:.4g}, length {found.length:.4g}")
    echo()
    shown = [row | {"parameters": _ends(row["parameters"])} for row in rows]
    _print_rows(shown, (*_EDGE_COLUMNS[:4], "parameters", *_EDGE_COLUMNS[4:]))


@click.command()
@click.argument("pieces", nargs=-1, required=True, metavar="CONN[:FROM:TO]...", shell_complete=CONNECTIONS)
@click.option("--name", help="Name of the connection.")
@thin_option
@click.option("--no-sweep", is_flag=True, help="Do not sweep it now.")
@grid_option("Points of the sweep (default: about 60 on every piece, joints included).")
@with_computing_graph
@output_options
def compose(
    pieces: tuple[str, ...],
    name: str | None,
    thin: float | None,
    no_sweep: bool,
    grid: list[int] | None,
    graph: Graph,
    form: str,
) -> None:
    """Join connections end to end into one that can be swept, plotted, merged, ensembled and exported.

    They are joined at the modes that they share. For a connection with more than two ends, say between which of them
    the path runs: s:a:d. A surface is crossed along its swept minimax route.

    \b
    Example:
      mgraph compose ab bc --name ac
      mgraph compose s:a:d de --name ae --thin 0.01
    """
    with progress_bars("compose") as progress:
        composed = graph.compose(*pieces, name=name, thin=thin, sweep=False)
        note(f"{composed.record.reason}.")
        if not no_sweep:
            composed.sweep(grid, progress=progress)
    print_connection(composed.describe(), form)


@click.command()
@criteria_options()
@space_option
@with_graph
@output_options
def mst(space: str | None, graph: Graph, form: str, **criteria: Any) -> None:
    """Print the minimum spanning tree: the fewest, best edges that hold each component together.

    Between two modes, the path within the tree has the lowest maximum of all paths. There is one tree for every
    component.

    \b
    Example:
      mgraph mst
      mgraph mst --by barrier --max-barrier 0.5
    """
    found = graph.mst(space=space, **given(criteria))
    _say(found.notes)
    rows = [edge.row() for edge in found.edges]
    if form == "json":
        facts = {"criterion": _criterion(found.criterion), "trees": found.trees, "total": found.total}
        emit_one(facts | {"edges": rows, "notes": found.notes}, form=form)
        return
    if form == "csv":
        emit(rows, _EDGE_COLUMNS, form=form)
        return
    echo(f"{_count(found.trees, 'tree')} by {found.criterion}, total {found.total:.4g}")
    echo()
    _print_edges(found.edges, empty="No edge counts.")


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Draw it as a picture: .png, .pdf or .svg.")
@dark_option
@criteria_options()
@space_option
@with_graph
@output_options
def dendrogram(output: Path | None, space: str | None, dark: bool, graph: Graph, form: str, **criteria: Any) -> None:
    """Draw at which level groups of modes merge: the single-linkage tree of the edges.

    Each number is the peak (or --by) of the best edge between the two groups below it; each mode is listed with its own
    loss. --json has the merges as SciPy's linkage matrix. A picture (-o) marks the limit and colours what merges within
    it.

    \b
    Example:
      mgraph dendrogram
      mgraph dendrogram --by barrier --json
      mgraph dendrogram --max-peak 0.5 -o dendrogram.png
    """
    check_dark(output, dark=dark)
    if output is not None:
        echo(str(graph.plot_dendrogram(output, space=space, dark=dark, **given(criteria))))
        return
    found = graph.dendrogram(space=space, **given(criteria))
    _say(found.notes)
    if form == "json":
        emit_one({"criterion": _criterion(found.criterion)} | found.row(), form=form)
        return
    if form == "csv":
        columns = ("left", "right", "value", "modes")
        rows = [dict(zip(columns, row, strict=True)) for row in found.row()["linkage"]]
        emit(rows, columns, form=form)
        return
    echo(f"{_quantity(found.criterion)}")
    echo(*str(found).split("\n"))


@click.command()
@click.argument("node", metavar="A", shell_complete=NODES)
@criteria_options()
@space_option
@with_graph
@output_options
def neighbours(node: str, space: str | None, graph: Graph, form: str, **criteria: Any) -> None:
    """List the modes that an edge joins to A, by the best edge to each, best first.

    \b
    Example:
      mgraph neighbours a --max-barrier 0.1
    """
    links = graph.neighbours(node, space=space, **given(criteria))
    _say(links.notes)
    if form == "table":
        _print_edges(links, empty="No edge that counts reaches it.")
        return
    emit([link.row() for link in links], _EDGE_COLUMNS, form=form)


@click.command()
@criteria_options()
@space_option
@with_graph
@output_options
def isolated(space: str | None, graph: Graph, form: str, **criteria: Any) -> None:
    """List the modes that no edge reaches, and why.

    With a limit, list those whose lowest edge is above it.

    \b
    Example:
      mgraph isolated --max-barrier 0.1
    """
    found = graph.isolated(space=space, **given(criteria))
    rows = [
        {"name": row["vertex"].name, "id": row["vertex"].id, "reason": row["reason"], "lowest": row["lowest"]}
        for row in found
    ]
    emit(rows, ("name", "id", "reason", "lowest"), form=form, empty="No mode is isolated.")


def _say(notes: Sequence[str]) -> None:
    for text in notes:
        note(f"Note: {text}")


def _criterion(criterion: Criterion) -> dict[str, Any]:
    names = ("quantity", "limit", "metric", "split", "certified", "min_resolution", "min_examples", "batchnorm")
    values = {name: getattr(criterion, name) for name in names}
    return {name: value for name, value in values.items() if value is not None and value is not False}


def _quantity(criterion: Criterion) -> str:
    return f"{criterion.split} {criterion.metric} {criterion.quantity}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _print_edges(links: Sequence[Link], *, title: str = "", empty: str) -> None:
    _print_rows([link.row() for link in links], _EDGE_COLUMNS, title=title, empty=empty)


def _print_rows(rows: Sequence[dict[str, Any]], columns: Sequence[str], *, title: str = "", empty: str = "") -> None:
    """Print edges for people: uncertain ones have a question mark after their resolution."""
    doubtful = any(row["uncertain"] for row in rows)
    if doubtful:
        rows = [row | {"resolution": f"{row['resolution']}{' ?' if row['uncertain'] else ''}"} for row in rows]
    emit(rows, columns, title=title, empty=empty)
    if doubtful:
        note("? marks uncertain edges: fewer than 11 points, or few examples of a larger split. Sweep them finer.")


def _ends(parameters: Sequence[Sequence[float]]) -> str:
    first, last = (",".join(f"{p:g}" for p in parameters[i]) for i in (0, -1))
    return f"{first} → {last}"
