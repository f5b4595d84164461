"""Pictures of measurements of modes: how similar they are layer by layer, and how sharp the minimum around them is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mgraph.errors import InputError
from mgraph.figures import LIGHT, Look, check_path, ink, legend_below, style, write_figure
from mgraph.metric import LOSS
from mgraph.report.scales import colour_bar, scale_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Pairs = Sequence[Mapping[str, Any]]
COMPARED = {"cosine": "cosine", "relative": "relative distance", "variance": "variance"}
AROUND = ("profile", "radii")
_MOST_BARS = 3  # most pairs drawn as bars
_MOST_LABELS = 60  # most names below the bars; more would be unreadable


def plot_comparison(pairs: Pairs, path: Path, *, look: Look = LIGHT) -> Path:
    """Draw, for every tensor, cosine and relative distance of each pair, and each point's variance.

    Up to three pairs are drawn as bars, more as heat maps with a row for each pair. ``pairs`` are as
    :meth:`mgraph.operations.comparisons.Comparison.describe` returns them. Raises InputError for a file type other than
    .png, .pdf or .svg, or for a directory that cannot be written.
    """
    check_path(path)
    from matplotlib.figure import Figure

    with style(dark=look.dark):
        layers = len(pairs[0]["layers"])
        figure = Figure(figsize=(min(30.0, 3.4 + 0.35 * layers), 8.5), layout="constrained")
        axes = figure.subplots(3, 1, sharex=True)
        for axis, what in zip(axes, COMPARED, strict=True):
            draw_compared(axis, pairs, what)
        if axes[1].get_legend() is not None:
            axes[1].get_legend().remove()  # of the same pairs as above it
        return write_figure(figure, path, look.about)


def draw_compared(axis: Axes, pairs: Pairs, what: str = "cosine") -> Axes:
    """Draw one of :data:`COMPARED` by tensor on an Axes, and return it: bars, or a heat map of more than three pairs.

    ``pairs`` are as for :func:`plot_comparison`.
    """
    layers = [row["layer"] for row in pairs[0]["layers"]]
    numbers: dict[str, list[float | None]] = {}
    for pair in pairs:
        if what == "variance":
            for end in ("source", "target"):
                numbers.setdefault(pair[end], [row[f"variance_{end}"] for row in pair["layers"]])
        else:
            numbers[f"{pair['source']} – {pair['target']}"] = [row[what] for row in pair["layers"]]
    if what != "variance" and len(pairs) > _MOST_BARS:
        draw_layers(axis, numbers, COMPARED[what], from_zero=what == "relative")
    else:
        _bars(axis, numbers)
        axis.set_ylabel(COMPARED[what])
        _legend(axis, len(numbers))
    if what == "cosine" and len(pairs) <= _MOST_BARS:
        axis.axhline(0, color=ink(), linewidth=0.8)
    if what == "variance" and any(value is not None and value > 0 for row in numbers.values() for value in row):
        axis.set_yscale("log")
    if len(layers) <= _MOST_LABELS:
        axis.set_xticks(range(len(layers)), layers, rotation=90)
    return axis


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


def plot_sharpness(found: Sequence[Mapping[str, Any]], path: Path, *, look: Look = LIGHT) -> Path:
    """Draw sharpness profiles: the mean change of the loss by radius, a band of one standard deviation, the maximum.

    Of more than three, the means are drawn as a heat map, too.

    ``found`` are as :meth:`mgraph.operations.surroundings.Sharpness.describe` returns them. Raises InputError if one
    has no profile, and in the same cases as :func:`plot_comparison`.
    """
    check_profiles(found)
    check_path(path)
    from matplotlib.figure import Figure

    with style(dark=look.dark):
        many = len(found) > _MOST_BARS
        figure = Figure(figsize=(5.6 + 5.2 * many, 4.4), layout="constrained")
        axes = figure.subplots(1, 1 + many, squeeze=False)[0]
        draw_profiles(axes[0], found)
        if many:
            draw_radii(axes[1], found)
        return write_figure(figure, path, look.about)


def check_what(what: str, known: Collection[str]) -> None:
    """Raise InputError for a panel that there is not."""
    if what not in known:
        raise InputError(f"What is drawn is one of {', '.join(known)}, not {what!r}.")


def check_profiles(found: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError if one of the results has no profile."""
    for one in found:
        if not one["profile"]:
            raise InputError(
                f"The sharpness of {one['node']} was measured without a profile; there is nothing to draw."
            )


def draw_sharpness(axis: Axes, found: Sequence[Mapping[str, Any]], what: str = "profile") -> Axes:
    """Draw one of :data:`AROUND` on an Axes, and return it: profiles by radius, or their means as a heat map."""
    return (draw_profiles if what == "profile" else draw_radii)(axis, found)


def draw_profiles(axis: Axes, found: Sequence[Mapping[str, Any]]) -> Axes:
    """Draw the profiles by radius on an Axes, and return it."""
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
    return axis


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
