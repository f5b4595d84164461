"""Pictures of measurements of modes: how similar they are layer by layer, and how sharp the minimum around them is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mgraph.errors import InputError
from mgraph.figures import check_path, style, write_figure

_MOST_LABELS = 60  # most names below the bars; more would be unreadable


def plot_comparison(pairs: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw, for every tensor, bars of cosine and relative distance of each pair, and each point's variance.

    ``pairs`` are as :meth:`mgraph.operations.comparisons.Comparison.describe` returns them. Raises InputError for a
    file type other than .png, .pdf or .svg, or for a directory that cannot be written.
    """

    check_path(path)
    from matplotlib.figure import Figure

    with style():
        layers = [row["layer"] for row in pairs[0]["layers"]]
        figure = Figure(figsize=(min(30.0, 3.0 + 0.35 * len(layers)), 8.5), layout="constrained")
        cosine, distance, variance = figure.subplots(3, 1, sharex=True)
        series = {f"{p['source']} – {p['target']}": p["layers"] for p in pairs}
        _bars(cosine, {name: [row["cosine"] for row in rows] for name, rows in series.items()})
        cosine.set_ylabel("cosine")
        cosine.axhline(0, color="black", linewidth=0.8)
        _bars(distance, {name: [row["relative"] for row in rows] for name, rows in series.items()})
        distance.set_ylabel("relative distance")
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
        for axis in (cosine, variance):
            axis.legend(fontsize=7)
        return write_figure(figure, path)


def _bars(axis: Any, series: Mapping[str, Sequence[float | None]]) -> None:
    width = 0.8 / len(series)
    for i, (name, values) in enumerate(series.items()):
        heights = [np.nan if v is None else v for v in values]
        axis.bar(np.arange(len(heights)) + (i - (len(series) - 1) / 2) * width, heights, width, label=name)
    axis.grid(axis="y", alpha=0.3)


def plot_sharpness(found: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw sharpness profiles: the mean change of the loss by radius, a band of one standard deviation, the maximum.

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
        figure = Figure(figsize=(5.6, 4.0), layout="constrained")
        axis = figure.subplots()
        floor = _floor(found)
        for one in found:
            radius, mean, largest = (np.array([row[c] for row in one["profile"]]) for c in ("radius", "mean", "max"))
            std = np.array([row["std"] or 0.0 for row in one["profile"]])
            kappa = one["relative_flatness"]
            name = one["node"] if kappa is None else f"{one['node']}, κ = {kappa:.3g}"
            (line,) = axis.plot(radius, mean, "o-", markersize=3, label=name)
            axis.plot(radius, largest, ":", color=line.get_color(), linewidth=1)
            if len(one["profile"]) > 1:
                axis.fill_between(radius, np.maximum(mean - std, floor), mean + std, color=line.get_color(), alpha=0.2)
        axis.set_xscale("log")
        axis.set_yscale("log", nonpositive="mask")
        axis.set_ylim(bottom=floor)
        axis.set_xlabel("radius r, relative to every tensor's norm")
        axis.set_ylabel(f"|change of the {found[0]['split']} loss|: mean ± sd, max dotted")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
        return write_figure(figure, path)


def _floor(found: Sequence[Mapping[str, Any]]) -> float:
    """Return the lower end of the logarithmic axis: a third of the smallest mean change that is not 0."""
    return min((row["mean"] for one in found for row in one["profile"] if row["mean"] > 0), default=1e-6) / 3
