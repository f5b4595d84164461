"""Pictures of measurements of modes: how similar they are layer by layer, and how sharp the minimum around them is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mgraph.errors import InputError
from mgraph.figures import check_path, legend_below, style, write_figure
from mgraph.metric import LOSS
from mgraph.report.scales import colour_bar, scale_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_BARS = 3  # most pairs drawn as bars
_MOST_LABELS = 60  # most names below the bars; more would be unreadable


def plot_comparison(pairs: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw, for every tensor, cosine and relative distance of each pair, and each point's variance.

    Up to three pairs are drawn as bars, more as heat maps with a row for each pair. ``pairs`` are as
    :meth:`mgraph.operations.comparisons.Comparison.describe` returns them. Raises InputError for a file type other than
    .png, .pdf or .svg, or for a directory that cannot be written.
    """
    check_path(path)
    from matplotlib.figure import Figure

    with style():
        layers = [row["layer"] for row in pairs[0]["layers"]]
        figure = Figure(figsize=(min(30.0, 3.4 + 0.35 * len(layers)), 8.5), layout="constrained")
        cosine, distance, variance = figure.subplots(3, 1, sharex=True)
        series = {f"{p['source']} – {p['target']}": p["layers"] for p in pairs}
        for axis, what, name in ((cosine, "cosine", "cosine"), (distance, "relative", "relative distance")):
            numbers = {pair: [row[what] for row in rows] for pair, rows in series.items()}
            if len(series) <= _MOST_BARS:
                _bars(axis, numbers)
                axis.set_ylabel(name)
            else:
                draw_layers(axis, numbers, name, from_zero=what != "cosine")
        if len(series) <= _MOST_BARS:
            cosine.axhline(0, color="black", linewidth=0.8)
            _legend(cosine, len(series))
        points: dict[str, list[float]] = {}
        for pair in pairs:
            for end in ("source", "target"):
                points.setdefault(pair[end], [row[f"variance_{end}"] for row in pair["layers"]])
        _bars(variance, points)
        variance.set_ylabel("variance")
        if any(value > 0 for values in points.values() for value in values):
            variance.set_yscale("log")
        if len(layers) <= _MOST_LABELS:
            variance.set_xticks(range(len(layers)), layers, rotation=90)
        _legend(variance, len(points))
        return write_figure(figure, path)


def draw_layers(
    axis: Axes, series: Mapping[str, Sequence[float | None]], name: str, *, from_zero: bool = False
) -> Axes:
    """Draw a heat map of numbers by layer, a row for each pair, on an Axes, and return it; unknown ones are grey."""
    import matplotlib as mpl

    values = np.array([[np.nan if v is None else v for v in row] for row in series.values()], dtype=float)
    # A cosine has a sign: white is 0, as between independent runs. A distance is from 0, dark: alike.
    colours = mpl.colormaps["viridis" if from_zero else "PuOr"].with_extremes(bad="0.8")
    low, high = (0.0, max(1.0, float(np.nanmax(values, initial=1.0)))) if from_zero else (-1.0, 1.0)
    image = axis.pcolormesh(
        np.arange(values.shape[1] + 1) - 0.5, np.arange(len(values) + 1), values, cmap=colours, vmin=low, vmax=high
    )
    axis.set_yticks(np.arange(len(values)) + 0.5, list(series) if len(values) <= _MOST_LABELS else [""] * len(values))
    axis.set_ylim(len(values), 0)
    axis.figure.colorbar(image, ax=axis, label=name)
    return axis


def _legend(axis: Axes, entries: int) -> None:
    """Explain bars above them, where the legend hides none."""
    if entries <= 2 * _MOST_BARS:
        axis.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)


def _bars(axis: Any, series: Mapping[str, Sequence[float | None]]) -> None:
    width = 0.8 / len(series)
    for i, (name, values) in enumerate(series.items()):
        heights = [np.nan if v is None else v for v in values]
        axis.bar(np.arange(len(heights)) + (i - (len(series) - 1) / 2) * width, heights, width, label=name)
    axis.grid(axis="y", alpha=0.3)


def plot_sharpness(found: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw sharpness profiles: the mean change of the loss by radius, a band of one standard deviation, the maximum.

    Of more than three, the means are drawn as a heat map, too.

    ``found`` are as :meth:`mgraph.operations.surroundings.Sharpness.describe` returns them. Raises InputError if one
    has no profile, and in the same cases as :func:`plot_comparison`.
    """
    for one in found:
        if not one["profile"]:
            raise InputError(
                f"The sharpness of {one['node']} was measured without a profile; there is nothing to draw."
            )

    check_path(path)
    from matplotlib.figure import Figure

    with style():
        many = len(found) > _MOST_BARS
        figure = Figure(figsize=(5.6 + 5.2 * many, 4.4), layout="constrained")
        axes = figure.subplots(1, 1 + many, squeeze=False)[0]
        _profiles(axes[0], found)
        if many:
            draw_radii(axes[1], found)
        return write_figure(figure, path)


def _profiles(axis: Axes, found: Sequence[Mapping[str, Any]]) -> None:
    floor = _floor(found)
    for one in found:
        radius, mean, largest = (np.array([row[c] for row in one["profile"]]) for c in ("radius", "mean", "max"))
        std = np.array([row["std"] or 0.0 for row in one["profile"]])
        kappa = one["relative_flatness"]
        name = one["node"] if kappa is None else f"{one['node']}, κ = {kappa:.3g}"
        (line,) = axis.plot(radius, mean, "o-", markersize=3, label=name)
        axis.plot(radius, largest, ":", color=line.get_color(), linewidth=1)
        if len(one["profile"]) > 1:
            # As wide below as above on this axis: mean - std may be below 0, where a logarithm dives to the floor.
            known = mean > 0
            low = np.divide(mean**2, mean + std, out=np.full(len(mean), floor), where=known)
            axis.fill_between(radius, low, mean + std, where=known, color=line.get_color(), alpha=0.2, linewidth=0)
    axis.set_xscale("log")
    axis.set_yscale("log", nonpositive="mask")
    axis.set_ylim(bottom=floor)
    axis.set_xlabel("radius r, relative to every tensor's norm")
    axis.set_ylabel(f"|change of the {found[0]['split']} loss|")
    axis.set_title("mean, times and over 1 + sd/mean; maximum dotted", fontsize=8)
    axis.grid(alpha=0.3)
    legend_below(axis)


def draw_radii(axis: Axes, found: Sequence[Mapping[str, Any]]) -> Axes:
    """Draw a heat map of the mean change of the loss, a row for each node, a column for each radius; return the Axes.

    Nodes whose radii differ from those of the first are left out.
    """
    radii = [row["radius"] for row in found[0]["profile"]]
    same = [one for one in found if [row["radius"] for row in one["profile"]] == radii]
    values = np.array([[row["mean"] for row in one["profile"]] for one in same], dtype=float)
    scale = scale_of(LOSS, [values])
    image = axis.pcolormesh(values, cmap=scale.colours, norm=scale.norm())
    axis.set_yticks(np.arange(len(same)) + 0.5, [one["node"] for one in same] if len(same) <= _MOST_LABELS else [])
    axis.set_xticks(np.arange(len(radii)) + 0.5, [f"{r:g}" for r in radii], rotation=60 if len(radii) > 6 else 0)
    axis.set_ylim(len(same), 0)
    axis.set_xlabel("radius r")
    colour_bar(image, [axis], f"mean change of the {found[0]['split']} loss", scale)
    return axis


def _floor(found: Sequence[Mapping[str, Any]]) -> float:
    """Return the lower end of the logarithmic axis: a third of the smallest mean change that is not 0."""
    return min((row["mean"] for one in found for row in one["profile"] if row["mean"] > 0), default=1e-6) / 3
