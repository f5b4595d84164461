"""Components, forests, routes and linkage on arrays against networkx and SciPy, on thousands of random multigraphs."""

from __future__ import annotations

import itertools
import os
import random
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import cophenet, fcluster, linkage

from mgraph.query.arrays import (
    EdgeArrays,
    bottleneck_route,
    labels,
    ranking,
    single_linkage,
    spanning_forest,
)

MANY = int(os.environ.get("MGRAPH_EXAMPLES", "1"))  # so many times more of them: make stress

# Few values, so that ties are the rule; lengths with zero among them, sums of which are exact.
VALUES = [-1.0, 0.0, 0.25, 0.25 + 2**-50, 3.0]
LENGTHS = [0.0, 0.5, 1.0, 1.5]


@st.composite
def multigraphs(draw: Any, most: int = 9) -> EdgeArrays:
    """Up to nine nodes, parallel edges, loops and isolated nodes included."""
    size = draw(st.integers(1, most))
    node = st.integers(0, size - 1)
    rows = draw(st.lists(st.tuples(node, node, st.sampled_from(VALUES), st.sampled_from(LENGTHS)), max_size=18))
    source, target, value, length = zip(*rows, strict=True) if rows else ([], [], [], [])
    return EdgeArrays.of(size, source, target, value, length)


def as_networkx(edges: EdgeArrays) -> nx.MultiGraph:
    graph = nx.MultiGraph()
    graph.add_nodes_from(range(edges.size))
    columns = (edges.source, edges.target, edges.value, edges.length)
    for i, (s, t, v, n) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        graph.add_edge(s, t, key=i, value=v, length=n)
    return graph


def below(graph: nx.MultiGraph, limit: float) -> nx.MultiGraph:
    kept = nx.MultiGraph()
    kept.add_nodes_from(graph)
    kept.add_edges_from((s, t, k, d) for s, t, k, d in graph.edges(keys=True, data=True) if d["value"] <= limit)
    return kept


def bottleneck(graph: nx.MultiGraph, start: int, goal: int) -> float | None:
    """The lowest limit that joins two nodes, by trying all of them."""
    limits = sorted({d["value"] for *_, d in graph.edges(data=True)})
    return next((limit for limit in limits if nx.has_path(below(graph, limit), start, goal)), None)


@settings(max_examples=20 * MANY, deadline=None)
@given(multigraphs())
def test_labels_are_the_components_in_order_of_their_lowest_nodes(edges: EdgeArrays) -> None:
    found = labels(edges).tolist()
    expected = sorted(map(sorted, nx.connected_components(as_networkx(edges))))
    assert [[i for i, label in enumerate(found) if label == k] for k in range(len(expected))] == expected


@settings(max_examples=20 * MANY, deadline=None)
@given(multigraphs())
def test_ranking_is_the_order_of_all_keys(edges: EdgeArrays) -> None:
    low, high = np.minimum(edges.source, edges.target), np.maximum(edges.source, edges.target)
    keys = zip(edges.value, edges.length, low, high, range(len(edges)), strict=True)
    assert ranking(edges).tolist() == [key[-1] for key in sorted(keys)]


@settings(max_examples=20 * MANY, deadline=None)
@given(multigraphs())
def test_the_forest_is_a_minimum_spanning_forest(edges: EdgeArrays) -> None:
    graph = as_networkx(edges)
    chosen = spanning_forest(edges).tolist()
    forest = nx.Graph((int(edges.source[i]), int(edges.target[i])) for i in chosen)
    assert len(forest.edges) == len(chosen)
    assert not chosen or nx.is_forest(forest)
    assert len(chosen) == edges.size - nx.number_connected_components(graph)
    expected = nx.minimum_spanning_edges(graph, weight="value", keys=True, data=True)
    assert sorted(edges.value[chosen]) == sorted(d["value"] for *_, d in expected)
    assert edges.value[chosen].tolist() == sorted(edges.value[chosen])


@settings(max_examples=25 * MANY, deadline=None)
@given(multigraphs(), st.data())
def test_a_route_has_the_lowest_maximum_and_is_then_the_shortest(edges: EdgeArrays, data: st.DataObject) -> None:
    start, goal = data.draw(st.integers(0, edges.size - 1)), data.draw(st.integers(0, edges.size - 1))
    graph = as_networkx(edges)
    found = bottleneck_route(edges, start, goal)
    if start == goal:
        assert found == []
        return
    lowest = bottleneck(graph, start, goal)
    if lowest is None:
        assert found is None
        return
    assert found is not None
    at = start
    nodes = [start]
    for i in found:
        ends = [int(edges.source[i]), int(edges.target[i])]
        assert at in ends
        at = ends[1 - ends.index(at)]
        nodes.append(at)
    assert at == goal
    assert len(set(nodes)) == len(nodes)
    assert edges.value[found].max() == lowest
    # All the best ways, by trying all there are.
    ways = nx.all_simple_edge_paths(below(graph, lowest), start, goal)
    best = [(sum(edges.length[i] for *_, i in way), len(way)) for way in ways]
    assert (edges.length[found].sum(), len(found)) == min(best)
    assert bottleneck_route(edges, goal, start) == found[::-1]


@settings(max_examples=12 * MANY, deadline=None)
@given(multigraphs(), st.randoms(use_true_random=False))
def test_answers_do_not_depend_on_the_order_or_direction_of_edges(edges: EdgeArrays, rng: random.Random) -> None:
    order = list(range(len(edges)))
    rng.shuffle(order)
    taken = edges.take(np.array(order, dtype=np.int64))
    turned = EdgeArrays(taken.size, taken.target, taken.source, taken.value, taken.length)

    def identity(of: EdgeArrays, chosen: Any) -> list[Any]:
        ends = zip(of.source[chosen], of.target[chosen], strict=True)
        return list(zip(map(sorted, ends), of.value[chosen], of.length[chosen], strict=True))

    assert identity(edges, spanning_forest(edges)) == identity(turned, spanning_forest(turned))
    last = edges.size - 1
    there, again = bottleneck_route(edges, 0, last), bottleneck_route(turned, 0, last)
    assert (there is None) == (again is None)
    if there and again:
        assert identity(edges, there) == identity(turned, again)
    assert labels(edges).tolist() == labels(turned).tolist()


@settings(max_examples=12 * MANY, deadline=None)
@given(st.integers(2, 9), st.data())
def test_linkage_of_a_connected_graph_is_that_of_scipy(size: int, data: st.DataObject) -> None:
    count = size * (size - 1) // 2
    values = data.draw(st.lists(st.sampled_from([0.0, *VALUES[1:]]), min_size=count, max_size=count))
    source, target = zip(*itertools.combinations(range(size), 2), strict=True)
    edges = EdgeArrays.of(size, source, target, values)
    merges = single_linkage(edges.take(spanning_forest(edges)))
    expected = linkage(values, method="single")
    np.testing.assert_array_equal(merges[:, 2], expected[:, 2])
    # With ties, clusters may merge in another order; what two nodes merge at may not.
    np.testing.assert_array_equal(cophenet(merges), cophenet(expected))
    assert merges[-1, 3] == size
    for limit in sorted(set(values)):
        ours, theirs = (fcluster(m, limit, "distance") for m in (merges, expected))
        np.testing.assert_array_equal(ours[:, None] == ours, theirs[:, None] == theirs)


@settings(max_examples=12 * MANY, deadline=None)
@given(multigraphs())
def test_two_nodes_merge_at_their_bottleneck(edges: EdgeArrays) -> None:
    graph = as_networkx(edges)
    forest = spanning_forest(edges)
    merges = single_linkage(edges.take(forest))
    assert len(merges) == len(forest)
    members = [{i} for i in range(edges.size)]
    merged_at: dict[frozenset[int], float] = {}
    for left, right, value, count in merges.tolist():
        one, other = members[int(left)], members[int(right)]
        assert left < right
        members.append(one | other)
        assert len(members[-1]) == count == len(one) + len(other)
        merged_at |= {frozenset(pair): value for pair in itertools.product(one, other)}
    for pair in itertools.combinations(range(edges.size), 2):
        assert merged_at.get(frozenset(pair)) == bottleneck(graph, *pair)


def test_no_nodes_and_no_edges() -> None:
    empty = EdgeArrays.of(0, [], [], [])
    assert labels(empty).tolist() == spanning_forest(empty).tolist() == ranking(empty).tolist() == []
    lonely = EdgeArrays.of(3, [], [], [])
    assert labels(lonely).tolist() == [0, 1, 2]
    assert bottleneck_route(lonely, 0, 2) is None
    assert single_linkage(lonely).shape == (0, 4)


@pytest.mark.parametrize("size", [2000])
def test_a_long_chain_is_walked_and_merged(size: int) -> None:
    edges = EdgeArrays.of(size, range(size - 1), range(1, size), np.arange(size - 1) % 7)
    assert bottleneck_route(edges, size - 1, 0) == list(range(size - 2, -1, -1))
    assert single_linkage(edges)[-1, 3] == size
