"""Pictures of ensembles: of an end and θ(t) along a path, of all its points ([G] figs. 2, 4), and of more members."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mgraph.figures import LIGHT, Look, check_path, colours, ink, legend_below, style, write_figure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mgraph.metric import Metric

_MODES = "#009e73"


def plot_growth(
    metric: Metric,
    path: Path,
    *,
    title: str,
    first: str,
    along: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    members: tuple[NDArray[np.float64], NDArray[np.float64]],
    look: Look = LIGHT,
) -> Path:
    """Draw the metric on test data: ``along`` are t, the values of θ(t), and those of its ensemble with the ``first``
    end.

    ``members`` are the values for the first 1, 2, … points, and for the first 1, 2, … independent modes.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    check_path(path)
    t, single, pair = along
    with style(dark=look.dark):
        figure = Figure(figsize=(9.6 if len(t) else 4.8, 3.9), layout="constrained")
        axes = figure.subplots(1, 2 if len(t) else 1, squeeze=False)[0]
        if len(t):
            axes[0].plot(t, single, color=colours()["test"], label="θ(t)")
            axes[0].plot(t, pair, color=colours()["train"], label=f"ensemble of {first} and θ(t)")
            axes[0].axhline(members[0][-1], color=ink(), linestyle="--", linewidth=1, label=f"all {len(t)} points")
            axes[0].set_xlabel(f"t   ({first} at 0)")
            axes[0].set_xlim(0, 1)
        for values, colour, name in zip(
            members, (colours()["train"], _MODES), ("points", "independent modes"), strict=True
        ):
            axes[-1].plot(np.arange(1, len(values) + 1), values, ".-", color=colour, label=name)
        axes[-1].set_xlabel("members")
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        for axis in axes:
            axis.set_ylabel(f"test {metric.name}")
            axis.grid(alpha=0.3)
            legend_below(axis)
        figure.suptitle(title)
        return write_figure(figure, path, look.about)
