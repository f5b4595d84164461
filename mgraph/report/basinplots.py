"""Basins and saddles in the picture of a sweep, beside their tree of merges, which is drawn upright."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mgraph.figures import LIGHT, Look, check_path, ink, paper, style, write_figure
from mgraph.query.basins import Basins
from mgraph.report.curves import draw_curves
from mgraph.report.heatmaps import heat_map, place
from mgraph.report.plots import check_drawable, is_flat
from mgraph.report.scales import colour_bar, scale_of
from mgraph.report.treeplots import draw_dendrogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BASIN, _SADDLE = "v", "x"


def plot_basins(found: Basins, path: Path, *, title: str = "", look: Look = LIGHT) -> Path:
    """Draw a sweep with its basins (triangles) and saddles (crosses) to ``path``, and the disconnectivity graph.

    Raises InputError for another file type, a directory that cannot be written, or a sweep that has no picture.
    """
    check_path(path)
    check_drawable(found.data)
    from matplotlib.figure import Figure

    with style(dark=look.dark):
        figure = Figure(figsize=(9.8, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        draw_basins(left, found)
        draw_basin_tree(right, found)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        figure.suptitle(title)
        return write_figure(figure, path, look.about)


def draw_basin_tree(axis: Axes, found: Basins) -> Axes:
    """Draw the tree of merges on an Axes, and return it."""
    return draw_dendrogram(axis, found.tree, label=f"{found.split} {found.metric.cost_name} at which basins join")


def draw_basins(axis: Axes, found: Basins) -> Axes:
    """Draw the sweep with its basins and saddles on an Axes, and return it."""
    from matplotlib.patheffects import withStroke

    data, key = found.data, (found.split, found.metric.name)
    points, saddles = np.array(found.points), np.array([m.saddle for m in found.merges], dtype=np.int64)
    if is_flat(data.grid):
        scale = scale_of(found.metric, [data.values[key]])
        image = heat_map(axis, data, key, found.ends, scale)
        colour_bar(image, [axis], " ".join(key), scale, shrink=0.85)
        x, y = place(data, data.parameters).T
    else:
        draw_curves(axis, data, found.metric, found.ends, splits=[found.split])
        x, y = data.parameters[:, 0], data.values[key]
    how: dict[str, Any] = {"clip_on": False, "zorder": 6}
    axis.scatter(x[points], y[points], marker=_BASIN, s=46, color=paper(), edgecolors=ink(), label="basin", **how)
    if len(saddles):
        how["path_effects"] = [withStroke(linewidth=3.4, foreground=paper())]
        axis.scatter(x[saddles], y[saddles], marker=_SADDLE, s=42, color=ink(), linewidths=1.8, label="saddle", **how)
    return axis
