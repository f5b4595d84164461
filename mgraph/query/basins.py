"""Basins of a swept connection: zero-dimensional persistence of its sublevel sets, over the grid's neighbours.

A basin is born at a minimum of the swept values, and ends at the lowest point over which one comes from it into a
deeper basin: the saddle. Its depth is the saddle's value minus its own (Edelsbrunner, Letscher and Zomorodian 2002,
"Topological persistence and simplification", section 3, for dimension zero; the tree of merges is the disconnectivity
graph of Becker and Karplus 1997). The saddle between two modes is therefore the peak of the best route on the grid, so
the tree speaks of the same numbers as the graph's dendrogram.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgraph.errors import InputError
from mgraph.families import Floats
from mgraph.metric import LOSS, Metric
from mgraph.query.criterion import Criterion
from mgraph.query.edges import Vertex
from mgraph.query.sweepdata import SweepData, parameter_key
from mgraph.query.tree import Dendrogram

SHARE = 0.01
"""A basin shallower than this share of the range of all values is left out, unless another depth is given."""


@dataclass(frozen=True)
class Merge:
    """A basin joins a deeper one at a saddle; all three are numbers of points of the grid."""

    basin: int
    into: int
    saddle: int


@dataclass(frozen=True, eq=False)
class Basins:
    """The basins of a sweep, deepest first, each by the number of its lowest point; and how they merge, lowest first.

    ``costs`` are the values on the grid as costs, shape (S,): the loss itself, and the error where the metric is an
    accuracy. ``shallow`` basins of less than ``depth`` were left out.
    """

    data: SweepData
    ends: Sequence[str]
    split: str
    metric: Metric
    costs: Floats
    points: list[int]
    merges: list[Merge]
    depth: float
    shallow: int

    @property
    def tree(self) -> Dendrogram:
        """The tree of merges, like that of the graph: leaves are basins, each with its own value."""
        n, cluster, count = len(self.points), {p: i for i, p in enumerate(self.points)}, dict.fromkeys(self.points, 1)
        rows = []
        for k, merge in enumerate(self.merges):
            count[merge.into] += count[merge.basin]
            one, other = cluster[merge.into], cluster[merge.basin]
            rows.append([one, other, self.costs[merge.saddle], count[merge.into]])
            cluster[merge.into] = n + k
        leaves = [Vertex(self.data.node_ids[p], self.label(p), "sample") for p in self.points]
        criterion = Criterion(metric=self.metric.cost_name, split=self.split)
        return Dendrogram(criterion, leaves, np.array(rows).reshape(-1, 4), self.costs[self.points])

    def label(self, point: int) -> str:
        """Return the name of the mode at a point, or else its parameter."""
        at = list(self.data.grid.ends)
        if point in at and at.index(point) < len(self.ends):
            return self.ends[at.index(point)]
        return ",".join(f"{value:.4g}" for value in self.data.parameters[point])

    def rows(self) -> list[dict[str, Any]]:
        """Return every basin, deepest first: where it is, its value, its saddle, its depth, and what it joins there.

        The deepest has no saddle, nor have those that are cut off by values that are not finite.
        """
        ended = {merge.basin: merge for merge in self.merges}
        return [self._row(point, ended.get(point)) for point in self.points]

    def _row(self, point: int, end: Merge | None) -> dict[str, Any]:
        row: dict[str, Any] = {
            "basin": self.label(point),
            "node": self.data.node_ids[point],
            "parameter": list(parameter_key(self.data.parameters[point])),
            "value": float(self.costs[point]),
            "saddle": None,
            "at": None,
            "depth": None,
            "joins": None,
        }
        if end is not None:
            saddle = float(self.costs[end.saddle])
            row |= {
                "saddle": saddle,
                "at": list(parameter_key(self.data.parameters[end.saddle])),
                "depth": saddle - row["value"],
                "joins": self.label(end.into),
            }
        return row

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        facts: dict[str, Any] = {"split": self.split, "metric": self.metric.cost_name, "sweep": self.data.sweep.id}
        return facts | {"points": len(self.costs), "depth": self.depth, "shallow": self.shallow, "basins": self.rows()}

    @property
    def said(self) -> str:
        """What a reader should know about basins that were left out; empty if none was."""
        if not self.shallow:
            return ""
        what = "1 basin is" if self.shallow == 1 else f"{self.shallow} basins are"
        return f"{what} shallower than {self.depth:.3g} and left out; --depth 0 lists all."


def basins_of(
    data: SweepData, ends: Sequence[str], *, split: str = "train", metric: str = LOSS.name, depth: float | None = None
) -> Basins:
    """Find the basins of a metric's cost on a split, at least ``depth`` deep (default: 1 % of the range of values).

    Points that are not finite belong to no basin. Raises InputError for a split or metric that was not swept, a metric
    without a direction, a negative depth, and values of which none is finite.
    """
    known = {m.name: m for m in (LOSS, *data.metrics)}
    if (split, metric) not in data.values:
        swept = ", ".join(f"{s} {m}" for s, m in data.values)
        raise InputError(f"The sweep has no {split} {metric}, only {swept}; sweep the connection on it first.")
    chosen = known.get(metric, Metric(metric))
    costs = np.asarray(chosen.cost(data.values[split, metric]), dtype=np.float64)
    finite = costs[np.isfinite(costs)]
    if not len(finite):
        raise InputError(f"No {split} {metric} of this sweep is finite; it has no basins.")
    least = SHARE * float(np.ptp(finite)) if depth is None else depth
    if not least >= 0:
        raise InputError(f"The least depth of a basin is a number of at least 0, not {depth}.")
    merges, alone = merged(costs, data.grid.neighbours)
    deep = [m for m in merges if costs[m.saddle] - costs[m.basin] >= least]
    depths = {m.basin: costs[m.saddle] - costs[m.basin] for m in deep} | dict.fromkeys(alone, np.inf)
    points = sorted(depths, key=lambda p: (-depths[p], costs[p], p))
    return Basins(data, ends, split, chosen, costs, points, deep, least, len(merges) - len(deep))


def merged(values: Floats, neighbours: Sequence[Sequence[int]]) -> tuple[list[Merge], list[int]]:
    """Flood a graph of points from below: return the merges of its basins, lowest first, and the basins that remain.

    ``values`` has shape (S,). Where basins meet, the one with the lowest minimum goes on (the elder rule); the first of
    equal ones. What is not finite is never flooded. A basin that ends where it began is none.
    """
    order = np.argsort(values, kind="stable")
    lowest = np.full(len(values), -1)  # of the basin to which a point belongs, as far as is known
    merges: list[Merge] = []
    alone: dict[int, None] = {}
    for point in order[np.isfinite(values[order])].tolist():
        around = [_find(lowest, other) for other in neighbours[point] if lowest[other] >= 0]
        found = sorted(set(around), key=lambda p: (values[p], p))
        if not found:
            lowest[point] = point
            alone[point] = None
            continue
        lowest[point] = found[0]
        for ended in found[1:]:
            lowest[ended] = found[0]
            del alone[ended]
            if values[point] > values[ended]:
                merges.append(Merge(ended, found[0], point))
    return merges, list(alone)


def _find(lowest: NDArray[np.int64], point: int) -> int:
    while lowest[point] != point:
        lowest[point] = lowest[lowest[point]]
        point = int(lowest[point])
    return point
