"""The minimum spanning forest of the edges, and the tree of merges derived from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from mgraph.notebook import InNotebook
from mgraph.query.criterion import Criterion
from mgraph.query.edges import CountingEdges, Link, Vertex, load_edges, rows_of
from mgraph.query.metrics import metric_of_cost, metrics_of
from mgraph.query.remarks import remarks
from mgraph.shown import visible
from mgraph_store import GraphStore, Space


@dataclass(frozen=True, eq=False)
class SpanningForest(InNotebook):
    """The fewest and best edges that hold each component together: its path between two modes has the lowest peak."""

    counting: CountingEdges
    chosen: NDArray[np.int64]
    store: GraphStore

    @override
    def _shown(self) -> dict[str, Any]:
        return {"trees": self.trees, "total": self.total, "notes": self.notes, "edges": rows_of(self.edges)}

    @property
    def criterion(self) -> Criterion:
        """What counts as an edge."""
        return self.counting.criterion

    @cached_property
    def edges(self) -> list[Link]:
        """Its edges, best first."""
        with self.store.reading() as reader:
            return self.counting.links(reader, self.chosen)

    @cached_property
    def notes(self) -> list[str]:
        """What a reader should know about these edges, one sentence each."""
        return remarks(self.store, self.counting, self.edges)

    @property
    def trees(self) -> int:
        """The number of trees: 1 if everything is connected."""
        return self.counting.size - len(self.chosen)

    @property
    def total(self) -> float:
        """The sum of its edges' values."""
        return float(self.counting.arrays.value[self.chosen].sum())


@dataclass(frozen=True, eq=False)
class Dendrogram(InNotebook):
    """The values at which groups of modes merge: the single-linkage tree of the edges.

    ``linkage`` has one row for every merge, lowest first, as in SciPy: two clusters, the value at which they merge, the
    number of modes in both. Cluster i < n is leaf i; cluster n + k came from row k. With fewer than n - 1 rows, several
    trees remain: their clusters are the ``roots``. ``own`` is each leaf's own value of the metric (NaN if unknown), at
    which its branch begins in a tree of peaks. ``notes`` say what a reader should know about the edges, one sentence
    each.
    """

    criterion: Criterion
    leaves: list[Vertex]
    linkage: NDArray[np.float64]
    own: NDArray[np.float64]
    notes: tuple[str, ...] = ()

    @override
    def _shown(self) -> dict[str, Any]:
        merges = [
            {"merge": k, self.criterion.quantity: row[2], "modes": int(row[3])} for k, row in enumerate(self.linkage)
        ]
        leaves = [{"mode": v.label, "own": o} for v, o in zip(self.leaves, self.own.tolist(), strict=True)]
        return {"criterion": str(self.criterion), "notes": self.notes, "merges": merges, "modes": leaves}

    @property
    def roots(self) -> list[int]:
        """The clusters that are not part of any other, largest first."""
        merged = {int(child) for row in self.linkage for child in row[:2]}
        remaining = [c for c in range(len(self.leaves) + len(self.linkage)) if c not in merged]
        return sorted(remaining, key=lambda c: (-self.count(c), c))

    def count(self, cluster: int) -> int:
        """Return how many leaves a cluster has."""
        n = len(self.leaves)
        return 1 if cluster < n else int(self.linkage[cluster - n, 3])

    def children(self, cluster: int) -> list[int]:
        """Return the two clusters that a cluster was merged from, larger first; none for a leaf."""
        n = len(self.leaves)
        if cluster < n:
            return []
        pair = [int(c) for c in self.linkage[cluster - n, :2]]
        return sorted(pair, key=lambda c: (-self.count(c), c))

    @override
    def __str__(self) -> str:
        """Draw it as text, one line for every merge and leaf."""
        lines = []
        stack = [(root, "", "", "") for root in reversed(self.roots)]
        while stack:
            cluster, indent, branch, below = stack.pop()
            lines.append(indent + branch + self._line(cluster))
            children = self.children(cluster)
            for child, mark, further in reversed(list(zip(children, ("├─ ", "└─ "), ("│  ", "   "), strict=False))):
                stack.append((child, indent + below, mark, further))
        return "\n".join(lines)

    def _line(self, cluster: int) -> str:
        n = len(self.leaves)
        if cluster >= n:
            return f"{self.linkage[cluster - n, 2]:.4g}"
        own = self.own[cluster]
        return visible(self.leaves[cluster].label) + ("" if np.isnan(own) else f"  {own:.4g}")

    def row(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "leaves": [
                {"id": v.id, "name": v.name, "own": o} for v, o in zip(self.leaves, self.own.tolist(), strict=True)
            ],
            "linkage": [[int(a), int(b), value, int(n)] for a, b, value, n in self.linkage.tolist()],
            "roots": self.roots,
            "notes": list(self.notes),
        }


def spanning_forest(store: GraphStore, criterion: Criterion, space: Space | None = None) -> SpanningForest:
    """Return the minimum spanning forest of the edges that count.

    Raises InputError if no edge was measured in this way.
    """
    from mgraph.query import arrays

    edges = load_edges(store, criterion, space)
    return SpanningForest(edges, arrays.spanning_forest(edges.arrays), store)


def dendrogram(store: GraphStore, criterion: Criterion, space: Space | None = None) -> Dendrogram:
    """Return the single-linkage tree of the edges that count.

    Raises InputError if no edge was measured in this way.
    """
    from mgraph.query.arrays import single_linkage

    forest = spanning_forest(store, criterion, space)
    edges = forest.counting
    leaves = [edges.vertex(i) for i in range(edges.size)]
    linkage = single_linkage(edges.arrays.take(forest.chosen))
    return Dendrogram(criterion, leaves, linkage, _own(store, edges), tuple(forest.notes))


def _own(store: GraphStore, edges: CountingEdges) -> NDArray[np.float64]:
    """Return each vertex's own value of the metric, for peaks; NaN for other quantities."""
    own = np.full(edges.size, np.nan)
    criterion = edges.criterion
    if criterion.quantity != "peak":
        return own
    sql = (
        "SELECT node_id, value FROM evaluations WHERE sweep_id IS NULL AND subset = 'all' AND split = ? AND metric = ?"
    )
    with store.reading() as reader:
        metric = metric_of_cost(metrics_of(reader).values(), criterion.metric)
        if metric is None or metric.better is None:
            return own
        values = dict(reader.query(sql, [criterion.split, metric.name])[1])
    for i, identifier in enumerate(edges.ids.tolist()):
        if identifier in values:
            own[i] = metric.cost(values[identifier])
    return own
