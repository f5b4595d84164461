"""Pictures of what was recorded step by step: how the training of a mode went, and what a method observed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mgraph.errors import InputError
from mgraph.figures import LIGHT, Look, check_path, colours, legend_below, style, write_figure
from mgraph.query.observed import Observation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELS = {
    "train_loss": "train loss",
    "train_accuracy": "train accuracy",
    "learning_rate": "learning rate",
    "distance": "distance from the start (L2)",
}
_LOGARITHMIC = ("train_loss", "learning_rate", "saddle")
_MOST_NAMED = 10  # subjects in a legend


def plot_history(series: Sequence[Observation], path: Path, *, title: str = "", look: Look = LIGHT) -> Path:
    """Draw series of a node's training by step, one panel each, to ``path`` (.png, .pdf or .svg).

    Raises InputError if there are none, for another file type, or for a directory that cannot be written.
    """
    check_path(path)
    drawn = sorted((s for s in series if s.quantity in LABELS), key=lambda s: list(LABELS).index(s.quantity))
    if not drawn:
        raise InputError(
            f"Nothing was noted while {title} was trained; only modes that were trained here have a history."
        )
    from matplotlib.figure import Figure

    with style(dark=look.dark):
        figure = Figure(figsize=(6.0, 1.8 * len(drawn) + 0.4), layout="constrained")
        axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
        for axis, one in zip(axes, drawn, strict=True):
            draw_series(axis, [one], label=LABELS[one.quantity])
        for axis in axes[:-1]:
            axis.set_xlabel("")
        figure.suptitle(title)
        return write_figure(figure, path, look.about)


def series_of(series: Sequence[Observation], quantity: str, whose: str) -> list[Observation]:
    """Return the series of a quantity, one for each subject; InputError, saying which there are, if there is none."""
    found = [one for one in series if one.quantity == quantity]
    if not found:
        known = ", ".join(dict.fromkeys(one.quantity for one in series)) or "nothing"
        raise InputError(f"No {quantity!r} was noted for {whose}, only {known}.")
    return found


def draw_series(axis: Axes, found: Sequence[Observation], *, along: str = "step", label: str | None = None) -> Axes:
    """Draw one quantity by step, a line for each subject, on an Axes, and return it; ``label`` is that of its values.

    Losses and rates that are all above 0, and what has several subjects, are on a logarithmic axis.
    """
    from matplotlib import colormaps

    quantity = found[0].quantity
    several = len(found) > 1
    shades = colormaps["viridis"](np.linspace(0, 0.92, len(found))) if several else [colours()["train"]]
    for one, shade in zip(found, shades, strict=True):
        mark = "." if len(one.values) == 1 else ""
        axis.plot(one.positions, one.values, color=shade, marker=mark, label=one.subject if several else None)
    axis.set_ylabel(label or quantity.replace("_", " "))
    axis.set_xlabel(along)
    if (several or quantity in _LOGARITHMIC) and min(min(one.values) for one in found) > 0:
        axis.set_yscale("log")
    if 1 < len(found) <= _MOST_NAMED:
        legend_below(axis)
    return axis
