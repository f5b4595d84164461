"""Components and edges against networkx, on random graphs of edges."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mgraph.errors import InputError
from mgraph.query.asnetworkx import to_networkx
from mgraph.query.components import components
from mgraph.query.criterion import Criterion, criterion_from
from mgraph.query.edges import Vertex, current_edges

# Ties are the point: few values, and one that is not a number.
BARRIERS = [0.0, 0.1, 0.1 + 1e-12, 0.5, math.nan, math.inf]


def partition(groups: Any) -> set[frozenset[str]]:
    return {frozenset(n.id if isinstance(n, Vertex) else n for n in g) for g in groups}


MANY = int(os.environ.get("MGRAPH_EXAMPLES", "1"))  # so many times more of them: make stress

Drawn = list[tuple[int, int, float, int, str]]

DRAWN = st.lists(
    st.tuples(
        st.integers(0, 7),
        st.integers(0, 7),
        st.sampled_from(BARRIERS),
        st.integers(1, 3),  # sweeps of the connection, each finer or as fine
        st.sampled_from(["complete", "complete", "complete", "interrupted", "failed"]),
    ).filter(lambda e: e[0] != e[1]),
    min_size=1,
    max_size=14,
)


# One store for all examples, each in a space of its own: then nothing leaks between spaces either.
@settings(max_examples=7 * MANY, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drawn=DRAWN, limit=st.sampled_from([-0.5, 0.0, 0.1, 0.3, 0.5, 2.0]), quantity=st.sampled_from(["barrier", "peak"])
)
def test_components_are_those_of_networkx(builder: Any, drawn: Drawn, limit: float, quantity: str) -> None:
    b = builder
    space = b.space(f"s{next(b.clock)}")
    nodes = [b.node(space) for _ in range(8)]
    expected, every = nx.Graph(), nx.MultiGraph()
    expected.add_nodes_from(n.id for n in nodes)
    good = 0
    for one, other, barrier, sweeps, status in drawn:
        connection = b.connection(space, status)
        for i in range(sweeps):
            # All but the newest are misleading; the last is at least as fine.
            last = i == sweeps - 1
            value = barrier if last else 0.0 if barrier > 0.3 else 9.0
            b.edge(b.sweep(connection, (5 + i,)), nodes[one], nodes[other], value)
        if status != "failed":
            every.add_edge(nodes[one].id, nodes[other].id)
            if barrier + (1 if quantity == "peak" else 0) <= limit:
                expected.add_edge(nodes[one].id, nodes[other].id)
                good += 1
    store = b.done()
    found = components(store, Criterion(quantity, limit), space)
    assert partition(found.groups) == partition(nx.connected_components(expected))
    assert [len(g) for g in found.groups] == sorted((len(g) for g in found.groups), reverse=True)
    assert len(found.edges) == good
    assert all(getattr(e, quantity) <= limit for e in found.edges)
    assert {e.connection for e in found.edges} == {e.connection_id for e in found.edges}
    graph = to_networkx(store, space)
    assert sorted(map(sorted, graph.edges())) == sorted(map(sorted, every.edges()))
    # The oracle once more, now on the graph that users get.
    kept = nx.Graph()
    kept.add_nodes_from(graph)
    kept.add_edges_from((u, v) for u, v, data in graph.edges(data=True) if data[quantity] <= limit)
    assert partition(nx.connected_components(kept)) == partition(found.groups)


def test_the_finest_sweep_decides_and_the_newest_of_equals(builder: Any) -> None:
    space = builder.space()
    a, b = builder.node(space), builder.node(space)
    connection = builder.connection(space)
    for grid, barrier in (((21,), 0.7), ((5,), 0.0), ((21,), 0.4), ((9,), 0.1)):
        builder.edge(builder.sweep(connection, grid), a, b, barrier)
    (edge,) = current_edges(builder.done())
    assert edge.barrier == 0.4


def test_a_surface_counts_all_its_points(builder: Any) -> None:
    space = builder.space()
    a, b = builder.node(space), builder.node(space)
    connection = builder.connection(space)
    for grid, barrier in (((3, 30), 0.3), ((9, 9), 0.2), ((29, 3), 0.1)):
        builder.edge(builder.sweep(connection, grid), a, b, barrier)
    (edge,) = current_edges(builder.done())
    assert edge.barrier == 0.3


def test_each_split_and_metric_has_its_own_finest_sweep(builder: Any) -> None:
    space = builder.space()
    a, b = builder.node(space), builder.node(space)
    connection = builder.connection(space)
    coarse, fine = builder.sweep(connection, (5,)), builder.sweep(connection, (50,))
    builder.edge(coarse, a, b, 0.1, split="test")
    builder.edge(coarse, a, b, 0.2)
    builder.edge(fine, a, b, 0.3)
    builder.edge(fine, a, b, 0.4, metric="error")
    store = builder.done()
    found = {(e.split, e.metric): e.barrier for e in current_edges(store)}
    assert found == {("test", "loss"): 0.1, ("train", "loss"): 0.3, ("train", "error"): 0.4}
    assert len(components(store, Criterion("barrier", 0.1, split="test")).groups) == 1
    assert len(components(store, Criterion("barrier", 0.35, metric="error")).groups) == 2


def test_only_modes_and_connected_merged_nodes_are_grouped(builder: Any) -> None:
    space = builder.space()
    a, m = builder.node(space), builder.node(space, "merged")
    builder.node(space, "merged")
    builder.node(space, "control")
    builder.edge(builder.sweep(builder.connection(space)), a, m, 0.0)
    store = builder.done()
    assert partition(components(store, Criterion("barrier", 0.0)).groups) == {frozenset((a.id, m.id))}
    assert len(to_networkx(store)) == 3


def test_the_networkx_graph_carries_names_and_numbers(builder: Any) -> None:
    space = builder.space()
    a, b = builder.node(space, name="a"), builder.node(space, name="b")
    named, plain = builder.connection(space, name="line"), builder.connection(space)
    builder.edge(builder.sweep(named), a, b, 0.25)
    builder.edge(builder.sweep(plain), a, b, 0.5, split="valid", metric="error")
    store = builder.done()
    graph = to_networkx(store)
    assert isinstance(graph, nx.MultiGraph)
    assert graph.graph["path"] == str(store.path)
    assert graph.nodes[a.id] == {"name": "a", "kind": "mode", "space": space.id}
    edge = graph.edges[a.id, b.id, (named.id, "train", "loss")]
    assert edge == {
        "connection": "line",
        "method": "linear",
        "split": "train",
        "metric": "loss",
        "peak": 1.25,
        "barrier": 0.25,
        "drop": 0.125,
        "length": 2.0,
        "resolution": 11,
        "examples": 10,
        "batchnorm": "none",
        "precision": "fp32",
        "chosen_on": "path",
    }
    assert graph.edges[a.id, b.id, (plain.id, "valid", "error")]["connection"] == plain.id
    json.dumps(nx.node_link_data(graph, edges="edges"))  # plain data throughout


def test_isolated_modes_are_components_of_their_own_in_order(builder: Any) -> None:
    space = builder.space()
    nodes = [builder.node(space) for _ in range(6)]
    builder.edge(builder.sweep(builder.connection(space)), nodes[3], nodes[4], 0.0)
    found = components(builder.done(), Criterion("barrier", 0.0))
    assert [[n.id for n in g] for g in found.groups] == [
        [nodes[3].id, nodes[4].id],
        *([nodes[i].id] for i in (0, 1, 2, 5)),
    ]


def test_thresholds() -> None:
    assert criterion_from(max_barrier=0.1) == Criterion("barrier", 0.1, "loss", "train")
    assert criterion_from(max_drop=0.1) == Criterion("drop", 0.1, "loss", "train")
    assert criterion_from(max_drop=0.1, metric="loss", split="test") == Criterion("drop", 0.1, "loss", "test")
    assert criterion_from() == Criterion("peak", None, "loss", "train")
    assert criterion_from(by="drop", named=lambda name, drop: f"{name} {drop}").metric == "None True"
    assert criterion_from(min_examples=5).certified
    for wrong in (
        {"threshold": True},
        {"max_peak": 1.0, "max_drop": 1.0},
        {"max_peak": math.inf},
        {"max_drop": 1.0, "by": "peak"},
        {"by": "height"},
        {"split": "all"},
        {"min_resolution": 0},
    ):
        with pytest.raises(InputError):
            criterion_from(**wrong)  # type: ignore[arg-type]


def test_without_edges_it_says_what_to_do(builder: Any) -> None:
    space = builder.space()
    a, b = builder.node(space), builder.node(space)
    builder.edge(builder.sweep(builder.connection(space)), a, b, 0.0)
    store = builder.done()
    with pytest.raises(InputError, match=r"no edge with a test loss; .* by train loss\. Sweep .*: mgraph sweep"):
        components(store, Criterion("barrier", 0.1, "loss", "test"))
    with pytest.raises(InputError, match=r"knows no metric 'error'; edges are measured by loss\."):
        components(store, Criterion("drop", 0.1, "error", "train"))


def test_many_modes_are_grouped_quickly(builder: Any) -> None:
    import time

    space = builder.space()
    nodes = [builder.node(space) for _ in range(4000)]
    builder.edge(builder.sweep(builder.connection(space)), nodes[0], nodes[1], 0.0)
    store = builder.done()
    start = time.perf_counter()
    found = components(store, Criterion("barrier", 0.1))
    assert len(found.groups) == 3999
    assert time.perf_counter() - start < 5  # quadratic work took ten times that
