"""Points on a wall: far worse than the models between which they lie, so that nobody should get one by accident."""

from __future__ import annotations

from collections.abc import Mapping

from mgraph.errors import InputError
from mgraph.evaluate.metrics import Measured
from mgraph.metric import Metric

Results = Mapping[str, Mapping[str, Measured]]


def is_wall(metric: Metric, found: Measured, worst: float) -> bool:
    """Return whether a point is far worse than the worst corner, beyond three of its own standard errors.

    For a metric with a best value, such as accuracy, this means by a tenth of that, or by a twentieth with more than
    twice the cost; for another, such as the loss, by half of the corner's.
    """
    fall = float(metric.cost(found.value) - metric.cost(worst))
    if fall <= 3.0 * (found.standard_error or 0.0):
        return False
    if metric.best:
        scale = abs(metric.best)
        doubled = bool(metric.cost(found.value) > 2.0 * metric.cost(worst))
        return fall > 0.1 * scale or (fall > 0.05 * scale and doubled)
    return fall > 0.5 * abs(worst)


def refuse_a_wall(results: Results, corners: Mapping[str, Results], metric: Metric, split: str) -> None:
    """Raise InputError for a point that is far worse on a split than every corner."""
    found = results[split][metric.name]
    values = {name: measured[split][metric.name].value for name, measured in corners.items()}
    worst = min(values, key=lambda name: metric.sign * values[name])
    if not is_wall(metric, found, values[worst]):
        return
    best = max(values, key=lambda name: metric.sign * values[name])
    raise InputError(
        f"The point is on a wall: its validation {metric.name} is {found.value:.4g}, and the corners have "
        f"{values[worst]:.4g} ({worst}) to {values[best]:.4g} ({best}); it was not stored. Take the best swept point "
        "(mgraph merge CONN), or a connection without a barrier; --force stores it anyway."
    )
