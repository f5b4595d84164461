"""Pictures of a whole graph: its map, its dendrogram, and the matrix of how well its modes are connected."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mgraph.errors import InputError
from mgraph.figures import style, write_figure
from mgraph.query.criterion import Criterion
from mgraph.query.matrix import Chart, Floats, Matrix, leaf_order
from mgraph.query.tree import Dendrogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LAYOUTS = ("barrier", "distance")
_SHADES = ("#cfe3f3", "#fbe0c3", "#d5ecd0", "#e4d9ef", "#f7d3d8", "#e6e2c8", "#d3ecec", "#e3e3e3")
_TREE_COLOURS = ("#1b6ca8", "#e08a00", "#3c8d40", "#7a52a3", "#b3263c", "#7d7324", "#2a8c8c", "#6b6b6b")
_LABELLED = 40  # with more modes than this there is no room for names
_WRITTEN = 12  # with more than this there is no room for numbers in a matrix


def plot_map(chart: Chart, distances: Floats, path: Path, *, layout: str) -> Path:
    """Draw modes as points and the best edge of every pair as a line, coloured by its peak; components are shaded.

    ``distances`` (n, n) are those that the layout should show, NaN if unknown. Edges above the limit are dotted.
    """
    with style():
        return write_figure(_draw_map(chart, distances, layout), path)


def plot_dendrogram(tree: Dendrogram, limit: float | None, path: Path) -> Path:
    """Draw the values at which groups of modes merge, with each mode's branch starting at its own value if known.

    A dashed line marks the ``limit``; clusters that merge below it get their own colours.
    """
    with style():
        return write_figure(_draw_dendrogram(tree, limit), path)


def plot_matrix(matrix: Matrix, path: Path) -> Path:
    """Draw the values of all pairs as a heat map: below the diagonal the best edge, above it the best route."""
    with style():
        return write_figure(_draw_matrix(matrix), path)


def _draw_map(chart: Chart, distances: Floats, layout: str) -> Figure:
    from matplotlib.collections import LineCollection
    from matplotlib.patheffects import withStroke

    n, peaks, within = len(chart.modes), chart.direct["peak"], chart.within
    places = _places(distances)
    side = float(np.clip(3.4 + 0.12 * n, 4.2, 8.0))
    figure, axes = _canvas(side + 0.9, side)
    pairs = [(i, j) for i, j in combinations(range(n), 2) if np.isfinite(peaks[i, j])]
    for number in np.unique(chart.components).tolist():
        group = np.flatnonzero(chart.components == number)
        if len(group) > 1:
            shade = _SHADES[number % len(_SHADES)]
            inside = [places[list(p)] for p in pairs if within[p] and chart.components[p[0]] == number]
            band = LineCollection(inside, colors=shade, linewidths=24, zorder=0, capstyle="round")
            axes.add_collection(band)
            axes.scatter(places[group, 0], places[group, 1], s=1500, color=shade, zorder=0, linewidths=0)
    lines = LineCollection(
        [places[list(p)] for p in pairs],
        array=np.array([peaks[p] for p in pairs]),
        cmap="viridis_r",
        linewidths=[1.8 if within[p] else 1.0 for p in pairs],
        linestyles=["solid" if within[p] else "dotted" for p in pairs],
        zorder=1,
    )
    axes.add_collection(lines)
    axes.scatter(places[:, 0], places[:, 1], s=60, color="white", edgecolors="black", linewidths=1.0, zorder=2)
    for i in range(n) if n <= _LABELLED else ():
        x, y = 11 * _away(places, i, [j for p in pairs if i in p for j in p if j != i])
        where: dict[str, Any] = {"xytext": (x, y), "textcoords": "offset points", "ha": "center", "va": "center"}
        text = axes.annotate(chart.modes[i].label, tuple(places[i]), **where, zorder=3)
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    c = chart.criterion
    if pairs:
        figure.colorbar(lines, ax=axes, label=f"peak of the {c.split} {c.metric}", shrink=0.7, pad=0.02)
    centre, half = (places.max(axis=0) + places.min(axis=0)) / 2, 0.62 * max(float(np.ptp(places, axis=0).max()), 0.1)
    axes.set(xlim=(centre[0] - half, centre[0] + half), ylim=(centre[1] - half, centre[1] + half), aspect="equal")
    axes.set_axis_off()
    count = len(np.unique(chart.components))
    at = "" if c.limit is None else f" at {c}"
    above = "" if all(within[p] for p in pairs) else "; dotted: above the limit"
    shown = "barrier" if layout == "barrier" else "distance in weight space"
    title = f"{n} modes, {count} component{'' if count == 1 else 's'}{at}\nlaid out by {shown}{above}"
    axes.set_title(title, fontsize=9)
    return figure


def _draw_dendrogram(tree: Dendrogram, limit: float | None) -> Figure:
    n, order = len(tree.leaves), leaf_order(tree)
    figure, axes = _canvas(5.2, float(np.clip(1.3 + 0.24 * n, 2.2, 12.0)))
    known = np.flatnonzero(np.isfinite(tree.own))
    values = [*tree.linkage[:, 2].tolist(), *tree.own[known].tolist(), *([] if limit is None else [limit])]
    values += [0.0] if tree.criterion.quantity != "peak" or not values else []
    low, high = min(values), max(values)
    span = max(high - low, 1e-3 * abs(high), 1e-12)
    height = {leaf: float(n - 1 - i) for i, leaf in enumerate(order)}
    level = {leaf: float(tree.own[leaf]) if leaf in known else low - 0.04 * span for leaf in range(n)}
    # The largest clusters that merge within the limit get colours, in order; merges above it are grey.
    top = {c: c for c in range(n)}
    for k, (left, right, value, _) in enumerate(tree.linkage.tolist()):
        if limit is None or value <= limit:
            top = {c: n + k if t in (int(left), int(right)) else t for c, t in top.items()} | {n + k: n + k}
    coloured = list(dict.fromkeys(top[leaf] for leaf in order if top[leaf] >= n))
    colours = {t: _TREE_COLOURS[i % len(_TREE_COLOURS)] for i, t in enumerate(coloured)}
    for k, (left, right, value, _) in enumerate(tree.linkage.tolist()):
        children = int(left), int(right)
        own = "0.45" if n + k not in top else colours[top[n + k]]
        for child in children:
            mine = colours.get(top.get(child, -1), "0.45")
            axes.plot([level[child], value], [height[child]] * 2, color=mine, linewidth=1.4, solid_capstyle="butt")
        axes.plot([value] * 2, [height[c] for c in children], color=own, linewidth=1.4, solid_capstyle="projecting")
        height[n + k], level[n + k] = (height[children[0]] + height[children[1]]) / 2, value
    roots = tree.roots
    for root in roots if len(roots) > 1 else ():  # these never merge
        end = high + 0.1 * span
        axes.plot([level[root], end], [height[root]] * 2, color="0.45", linewidth=1, linestyle=(0, (2, 2)))
    axes.scatter([level[i] for i in known.tolist()], [height[i] for i in known.tolist()], s=14, color="black", zorder=3)
    if limit is not None:
        axes.axvline(limit, color="black", linewidth=0.8, linestyle="dashed")
    axes.set_yticks([height[leaf] for leaf in order], [tree.leaves[leaf].label for leaf in order])
    if n > _LABELLED:
        axes.set_yticks([])
    axes.set(ylim=(-0.7, n - 0.3), xlim=(low - 0.04 * span, high + 0.1 * span))
    dots = "; dots: the modes' own" if len(known) else ""
    line = "" if limit is None else f"; dashed: {limit:g}"
    axes.set_xlabel(f"{_measure(tree.criterion)} at which groups merge{dots}{line}")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def _draw_matrix(matrix: Matrix) -> Figure:
    import matplotlib as mpl

    n = len(matrix.modes)
    shown = np.where(np.tril(np.ones((n, n), dtype=bool), -1), matrix.direct, matrix.best)
    np.fill_diagonal(shown, np.nan)
    side = float(np.clip(1.8 + 0.34 * n, 3.4, 9.0))
    figure, axes = _canvas(side + 0.9, side)
    colours = mpl.colormaps["viridis_r"].with_extremes(bad="0.93")
    image = axes.imshow(np.ma.masked_invalid(shown), cmap=colours)
    if n <= _WRITTEN:
        known = shown[np.isfinite(shown)]
        dark = float(known.min() + 0.55 * np.ptp(known)) if len(known) else 0.0
        for i, j in np.argwhere(np.isfinite(shown)).tolist():
            colour = "white" if shown[i, j] > dark else "black"
            axes.text(j, i, _short(shown[i, j]), ha="center", va="center", fontsize=6.5, color=colour)
    upright = max(map(len, matrix.labels)) <= 3
    axes.set_xticks(range(n), matrix.labels, rotation=0 if upright else 60, ha="center" if upright else "right")
    axes.set_yticks(range(n), matrix.labels)
    if n > _LABELLED:
        axes.set(xticks=[], yticks=[])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label=_measure(matrix.criterion), shrink=0.8, pad=0.03)
    axes.set_title("below the diagonal: best edge; above: best route; grey: none", fontsize=9)
    return figure


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


def _short(value: float) -> str:
    """Format a number in about five characters."""
    if abs(value) < 1:
        return f"{value:.3f}".replace("0.", ".", 1)
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"


def _measure(criterion: Criterion) -> str:
    return f"{criterion.split} {criterion.metric} {criterion.quantity}"


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def check_layout(layout: str) -> None:
    """Raise InputError for an unknown layout."""
    if layout not in LAYOUTS:
        raise InputError(f"Modes are laid out by {' or '.join(LAYOUTS)}, not by {layout!r}.")
