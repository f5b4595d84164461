"""Rows derived from a sweep's numbers: summaries of the whole, and an edge for every pair of ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mgraph.evaluate.summary import MinimaxPath, best_route, measure_route, statistics
from mgraph.families import Family, Floats, Grid
from mgraph.families.gram import extent, trapezoid_weights
from mgraph.metric import LOSS, Metric
from mgraph.query.criterion import ORACLE, PATH, SPLITS
from mgraph_store import Edge, Node, Summary, Sweep

Key = tuple[str, str]  # split, metric

_CHOOSERS = ("train", "valid")
"""Splits whose loss may choose a route: a choice made on test data cannot be reported on them."""


@dataclass(frozen=True)
class Numbers:
    """A swept grid: values and their standard errors (NaN: unknown) by split and metric, each of shape (S,)."""

    family: Family
    grid: Grid
    values: Mapping[Key, Floats]
    errors: Mapping[Key, Floats]
    metrics: Sequence[Metric] = ()

    @property
    def costs(self) -> dict[Key, Floats]:
        """What edges measure: the cost of every metric with a direction, by split and name of the cost."""
        directed = [m for m in (LOSS, *self.metrics) if m.better is not None]
        return {
            (split, m.cost_name): m.cost(array)
            for (split, name), array in self.values.items()
            for m in directed
            if m.name == name
        }

    @property
    def deciding(self) -> Key:
        """The loss that decides whether the connection is sound: on train data, or on the first split that was
        swept."""
        return next((split, LOSS.name) for split in SPLITS if (split, LOSS.name) in self.values)

    def bad(self) -> dict[Key, str]:
        """Describe, for every split and metric with a NaN or infinite number, which number it is and where."""
        found = {}
        for (split, metric), array in self.values.items():
            places = np.flatnonzero(~np.isfinite(array))
            if len(places):
                at = ",".join(f"{p:g}" for p in self.grid.points[places[0]])
                found[split, metric] = f"the {split} {metric} is {array[places[0]]} at {at}"
        return found

    def chooser(self, route_on: str) -> str | None:
        """Return the split whose loss chooses the routes: the one asked for, or else valid; None if there is
        neither."""
        return next((s for s in (route_on, *_CHOOSERS[1:]) if (s, LOSS.name) in self.values), None)


def summaries(record: Sweep, numbers: Numbers, G: Floats) -> Iterator[Summary]:
    """Summarise a sweep: extent, min, max, mean, and the integral under both measures.

    ``integral`` is with respect to length or area, ``integral_uniform`` with respect to the parameter. Min and max have
    the standard error of their point. For the mean and the integrals it is the average of the points' own with the same
    weights, an upper limit because all points see the same examples.
    """
    owner = (record.connection_id, record.id, record.run_id)
    for statistic, value in extent(numbers.family, G).items():
        yield Summary(*owner, "none", "geometry", statistic, value)
    weights = trapezoid_weights(numbers.family, G, numbers.grid)
    uniform = numbers.grid.weights
    for key, array in numbers.values.items():
        errors = numbers.errors[key]
        found = statistics(array, weights)
        found["integral_uniform"] = statistics(array, uniform)["integral"]
        spread = {
            "min": errors[int(np.argmin(array))],
            "max": errors[int(np.argmax(array))],
            "mean": errors.mean(),
            "integral": weights @ errors,
            "integral_uniform": uniform @ errors,
        }
        for statistic, value in found.items():
            error = float(spread[statistic])
            yield Summary(*owner, *key, statistic, value, error if np.isfinite(error) else None)


def edges(
    record: Sweep,
    numbers: Numbers,
    G: Floats,
    ids: Sequence[str],
    ends: Sequence[Node],
    examples: Mapping[str, int],
    route_on: str = "train",
) -> Iterator[Edge]:
    """Make an edge for every pair of ends, on the cost of every metric with a direction, on every split.

    A path has one route. Over a surface or simplex it is chosen once, by the loss on the split ``route_on``, and all
    splits and metrics are measured along it. In addition there is the oracle: each number along the route that is best
    by this number itself. ``ids`` are the nodes of the grid's points, ``examples`` the numbers of examples of each
    split.
    """
    walk = _Walk(numbers, G)
    chooser = numbers.chooser(route_on)
    for (i, source), (j, target) in combinations(enumerate(ends), 2):
        alone = len(ends) == 2
        chosen = (
            walk.best(i, j, numbers.values[chooser or numbers.deciding[0], LOSS.name]) if chooser or alone else None
        )
        for (split, metric), cost in numbers.costs.items():
            found: list[tuple[str, MinimaxPath]] = []
            if chosen is not None:
                found.append((PATH if alone else f"{chooser} loss", walk.along(chosen.nodes, cost)))
            if not alone and (split, metric) != (chooser, LOSS.cost_name):
                found.append((ORACLE, walk.best(i, j, cost)))
            for chosen_on, route in found:
                yield Edge(
                    connection_id=record.connection_id,
                    sweep_id=record.id,
                    source_id=source.id,
                    target_id=target.id,
                    split=split,
                    metric=metric,
                    peak=route.peak,
                    barrier=route.barrier,
                    drop=route.drop,
                    length=route.length,
                    resolution=len(route.nodes),
                    examples=examples[split],
                    batchnorm=record.batchnorm,
                    precision=record.precision,
                    route=[ids[n] for n in route.nodes],
                    chosen_on=chosen_on,
                )


class _Walk:
    """Routes over a swept grid, between its ends, which are given by number."""

    def __init__(self, numbers: Numbers, G: Floats) -> None:
        self._coefficients, self._G = numbers.family.coefficients(numbers.grid.points), G
        self._neighbours, self._places = numbers.grid.neighbours, numbers.grid.ends

    def best(self, i: int, j: int, cost: Floats) -> MinimaxPath:
        return best_route(self._places[i], self._places[j], cost, self._coefficients, self._G, self._neighbours)

    def along(self, nodes: Sequence[int], cost: Floats) -> MinimaxPath:
        return measure_route(nodes, cost, self._coefficients, self._G)
