"""One heat map on an Axes: a swept surface as cells, or a simplex of three as a triangle, with its modes and points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mgraph.families import Floats, Grid, SimplexGrid
from mgraph.query.sweepdata import Key, SweepData
from mgraph.report.scales import Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
_LABEL = 7  # points between a mode and its name
SELECTED, ORACLE = "best on validation data", "oracle: best on test data"
_MARKS = {SELECTED: ("*", 130), ORACLE: ("X", 55)}


def heat_map(axis: Axes, sweep: SweepData, key: Key, ends: Sequence[str], scale: Scale) -> Any:
    """Draw the values of a split and metric over the domain, with contour lines and the modes' names.

    Returns the image, for a colour bar. u runs upwards and v to the right on a surface; a simplex is an equilateral
    triangle.
    """
    draw = _triangle if isinstance(sweep.grid, SimplexGrid) else _cells
    return draw(axis, sweep, key, ends, scale)


def mark_points(axis: Axes, sweep: SweepData) -> dict[str, Any]:
    """Mark the point that validation data select, and the oracle, which test data would; return what to explain."""
    from mgraph.figures import ink, paper

    found = {}
    for what, split in ((SELECTED, "valid"), (ORACLE, "test")):
        if (split, "loss") not in sweep.values or (split, sweep.primary.name) not in sweep.values:
            continue
        if not np.isfinite(sweep.values[split, sweep.primary.name]).any():
            continue
        x, y = place(sweep, sweep.parameters[sweep.best(split)][None])[0]
        shape, size = _MARKS[what]
        found[what] = axis.scatter(
            [x], [y], marker=shape, s=size, color=paper(), edgecolors=ink(), linewidths=0.9, clip_on=False, zorder=4
        )
    return found


def place(sweep: SweepData, parameters: Floats) -> Floats:
    """Return where parameters are on the page, shape (S, 2)."""
    return parameters @ CORNERS if isinstance(sweep.grid, SimplexGrid) else parameters[:, ::-1]


def _cells(axis: Axes, sweep: SweepData, key: Key, ends: Sequence[str], scale: Scale) -> Any:
    values = sweep.values[key].reshape(sweep.grid.counts)
    u, v = (np.unique(column) for column in sweep.parameters.T)
    # The rows of the array are u, so u runs upwards and v to the right.
    image = axis.pcolormesh(
        borders(v), borders(u), values, cmap=scale.colours, norm=scale.norm(), edgecolors="none", rasterized=True
    )
    levels = scale.levels(values)
    if len(levels):
        lines = np.ma.masked_invalid(values)
        axis.contour(v, u, lines, levels=levels, colors="white", linewidths=0.6, alpha=0.6)
    axis.set_aspect("equal")
    for (at_u, at_v), name in zip(sweep.family.end_parameters(), ends, strict=True):
        name_mode(axis, (at_v, at_u), name, inwards=(0.5 - at_v, 0.5 - at_u))
    axis.set_xlabel("v")
    axis.set_ylabel("u")
    return image


def name_mode(axis: Axes, at: tuple[float, float], name: str, *, inwards: tuple[float, float]) -> None:
    """Mark a mode, and write its name on the side that lies inwards."""
    axis.plot(*at, "o", color="white", markeredgecolor="black", clip_on=False, zorder=3)
    left, down = inwards[0] < 0, inwards[1] < 0
    axis.annotate(
        name,
        at,
        xytext=(-_LABEL if left else _LABEL, -_LABEL if down else _LABEL),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top" if down else "bottom",
        color="white",
        weight="bold",
        path_effects=_outline(),
        zorder=5,
    )


def borders(points: Floats) -> Floats:
    """Return the borders of the cells around the points of an axis: halfway between, and as far beyond the ends."""
    middles = (points[1:] + points[:-1]) / 2.0
    return np.concatenate([[2 * points[0] - middles[0]], middles, [2 * points[-1] - middles[-1]]])


def _triangle(axis: Axes, sweep: SweepData, key: Key, ends: Sequence[str], scale: Scale) -> Any:
    """Fill an equilateral triangle with the values, smoothly between the points, but never beyond all of them."""
    from matplotlib.tri import CubicTriInterpolator, Triangulation, UniformTriRefiner

    from mgraph.figures import ink

    x, y = (sweep.parameters @ CORNERS).T
    values = sweep.values[key]
    places = Triangulation(x, y, small_triangles(sweep.grid))
    unknown = ~np.isfinite(values)[places.triangles].all(axis=1)
    places.set_mask(unknown)
    # In small steps: shading mixes colours, and the mixture of two colours is not the colour of the value between.
    fine, even = places, scale.even(np.where(np.isfinite(values), values, scale.low))
    if not unknown.all():
        cubic = CubicTriInterpolator(places, even)
        fine, smooth = UniformTriRefiner(places).refine_field(even, cubic, subdiv=4)
        even = np.clip(smooth, even.min(), even.max())
    between = scale.back(even)
    image = axis.tripcolor(fine, between, shading="gouraud", cmap=scale.colours, norm=scale.norm(), rasterized=True)
    levels = scale.levels(values) if not unknown.all() else ()
    if len(levels):
        axis.tricontour(fine, between, levels=levels, colors="white", linewidths=0.6, alpha=0.6)
    axis.plot(*CORNERS[[0, 1, 2, 0]].T, color=ink(), linewidth=0.8)
    axis.plot(x, y, ".", color="black", markersize=1.5, alpha=0.4)
    for (left, up), name in zip(CORNERS, ends, strict=True):
        axis.plot(left, up, "o", color="white", markeredgecolor="black", clip_on=False, zorder=3)
        top = up > 0.5
        where: dict[str, Any] = {"xytext": (0, 8 if top else -8), "ha": "center", "va": "bottom" if top else "top"}
        axis.annotate(name, (left, up), textcoords="offset points", weight="bold", **where)
    axis.set_xlim(-0.06, 1.06)
    axis.set_ylim(-0.1, np.sqrt(0.75) + 0.1)
    axis.set_aspect("equal")
    axis.set_axis_off()
    return image


def small_triangles(grid: Grid) -> list[tuple[int, int, int]]:
    """List the triangles of three mutual neighbours; a Delaunay mesh would add slivers along the sides."""
    return [
        (a, b, c)
        for a, around in enumerate(grid.neighbours)
        for b in around
        for c in around
        if a < b < c and c in grid.neighbours[b]
    ]


def _outline() -> list[Any]:
    from matplotlib import patheffects

    return [patheffects.withStroke(linewidth=2, foreground="black")]
