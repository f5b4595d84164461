"""The figure of a walk, as [L] draws it: loss and accuracy, distances and variances by tick, and continuity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mgraph.figures import colours, ink, legend_below
from mgraph.methods.llpf.report import WalkSeries
from mgraph.metric import LOSS
from mgraph.query.sweepdata import SweepData

_MOST_NAMED = 10  # layers in a legend
_LOW_ACCURACY = 0.9  # the axis reaches down to here, so that one wrong example does not look like a cliff


def draw_walk(
    observed: WalkSeries, data: SweepData, ends: Sequence[str], title: str, before: SweepData | None = None
) -> Any:
    """Draw six panels: train and test by tick, distances, variances, continuity, and the loss along t."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14.4, 8.6), layout="constrained")
    axes = figure.subplots(2, 3)
    _by_tick(axes[0, 0], observed, data, "train")
    _layers(axes[0, 1], observed, {"distance": "-", "norm": "--"}, _distances(observed))
    _layers(axes[0, 2], observed, {"variance": "-"}, "variance, by weight")
    _by_tick(axes[1, 0], observed, data, "test")
    _continuity(axes[1, 1], observed, data)
    _along(axes[1, 2], data, ends, before)
    for axis in axes[:, :].ravel():
        axis.grid(alpha=0.3)
    for axis in (*axes[0], axes[1, 0], axes[1, 1]):
        axis.set_xlabel("tick")
        for boundary in _boundaries(observed):
            axis.axvline(boundary, color="grey", linestyle="--", linewidth=0.8, zorder=0)
    figure.suptitle(title)
    return figure


def _by_tick(axis: Any, observed: WalkSeries, data: SweepData, split: str) -> None:
    """Draw loss (left) and the primary metric (right) at kept points; for train also each tick's mean batch loss."""
    ticks, rows = observed.series["row", ""]
    knots = data.family.knots[rows.astype(np.int64)]
    t = data.parameters[:, 0]
    handles, place = [], axis
    if split == "train" and ("train_loss", "") in observed.series:
        shade = colours()["faint"]
        handles += axis.plot(*observed.series["train_loss", ""], color=shade, linewidth=0.8, label="batches of a tick")
    for metric, colour in zip(data.shown, (colours()["train"], colours()["test"]), strict=False):
        if (split, metric.name) not in data.values:
            continue
        place = axis if metric.name == LOSS.name else axis.twinx()
        values = np.interp(knots, t, data.values[split, metric.name])
        handles += place.plot(ticks, values, color=colour, label=f"{split} {metric.name}")
        place.set_ylabel(f"{split} {metric.name}", color=colour)
        place.tick_params(axis="y", colors=colour)
        if metric.best == 1.0:
            place.set_ylim(min(_LOW_ACCURACY, float(values.min()) - 0.01), 1.005)
    axis.set_ylim(bottom=0)
    legend_below(axis, handles)
    axis.set_title(f"{split} {' and '.join(m.name for m in data.shown)}")


def _distances(observed: WalkSeries) -> str:
    to_mode, down = (bool(observed.subjects(quantity)) for quantity in ("distance", "norm"))
    if not down:
        return "distance to the destination, by layer"
    return "distance to the destination (dashed: norm)" if to_mode else "norm, by layer"


def _layers(axis: Any, observed: WalkSeries, styles: Mapping[str, str], title: str) -> None:
    """Draw quantities of every layer: one line style per quantity, one colour per layer."""
    from matplotlib import colormaps

    subjects = list(dict.fromkeys(subject for quantity in styles for subject in observed.subjects(quantity)))
    shades = colormaps["viridis"](np.linspace(0, 0.92, max(1, len(subjects))))
    for subject, shade in zip(subjects, shades, strict=True):
        label: str | None = subject
        for quantity, style in styles.items():
            if (quantity, subject) in observed.series:
                positions, values = observed.series[quantity, subject]
                shown = np.where(values > 0, values, np.nan)  # the axis is logarithmic
                axis.plot(positions, shown, style, color=shade, linewidth=1, label=label)
                label = None
    axis.set_yscale("log")
    axis.set_title(title)
    if 0 < len(subjects) <= _MOST_NAMED:
        legend_below(axis)
    else:
        axis.set_title(f"{title} ({len(subjects)}: first dark, last light)")


def _continuity(axis: Any, observed: WalkSeries, data: SweepData) -> None:
    """Draw the train loss along the straight pieces between kept points, and at these points."""
    ticks = observed.ticks_along(data.parameters[:, 0], data.family.knots)
    if ("train", LOSS.name) in data.values:
        axis.plot(
            ticks, data.values["train", LOSS.name], color=colours()["train"], linewidth=1, label="on the pieces (sweep)"
        )
        rows = observed.series["row", ""][1].astype(np.int64)
        at = np.interp(data.family.knots[rows], data.parameters[:, 0], data.values["train", LOSS.name])
        axis.plot(observed.series["row", ""][0], at, ".", color=ink(), markersize=4, label="kept points")
    ends, middles = observed.series["point_loss", ""][0], observed.series["piece_loss", ""][1]
    axis.plot(
        (ends[1:] + ends[:-1]) / 2, middles, "x", color=colours()["test"], markersize=4, label="middles, as walked"
    )
    axis.set_ylim(bottom=0)
    axis.set_ylabel("train loss")
    legend_below(axis)
    axis.set_title("continuity")


def _along(axis: Any, data: SweepData, ends: Sequence[str], before: SweepData | None) -> None:
    for split in ("train", "valid", "test"):
        colour = colours()[split]
        if (split, LOSS.name) not in data.values:
            continue
        axis.plot(data.parameters[:, 0], data.values[split, LOSS.name], color=colour, linewidth=1, label=split)
        if before is not None and (split, LOSS.name) in before.values:
            axis.plot(before.parameters[:, 0], before.values[split, LOSS.name], ":", color=colour, linewidth=1)
    if before is not None:
        axis.plot([], [], ":", color="grey", label="straight line")
        axis.set_yscale("log")
    axis.set_xlim(0, 1)
    axis.set_xlabel(f"t   ({ends[0]} at 0, {ends[1]} at 1)")
    axis.set_ylabel("loss")
    legend_below(axis)
    axis.set_title("loss along the length of the path")


def _boundaries(observed: WalkSeries) -> list[float]:
    """Return the ticks at which a new phase began."""
    if ("phase", "") not in observed.series:
        return []
    positions, phases = observed.series["phase", ""]
    return [float(p) for p in positions[1:][np.diff(phases) > 0]]
