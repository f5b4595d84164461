"""What was observed during a walk, as the papers assess it: loss, arrival, distances, variances (no torch).

[L] judges a path by three things: the train loss stays low, every layer's distance to the destination falls to 0, and
the loss stays low on the straight pieces between points. ``tolerance`` is how far the path's train loss rises above
that of its higher end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mgraph.families import Floats
from mgraph.metric import LOSS
from mgraph.query.observed import ConnectionSeries
from mgraph.query.sweepdata import SweepData

Row = dict[str, Any]


@dataclass(frozen=True)
class WalkSeries(ConnectionSeries):
    """The series of a walk, tick by tick."""

    @property
    def is_walk(self) -> bool:
        """Whether the series come from a walk."""
        return ("row", "") in self.series

    def ticks_along(self, t: Floats, knots: Floats) -> Floats:
        """Return the tick at each parameter value, interpolated linearly between kept points."""
        ticks, rows = self.series["row", ""]
        return np.asarray(np.interp(t, knots[rows.astype(np.int64)][np.argsort(rows)], ticks[np.argsort(rows)]))


def walk_checks(observed: WalkSeries, data: SweepData | None) -> Row:
    """Return the checks of a walk; loss and tolerance are from the sweep if there is one, else from the kept points."""
    points, pieces = observed.series["point_loss", ""][1], observed.series["piece_loss", ""][1]
    losses, ends = np.concatenate([points, pieces]), points[[0, -1]]
    measured_on = "kept points and the middles of the pieces between"
    if data is not None and ("train", LOSS.name) in data.values:
        losses = data.values["train", LOSS.name]
        ends, measured_on = losses[[0, -1]], f"a sweep of {len(losses)} points"
    ticks = {name: observed.series[name, ""][1] for name in ("iterations", "seconds") if (name, "") in observed.series}
    left = {subject or "all": values[-1] for (q, subject), (_, values) in observed.series.items() if q == "left"}
    return {
        "ticks": len(ticks["iterations"]) if ticks else 0,
        "iterations": int(ticks["iterations"].sum()) if ticks else 0,
        "seconds": float(ticks["seconds"][-1]) if ticks else 0.0,
        "max_train_loss": float(losses.max()),
        "tolerance": float(losses.max() - ends.max()),
        "measured_on": measured_on,
        "largest_rise_within_a_piece": float((pieces - np.maximum(points[:-1], points[1:])).max()),
        "left_before_the_last_piece": float(left.pop("all")) if "all" in left else None,
        "most_left_of_a_layer": float(max(left.values())) if left else None,
    }


def layer_rows(observed: WalkSeries) -> list[Row]:
    """Return, for each layer, the distance after the first and the last tick, and the fraction of the way left.

    For a walk that only goes towards the origin, it is the distance from the origin.
    """
    rows = []
    quantity = "distance" if observed.subjects("distance") else "norm"
    for layer in observed.subjects(quantity):
        values = observed.series[quantity, layer][1]
        left = observed.series.get(("left", layer))
        rows.append(
            {
                "layer": layer,
                "first_distance": float(values[0]),
                "last_distance": float(values[-1]),
                "left": None if left is None else float(left[1][-1]),
            }
        )
    return rows


def weight_rows(observed: WalkSeries) -> list[Row]:
    """Return the variance of every weight after the first and the last tick."""
    return [
        {"weight": name, "first_variance": float(values[0]), "last_variance": float(values[-1])}
        for name in observed.subjects("variance")
        for values in [observed.series["variance", name][1]]
    ]
