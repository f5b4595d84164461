"""Graph algorithms on arrays of edges (NumPy and SciPy): labels, spanning forest, bottleneck route, single linkage.

Nodes are numbers 0 … n-1; an edge is a row of arrays of shape (E,): ``source``, ``target``, ``value`` and, where it
matters, ``length``. Values and lengths are finite, lengths at least 0. Parallel edges and loops are allowed. Every
answer is unique: edges are ranked by value, then length, then their nodes, then their place in the arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, dijkstra, minimum_spanning_tree

_FIRST = 3
"""A spanning forest is first sought among this many edges per node: of many edges, most are never needed."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EdgeArrays:
    """E edges over n nodes."""

    size: int
    source: Ints
    target: Ints
    value: Floats
    length: Floats

    @classmethod
    def of(
        cls, size: int, source: ArrayLike, target: ArrayLike, value: ArrayLike, length: ArrayLike | None = None
    ) -> EdgeArrays:
        """Make them from array-likes; lengths are 1 if none are given."""
        values = np.asarray(value, dtype=np.float64)
        lengths = np.ones(len(values)) if length is None else np.asarray(length, dtype=np.float64)
        return cls(size, np.asarray(source, dtype=np.int64), np.asarray(target, dtype=np.int64), values, lengths)

    def __len__(self) -> int:
        return len(self.value)

    def take(self, chosen: NDArray[np.bool_] | Ints) -> EdgeArrays:
        """Return a subset of the edges, over the same nodes."""
        return EdgeArrays(self.size, self.source[chosen], self.target[chosen], self.value[chosen], self.length[chosen])


def ranking(edges: EdgeArrays) -> Ints:
    """Return the edges, best first: by value, then length, then lower and higher node, then place; shape (E,)."""
    order = np.argsort(edges.value, kind="stable")
    run = _runs(edges.value[order])
    # Only ties are sorted by the next key; those that remain at the end keep their order.
    for key in (edges.length, np.minimum(edges.source, edges.target), np.maximum(edges.source, edges.target)):
        tied = np.flatnonzero(np.bincount(run)[run] > 1) if len(run) else run
        if len(tied) == 0:
            break
        among = order[tied]
        again = np.lexsort((key[among], run[tied]))
        order[tied] = among[again]
        run = _runs(run, key[order])
    return order


def _runs(*sorted_keys: NDArray[np.generic]) -> Ints:
    """Number the runs of equal entries."""
    new = np.zeros(len(sorted_keys[0]), dtype=np.int64)
    for key in sorted_keys:
        new[1:] |= key[1:] != key[:-1]
    return np.cumsum(new)


def labels(edges: EdgeArrays) -> Ints:
    """Number the connected components by their lowest nodes (0 is that of node 0); shape (n,)."""
    shape = (edges.size, edges.size)
    matrix = coo_array((np.ones(len(edges), dtype=np.int8), (edges.source, edges.target)), shape=shape)
    found: Ints = connected_components(matrix, directed=False)[1]
    _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def spanning_forest(edges: EdgeArrays) -> Ints:
    """Return the edges of the minimum spanning forest, best first; its path between two nodes has the lowest maximum.

    There is one tree per component, with n - components edges in all.
    """
    few = _FIRST * edges.size
    if len(edges) <= few:
        return _forest(ranking(edges), edges.source, edges.target, edges.size)
    # The forest of the best edges is part of the whole one, whatever the rest is; few others join two of its trees.
    bound = np.partition(edges.value, few)[few]
    best = np.flatnonzero(edges.value <= bound)
    best = best[ranking(edges.take(best))]
    best = _forest(best, edges.source, edges.target, edges.size)
    tree = labels(edges.take(best))
    others = np.flatnonzero((edges.value > bound) & (tree[edges.source] != tree[edges.target]))
    ranked = others[ranking(edges.take(others))]
    return np.concatenate([best, _forest(ranked, tree[edges.source], tree[edges.target], edges.size)])


def _forest(ranked: Ints, source: Ints, target: Ints, size: int) -> Ints:
    """Return the spanning forest of some edges, given best first, in that order."""
    low = np.minimum(source[ranked], target[ranked])
    high = np.maximum(source[ranked], target[ranked])
    _, first = np.unique(low * size + high, return_index=True)  # of each pair of nodes the best
    first = first[low[first] != high[first]]
    # Ranks instead of values: they all differ, so the forest is unique, and none is 0, which SciPy reads as no edge.
    matrix = csr_array((first + 1.0, (low[first], high[first])), shape=(size, size))
    kept: Ints = np.sort(minimum_spanning_tree(matrix).data.astype(np.int64)) - 1
    return ranked[kept]


def bottleneck_route(edges: EdgeArrays, start: int, goal: int) -> list[int] | None:
    """Return the edges of the best route from start to goal, in order; None if there is none.

    The lowest maximum of ``value`` decides, then the smallest sum of ``length``, then the fewest edges, then the lowest
    nodes, read from the higher end to the lower. So the route back is the same one reversed.
    """
    if start == goal:
        return []
    low, high = sorted((start, goal))
    forest = edges.take(spanning_forest(edges))
    way = _tree_path(forest, low, high)
    if way is None:
        return None
    candidates = np.flatnonzero((edges.value <= forest.value[way].max()) & (edges.source != edges.target))
    bound = float(forest.length[way].sum()) * (1 + 1e-9)
    route: list[int] = candidates[_shortest(edges.take(candidates), low, high, bound)].tolist()
    return route if start == high else route[::-1]


def _tree_path(forest: EdgeArrays, start: int, goal: int) -> Ints | None:
    shape = (forest.size, forest.size)
    places = np.arange(1, len(forest) + 1)
    matrix = csr_array((places, (forest.source, forest.target)), shape=shape)
    reached, previous = breadth_first_order(matrix, start, directed=False)
    if goal not in reached:
        return None
    nodes = [goal]
    while nodes[-1] != start:
        nodes.append(int(previous[nodes[-1]]))
    one, other = np.array(nodes[:-1]), np.array(nodes[1:])
    # A forest contains each edge once, in one of the two directions.
    return np.asarray(matrix[one, other] + matrix[other, one], dtype=np.int64).ravel() - 1


def _shortest(edges: EdgeArrays, start: int, goal: int, bound: float) -> Ints:
    """Return the edges of the shortest route from the goal back to the start, which must be connected."""
    order = np.lexsort((ranking_places(edges), edges.length))  # the shortest of parallel edges, then the best
    low, high = np.minimum(edges.source, edges.target)[order], np.maximum(edges.source, edges.target)[order]
    _, first = np.unique(low * edges.size + high, return_index=True)
    chosen = order[first]
    low, high, length = low[first], high[first], edges.length[chosen]
    shape = (edges.size, edges.size)
    # A stored length of 0 is an edge to SciPy.
    far = dijkstra(csr_array((length, (low, high)), shape=shape), directed=False, indices=start, limit=bound)
    # Both directions of the edges that lie on some shortest route.
    tail, head = np.concatenate([low, high]), np.concatenate([high, low])
    which, reach = np.tile(chosen, 2), far[tail] + np.tile(length, 2)
    tight = np.flatnonzero((reach == far[head]) & (far[head] <= far[goal]))
    tail, head, which = tail[tight], head[tight], which[tight]
    arcs = csr_array((np.ones(len(tail)), (tail, head)), shape=shape)
    hops = dijkstra(arcs, directed=True, indices=start, unweighted=True)
    back = np.lexsort((tail, head))
    tail, head, which = tail[back], head[back], which[back]
    route, node = [], goal
    while node != start:
        begin, end = np.searchsorted(head, node, side="left"), np.searchsorted(head, node, side="right")
        step = begin + int(np.flatnonzero(hops[tail[begin:end]] == hops[node] - 1)[0])
        route.append(int(which[step]))
        node = int(tail[step])
    return np.array(route, dtype=np.int64)


def ranking_places(edges: EdgeArrays) -> Ints:
    """Return the place of every edge in :func:`ranking`, shape (E,)."""
    places = np.empty(len(edges), dtype=np.int64)
    places[ranking(edges)] = np.arange(len(edges))
    return places


def single_linkage(forest: EdgeArrays) -> NDArray[np.float64]:
    """Return the merges of the single-linkage tree of a spanning forest, best edge first, shape (n - components, 4).

    Rows are as SciPy's: two clusters, lower number first, the value at which they merge, and the nodes in both. Cluster
    i < n is node i, cluster n + k came from row k.
    """
    parent = list(range(forest.size))  # of a node: towards the node that represents its cluster
    cluster, count = list(range(forest.size)), [1] * forest.size

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    merges = np.empty((len(forest), 4))
    rows = zip(forest.source.tolist(), forest.target.tolist(), forest.value.tolist(), strict=True)
    for k, (source, target, value) in enumerate(rows):
        one, other = root(source), root(target)
        if count[one] < count[other]:
            one, other = other, one
        left, right = sorted((cluster[one], cluster[other]))
        count[one] += count[other]
        parent[other] = one
        cluster[one] = forest.size + k
        merges[k] = left, right, value, count[one]
    return merges
