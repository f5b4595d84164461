"""Pictures of planes: heat maps with paths projected on them, and beside these how far from the plane they lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mgraph.families import Floats
from mgraph.figures import LIGHT, Look, check_path, colours, style, write_figure
from mgraph.query.sweepdata import SweepData
from mgraph.report.heatmaps import heat_map, mark_points, name_mode, place
from mgraph.report.plots import Wanted
from mgraph.report.scales import colour_bar, scale_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMED = 12  # most nodes whose names are written
_STYLES = ("-", "--", ":", "-.")


class Traced(Protocol):
    """Points beside a plane, all of shape (S,): their projection (x, y), and their distance from it."""

    @property
    def label(self) -> str:
        """What it is."""

    @property
    def t(self) -> Floats:
        """The parameter of a path, or the number of a node."""

    @property
    def x(self) -> Floats:
        """Where it is on the page."""

    @property
    def y(self) -> Floats:
        """Where it is on the page."""

    @property
    def distance(self) -> Floats:
        """How far it is from there."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of nodes; empty for a path."""


def plot_plane(
    data: SweepData,
    ends: Sequence[str],
    path: Path,
    *,
    title: str = "",
    traces: Sequence[Traced] = (),
    wanted: Wanted | None = None,
    look: Look = LIGHT,
) -> Path:
    """Draw a swept plane to ``path`` (.png, .pdf or .svg): train loss and the primary metric on test data.

    ``traces`` are drawn on it, and below, by t, their distance from it. Raises InputError for another file type, or a
    directory that cannot be written.
    """
    check_path(path)
    with style(dark=look.dark):
        return write_figure(_draw(data, ends, title, traces, wanted or Wanted()), path, look.about)


def _draw(data: SweepData, ends: Sequence[str], title: str, traces: Sequence[Traced], wanted: Wanted) -> Figure:
    from matplotlib.figure import Figure

    panels = wanted.maps_of(data)
    below = bool(traces)
    upper = _height(data) + 1.5
    figure = Figure(figsize=(5.6 * len(panels), upper + 2.2 * below), layout="constrained")
    grid = figure.add_gridspec(1 + below, len(panels), height_ratios=(upper, 2.0) if below else (1,))
    marked: dict[str, Any] = {}
    for i, (split, metric) in enumerate(panels):
        axis, key = figure.add_subplot(grid[0, i]), (split, metric.name)
        scale = scale_of(metric, [data.values[key]])
        image = heat_map(axis, data, key, ends, scale)
        marked |= mark_points(axis, data)
        for number, trace in enumerate(traces):
            draw_trace(axis, trace, number)
        colour_bar(image, [axis], " ".join(key), scale, shrink=0.85)
        falls = metric.better == "higher"
        worst = np.nanmin(data.values[key]) if falls else np.nanmax(data.values[key])
        axis.set_title(f"{split} {metric.name}, {'min' if falls else 'max'} {worst:.3g}")
    if below:
        draw_distances(figure.add_subplot(grid[1, :]), traces)
    if marked:
        figure.legend(marked.values(), marked.keys(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(title)
    return figure


def _height(data: SweepData) -> float:
    """Return about how high, in inches, the heat map of a plane is drawn."""
    low, high = place(data, data.parameters[[0, -1]])
    ratio = float((high[1] - low[1]) / (high[0] - low[0]))
    return float(np.clip(3.7 * ratio, 1.6, 4.4))


def draw_trace(axis: Axes, trace: Traced, number: int = 0) -> Axes:
    """Draw a projected path, or nodes joined in order, on the Axes of a plane, and return it."""
    from matplotlib.patheffects import withStroke

    effects = [withStroke(linewidth=2.2 if trace.names else 3.4, foreground="black")]
    shape = _STYLES[number % len(_STYLES)]
    limits = axis.get_xlim(), axis.get_ylim()
    thin = 0.9 if trace.names else 1.6
    axis.plot(trace.x, trace.y, shape, color="white", linewidth=thin, path_effects=effects, zorder=2.5)
    middle = np.array([sum(side) / 2 for side in limits])
    for i, name in enumerate(trace.names):
        away = float(trace.distance[i]) > 1e-6 * float(trace.distance.max() or 1.0)
        axis.plot(trace.x[i], trace.y[i], "o", markersize=5, color="white", markeredgecolor="black", zorder=2.6)
        if away and len(trace.names) <= _NAMED:  # what lies on the plane has its name already
            at = (float(trace.x[i]), float(trace.y[i]))
            name_mode(axis, at, name, inwards=tuple(middle - np.array(at)))
    axis.set(xlim=limits[0], ylim=limits[1])
    return axis


def draw_distances(axis: Axes, traces: Sequence[Traced]) -> Axes:
    """Draw how far from the plane every trace is, on an Axes, and return it."""
    shades = [colours()[split] for split in ("train", "valid", "test")]
    for number, trace in enumerate(traces):
        how: dict[str, Any] = {"color": shades[number % len(shades)], "linestyle": _STYLES[number % len(_STYLES)]}
        if trace.names:
            axis.plot(trace.t, trace.distance, "o-", markersize=4, color=how["color"], label=trace.label)
            if len(trace.names) <= _NAMED:
                axis.set_xticks(trace.t, trace.names)
        else:
            axis.plot(trace.t, trace.distance, label=trace.label, **how)
    top = max(float(trace.distance.max()) for trace in traces) or 1.0
    axis.set_ylim(-0.04 * top, 1.08 * top)  # what lies on the plane is seen at 0
    paths = [trace for trace in traces if not trace.names]
    if paths:
        axis.set_xlim(0, 1)
        axis.set_xlabel("t")
    axis.set_ylabel("distance from\nthe plane (L2)")
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    return axis
