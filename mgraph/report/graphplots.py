"""Pictures of a whole graph: its map, and the matrix of how well its modes are connected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mgraph.errors import InputError
from mgraph.figures import LIGHT, Look, paper, style, write_figure
from mgraph.query.criterion import Criterion
from mgraph.query.matrix import Chart, Floats, Matrix
from mgraph.report.scales import colour_bar, scale_of_costs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LAYOUTS = {
    "barrier": "barrier",
    "distance": "distance in weight space",
    "disagreement": "disagreement on test data",
}
_SHADES = ("#cfe3f3", "#fbe0c3", "#d5ecd0", "#e4d9ef", "#f7d3d8", "#e6e2c8", "#d3ecec", "#e3e3e3")
LABELLED = 40  # with more modes than this there is no room for names
_WRITTEN = 12  # with more than this there is no room for numbers in a matrix


def plot_map(chart: Chart, layouts: Mapping[str, Floats], path: Path, *, look: Look = LIGHT) -> Path:
    """Draw modes as points and the best edge of every pair as a line, coloured by its value; components are shaded.

    There is one map for each of the ``layouts``, side by side: its name, and the distances (n, n) that it should show,
    NaN if unknown. Edges above the limit are dotted.
    """
    from matplotlib.figure import Figure

    with style(dark=look.dark):
        side = float(np.clip(3.4 + 0.12 * len(chart.modes), 4.2, 8.0))
        figure = Figure(figsize=((side + 0.9) * len(layouts), side), layout="constrained")
        row = figure.subplots(1, len(layouts), squeeze=False)[0]
        for axes, (layout, distances) in zip(row, layouts.items(), strict=True):
            draw_map(axes, chart, distances, layout=layout)
        return write_figure(figure, path, look.about)


def plot_matrix(matrix: Matrix, path: Path, *, look: Look = LIGHT) -> Path:
    """Draw the values of all pairs as a heat map: below the diagonal the best edge, above it the best route."""
    with style(dark=look.dark):
        side = float(np.clip(1.8 + 0.34 * len(_connected(matrix)), 3.4, 9.0))
        figure, axes = canvas(side + 0.9, side)
        draw_matrix(axes, matrix)
        return write_figure(figure, path, look.about)


def draw_map(axes: Axes, chart: Chart, distances: Floats, *, layout: str = "barrier") -> Axes:
    """Draw a map on an Axes, as :func:`plot_map` does, and return it."""
    from matplotlib.collections import LineCollection
    from matplotlib.patheffects import withStroke

    c, n, within = chart.criterion, len(chart.modes), chart.within
    values = chart.direct[c.quantity]
    places = _places(distances)
    pairs = [(i, j) for i, j in combinations(range(n), 2) if np.isfinite(values[i, j])]
    for number in np.unique(chart.components).tolist():
        group = np.flatnonzero(chart.components == number)
        if len(group) > 1:
            shade = _SHADES[number % len(_SHADES)]
            inside = [places[list(p)] for p in pairs if within[p] and chart.components[p[0]] == number]
            band = LineCollection(inside, colors=shade, linewidths=24, zorder=0, capstyle="round")
            axes.add_collection(band)
            axes.scatter(places[group, 0], places[group, 1], s=1500, color=shade, zorder=0, linewidths=0)
    known = np.array([values[p] for p in pairs])
    scale = scale_of_costs(known, c.limit)
    lines = LineCollection(
        [places[list(p)] for p in pairs],
        array=known,
        cmap=scale.colours,
        norm=scale.norm(),
        linewidths=[1.8 if within[p] else 1.0 for p in pairs],
        linestyles=["solid" if within[p] else "dotted" for p in pairs],
        zorder=1,
    )
    axes.add_collection(lines)
    axes.scatter(places[:, 0], places[:, 1], s=60, color="white", edgecolors="black", linewidths=1.0, zorder=2)
    for i in range(n) if n <= LABELLED else ():
        x, y = 11 * _away(places, i, [j for p in pairs if i in p for j in p if j != i])
        ha = "left" if x > 5 else "right" if x < -5 else "center"  # a long name does not reach back over its mode
        where: dict[str, Any] = {"xytext": (x, y), "textcoords": "offset points", "ha": ha, "va": "center"}
        text = axes.annotate(chart.modes[i].label, tuple(places[i]), **where, zorder=3, color="black")
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    if pairs:
        colour_bar(lines, [axes], measure(c), scale, shrink=0.7, pad=0.02)
    centre, half = (places.max(axis=0) + places.min(axis=0)) / 2, 0.62 * max(float(np.ptp(places, axis=0).max()), 0.1)
    axes.set(xlim=(centre[0] - half, centre[0] + half), ylim=(centre[1] - half, centre[1] + half), aspect="equal")
    axes.set_axis_off()
    count = len(np.unique(chart.components))
    at = "" if c.limit is None else f" at {c}"
    above = "" if all(within[p] for p in pairs) else "; dotted: above the limit"
    title = f"{n} modes, {count} component{'' if count == 1 else 's'}{at}\nlaid out by {LAYOUTS[layout]}{above}"
    axes.set_title(title, fontsize=9)
    return axes


def draw_matrix(axes: Axes, matrix: Matrix) -> Axes:
    """Draw a matrix on an Axes, as :func:`plot_matrix` does, and return it; modes without any edge are left out."""
    import matplotlib as mpl

    kept = _connected(matrix)
    n, names = len(kept), [matrix.labels[i] for i in kept]
    direct, best = (values[np.ix_(kept, kept)] for values in (matrix.direct, matrix.best))
    shown = np.where(np.tril(np.ones((n, n), dtype=bool), -1), direct, best)
    np.fill_diagonal(shown, np.nan)
    scale = scale_of_costs(shown, matrix.criterion.limit)
    norm, grey = scale.norm(), "0.93" if paper() == "white" else "0.25"
    colours = mpl.colormaps[scale.colours].with_extremes(bad=grey)
    image = axes.imshow(np.ma.masked_invalid(shown), cmap=colours, norm=norm)
    if n <= _WRITTEN:
        for i, j in np.argwhere(np.isfinite(shown)).tolist():
            colour = "black" if float(norm(shown[i, j])) > 0.55 else "white"
            axes.text(j, i, short(shown[i, j]), ha="center", va="center", fontsize=6.5, color=colour)
    upright = max(map(len, names)) <= 3
    axes.set_xticks(range(n), names, rotation=0 if upright else 60, ha="center" if upright else "right")
    axes.set_yticks(range(n), names)
    if n > LABELLED:
        axes.set(xticks=[], yticks=[])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    colour_bar(image, [axes], measure(matrix.criterion), scale, shrink=0.8, pad=0.03)
    alone = len(matrix.modes) - n
    without = f"\nleft out: {alone} mode{'' if alone == 1 else 's'} without any edge" if alone else ""
    axes.set_title(f"below the diagonal: best edge\nabove: best route; grey: none{without}", fontsize=9)
    return axes


def _connected(matrix: Matrix) -> list[int]:
    """Return the modes that have an edge; all of them if none has."""
    known = np.isfinite(matrix.direct) & ~np.eye(len(matrix.modes), dtype=bool)
    return np.flatnonzero(known.any(axis=0) | known.any(axis=1)).tolist() or list(range(len(matrix.modes)))


def _places(distances: Floats) -> Floats:
    """Lay out points in a plane so that their distances are about as wanted; shape (n, 2).

    Modes at distance 0 are kept apart, and an unknown distance counts as larger than any known one.
    """
    import networkx as nx

    n = len(distances)
    known = np.isfinite(distances) & ~np.eye(n, dtype=bool)
    most = float(distances[known].max()) if known.any() else 0.0
    lengths = np.full((n, n), 3.0)
    lengths[known] = 1.0 + (distances[known] / most if most > 0 else 0.0)
    wanted = {i: {j: 0.0 if i == j else float(lengths[i, j]) for j in range(n)} for i in range(n)}
    found = nx.kamada_kawai_layout(nx.complete_graph(n), dist=wanted)
    return np.array([found[i] for i in range(n)])


def _away(places: Floats, i: int, neighbours: Sequence[int]) -> Floats:
    """Return the direction, of length 1, in which a mode's name crosses fewest of its edges: the widest gap."""
    if not neighbours:
        return np.array([0.0, 1.0])
    step = places[neighbours] - places[i]
    angles = np.sort(np.arctan2(step[:, 1], step[:, 0]))
    gaps = np.diff(angles, append=angles[0] + 2 * np.pi)
    widest = int(np.argmax(gaps))
    middle = angles[widest] + gaps[widest] / 2
    return np.array([np.cos(middle), np.sin(middle)])


def short(value: float) -> str:
    """Format a number in about five characters, none of which is a zero that hides what follows."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-")
    if abs(value) < 1:
        return f"{value:.{2 if abs(value) >= 0.1 else 3}f}".replace("0.", ".", 1)
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"


def measure(criterion: Criterion) -> str:
    """Say what the numbers are: split, metric and quantity."""
    return f"{criterion.split} {criterion.metric} {criterion.quantity}"


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of that size in inches, with one Axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def check_layout(layout: str, most: int | None = None) -> list[str]:
    """Return the names of layouts, given with commas; InputError for an unknown one, one given twice, or too many."""
    found = [name.strip() for name in layout.split(",")]
    for name in found:
        if name not in LAYOUTS:
            raise InputError(f"Modes are laid out by {', '.join(LAYOUTS)}, not by {name!r}.")
    if len(set(found)) < len(found):
        raise InputError(f"Each layout is drawn once: {layout}.")
    if most is not None and len(found) > most:
        raise InputError(f"On one Axes there is room for one layout, not for {len(found)}: {layout}.")
    return found
