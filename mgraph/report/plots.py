"""Pictures of sweeps, put together from panels: surfaces and simplices as heat maps, paths as curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgraph.errors import InputError
from mgraph.families import Grid, SimplexGrid
from mgraph.figures import LIGHT, Look, check_path, colours, legend_below, style, write_figure
from mgraph.methods.base import Method, Panel
from mgraph.metric import LOSS, Metric
from mgraph.query.observed import Observation
from mgraph.query.sweepdata import SweepData
from mgraph.report.curves import draw_curves, explain_marks
from mgraph.report.heatmaps import heat_map, mark_points
from mgraph.report.reliefs import relief
from mgraph.report.scales import colour_bar, scale_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Wanted:
    """What of a sweep is drawn: splits and metrics by name (default: the loss and the primary metric).

    With ``relief`` it is drawn in three dimensions, which takes a sweep of two parameters.
    """

    splits: Sequence[str] = ()
    metrics: Sequence[str] = ()
    relief: bool = False

    def check(self, data: SweepData) -> None:
        """Raise InputError for what a sweep does not have."""
        self.metrics_of(data)
        if self.relief and not is_flat(data.grid):
            raise InputError("Only what has two parameters is drawn in three dimensions, and this is a path.")

    def metrics_of(self, data: SweepData) -> tuple[Metric, ...]:
        """Return the metrics to be drawn; InputError for one that was not swept."""
        known = {m.name: m for m in (LOSS, *data.metrics) if any(m.name == name for _, name in data.values)}
        for name in self.metrics:
            if name not in known:
                raise InputError(
                    f"The sweep has no {name}, only {', '.join(known)}; measure it: mgraph sweep … --metric {name}"
                )
        shown = tuple(known[name] for name in self.metrics) or data.shown
        return tuple(m for m in shown if any((s, m.name) in data.values for s in self.splits_of(data)))

    def splits_of(self, data: SweepData) -> tuple[str, ...]:
        """Return the splits to be drawn; InputError for one that was not swept."""
        known = [split for split in _SPLITS if any(split == s for s, _ in data.values)]
        for split in self.splits:
            if split not in known:
                raise InputError(f"The sweep has no {split} split, only {', '.join(known)}; sweep it with --splits.")
        return tuple(self.splits) or tuple(known)

    def maps_of(self, data: SweepData) -> list[tuple[str, Metric]]:
        """Return split and metric of every row of heat maps: train loss and test accuracy, unless said otherwise."""
        splits, rows = self.splits_of(data), []
        for metric in self.metrics_of(data):
            order = _SPLITS if metric.name == LOSS.name else ("test", "valid", "train")
            having = [s for s in order if s in splits and (s, metric.name) in data.values]
            rows += [(split, metric) for split in (having if self.splits else having[:1])]
        return rows


def plot_sweep(
    data: SweepData,
    ends: Sequence[str],
    path: Path,
    *,
    before: SweepData | None = None,
    method: type[Method] | None = None,
    series: Sequence[Observation] = (),
    wanted: Wanted | None = None,
    look: Look = LIGHT,
) -> Path:
    """Draw a sweep to ``path`` (.png, .pdf or .svg), with the modes marked by name.

    A surface becomes one column of heat maps per stage (``before`` on the left, on the same colour scale) with train
    loss and the primary metric on test data, contour lines, the point that validation data select and the oracle; a
    simplex of three modes becomes the same as triangles. A path becomes panels along t with every split, marking the
    bends of a chain, the pivots of a band or the joints of a composite. The ``method`` that made it may add a panel, or
    draw its own figure, from the ``series`` that it observed. ``wanted`` chooses splits and metrics. Raises InputError
    for another file type, a directory that cannot be written, or a sweep that has no picture.
    """
    check_path(path)
    check_drawable(data)
    wanted = wanted or Wanted()
    wanted.check(data)
    with style(dark=look.dark):
        own = None if method is None or wanted != Wanted() else method
        figure = None if own is None else own.figure(series, data, ends, title=look.title, before=before)
        if figure is None and is_flat(data.grid):
            figure = draw_maps(data, ends, look.title, before, wanted)
        elif figure is None:
            figure = draw_path(data, ends, look.title, before, None if own is None else own.panel(series), wanted)
        return write_figure(figure, path, look.about)


def check_drawable(data: SweepData) -> None:
    """Raise InputError for a sweep that has no picture: a simplex of other than three modes."""
    if isinstance(data.grid, SimplexGrid) and data.grid.corners != 3:
        raise InputError(
            f"A simplex is drawn as a triangle of three modes, and this one has {data.grid.corners}; see its numbers "
            f"with mgraph show, or connect three of its modes by --simplex."
        )


def is_flat(grid: Grid) -> bool:
    """Return whether a grid fills part of the plane rather than a line."""
    return isinstance(grid, SimplexGrid) or len(grid.counts) == 2


def check_panel(axis: Axes | None, data: SweepData, wanted: Wanted, before: SweepData | None = None) -> None:
    """Raise InputError for what :func:`draw_panel` could not draw on that Axes."""
    check_drawable(data)
    wanted.check(data)
    if wanted.relief and axis is not None and axis.name != "3d":
        raise InputError("A relief is drawn on an Axes of three dimensions: figure.add_subplot(projection='3d').")
    if before is not None and is_flat(data.grid):
        raise InputError("Two heat maps do not fit on one Axes; draw the one before training on another.")


def draw_panel(
    axis: Axes, data: SweepData, ends: Sequence[str], wanted: Wanted, before: SweepData | None = None
) -> Axes:
    """Draw one panel of a sweep on an Axes and return it: the first metric wanted, along t, as heat map or relief."""
    if not is_flat(data.grid):
        draw_curves(axis, data, wanted.metrics_of(data)[0], ends, before=before, splits=wanted.splits_of(data))
        explain_marks(axis, data, before)
        legend_below(axis)
        return axis
    split, metric = wanted.maps_of(data)[0]
    key, marked = (split, metric.name), {}
    scale = scale_of(metric, [data.values[key]])
    if wanted.relief:
        image = relief(axis, data, key, ends, scale)
    else:
        image = heat_map(axis, data, key, ends, scale)
        marked = mark_points(axis, data)
    colour_bar(image, [axis], " ".join(key), scale, shrink=0.85)
    if marked:
        legend_below(axis, marked)
    return axis


def draw_maps(
    data: SweepData, ends: Sequence[str], title: str, before: SweepData | None = None, wanted: Wanted | None = None
) -> Figure:
    """Draw heat maps: a row for every metric, a column for every stage."""
    from matplotlib.figure import Figure

    stages = [(label, sweep) for label, sweep in (("before", before), ("after", data)) if sweep is not None]
    wanted = wanted or Wanted()
    panels = wanted.maps_of(data)
    figure = Figure(figsize=(4.6 * len(stages) + 0.5, 3.9 * len(panels) + 0.7), layout="constrained")
    kind = {"projection": "3d"} if wanted.relief else None
    axes = figure.subplots(len(panels), len(stages), squeeze=False, subplot_kw=kind)
    marked: dict[str, Any] = {}
    for row, (split, metric) in zip(axes, panels, strict=True):
        key = (split, metric.name)
        scale = scale_of(metric, [sweep.values[key] for _, sweep in stages if key in sweep.values])
        for axis, (stage, sweep) in zip(row, stages, strict=True):
            if key not in sweep.values:
                axis.set_axis_off()
                continue
            if wanted.relief:
                image = relief(axis, sweep, key, ends, scale)
            else:
                image = heat_map(axis, sweep, key, ends, scale)
                marked |= mark_points(axis, sweep)
            falls = metric.better == "higher"
            worst = sweep.values[key].min() if falls else sweep.values[key].max()
            suffix = f"{stage} training: " if len(stages) > 1 else ""
            axis.set_title(f"{suffix}{split} {metric.name}, {'min' if falls else 'max'} {worst:.3g}")
        colour_bar(image, list(row), f"{split} {metric.name}", scale, shrink=0.85)
    if marked:
        figure.legend(marked.values(), marked.keys(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(title)
    return figure


def draw_path(
    data: SweepData,
    ends: Sequence[str],
    title: str,
    before: SweepData | None = None,
    panel: Panel | None = None,
    wanted: Wanted | None = None,
) -> Figure:
    """Draw a panel of curves along t for every metric, and the method's own."""
    from matplotlib.figure import Figure

    wanted = wanted or Wanted()
    metrics = wanted.metrics_of(data)
    panels = len(metrics) + (panel is not None)
    figure = Figure(figsize=(4.8 * panels, 3.9), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    if panel is not None:
        panel(axes[-1], colours()["train"])
    for axis, metric in zip(axes, metrics, strict=False):
        draw_curves(axis, data, metric, ends, before=before, splits=wanted.splits_of(data))
    explain_marks(axes[0], data, before)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=7, frameon=False)
    figure.suptitle(title)
    return figure
