"""A picture of how the training of a mode went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mgraph.errors import InputError
from mgraph.figures import LIGHT, Look, check_path, colours, style, write_figure
from mgraph.query.observed import Observation

_LABELS = {
    "train_loss": "train loss",
    "train_accuracy": "train accuracy",
    "learning_rate": "learning rate",
    "distance": "distance from the start (L2)",
}


def plot_history(series: Sequence[Observation], path: Path, *, title: str = "", look: Look = LIGHT) -> Path:
    """Draw series of a node's training by step, one panel each, to ``path`` (.png, .pdf or .svg).

    Raises InputError if there are none, for another file type, or for a directory that cannot be written.
    """
    check_path(path)
    drawn = sorted((s for s in series if s.quantity in _LABELS), key=lambda s: list(_LABELS).index(s.quantity))
    if not drawn:
        raise InputError(
            f"Nothing was noted while {title} was trained; only modes that were trained here have a history."
        )
    from matplotlib.figure import Figure

    with style(dark=look.dark):
        figure = Figure(figsize=(6.0, 1.8 * len(drawn) + 0.4), layout="constrained")
        axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
        for axis, one in zip(axes, drawn, strict=True):
            axis.plot(one.positions, one.values, color=colours()["train"], marker="." if len(one.values) == 1 else "")
            axis.set_ylabel(_LABELS[one.quantity])
            if one.quantity in ("train_loss", "learning_rate") and min(one.values) > 0:
                axis.set_yscale("log")
        axes[-1].set_xlabel("step")
        figure.suptitle(title)
        return write_figure(figure, path, look.about)
