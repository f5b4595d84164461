"""How well each pair of modes is connected, all pairs at once: by its best edge, and by its best route."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from mgraph.notebook import InNotebook
from mgraph.query.arrays import EdgeArrays, labels, single_linkage, spanning_forest
from mgraph.query.criterion import Criterion
from mgraph.query.edges import CountingEdges, Vertex, load_edges
from mgraph.query.tree import Dendrogram, dendrogram
from mgraph_store import GraphStore, Space

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Matrix(InNotebook):
    """Values of all pairs of n modes, with well connected modes next to each other.

    ``direct`` (n, n) is the lowest edge of each pair, ``best`` (n, n) the largest value on its best route; both are
    symmetric, and NaN if there is none, as on the diagonal.
    """

    criterion: Criterion
    modes: list[Vertex]
    direct: Floats
    best: Floats
    notes: tuple[str, ...] = ()

    @override
    def _shown(self) -> dict[str, Any]:
        return {"criterion": str(self.criterion), "notes": self.notes, "pairs": self.rows()}

    @property
    def labels(self) -> list[str]:
        """The names of the modes."""
        return [mode.label for mode in self.modes]

    def rows(self) -> list[dict[str, Any]]:
        """Return every pair once, as plain data."""
        return list(self._rows())

    def _rows(self) -> Iterator[dict[str, Any]]:
        names = self.labels
        for i, j in combinations(range(len(names)), 2):
            numbers = {"direct": _known(self.direct[i, j]), "best": _known(self.best[i, j])}
            yield {"source": names[i], "target": names[j]} | numbers


@dataclass(frozen=True, eq=False)
class Chart:
    """What a map of n modes shows: their components within the criterion's limit, and the best edge of each pair.

    ``direct`` (n, n) are its values by peak, barrier and drop, NaN if there is none; ``best_barrier`` (n, n) the
    largest barrier on the best route. Values above the limit are included.
    """

    criterion: Criterion
    modes: list[Vertex]
    components: NDArray[np.int64]
    direct: dict[str, Floats]
    best_barrier: Floats

    @property
    def within(self) -> NDArray[np.bool_]:
        """Which pairs have an edge within the limit, shape (n, n)."""
        values = self.direct[self.criterion.quantity]
        limit = self.criterion.limit
        return np.isfinite(values) if limit is None else values <= limit


def matrix(store: GraphStore, criterion: Criterion, space: Space | None = None) -> Matrix:
    """Arrange the edges that count as a matrix. Raises InputError if no edge was measured in this way."""
    tree = dendrogram(store, criterion, space)
    edges = load_edges(store, criterion, space)
    order = leaf_order(tree)
    both = np.ix_(order, order)
    direct = best_edges(edges, criterion.quantity)[both]
    leaves = [tree.leaves[i] for i in order]
    return Matrix(criterion, leaves, direct, best_routes(edges.arrays)[both], tree.notes)


def chart(store: GraphStore, criterion: Criterion, space: Space | None = None) -> Chart:
    """Collect what a map shows. Raises InputError if no edge was measured in this way."""
    edges = load_edges(store, criterion.without_limit(), space)
    near = edges.arrays if criterion.limit is None else edges.arrays.take(edges.within(criterion.limit))
    e = edges.arrays
    barriers = EdgeArrays.of(e.size, e.source, e.target, edges.numbers["barrier"], e.length)
    return Chart(
        criterion,
        [edges.vertex(i) for i in range(edges.size)],
        labels(near),
        {quantity: best_edges(edges, quantity) for quantity in ("peak", "barrier", "drop")},
        best_routes(barriers),
    )


def best_edges(edges: CountingEdges, quantity: str) -> Floats:
    """Return the lowest edge of each pair by a quantity, shape (n, n); NaN if there is none."""
    lowest = np.full((edges.size, edges.size), np.inf)
    np.minimum.at(lowest, (edges.arrays.source, edges.arrays.target), edges.numbers[quantity].astype(np.float64))
    lowest = np.minimum(lowest, lowest.T)
    np.fill_diagonal(lowest, np.inf)
    return np.where(np.isfinite(lowest), lowest, np.nan)


def best_routes(edges: EdgeArrays) -> Floats:
    """Return the largest value on the best route of each pair, shape (n, n): the level at which they merge."""
    best = np.full((edges.size, edges.size), np.nan)
    members = [[i] for i in range(edges.size)]
    for left, right, value, _ in single_linkage(edges.take(spanning_forest(edges))).tolist():
        one, other = members[int(left)], members[int(right)]
        best[np.ix_(one, other)] = best[np.ix_(other, one)] = value
        members.append(one + other)
    return best


def leaf_order(tree: Dendrogram) -> list[int]:
    """Return the leaves in the order of a drawing without crossings, larger groups first."""
    order: list[int] = []
    stack = list(reversed(tree.roots))
    while stack:
        cluster = stack.pop()
        children = tree.children(cluster)
        if not children:
            order.append(cluster)
        stack += reversed(children)
    return order


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
