"""Predictions that flip along a path: how many differ from those of its ends, and which examples they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mgraph.figures import LIGHT, Look, check_path, colours, style, write_figure
from mgraph.report.heatmaps import borders

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mgraph.operations.flips import Flips


def plot_flips(found: Flips, path: Path, *, look: Look = LIGHT) -> Path:
    """Draw by t the shares of test examples predicted otherwise than by each end, and wrong; below, which flip."""
    check_path(path)
    from matplotlib.figure import Figure

    with style(dark=look.dark):
        figure = Figure(figsize=(6.4, 6.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.5))
        draw_shares(above, found)
        draw_flips(below, found)
        above.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=8)
        figure.suptitle(look.title)
        return write_figure(figure, path, look.about)


def draw_shares(axis: Axes, found: Flips) -> Axes:
    """Draw how many examples are predicted otherwise than by the ends of the path, and how many wrongly."""
    shades = colours()
    for point, name, colour in ((0, found.first, shades["train"]), (-1, found.last, shades["valid"])):
        axis.plot(found.t, found.differing(point), color=colour, label=f"otherwise than {name}")
    axis.plot(found.t, 1 - found.right.mean(axis=1), ":", color=shades["test"], label="wrong")
    axis.set_ylabel("share of test examples")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    return axis


def draw_flips(axis: Axes, found: Flips) -> Axes:
    """Draw a row for every example whose prediction changes: dark where it is right."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    moving = found.moving
    shades = ("#fde725", "#440154")  # the two ends of viridis: dark is good
    if len(moving):
        rows = found.right[:, moving].T.astype(float)
        lines = np.arange(len(moving) + 1)
        axis.pcolormesh(borders(found.t), lines, rows, cmap=ListedColormap(shades), vmin=0, vmax=1, rasterized=True)
        axis.set_ylim(len(moving), 0)
    patches = [Patch(color=shade, label=name) for shade, name in zip(shades, ("wrong", "right"), strict=True)]
    axis.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False, fontsize=8)
    axis.set_ylabel(f"the {len(moving)} of {len(found.targets)} examples that flip")
    axis.set_xlim(0, 1)
    axis.set_xlabel(f"t   ({found.first} at 0, {found.last} at 1)")
    return axis
