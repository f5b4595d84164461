"""The results of a sweep: statistics of the whole, and how well each pair of ends is connected.

NumPy only, and the same for every family: a grid of values, the points' coefficients, and the Gram matrix.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mgraph.families import Floats
from mgraph.families.gram import distance


@dataclass(frozen=True)
class MinimaxPath:
    """The best way between two ends over a swept grid, and the numbers measured along it."""

    nodes: tuple[int, ...]
    peak: float
    barrier: float
    drop: float
    length: float


def statistics(values: Floats, weights: Floats) -> dict[str, float]:
    """Return min, max, mean and integral (trapezoid under the arc/area measure, [G] table 2) of a sweep.

    A non-finite value anywhere makes every statistic NaN.
    """
    if not np.isfinite(values).all():
        return dict.fromkeys(("min", "max", "mean", "integral"), float("nan"))
    return {
        "min": float(values.min()),
        "max": float(values.max()),
        "mean": float(values.mean()),
        "integral": float(weights @ values),
    }


def measure_route(nodes: Sequence[int], values: Floats, coefficients: Floats, G: Floats) -> MinimaxPath:
    """Measure peak, barrier and drop of ``values`` along a sequence of grid points.

    barrier = max_t [L(t) - ((1-t) L(0) + t L(1))] with t the cumulative L2 length divided by the total;
    drop = max L - (L(0) + L(1)) / 2, which for L = 1 - accuracy is the accuracy drop. Lower L is better. A
    non-finite value on the whole grid makes all three NaN.
    """
    index = np.asarray(nodes)
    along = values[index]
    steps = distance(G, coefficients[index[1:]], coefficients[index[:-1]])
    travelled = np.concatenate([[0.0], np.cumsum(steps)])
    length = float(travelled[-1])
    if not np.isfinite(values).all():
        nan = float("nan")
        return MinimaxPath(tuple(nodes), nan, nan, nan, length)
    t = travelled / length if length > 0 else np.linspace(0.0, 1.0, len(index))
    chord = along[0] + t * (along[-1] - along[0])  # exact if the ends are equal
    # Rounding can put the chord one bit above its own ends.
    barrier = max(0.0, float((along - chord).max()))
    drop = float(along.max() - (along[0] + along[-1]) / 2.0)
    return MinimaxPath(tuple(nodes), float(along.max()), barrier, drop, length)


def best_route(
    start: int,
    goal: int,
    values: Floats,
    coefficients: Floats,
    G: Floats,
    neighbours: Sequence[Sequence[int]],
) -> MinimaxPath:
    """Find the bottleneck route between two grid points: lowest peak, then shortest, then node order.

    ``neighbours`` are those of the grid, which is connected (on a curve, the route is the whole curve). If a value on
    the grid is not finite, the route is the shortest one.
    """
    finite = bool(np.isfinite(values).all())
    ceiling = _lowest_peak(start, goal, values, neighbours) if finite else float("inf")
    allowed = values <= ceiling if finite else np.ones(len(values), dtype=bool)
    cost: dict[int, float] = {start: 0.0}
    previous: dict[int, int] = {}
    queue, settled = [(0.0, start)], set()
    while queue:
        reached, node = heapq.heappop(queue)
        if node in settled:
            continue
        settled.add(node)
        if node == goal:
            break
        near = [n for n in neighbours[node] if allowed[n] and n not in settled]
        lengths = distance(G, coefficients[near], coefficients[node])
        lengths = np.where(np.isfinite(lengths), lengths, 1.0)  # next to a row that is not finite: count steps
        for n, length in zip(near, lengths, strict=True):
            total = reached + float(length)
            best = cost.get(n, float("inf"))
            if total < best or (total == best and node < previous[n]):
                cost[n], previous[n] = total, node
                heapq.heappush(queue, (total, n))
    nodes = [goal]
    while nodes[-1] != start:
        nodes.append(previous[nodes[-1]])
    return measure_route(nodes[::-1], values, coefficients, G)


def _lowest_peak(start: int, goal: int, values: Floats, neighbours: Sequence[Sequence[int]]) -> float:
    """Return the smallest possible maximum along any route: Dijkstra with max in place of sum."""
    queue, settled = [(float(values[start]), start)], set()
    while queue:
        peak, node = heapq.heappop(queue)
        if node == goal:
            return peak
        if node in settled:
            continue
        settled.add(node)
        for n in neighbours[node]:
            if n not in settled:
                heapq.heappush(queue, (max(peak, float(values[n])), n))
    raise AssertionError("a grid is connected")
