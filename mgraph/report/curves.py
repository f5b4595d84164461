"""One panel of curves along a path, on an Axes: a metric on every split, with its standard errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mgraph.families import CompositePath, Family, Floats, PolygonalChainFamily
from mgraph.figures import colours
from mgraph.metric import Metric
from mgraph.query.sweepdata import SweepData
from mgraph.report.scales import scale_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_curves(
    axis: Axes,
    data: SweepData,
    metric: Metric,
    ends: Sequence[str],
    *,
    before: SweepData | None = None,
    splits: Sequence[str] = ("train", "valid", "test"),
) -> Axes:
    """Draw a metric along t on every split that was swept, a band of one standard error around it; return the Axes.

    The bends of a chain, the joints of a composite and the pivots of a band are marked; ``before`` is dotted. The axis
    of losses that span a decade is logarithmic.
    """
    t, family, shown = data.parameters[:, 0], data.family, []
    band, bends = _is_band(family), _bends(family)
    for split in splits:
        key, colour = (split, metric.name), colours()[split]
        if key not in data.values:
            continue
        values = data.values[key]
        shown.append(values)
        error_band(axis, t, values, data.errors[key], colour)
        axis.plot(t, values, color=colour, label=split)
        axis.plot([0, 1], values[[0, -1]], "o", color=colour, clip_on=False, zorder=3)
        if before is not None and key in before.values:
            shown.append(before.values[key])
            axis.plot(before.parameters[:, 0], before.values[key], ":", color=colour, linewidth=1)
        if band:
            at = np.isin(t, bends)
            axis.plot(t[at], values[at], ".", color=colour, markersize=7)
    for bend in () if band else bends:
        axis.axvline(bend, color="grey", linestyle="--", linewidth=0.8, zorder=0)
    if shown:
        scale_axis(axis, metric, shown)
    axis.set_xlabel(f"{'share of the length' if band else 't'}   ({ends[0]} at 0, {ends[1]} at 1)")
    axis.set_ylabel(metric.name)
    axis.set_xlim(0, 1)
    axis.grid(alpha=0.3)
    return axis


def explain_marks(axis: Axes, data: SweepData, before: SweepData | None) -> None:
    """Add to the legend what the marks of :func:`draw_curves` mean."""
    if before is not None:
        axis.plot([], [], ":", color="grey", label="straight line")
    if _is_band(data.family):
        axis.plot([], [], ".", color="grey", markersize=7, label="pivot")
    elif len(_bends(data.family)):
        what = "joint" if isinstance(data.family, CompositePath) else "bend"
        axis.plot([], [], "--", color="grey", linewidth=0.8, label=what)
    if any(np.isfinite(errors).any() for errors in data.errors.values()):
        axis.fill_between([], [], [], color="grey", alpha=0.2, linewidth=0, label="± one standard error")


def _is_band(family: Family) -> bool:
    return isinstance(family, PolygonalChainFamily) and family.at is not None


def _bends(family: Family) -> Floats:
    return family.joint_parameters if isinstance(family, CompositePath) else family.knots[1:-1]


def error_band(axis: Axes, t: Floats, values: Floats, errors: Floats, colour: str) -> None:
    """Draw a band of one standard error around values, where errors are known."""
    known = np.isfinite(errors) & np.isfinite(values)
    if not known.any():
        return
    low, high = values - errors, values + errors
    positive = values[known & (values > 0)]
    if len(positive) and (values[known] >= 0).all():  # a logarithmic axis has no room for what is not above 0
        low = np.maximum(low, positive.min() / 100)
    axis.fill_between(t, low, high, where=known, color=colour, alpha=0.18, linewidth=0)
