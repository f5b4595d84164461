"""The tables of the papers for one sweep, as plain data (no torch).

[G] table 2: Min, Int and Max of train loss, train error and test error along a path, and its length ratio. [S] table 1:
test accuracy of the best point, the mean over the surface and the mean of the corners. The papers choose the best point
on test data; here it is chosen on validation data, and the best on test data is listed separately as the oracle. If a
task has another primary metric, it takes the place of error and accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mgraph.metric import LOSS, Metric
from mgraph.query.sweepdata import SweepData
from mgraph_store import Summary

Row = dict[str, Any]
Statistics = Mapping[tuple[str, str, str], Summary]

_CHOSEN_ON, _REPORTED_ON = "valid", "test"
_ALL = "all"


def paper_tables(data: SweepData, summaries: Sequence[Summary]) -> Row:
    """Return ``rows`` ([G] table 2) with ``length_ratio``, and ``models`` ([S] table 1; None for a path).

    Every number has a standard error if the split is a subset, and on test data; those of Int and of means are upper
    limits, because every point sees the same examples. Numbers whose perfect value is 1, such as accuracy, are in
    percent.
    """
    found = {(s.split, s.metric, s.statistic): s for s in summaries}
    ratio = found.get(("none", "geometry", "length_ratio"))
    return {
        "sweep": data.sweep.id,
        "grid": list(data.sweep.grid),
        "points": len(data.grid),
        "batchnorm": data.sweep.batchnorm,
        "precision": data.sweep.precision,
        "examples": {split: data.counts[split, LOSS.name] for split in data.subsets},
        "subsets": dict(data.subsets),
        "length_ratio": None if ratio is None else ratio.value,
        "rows": [row for row in _rows(data, found) if row],
        "models": None if data.family.dimension == 1 else _models(data),
    }


def table_cells(table: Row) -> list[Row]:
    """Return the tables with one number per row, for programs."""
    cells = [
        _cell(row["quantity"], statistic, row[statistic], row[f"{statistic}_standard_error"])
        for row in table["rows"]
        for statistic in ("min", "int", "max")
    ]
    if table["length_ratio"] is not None:
        cells.append(_cell("length ratio", None, table["length_ratio"], None))
    models = table["models"] or {}
    for what in ("best", "mean", "corners", "oracle"):
        if models.get(what):
            cells.append(_cell(models["quantity"], what, models[what]["value"], models[what]["standard_error"]))
    return cells


def _cell(quantity: str, statistic: str | None, value: float, error: float | None) -> Row:
    return {"quantity": quantity, "statistic": statistic, "value": value, "standard_error": error}


def _rows(data: SweepData, found: Statistics) -> list[Row]:
    """Make the rows of [G] table 2; if a task has only its loss, use that on both splits."""
    primary = data.primary
    if primary.name != LOSS.name:
        rows = [_row(data, found, "train", LOSS)]
        return rows + [_row(data, found, split, primary) for split in ("train", "test")]
    return [_row(data, found, split, LOSS) for split in ("train", "test")]


def _row(data: SweepData, found: Statistics, split: str, metric: Metric) -> Row:
    if (split, metric.name) not in data.values:
        return {}
    # A cost with its own name, such as error, is shown in the metric's place.
    as_cost = metric.cost_name != metric.name
    row: Row = {"quantity": _called(split, metric, metric.cost_name)}
    # The smallest error is where the accuracy is largest.
    turned = {"min": "max", "integral": "integral", "max": "min"}
    for statistic, name in (("min", "min"), ("integral", "int"), ("max", "max")):
        source = found[split, metric.name, turned[statistic] if as_cost else statistic]
        # An integral of accuracies that are all 1 can exceed 1 by rounding.
        value = max(0.0, metric.cost(source.value)) if as_cost else source.value
        row[name] = _scale(metric) * value
        row[f"{name}_standard_error"] = _shown_error(data, split, metric, source.standard_error)
    return row


def _scale(metric: Metric) -> float:
    """Return 100 (percent) if 1 is perfect, else 1."""
    return 100.0 if metric.best == 1.0 else 1.0


def _called(split: str, metric: Metric, name: str) -> str:
    unit = "%" if metric.best == 1.0 else metric.unit
    return f"{split} {name} ({unit})" if unit else f"{split} {name}"


def _models(data: SweepData) -> Row | None:
    """Make [S] table 1; None if the sweep has no test split."""
    metric = data.primary
    key = (_REPORTED_ON, metric.name)
    if key not in data.values:
        return None
    values, errors = data.values[key], data.errors[key]

    def number(points: Any, **more: Any) -> Row:
        error = float(errors[points].mean())
        scale = _scale(metric)
        shown = _shown_error(data, _REPORTED_ON, metric, error if np.isfinite(error) else None)
        return {"value": scale * float(values[points].mean()), "standard_error": shown} | more

    def one(point: int) -> Row:
        return number(point, parameter=data.parameters[point].tolist(), node=data.node_ids[point])

    oracle = int((metric.sign * values).argmax())
    chosen = (_CHOSEN_ON, LOSS.name) in data.values
    return {
        "quantity": _called(_REPORTED_ON, metric, metric.name),
        "selected_on": _CHOSEN_ON if chosen else None,
        "best": one(data.best(_CHOSEN_ON)) if chosen else None,
        "mean": number(slice(None)),
        "corners": number(list(data.grid.ends)),
        "oracle": one(oracle),
    }


def _shown_error(data: SweepData, split: str, metric: Metric, error: float | None) -> float | None:
    """Return a standard error where one belongs: for a sample, not for the whole population."""
    if error is None or not (data.subsets[split] != _ALL or split == _REPORTED_ON):
        return None
    return _scale(metric) * error
