"""Paths on landscapes of two weights: the landscape from above with a path at several moments, and their losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mgraph.families import Floats
from mgraph.figures import LIGHT, Look, check_path, ink, legend_below, style, write_figure


@dataclass(frozen=True)
class Moment:
    """A path of points, shape (N, 2), and the loss along it: fractions of its length and values, each (S,)."""

    label: str
    points: Floats
    along: Floats
    losses: Floats


@dataclass(frozen=True)
class LandscapePanel:
    """A potential over a rectangle: heights of shape (len(y), len(x)), a path's moments, and its known saddle."""

    title: str
    x: Floats
    y: Floats
    heights: Floats
    moments: Sequence[Moment]
    saddle: float


def plot_landscapes(landscapes: Sequence[LandscapePanel], path: Path, *, look: Look = LIGHT) -> Path:
    """Draw landscapes side by side to ``path`` (.png, .pdf, .svg): from above, dark where it is low; below, the losses.

    Moments go from light to dark, too. Raises InputError for a picture that cannot be written.
    """
    check_path(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with style(dark=look.dark):
        figure = Figure(figsize=(4.3 * len(landscapes), 8.0), layout="constrained")
        axes = figure.subplots(2, len(landscapes), squeeze=False, height_ratios=(1.5, 1.0))
        for (above, below), landscape in zip(axes.T, landscapes, strict=True):
            colours = mpl.colormaps["YlOrRd"](np.linspace(0.25, 1.0, len(landscape.moments)))
            _from_above(above, landscape, colours)
            _losses(below, landscape, colours)
        return write_figure(figure, path, look.about)


def _from_above(axis: Any, landscape: LandscapePanel, colours: Any) -> None:
    from matplotlib.patheffects import withStroke

    top = max(1.5 * landscape.saddle, 1.2 * max(float(m.losses.max()) for m in landscape.moments))
    # Contours are dense near the bottom, because the valleys are what matters.
    levels = top * np.linspace(0.0, 1.0, 22) ** 2
    axis.contourf(landscape.x, landscape.y, landscape.heights, levels=levels, cmap="viridis", extend="max")
    axis.contour(landscape.x, landscape.y, landscape.heights, levels=levels, colors="white", linewidths=0.3, alpha=0.6)
    around = [withStroke(linewidth=3.2, foreground="white")]
    for moment, colour in zip(landscape.moments, colours, strict=True):
        axis.plot(*moment.points.T, "-", color=colour, linewidth=1.6, path_effects=around, label=moment.label)
        axis.plot(*moment.points.T, ".", color=colour, markersize=5)
    ends = landscape.moments[-1].points[[0, -1]]
    axis.plot(*ends.T, "o", color="white", markeredgecolor="black", markersize=7, zorder=5)
    axis.set_xlim(landscape.x[0], landscape.x[-1])
    axis.set_ylim(landscape.y[0], landscape.y[-1])
    axis.set_aspect("equal")
    axis.set_title(landscape.title)
    axis.set_xlabel("w₁")
    axis.set_ylabel("w₂")


def _losses(axis: Any, landscape: LandscapePanel, colours: Any) -> None:
    for moment, colour in zip(landscape.moments, colours, strict=True):
        axis.plot(moment.along, moment.losses, color=colour, label=moment.label)
    axis.axhline(landscape.saddle, color=ink(), linestyle=":", linewidth=1, label="known saddle", zorder=0)
    axis.set_xlim(0, 1)
    axis.set_xlabel("share of the length")
    axis.set_ylabel("loss")
    axis.grid(alpha=0.3)
    legend_below(axis, columns=3)
