"""What follows from a sweep's numbers, as rows: summaries of the whole, and an edge for every pair of ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mgraph.evaluate.summary import best_route, statistics
from mgraph.families import Family, Floats, Grid
from mgraph.families.gram import extent, trapezoid_weights
from mgraph_store import Edge, Node, Summary, Sweep

Key = tuple[str, str]  # split, metric


@dataclass(frozen=True)
class Numbers:
    """A swept grid: values and their standard errors (NaN: unknown) by split and metric, each of shape (S,)."""

    family: Family
    grid: Grid
    values: Mapping[Key, Floats]
    errors: Mapping[Key, Floats]

    def first_bad(self) -> str | None:
        """Say which number is NaN or infinite, and where; None if all are finite."""
        for (split, metric), array in self.values.items():
            bad = np.flatnonzero(~np.isfinite(array))
            if len(bad):
                at = ",".join(f"{p:g}" for p in self.grid.points[bad[0]])
                return f"the {split} {metric} is {array[bad[0]]} at {at}"
        return None


def summaries(record: Sweep, numbers: Numbers, G: Floats) -> Iterator[Summary]:
    """Summarise a sweep: extent, min, max, mean, and the integral under both measures.

    ``integral`` is under the length or area measure, ``integral_uniform`` under the uniform one. Min and max have
    the standard error of their point. Those of the mean and of the integrals are the points' own, averaged with
    the same weights: at most that large, since all points see the same examples.
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
    record: Sweep, numbers: Numbers, G: Floats, ids: Sequence[str], ends: Sequence[Node], examples: Mapping[str, int]
) -> Iterator[Edge]:
    """Make an edge for every pair of ends, on loss and on error = 1 - accuracy of every split.

    ``ids`` are the nodes of the grid's points, ``examples`` those that each split was measured on.
    """
    coefficients = numbers.family.coefficients(numbers.grid.points)
    neighbours, places = numbers.grid.neighbours, numbers.grid.ends
    for (split, metric), array in numbers.values.items():
        if metric not in ("loss", "accuracy"):
            continue
        cost = array if metric == "loss" else 1.0 - array
        for (i, source), (j, target) in combinations(enumerate(ends), 2):
            route = best_route(places[i], places[j], cost, coefficients, G, neighbours)
            yield Edge(
                connection_id=record.connection_id,
                sweep_id=record.id,
                source_id=source.id,
                target_id=target.id,
                split=split,
                metric="loss" if metric == "loss" else "error",
                peak=route.peak,
                barrier=route.barrier,
                drop=route.drop,
                length=route.length,
                resolution=len(route.nodes),
                examples=examples[split],
                batchnorm=record.batchnorm,
                precision=record.precision,
                route=[ids[n] for n in route.nodes],
            )
