"""Which pair of modes to connect next: the order of Draxler et al. (2018), on arrays.

Join components first: the lowest mode with the lowest mode of another component. When all are joined, replace the worst
edge of the spanning tree by a pair across its cut, and finally connect what has no connection yet; of several pairs,
always take the one with the lowest mode, then with the lowest other mode. A pair is suggested only once, whatever the
outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mgraph.query.arrays import EdgeArrays, labels, spanning_forest

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Pair = tuple[int, int]  # the lower mode first

PEAK, BARRIER = "peak", "barrier"
JOIN, IMPROVE, FILL = "join", "improve", "fill"


@dataclass(frozen=True)
class Terrain:
    """What is known of n modes.

    ``levels`` (n,) are their own losses (NaN: unknown, treated as highest), ``known`` the edges that count by each
    quantity, ``quantity`` the one by which connections are judged, ``tried`` the pairs not to be suggested (again).
    Modes belong to one component if edges of at most ``limit`` join them (None: any edge).
    """

    levels: Floats
    known: Mapping[str, EdgeArrays]
    quantity: str = PEAK
    tried: frozenset[Pair] = frozenset()
    limit: float | None = None

    @property
    def size(self) -> int:
        """n, the number of modes."""
        return len(self.levels)

    @property
    def edges(self) -> EdgeArrays:
        """The edges by the quantity that matters."""
        return self.known[self.quantity]

    @property
    def joining(self) -> EdgeArrays:
        """The edges that make components."""
        return self.edges if self.limit is None else self.edges.take(self.edges.value <= self.limit)

    def floor(self, pair: Pair, quantity: str) -> float:
        """Return the lowest possible value of an edge: a peak is no lower than the two ends, a barrier no lower than
        0."""
        levels = self.levels[list(pair)] if quantity == PEAK else np.zeros(1)
        return float(np.max(levels[~np.isnan(levels)], initial=-np.inf))

    def assume(self, pair: Pair, *, tried: bool = True) -> Terrain:
        """Return the terrain with the best possible edge between these modes, which then count as ``tried``."""
        known = {q: _with_edge(edges, pair, self.floor(pair, q)) for q, edges in self.known.items()}
        return replace(self, known=known, tried=self.tried | {ordered(pair)} if tried else self.tried)


@dataclass(frozen=True)
class Proposal:
    """A pair to connect, and why: to ``join`` two of the ``components``, to ``improve`` the tree edge ``worst``, or to
    ``fill`` a gap. ``lowest``: no other suitable pair has lower modes, even among those tried.
    """

    why: str
    pair: Pair
    lowest: bool = True
    components: int = 1
    worst: Pair | None = None
    value: float = np.nan


def next_step(terrain: Terrain) -> Proposal | None:
    """Choose the pair to connect next; None when every pair has been tried."""
    order = np.argsort(terrain.levels, kind="stable")  # NaN last, ties by number
    blocked = _blocked(terrain)
    groups = labels(terrain.joining)
    components = int(groups.max(initial=-1)) + 1
    if components > 1:
        found = _lowest(order, blocked, np.where(_hopeless(terrain), -1, groups))
        if found is not None:
            return Proposal(JOIN, *found, components=components)
    for worst, value, sides in _cuts(terrain.edges):

        def may_improve(pair: Pair, value: float = value) -> bool:
            return terrain.floor(pair, terrain.quantity) < value

        found = _lowest(order, blocked, sides, may_improve)
        if found is not None:
            return Proposal(IMPROVE, *found, worst=worst, value=value)
    found = _lowest(order, blocked, np.arange(terrain.size))
    return None if found is None else Proposal(FILL, *found)


def plan(terrain: Terrain) -> Iterator[Proposal]:
    """Choose pair after pair as if each turned out as well as possible."""
    while (step := next_step(terrain)) is not None:
        yield step
        terrain = terrain.assume(step.pair)


def ordered(pair: Pair) -> Pair:
    """Return a pair as ``tried`` holds it: the smaller number first."""
    one, other = pair
    return (one, other) if one < other else (other, one)


def _with_edge(edges: EdgeArrays, pair: Pair, value: float) -> EdgeArrays:
    added = [(edges.source, pair[0]), (edges.target, pair[1]), (edges.value, max(value, -1e300)), (edges.length, 0.0)]
    return EdgeArrays(edges.size, *(np.append(column, entry) for column, entry in added))


def _hopeless(terrain: Terrain) -> NDArray[np.bool_]:
    """Mark the modes that no edge within the limit can join, because their own loss is above it."""
    if terrain.limit is None or terrain.quantity != PEAK:
        return np.zeros(terrain.size, dtype=bool)
    return np.asarray(terrain.levels > terrain.limit)


def _blocked(terrain: Terrain) -> dict[int, set[int]]:
    blocked: dict[int, set[int]] = {}
    for one, other in terrain.tried:
        blocked.setdefault(one, set()).add(other)
        blocked.setdefault(other, set()).add(one)
    return blocked


def _lowest(
    order: Ints, blocked: dict[int, set[int]], groups: Ints, will_do: Callable[[Pair], bool] = lambda _: True
) -> tuple[Pair, bool] | None:
    """Return the lowest untried pair of modes of different groups, and whether no tried one came before it.

    Modes of group -1 pair with no other group; unsuitable pairs are treated as absent.
    """
    first = True
    for i, low in enumerate(order.tolist()):
        if groups[low] < 0:
            continue
        later = order[i + 1 :]
        others = later[(groups[later] != groups[low]) & (groups[later] >= 0)].tolist()
        not_yet = blocked.get(low, set())
        for high in others:
            if not will_do((low, high)):
                continue
            if high not in not_yet:
                return (low, high), first
            first = False
    return None


def _cuts(edges: EdgeArrays) -> Iterator[tuple[Pair, float, Ints]]:
    """Yield the edges of the spanning forest, worst first: their modes, value, and the two sides of their cut.

    Sides are 0 and 1; modes of other trees are -1.
    """
    forest = edges.take(spanning_forest(edges))
    trees = labels(forest)
    for k in reversed(range(len(forest))):
        source, target = int(forest.source[k]), int(forest.target[k])
        parts = labels(forest.take(np.arange(len(forest)) != k))
        sides = np.where(trees == trees[source], (parts == parts[target]).astype(np.int64), -1)
        yield (source, target), float(forest.value[k]), sides
