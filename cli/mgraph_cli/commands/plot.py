"""Pictures: plot, map, matrix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgraph import PlotOptions
from mgraph.errors import InputError
from mgraph_cli.commands.topology import criteria_options
from mgraph_cli.completion import CONNECTIONS, THINGS
from mgraph_cli.options import (
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
from mgraph_cli.output import emit, note
from mgraph_cli.progress import progress_bars
from mgraph_cli.terminal import echo

if TYPE_CHECKING:
    from mgraph import Graph


@click.command()
@click.argument("what", nargs=-1, required=True, shell_complete=THINGS)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Picture: .png, .pdf or .svg.")
@click.option(
    "--before/--no-before",
    "beside",
    default=None,
    help="Draw the straight connection of the same ends beside it, which --before makes and sweeps if there is none; "
    "or only the connection itself.",
)
@click.option(
    "--ensemble", "what_else", flag_value="ensemble", help="Draw what votes of a connection's points gain on test data."
)
@click.option(
    "--flips", "what_else", flag_value="flips", help="Draw which test examples are predicted otherwise along a path."
)
@click.option(
    "--path",
    "paths",
    multiple=True,
    metavar="CONN",
    shell_complete=CONNECTIONS,
    help="Project this path on a plane, with its distance from it.",
)
@click.option("--basins", "what_else", flag_value="basins", help="Mark basins and saddles, and draw how basins join.")
@keyword_options(PlotOptions)
@dark_option
@grid_option("Points with --ensemble and --flips: n or n,m (default: 21 of a path, 9 of a surface).")
@with_computing_graph
def plot(
    what: tuple[str, ...],
    output: Path,
    beside: bool | None,
    what_else: str | None,
    grid: list[int] | None,
    graph: Graph,
    **look: Any,
) -> None:
    """Draw loss and primary metric of the finest sweep: heat maps of a surface or simplex of three, curves along t.

    Dark is good: a low loss, a high accuracy. Losses that span a decade are on a logarithmic scale.

    For a mode trained here, draw its training: loss, accuracy, learning rate and distance from the start.

    A trained connection is drawn beside the straight one of the same ends (before and after training), if there is one
    that was swept. With --before it is made by --linear and swept first, and stays in the graph.

    Several paths between the same two modes are drawn together, in one panel for each metric.

    With --ensemble, draw along a path the ensemble of its first end and the point at t, and for every connection the
    ensemble of more and more of its points, beside that of independent modes.

    \b
    Example:
      mgraph plot s -o surface.png
      mgraph plot a -o training.png
      mgraph plot s -o surface.png --before
      mgraph plot curve -o votes.png --ensemble
      mgraph plot curve -o flips.png --flips
      mgraph plot line curve -o paths.png --metric loss
      mgraph plot s -o relief.png --3d
      mgraph plot s -o basins.png --basins
      mgraph plot s -o test-loss.svg --split test --metric loss --dark
    """
    from mgraph import Connected

    dark, paths = look.pop("dark"), look.pop("paths")
    if grid is not None and what_else not in ("ensemble", "flips"):
        raise InputError("--grid is for --ensemble and --flips; the picture of a connection is of its finest sweep.")
    if len(what) > 1:
        if beside is not None or paths or what_else is not None or look["relief"] or grid is not None:
            raise InputError("Several paths are drawn together as they are, by --split and --metric.")
        echo(str(graph.plot_paths(output, paths=what, splits=look["splits"], metrics=look["metrics"], dark=dark)))
        return
    (name,) = what
    if what_else is not None:
        if beside is not None or paths:
            raise InputError(f"--before and --path are for the picture of the sweep itself, not for --{what_else}.")
        drawn = _plot_else(graph, name, output, what_else, grid=grid, dark=dark, **look)
        echo(str(drawn))
        return
    connected = graph.find(name)
    if not isinstance(connected, Connected):
        if any(look.values()) or paths:
            raise InputError(f"--split, --metric, --3d and --path are for the sweep of a connection; {name} is a node.")
        echo(str(connected.plot(output, dark=dark)))
        return
    connected.check_plot(output, **look)
    graph.check_paths(paths)
    before = None
    if beside is not False and connected.trained:
        before = connected.straight()
        if before is None and beside is None:
            note("Note: no straight connection of the same ends was swept, to show beside it; --before does that.")
        elif before is None:
            note("Connecting the same ends by --linear, to show them before training.")
            with progress_bars("plot") as progress:
                before = connected.connect_straight(progress=progress)
    echo(str(connected.plot(output, before=before, paths=paths, dark=dark, **look)))


def _plot_else(
    graph: Graph, what: str, output: Path, kind: str, *, grid: list[int] | None, dark: bool, **look: Any
) -> Path:
    """Draw something else than the sweep."""
    connected = graph.connection(what)
    if kind == "basins":
        if look.pop("relief") or any(len(given) > 1 for given in look.values()):
            raise InputError("--basins are those of one split and one metric, and drawn from above.")
        only = {name: look[many][0] for name, many in (("split", "splits"), ("metric", "metrics")) if look[many]}
        return connected.plot_basins(output, dark=dark, **only)
    if any(look.values()):
        raise InputError(f"--{kind} takes no --split, --metric or --3d, which are for the sweep itself.")
    if kind == "flips" and grid is not None and len(grid) > 1:
        raise InputError("--flips follows a path: --grid is one number.")
    with progress_bars("plot") as progress:
        if kind == "flips":
            return connected.plot_flips(output, grid=grid[0] if grid else None, dark=dark, progress=progress)
        return connected.plot_ensemble(output, grid=grid, dark=dark, progress=progress)


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Picture: .png, .pdf or .svg.")
@dark_option
@click.option(
    "--layout",
    default="barrier",
    show_default=True,
    help="barrier, distance (in weight space) or disagreement (on test data); several with commas, side by side.",
)
@criteria_options()
@space_option
@with_computing_graph
def map(output: Path, layout: str, space: str | None, dark: bool, graph: Graph, **criteria: Any) -> None:
    """Draw the graph: modes as points, the best edge of each pair as a line, dark if it is good.

    Modes joined within the limit (--max-barrier, --max-peak, --max-drop; without one, by any edge) form a component and
    are shaded. The layout makes distances on the page follow the barriers, the distances in weight space, or the shares
    of test examples that two modes sort into different classes.

    \b
    Example:
      mgraph map -o graph.png --max-barrier 0.05
      mgraph map -o graph.pdf --layout distance,disagreement
    """
    echo(str(graph.plot_map(output, layout=layout, space=space, dark=dark, **given(criteria))))


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Draw it as a heat map: .png, .pdf or .svg.")
@dark_option
@criteria_options()
@space_option
@with_graph
@output_options
def matrix(output: Path | None, space: str | None, dark: bool, graph: Graph, form: str, **criteria: Any) -> None:
    """Print the peaks (or --by barrier, drop) of all pairs of modes, or draw them as a heat map.

    'direct' is the value of the best edge between the two, 'best' the largest on the best route. A picture has the
    former below the diagonal and the latter above; well connected modes are placed next to each other.

    \b
    Example:
      mgraph matrix --by barrier
      mgraph matrix --by barrier -o matrix.png
    """
    check_dark(output, dark=dark)
    if output is not None:
        echo(str(graph.plot_matrix(output, space=space, dark=dark, **given(criteria))))
        return
    found = graph.matrix(space=space, **given(criteria))
    for text in found.notes:
        note(f"Note: {text}")
    emit(found.rows(), ("source", "target", "direct", "best"), form=form)
