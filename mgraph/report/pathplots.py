"""Several paths between the same two modes in one panel, as [G] compares segment, chain and curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mgraph.errors import InputError
from mgraph.figures import LIGHT, Look, check_path, cycle, legend_below, style, write_figure
from mgraph.metric import Metric
from mgraph.query.sweepdata import SweepData
from mgraph.report.curves import error_band
from mgraph.report.plots import Wanted
from mgraph.report.scales import scale_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES = ("-", "--", "-.", ":")  # told apart on a grey printer, too


@dataclass(frozen=True)
class PathCurve:
    """A swept path with its name; ``turned`` if it runs from the last of the common ends to the first."""

    label: str
    data: SweepData
    turned: bool = False


def plot_paths(
    paths: Sequence[PathCurve], ends: Sequence[str], path: Path, *, wanted: Wanted, look: Look = LIGHT
) -> Path:
    """Draw a panel for each split and metric (or train loss, and the primary metric on test data), a line a path.

    ``ends`` name the two modes. Raises InputError for another file type, a directory that cannot be written, and for
    what one of the paths was not swept on.
    """
    from matplotlib.figure import Figure

    check_path(path)
    panels = panels_of(paths, wanted)
    with style(dark=look.dark):
        figure = Figure(figsize=(4.8 * len(panels), 3.9), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (split, metric) in zip(axes, panels, strict=True):
            draw_paths(axis, paths, ends, split, metric)
            axis.get_legend().remove()
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        figure.suptitle(look.title)
        return write_figure(figure, path, look.about)


def panels_of(paths: Sequence[PathCurve], wanted: Wanted) -> list[tuple[str, Metric]]:
    """Return split and metric of every panel; InputError for what not all paths were swept on."""
    wanted.check(paths[0].data)
    panels = wanted.maps_of(paths[0].data)
    for one in paths:
        for split, metric in panels:
            if (split, metric.name) not in one.data.values:
                raise InputError(f"{one.label} was not swept on {split} {metric.name}, as {paths[0].label} was.")
    return panels


def draw_paths(axis: Axes, paths: Sequence[PathCurve], ends: Sequence[str], split: str, metric: Metric) -> Axes:
    """Draw a metric on a split along every path on an Axes, with a band of one standard error, and return the Axes."""
    key, shown = (split, metric.name), []
    for number, one in enumerate(paths):
        t, values, errors = one.data.parameters[:, 0], one.data.values[key], one.data.errors[key]
        if one.turned:
            t = 1.0 - t
        colour = cycle()[number % len(cycle())]
        shape = _STYLES[number % len(_STYLES)]
        error_band(axis, t, values, errors, colour)
        axis.plot(t, values, shape, color=colour, label=one.label)
        shown.append(values)
    scale_axis(axis, metric, shown)
    axis.set_xlabel(f"t   ({ends[0]} at 0, {ends[1]} at 1)")
    axis.set_ylabel(f"{split} {metric.name}")
    axis.set_xlim(0, 1)
    axis.grid(alpha=0.3)
    legend_below(axis)
    return axis
