"""One heat map on an Axes: a swept surface as cells, or a simplex of three as a triangle, with its modes and points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mgraph.families import Floats, Grid, PlaneFamily, SimplexGrid
from mgraph.query.sweepdata import Key, SweepData
from mgraph.report.scales import Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
_FLAT = 4  # times as long as it is wide, a plane is drawn wider than it is
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

    found, at = {}, list[int]()
    for what, split in ((SELECTED, "valid"), (ORACLE, "test")):
        if (split, "loss") not in sweep.values or (split, sweep.primary.name) not in sweep.values:
            continue
        if not np.isfinite(sweep.values[split, sweep.primary.name]).any():
            continue
        best = sweep.best(split)
        x, y = place(sweep, sweep.parameters[best][None])[0]
        shape, size = _MARKS[what]
        face = paper()
        if best in at:  # small and dark on top of the other mark, which stays visible
            face, size = ink(), 16
        at.append(best)
        found[what] = axis.scatter(
            [x], [y], marker=shape, s=size, color=face, edgecolors=ink(), linewidths=0.9, clip_on=False, zorder=4
        )
    return found


def place(sweep: SweepData, parameters: Floats) -> Floats:
    """Return where parameters are on the page, shape (S, 2)."""
    if isinstance(sweep.family, PlaneFamily):
        return sweep.family.page(parameters)
    return parameters @ CORNERS if isinstance(sweep.grid, SimplexGrid) else parameters[:, ::-1]


def _cells(axis: Axes, sweep: SweepData, key: Key, ends: Sequence[str], scale: Scale) -> Any:
    values = sweep.values[key].reshape(sweep.grid.counts)
    x, y = (np.unique(column) for column in place(sweep, sweep.parameters).T)
    plane = sweep.family if isinstance(sweep.family, PlaneFamily) else None
    # The rows of the array are u, which runs upwards on a surface, with v to the right; on a plane u is to the right.
    rows = values if plane is None else values.T
    image = axis.pcolormesh(
        borders(x), borders(y), rows, cmap=scale.colours, norm=scale.norm(), edgecolors="none", rasterized=True
    )
    levels = scale.levels(values)
    if len(levels):
        lines = np.ma.masked_invalid(rows)
        axis.contour(x, y, lines, levels=levels, colors="white", linewidths=0.6, alpha=0.6)
    longer, shorter = sorted((np.ptp(x), np.ptp(y)), reverse=True)
    axis.set_aspect("equal" if longer < _FLAT * shorter else "auto")
    middle = np.array([x[0] + x[-1], y[0] + y[-1]]) / 2
    for at, name in zip(place(sweep, sweep.family.end_parameters()), ends, strict=True):
        name_mode(axis, tuple(at), name, inwards=tuple(middle - at))
    if plane is None:
        axis.set_xlabel("v")
        axis.set_ylabel("u")
    else:
        _name_sides(axis, plane)
    return image


def _name_sides(axis: Axes, plane: PlaneFamily) -> None:
    """Write distances below and on the left of a plane, and u and v, the parameters of its points, opposite."""
    distances = len(plane.ends) > 1 or plane.size > 3  # otherwise multiples of random directions
    unit = "distance in weight space (L2)" if distances else "times a random direction"
    axis.set_xlabel(unit)
    axis.set_ylabel(unit)
    axis.locator_params(nbins=5)
    for row in set(range(plane.size)) - set(plane.rows) if distances else ():  # a control point that lies on it
        at = plane.place_of(row)
        if at is not None:
            axis.plot(*plane.page(at[None])[0], "D", markersize=4.5, color="white", markeredgecolor="black", zorder=3)
    top: Any = axis.secondary_xaxis("top", functions=_as_shares(plane.x))
    right: Any = axis.secondary_yaxis("right", functions=_as_shares(plane.y))
    top.set(xlabel="u", xticks=_SHARES)
    right.set(ylabel="v", yticks=_SHARES)
    for added in (top, right):
        added.tick_params(labelsize=7)


_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def _as_shares(side: tuple[float, float]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return the functions between a coordinate on the page and the parameter from 0 to 1 along that side."""
    low, high = side
    return (lambda page: (page - low) / (high - low), lambda share: low + share * (high - low))


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
