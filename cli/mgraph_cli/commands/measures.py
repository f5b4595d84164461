"""Measures of modes: compare, sharpness."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgraph import SharpnessSettings
from mgraph_cli.completion import NODES
from mgraph_cli.options import (
    GivenSettings,
    SectionedCommand,
    check_dark,
    dark_option,
    output_options,
    settings_options,
    with_computing_graph,
    with_graph,
)
from mgraph_cli.output import emit, emit_one, note
from mgraph_cli.progress import progress_bars
from mgraph_cli.terminal import echo

if TYPE_CHECKING:
    from mgraph import Graph

_LAYERS = (
    *("layer", "shape", "cosine", "distance", "relative", "norm source", "norm target"),
    *("variance source", "variance target"),
)
_picture = click.option("-o", "--output", type=click.Path(path_type=Path), help="Picture: .png, .pdf or .svg.")


@click.command()
@click.argument("points", nargs=-1, required=True, shell_complete=NODES)
@_picture
@dark_option
@with_graph
@output_options
def compare(points: tuple[str, ...], output: Path | None, dark: bool, graph: Graph, form: str) -> None:
    """Show how alike two or more points are, layer by layer, and whether two look like the same run.

    For each tensor it prints the cosine of the two, their distance (also relative: over the root of the summed squares
    of both norms, 1 if they are orthogonal), and the norm and the variance in each. Independent runs have a cosine of
    about 0 in every weight tensor; in small ones, several hundredths are usual.

    \b
    Example:
      mgraph compare a b
      mgraph compare a b c --csv
      mgraph compare a b -o compare.png
    """
    check_dark(output, dark=dark)
    found = graph.compare(*points)
    if output is not None:
        found.plot(output, dark=dark)
    if form == "csv":
        emit(found.rows(), ("source", "target", *_LAYERS), form=form)
        return
    pairs = found.describe()
    if form == "json":
        emit(pairs, (), form=form)
        return
    for pair in pairs:
        facts = ("source", "target", "median_cosine", "variance_ratio", "verdict")
        emit_one({key: pair[key] for key in facts})
        echo()
        ends = {"source": pair["source"], "target": pair["target"]}
        rows = [_named(row, ends) for row in (*pair["layers"], pair["whole"])]
        emit(rows, tuple(_named(dict.fromkeys(c.replace(" ", "_") for c in _LAYERS), ends)))
    note(f"Note: {pairs[0]['whole']['note']}")
    if output is not None:
        note(f"Drew {output}.")


def _named(row: Mapping[str, Any], ends: Mapping[str, str]) -> dict[str, Any]:
    """Name the columns of the two ends after them."""
    renamed = {}
    for key, value in row.items():
        what, _, end = key.rpartition("_")
        renamed[f"{what} {ends[end]}" if end in ends else key] = value
    return renamed


@click.command(cls=SectionedCommand)
@click.argument("points", nargs=-1, required=True, shell_complete=NODES)
@_picture
@dark_option
@settings_options({"sharpness": SharpnessSettings})
@with_computing_graph
@output_options
def sharpness(
    points: tuple[str, ...],
    output: Path | None,
    dark: bool,
    settings: GivenSettings,
    graph: Graph,
    form: str,
) -> None:
    """Measure how sharp the minimum around a point is, and store it with the point.

    The profile is the change of the loss when every tensor moves in a random direction by a share r of its own norm:
    mean, standard deviation and maximum over the directions. BatchNorm statistics are recomputed for every perturbed
    point. The relative flatness (Petzka et al. 2021) is that of a linear last layer under mean cross-entropy. Several
    points are measured in the same way and drawn together.

    \b
    Example:
      mgraph sharpness a
      mgraph sharpness a b --directions 20 -o sharpness.png
    """
    check_dark(output, dark=dark)
    how = settings.of(SharpnessSettings)
    nodes = [graph.node(point) for point in points]
    if output is not None:
        graph.check_picture(output)
    with progress_bars("sharpness") as progress:
        found = [node.sharpness(how, progress=progress) for node in nodes]
    rows = [one.describe() for one in found]
    if output is not None:
        found[0].plot(output, *found[1:], dark=dark)
    for text in dict.fromkeys(text for one in found for text in one.notes):
        note(f"Note: {text}")
    if form == "json":
        emit(rows, (), form=form)
    elif form == "csv":
        emit([{"node": row["node"], "split": row["split"]} | r for row in rows for r in row["profile"]], (), form=form)
    else:
        for row in rows:
            emit_one(row, tables={"profile": ("radius", "mean", "std", "max")})
    if output is not None:
        note(f"Drew {output}.")
