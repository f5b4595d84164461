"""Plots of sweeps, loss and primary metric: a surface or a simplex of three as heat maps, a path as curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mgraph.errors import InputError
from mgraph.families import CompositePath, Floats, Grid, PolygonalChainFamily, SimplexGrid
from mgraph.figures import check_path, style, write_figure
from mgraph.methods.base import Method, Panel
from mgraph.metric import LOSS, Metric
from mgraph.query.observed import Observation
from mgraph.query.sweepdata import SweepData

_SPLIT_COLOURS = {"train": "#1b6ca8", "valid": "#e08a00", "test": "#b3263c"}


def plot_sweep(
    data: SweepData,
    ends: Sequence[str],
    path: Path,
    *,
    title: str = "",
    before: SweepData | None = None,
    method: type[Method] | None = None,
    series: Sequence[Observation] = (),
) -> Path:
    """Draw a sweep to ``path`` (.png, .pdf or .svg), with the modes marked by name.

    A surface becomes one column of heat maps per stage (``before`` on the left, on the same colour scale) with train
    loss and the primary metric on test data; a simplex of three modes becomes the same as triangles. A path becomes two
    panels along t with every split, marking the bends of a chain, the pivots of a band or the joints of a composite.
    The ``method`` that made it may add a panel, or draw its own figure, from the ``series`` that it observed. Raises
    InputError for another file type, a directory that cannot be written, or a sweep that has no picture.
    """
    check_path(path)
    check_drawable(data)
    with style():
        figure = None if method is None else method.figure(series, data, ends, title=title, before=before)
        if figure is None and _is_flat(data.grid):
            figure = _draw_maps(data, ends, title, before)
        elif figure is None:
            figure = _draw_curve(data, ends, title, before, None if method is None else method.panel(series))
        return write_figure(figure, path)


def check_drawable(data: SweepData) -> None:
    """Raise InputError for a sweep that has no picture: a simplex of other than three modes."""
    if isinstance(data.grid, SimplexGrid) and data.grid.corners != 3:
        raise InputError(
            f"A simplex is drawn as a triangle of three modes, and this one has {data.grid.corners}; see its numbers "
            f"with mgraph show, or connect three of its modes by --simplex."
        )


def _is_flat(grid: Grid) -> bool:
    """Return whether a grid fills part of the plane rather than a line."""
    return isinstance(grid, SimplexGrid) or len(grid.counts) == 2


def _draw_maps(data: SweepData, ends: Sequence[str], title: str, before: SweepData | None) -> Any:
    from matplotlib.figure import Figure

    stages = [(label, sweep) for label, sweep in (("before", before), ("after", data)) if sweep is not None]
    orders = {LOSS.name: ("train", "valid", "test")}
    split_of = {m.name: _shown_split(data, orders.get(m.name, ("test", "valid"))) for m in data.shown}
    panels = [m for m in data.shown if (split_of[m.name], m.name) in data.values]
    figure = Figure(figsize=(4.6 * len(stages), 3.9 * len(panels) + 0.4), layout="constrained")
    axes = figure.subplots(len(panels), len(stages), squeeze=False)
    for row, metric in zip(axes, panels, strict=True):
        key = (split_of[metric.name], metric.name)
        low, high = _finite_range([sweep.values[key] for _, sweep in stages if key in sweep.values])
        for axis, (stage, sweep) in zip(row, stages, strict=True):
            if key not in sweep.values:
                axis.set_axis_off()
                continue
            draw = _triangle if isinstance(sweep.grid, SimplexGrid) else _heat_map
            image = draw(axis, sweep, key, ends, _colours(metric), low, high if high > low else low + 1e-12)
            falls = metric.better == "higher"
            worst = sweep.values[key].min() if falls else sweep.values[key].max()
            suffix = f"{stage} training: " if len(stages) > 1 else ""
            axis.set_title(f"{suffix}{key[0]} {metric.name}, {'min' if falls else 'max'} {worst:.3g}")
        figure.colorbar(image, ax=list(row), shrink=0.85)
    figure.suptitle(title)
    return figure


def _finite_range(arrays: Sequence[Floats]) -> tuple[float, float]:
    """Return the range of the colour scale; the non-finite cells of a failed sweep stay white."""
    values = np.concatenate(arrays)
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)


def _heat_map(
    axis: Any, sweep: SweepData, key: tuple[str, str], ends: Sequence[str], colours: str, low: float, high: float
) -> Any:
    values = sweep.values[key].reshape(sweep.grid.counts)
    u, v = (np.unique(column) for column in sweep.parameters.T)
    # The rows of the array are u, so u runs upwards and v to the right.
    image = axis.pcolormesh(
        _cells(v), _cells(u), values, cmap=colours, vmin=low, vmax=high, edgecolors="none", rasterized=True
    )
    axis.set_aspect("equal")
    for (at_u, at_v), name in zip(sweep.family.end_parameters(), ends, strict=True):
        axis.plot(at_v, at_u, "o", color="white", markeredgecolor="black", clip_on=False, zorder=3)
        right, top = at_v > 0.5, at_u > 0.5
        axis.annotate(
            name,
            (at_v, at_u),
            xytext=(-7 if right else 7, -7 if top else 7),
            textcoords="offset points",
            ha="right" if right else "left",
            va="top" if top else "bottom",
            color="white",
            weight="bold",
            path_effects=_outline(),
        )
    axis.set_xlabel("v")
    axis.set_ylabel("u")
    return image


def _cells(points: Floats) -> Floats:
    """Return the borders of the cells around the points of an axis: halfway between, and as far beyond the ends."""
    middles = (points[1:] + points[:-1]) / 2.0
    return np.concatenate([[2 * points[0] - middles[0]], middles, [2 * points[-1] - middles[-1]]])


def _triangle(
    axis: Any, sweep: SweepData, key: tuple[str, str], ends: Sequence[str], colours: str, low: float, high: float
) -> Any:
    """Fill an equilateral triangle with the values, linear between the points."""
    from matplotlib.tri import LinearTriInterpolator, Triangulation, UniformTriRefiner

    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
    x, y = (sweep.parameters @ corners).T
    values = sweep.values[key]
    places = Triangulation(x, y, _small_triangles(sweep.grid))
    unknown = ~np.isfinite(values)[places.triangles].all(axis=1)
    places.set_mask(unknown)
    # In small steps: shading mixes colours, and the mixture of two colours is not the colour of the value between.
    fine, between = places, np.nan_to_num(values)
    if not unknown.all():
        linear = LinearTriInterpolator(places, between)
        fine, between = UniformTriRefiner(places).refine_field(between, linear, subdiv=4)
    image = axis.tripcolor(fine, between, shading="gouraud", cmap=colours, vmin=low, vmax=high, rasterized=True)
    axis.plot(*corners[[0, 1, 2, 0]].T, color="black", linewidth=0.8)
    axis.plot(x, y, ".", color="black", markersize=1.5, alpha=0.4)
    for (left, up), name in zip(corners, ends, strict=True):
        axis.plot(left, up, "o", color="white", markeredgecolor="black", clip_on=False, zorder=3)
        top = up > 0.5
        place = {"xytext": (0, 8 if top else -8), "ha": "center", "va": "bottom" if top else "top"}
        axis.annotate(name, (left, up), textcoords="offset points", weight="bold", **place)
    axis.set_xlim(-0.06, 1.06)
    axis.set_ylim(-0.1, np.sqrt(0.75) + 0.1)
    axis.set_aspect("equal")
    axis.set_axis_off()
    return image


def _small_triangles(grid: Grid) -> list[tuple[int, int, int]]:
    """List the triangles of three mutual neighbours; a Delaunay mesh would add slivers along the sides."""
    return [
        (a, b, c)
        for a, around in enumerate(grid.neighbours)
        for b in around
        for c in around
        if a < b < c and c in grid.neighbours[b]
    ]


def _colours(metric: Metric) -> str:
    """Return the colour map on which good values are dark."""
    return "viridis_r" if metric.better == "higher" else "viridis"


def _outline() -> list[Any]:
    from matplotlib import patheffects

    return [patheffects.withStroke(linewidth=2, foreground="black")]


def _draw_curve(
    data: SweepData, ends: Sequence[str], title: str, before: SweepData | None, panel: Panel | None = None
) -> Any:
    from matplotlib.figure import Figure

    metrics = [m for m in data.shown if any(metric == m.name for _, metric in data.values)]
    panels = len(metrics) + (panel is not None)
    figure = Figure(figsize=(4.8 * panels, 3.6), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    t = data.parameters[:, 0]
    if panel is not None:
        panel(axes[-1], _SPLIT_COLOURS["train"])
    family = data.family
    band = isinstance(family, PolygonalChainFamily) and family.at is not None
    composite = isinstance(family, CompositePath)
    bends = family.joint_parameters if isinstance(family, CompositePath) else family.knots[1:-1]
    for axis, metric in zip(axes, [m.name for m in metrics], strict=False):
        for split, colour in _SPLIT_COLOURS.items():
            if (split, metric) not in data.values:
                continue
            values = data.values[split, metric]
            axis.plot(t, values, color=colour, label=split)
            axis.plot([0, 1], values[[0, -1]], "o", color=colour, clip_on=False, zorder=3)
            if before is not None and (split, metric) in before.values:
                axis.plot(before.parameters[:, 0], before.values[split, metric], ":", color=colour, linewidth=1)
            if band:
                at = np.isin(t, bends)
                axis.plot(t[at], values[at], ".", color=colour, markersize=7)
        for bend in () if band else bends:
            axis.axvline(bend, color="grey", linestyle="--", linewidth=0.8, zorder=0)
        axis.set_xlabel(f"{'share of the length' if band else 't'}   ({ends[0]} at 0, {ends[1]} at 1)")
        axis.set_ylabel(metric)
        axis.set_xlim(0, 1)
        axis.grid(alpha=0.3)
    if before is not None:
        axes[0].plot([], [], ":", color="grey", label="straight line")
    if band:
        axes[0].plot([], [], ".", color="grey", markersize=7, label="pivot")
    elif len(bends):
        axes[0].plot([], [], "--", color="grey", linewidth=0.8, label="joint" if composite else "bend")
    axes[0].legend()
    figure.suptitle(title)
    return figure


def _shown_split(data: SweepData, preference: Sequence[str]) -> str:
    present = {split for split, _ in data.values}
    return next((s for s in preference if s in present), preference[0])
