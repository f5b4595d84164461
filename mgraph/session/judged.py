"""The metrics of a space: its task's as they were recorded, and as they are now."""

from __future__ import annotations

from collections.abc import Sequence

from mgraph.errors import InputError
from mgraph.metric import Metric, from_json, to_json
from mgraph_store import Space


def agreeing(metrics: Sequence[Metric], space: Space) -> str:
    """Return what a space should record: the task's current metrics, then those that only earlier numbers have.

    Raises InputError for a metric whose direction, best value or cost differs from what the space has recorded: its
    edges would compare numbers with different meanings.
    """
    earlier = {m.name: m for m in from_json(space.metrics)}
    for metric in metrics:
        then = earlier.pop(metric.name, metric)
        if then.better is not None and then.stored() | {"unit": ""} != metric.stored() | {"unit": ""}:
            raise InputError(
                f"Of the metric {metric.name}, {_said(then)} values were better when space {space.name} was made, and "
                f"now {_said(metric)}: restore its direction, or give it another name."
            )
    return to_json([*metrics, *earlier.values()])


def _said(metric: Metric) -> str:
    best = "" if metric.best is None else f", up to {metric.best:g},"
    return "no certain" if metric.better is None else f"{metric.better}{best}"
