"""The next pair to connect, against the order written out by brute force with networkx."""

from __future__ import annotations

import math
import os
from itertools import combinations, pairwise
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgraph.explore.suggest import FILL, IMPROVE, JOIN, Terrain, next_step, ordered, plan
from mgraph.query.arrays import EdgeArrays

MANY = int(os.environ.get("MGRAPH_EXAMPLES", "1"))  # so many times more of them: make stress

LEVELS = [0.0, 0.1, 0.1, 0.4, math.nan]
VALUES = [0.05, 0.1, 0.3, 0.5]


def terrain(
    levels: list[float],
    edges: list[tuple[int, int, float]] = [],  # noqa: B006
    tried: set[tuple[int, int]] | None = None,
    limit: float | None = None,
    quantity: str = "barrier",
) -> Terrain:
    """Edges carry one number, which is both their barrier and their peak."""
    arrays = EdgeArrays.of(len(levels), *(list(zip(*edges, strict=True)) or [(), (), ()]))
    pairs = {ordered((a, b)) for a, b, _ in edges} if tried is None else tried
    return Terrain(np.array(levels), {"peak": arrays, "barrier": arrays}, quantity, frozenset(pairs), limit)


@st.composite
def terrains(draw: Any) -> Terrain:
    n = draw(st.integers(2, 7))
    node = st.integers(0, n - 1)
    edge = st.tuples(node, node, st.sampled_from(VALUES)).filter(lambda e: e[0] != e[1])
    pair = st.tuples(node, node).filter(lambda p: p[0] < p[1])
    return terrain(
        draw(st.lists(st.sampled_from(LEVELS), min_size=n, max_size=n)),
        draw(st.lists(edge, max_size=12)),
        draw(st.sets(pair, max_size=n * (n - 1) // 2)),
        draw(st.sampled_from([None, 0.1, 0.3])),
        draw(st.sampled_from(["peak", "barrier"])),
    )


def rank(t: Terrain, pair: tuple[int, int]) -> tuple[Any, ...]:
    """Of a pair, the lower mode counts first; unknown levels are last, equal ones in order."""
    keys = sorted((math.inf if math.isnan(t.levels[i]) else t.levels[i], i) for i in pair)
    return tuple(keys)


def by_hand(t: Terrain) -> tuple[str, tuple[int, int]] | None:
    """The order of the documentation, without any cleverness."""
    untried = sorted((p for p in combinations(range(t.size), 2) if p not in t.tried), key=lambda p: rank(t, p))
    graph = nx.Graph()
    graph.add_nodes_from(range(t.size))
    edges = list(zip(t.edges.source.tolist(), t.edges.target.tolist(), t.edges.value.tolist(), strict=True))
    graph.add_edges_from((a, b) for a, b, v in edges if t.limit is None or v <= t.limit)
    component = {i: k for k, c in enumerate(nx.connected_components(graph)) for i in c}
    peaks = t.quantity == "peak"
    for a, b in untried:
        hopeless = peaks and t.limit is not None and any(t.levels[i] > t.limit for i in (a, b))
        if component[a] != component[b] and not hopeless:
            return JOIN, (a, b)
    whole = nx.Graph()
    for a, b, v in edges:  # the best of parallel edges
        if not whole.has_edge(a, b) or whole[a][b]["weight"] > v:
            whole.add_edge(a, b, weight=v)
    forest = nx.minimum_spanning_tree(whole)
    # A pair improves an edge of the forest if it crosses its cut; the edges of equal value have no order here.
    for value in sorted({d["weight"] for *_, d in forest.edges(data=True)}, reverse=True):
        for a, b in untried:
            floor = max((t.levels[i] for i in (a, b) if not math.isnan(t.levels[i])), default=-math.inf)
            floor = floor if peaks else 0.0
            together = a in forest and b in forest and nx.has_path(forest, a, b)
            if together and floor < value:
                way = nx.shortest_path(forest, a, b)
                if value in [forest[x][y]["weight"] for x, y in pairwise(way)]:
                    return IMPROVE, (a, b)
    return (FILL, untried[0]) if untried else None


@settings(max_examples=12 * MANY, deadline=None)
@given(terrains())
def test_the_order_is_the_documented_one(t: Terrain) -> None:
    step, expected = next_step(t), by_hand(t)
    if step is None or expected is None:
        assert step is expected
        return
    why, pair = expected
    assert step.why == why
    assert rank(t, step.pair)[0][1] == step.pair[0]  # the lower mode first
    if why != IMPROVE:
        assert ordered(step.pair) == pair
        return
    # Among tree edges of one value another may have been cut; the pair must cross the cut of the one that is named.
    forest = nx.Graph()
    forest.add_edges_from(
        (a, b)
        for a, b, v in zip(t.edges.source.tolist(), t.edges.target.tolist(), t.edges.value.tolist(), strict=True)
        if v < step.value
    )
    forest.add_nodes_from(range(t.size))
    assert not nx.has_path(forest, *step.pair)
    assert ordered(step.pair) not in t.tried


def test_a_pair_that_cannot_improve_hides_none_that_can():
    # Modes 1 and 2 are the lowest across both cuts, but no edge of theirs can be below 0.1; one of 0 and 1 can.
    step = next_step(terrain([math.nan, 0.0, 0.1], [(0, 1, 0.05), (0, 2, 0.05)], tried=set(), quantity="peak"))
    assert step is not None
    assert (step.why, ordered(step.pair), step.lowest) == (IMPROVE, (0, 1), True)


@settings(max_examples=8 * MANY, deadline=None)
@given(terrains())
def test_a_plan_suggests_every_pair_once(t: Terrain) -> None:
    pairs = [ordered(step.pair) for step in plan(t)]
    assert len(pairs) == len(set(pairs))
    assert set(pairs) | t.tried == set(combinations(range(t.size), 2)) | t.tried


@settings(max_examples=8 * MANY, deadline=None)
@given(terrains(), st.randoms())
def test_the_order_of_rows_decides_nothing(t: Terrain, random: Any) -> None:
    places = list(range(len(t.edges)))
    random.shuffle(places)
    flipped = t.edges.take(np.array(places, dtype=np.int64))
    flipped = EdgeArrays(t.size, flipped.target, flipped.source, flipped.value, flipped.length)
    same = Terrain(t.levels, {"peak": flipped, "barrier": flipped}, t.quantity, t.tried, t.limit)
    one, other = next_step(t), next_step(same)
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert (one.why, one.pair, one.components) == (other.why, other.pair, other.components)


def test_all_are_joined_to_the_lowest_in_one_edge_less_than_there_are_modes() -> None:
    steps = list(plan(terrain([0.4, 0.1, 0.3, 0.2])))
    assert [(s.why, s.pair) for s in steps[:3]] == [(JOIN, (1, 3)), (JOIN, (1, 2)), (JOIN, (1, 0))]
    assert [s.components for s in steps[:3]] == [4, 3, 2]
    assert [s.why for s in steps[3:]] == [FILL] * 3


def test_a_pair_that_did_not_join_is_followed_by_the_next_lowest() -> None:
    # 0-1 was tried and is above the limit: the lowest mode now meets the next one of another component.
    step = next_step(terrain([0.1, 0.2, 0.3], [(0, 1, 0.5)], limit=0.1))
    assert step is not None
    assert (step.why, step.pair, step.lowest) == (JOIN, (0, 2), False)


def test_the_worst_tree_edge_is_cut() -> None:
    t = terrain([0.1, 0.2, 0.3, 0.4], [(0, 1, 0.05), (1, 2, 0.3), (2, 3, 0.1)])
    step = next_step(t)
    assert step is not None
    assert (step.why, step.pair, step.worst, step.value) == (IMPROVE, (0, 2), (1, 2), 0.3)


def test_what_cannot_be_improved_is_left() -> None:
    # The peak of 0-1 is the loss of mode 1 itself, and nothing that joins mode 1 can be lower.
    t = terrain([0.1, 0.3, 0.1], [(0, 1, 0.3), (0, 2, 0.1)], quantity="peak")
    step = next_step(t)
    assert step is not None
    assert step.why == FILL


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_modes_leave_nothing(n: int) -> None:
    assert next_step(terrain([0.1] * n)) is None


def test_two_hundred_modes_are_planned_in_moderate_time() -> None:
    levels = np.random.default_rng(0).random(200).tolist()
    steps = [step for step, _ in zip(plan(terrain(levels)), range(199), strict=False)]
    assert {s.why for s in steps} == {JOIN}
    assert {s.pair[0] for s in steps} == {int(np.argmin(levels))}
