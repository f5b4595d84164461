"""Pictures of ensembles: of an end and θ(t) along a path, of all its points ([G] figs. 2, 4), and of more members."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mgraph.figures import LIGHT, Look, check_path, colours, cycle, ink, legend_below, style, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mgraph.operations.growth import Growth


def plot_growth(found: Growth, path: Path, *, look: Look = LIGHT) -> Path:
    """Draw what votes gain on test data: along a path by t, and always by the number of members."""
    from matplotlib.figure import Figure

    check_path(path)
    panels = (draw_pairs, draw_members) if len(found.t) else (draw_members,)
    with style(dark=look.dark):
        figure = Figure(figsize=(4.8 * len(panels), 3.9), layout="constrained")
        for axis, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            panel(axis, found)
        figure.suptitle(look.title)
        return write_figure(figure, path, look.about)


def draw_pairs(axis: Axes, found: Growth) -> Axes:
    """Draw the metric of θ(t), and of its ensemble with the first end, by t, on an Axes, and return it."""
    shades = colours()
    axis.plot(found.t, found.single, color=shades["test"], label="θ(t)")
    axis.plot(found.t, found.pair, color=shades["train"], label=f"ensemble of {found.first} and θ(t)")
    every = f"all {len(found.t)} points"
    axis.axhline(found.points[-1], color=ink(), linestyle="--", linewidth=1, label=every)
    axis.set_xlabel(f"t   ({found.first} at 0)")
    axis.set_xlim(0, 1)
    return _named(axis, found)


def draw_members(axis: Axes, found: Growth) -> Axes:
    """Draw the metric of ensembles of more and more points, and independent modes, on an Axes, and return it."""
    from matplotlib.ticker import MaxNLocator

    lines = ((found.points, colours()["train"], "points"), (found.modes, cycle()[2], "independent modes"))
    for values, colour, name in lines:
        axis.plot(np.arange(1, len(values) + 1), values, ".-", color=colour, label=name)
    axis.set_xlabel("members")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _named(axis, found)


def _named(axis: Axes, found: Growth) -> Axes:
    axis.set_ylabel(f"test {found.metric.name}")
    axis.grid(alpha=0.3)
    legend_below(axis)
    return axis
