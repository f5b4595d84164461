"""Swept surfaces, planes and simplices as reliefs in three dimensions ([S] fig. 1): the height is what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mgraph.families import PlaneFamily, SimplexGrid
from mgraph.query.sweepdata import Key, SweepData
from mgraph.report.heatmaps import place, small_triangles
from mgraph.report.scales import Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SEEN_FROM = {"elev": 32.0, "azim": -58.0}


def relief(axis: Axes, sweep: SweepData, key: Key, ends: Sequence[str], scale: Scale) -> Any:
    """Draw the values of a split and metric as heights on a three-dimensional Axes, with the modes' names.

    Returns what a colour bar needs. Heights are logarithms on a logarithmic scale, and every edge of the mesh lies
    between measured points; those that are not finite leave a hole.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    three: Any = axis  # an Axes3D, which matplotlib does not type
    colours = ScalarMappable(scale.norm(), scale.colours)
    values = sweep.values[key]
    heights = np.where(np.isfinite(values), scale.even(values), np.nan)
    x, y = place(sweep, sweep.parameters).T
    how: dict[str, Any] = {"linewidth": 0.25, "edgecolor": (1, 1, 1, 0.35), "antialiased": True}
    if isinstance(sweep.grid, SimplexGrid):
        triangles = [t for t in small_triangles(sweep.grid) if np.isfinite(heights[list(t)]).all()]
        drawn = three.plot_trisurf(x, y, heights, triangles=triangles, **how)
        drawn.set_facecolor([colours.to_rgba(scale.back(heights[list(t)].mean())) for t in triangles])
    else:
        shape = sweep.grid.counts
        X, Y, Z = (array.reshape(shape) for array in (x, y, heights))
        middles = (Z[1:, 1:] + Z[1:, :-1] + Z[:-1, 1:] + Z[:-1, :-1]) / 4
        shades = colours.to_rgba(scale.back(middles))
        three.plot_surface(X, Y, Z, rstride=1, cstride=1, facecolors=shades, shade=False, **how)
    _name_modes(three, sweep, heights, ends)
    three.view_init(**_SEEN_FROM)
    three.set_zlim(float(scale.even(np.array(scale.low))), float(scale.even(np.array(scale.high))))
    three.zaxis.set_major_locator(MaxNLocator(5, integer=scale.logarithmic))
    three.zaxis.set_major_formatter(FuncFormatter(lambda z, _: f"{float(scale.back(np.array(z))):.3g}"))
    for side in (three.xaxis, three.yaxis):
        side.set_major_locator(MaxNLocator(4))
    three.tick_params(labelsize=7, pad=0)
    if isinstance(sweep.grid, SimplexGrid):
        three.set(xticks=[], yticks=[])
    elif isinstance(sweep.family, PlaneFamily):
        if len(sweep.family.ends) > 1:
            three.set(xlabel="L2", ylabel="L2")
    else:
        three.set(xlabel="v", ylabel="u")
    for side in (three.xaxis, three.yaxis, three.zaxis):
        side.set_pane_color((0.5, 0.5, 0.5, 0.08))
    three.set_box_aspect((1, 1, 0.62), zoom=0.86)
    return colours


def _name_modes(three: Any, sweep: SweepData, heights: Any, ends: Sequence[str]) -> None:
    from matplotlib.patheffects import withStroke

    from mgraph.figures import ink, paper

    finite = heights[np.isfinite(heights)]
    above = 0.06 * float(np.ptp(finite)) if len(finite) else 0.0
    at = place(sweep, sweep.family.end_parameters())
    for (x, y), point, name in zip(at.tolist(), sweep.grid.ends, ends, strict=True):
        z = float(heights[point])
        if np.isfinite(z):
            three.scatter([x], [y], [z], color="white", edgecolors="black", s=28, depthshade=False, zorder=10)
            effects = [withStroke(linewidth=2.5, foreground=paper())]
            three.text(x, y, z + above, name, weight="bold", color=ink(), path_effects=effects, zorder=11)
