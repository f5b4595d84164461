"""What was looked up is looked up again only after a commit, by whomever; and what is computed is the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mgraph_store import GraphStore, Node, Sweep, new_id
from mgraph_store.errors import CorruptError, FormatError, NotFoundError
from mgraph_store.rows.blocks import Gathering, Number
from mgraph_store.upkeep.removal import plan_removal

COUNT = 100


def swept(graph: Any, kernel: Callable[[int], int] = lambda _: 1) -> list[str]:
    """Sweep a line between modes a and b; return the ids of its points."""
    a, b = graph.add(graph.parameters(), graph.parameters(1), names=("a", "b"))
    connection, *ends = graph.connection(a, b, "k")
    sweep = Sweep(new_id("w"), connection.id, None, (COUNT,), "none", "fp32")
    what = Number(sweep.id, None, "test", "all", "none", "fp32", "loss", 1)
    points, nodes = Gathering(), []
    for i in range(COUNT):
        nodes.append(Node(new_id("s"), "sample", graph.space.id, kernel=kernel(i)))
        t = i / (COUNT - 1)
        points.add(
            nodes[-1].id,
            sample_of=connection.id,
            position=i,
            parameter=[t],
            terms=[(a.id, 1 - t), (b.id, t)],
            numbers=[(what, (t, None))],
        )
    with graph.store.transaction() as tx:
        tx.add(connection, *ends, sweep, *nodes, *points.records())
    return [node.id for node in nodes]


def at(graph: Any, i: int) -> Any:
    t = i / (COUNT - 1)
    one, other = np.float32(1 - t) * graph.parameters(), np.float32(t) * graph.parameters(1)
    return other if i == COUNT - 1 else one if i == 0 else one + other


def test_the_index_is_opened_for_one_point_in_many(graph: Any, looks: list[None]) -> None:
    points = swept(graph)
    store = GraphStore(graph.store.path)
    for i, point in enumerate(points):
        assert store.read_parameters(point).tobytes() == at(graph, i).tobytes()
    assert len(looks) == 2
    with store.reading() as reader:
        nodes = [reader.get(Node, id=point) for point in points]
    del looks[:]
    for i, node in enumerate(nodes):
        first = next(iter(store.tensors(node).values())).ravel()
        assert (first == at(graph, i)[: first.size]).all()
        assert store.computation(node).run().tobytes() == at(graph, i).tobytes()
    assert len(looks) == 1  # for the layout


@pytest.mark.parametrize("same_store", [True, False])
def test_a_commit_is_seen_at_once(graph: Any, same_store: bool) -> None:
    points = swept(graph)
    store = graph.store if same_store else GraphStore(graph.store.path)
    assert store.read_parameters("a").tobytes() == graph.parameters().tobytes()
    store.read_parameters(points[3])
    with graph.store.reading() as reader:
        a, b = reader.find_node("a"), reader.find_node("b")
    with graph.store.transaction() as tx:
        tx.update(replace(a, name="c"), since=a)
    with pytest.raises(NotFoundError):
        store.read_parameters("a")
    with graph.store.transaction() as tx:
        tx.update(replace(b, name="a"), since=b)
    assert store.read_parameters("a").tobytes() == graph.parameters(1).tobytes()
    store.read_parameters(points[3])
    with graph.store.reading() as reader:
        plan = plan_removal(reader, [reader.find_connection("k")])
    plan.apply(graph.store)
    for point in points[3:5]:
        with pytest.raises(NotFoundError):
            store.read_parameters(point)


def test_points_that_cannot_be_computed_do_not_hinder_the_others(graph: Any) -> None:
    points = swept(graph, kernel=lambda i: 99 if i == 5 else 1)
    for i in (3, 4, 6, 5):
        if i != 5:
            assert graph.store.read_parameters(points[i]).tobytes() == at(graph, i).tobytes()
        else:
            with pytest.raises(FormatError, match=f"Node {points[5]} needs version 99"):
                graph.store.read_parameters(points[5])


def test_a_node_that_is_given_counts_as_it_is(graph: Any) -> None:
    (point, *_) = swept(graph)
    graph.store.read_parameters(point)
    with graph.store.reading() as reader:
        node = reader.get(Node, id=point)
    with pytest.raises(FormatError):
        graph.store.read_parameters(replace(node, kernel=99))
    with pytest.raises(CorruptError, match="incomplete"):
        graph.store.read_parameters(replace(node, id=new_id("s")))


def test_what_is_remembered_is_bounded(graph: Any, looks: list[None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mgraph_store.remembered._MOST", 4)
    graph.add(*(graph.parameters(k) for k in range(6)), names=tuple("abcdef"))
    looks.clear()
    for _ in range(2):
        for k, name in enumerate("abcdef"):
            assert graph.store.read_parameters(name).tobytes() == graph.parameters(k).tobytes()
    assert len(looks) == 12


@pytest.mark.parametrize("what", ["a", "a point"])
def test_the_index_is_opened_once_for_a_tensor(graph: Any, looks: list[None], what: str) -> None:
    point = swept(graph)[7]
    store = GraphStore(graph.store.path)
    first = next(iter(store.tensors(point if what == "a point" else what).values())).ravel()
    assert (first == (at(graph, 7) if what == "a point" else graph.parameters())[: first.size]).all()
    assert len(looks) == 1


def test_the_index_is_opened_once_for_a_sum(graph: Any, looks: list[None]) -> None:
    rows = [graph.parameters(k) for k in range(3)]
    graph.add(*rows, names=("a", "b", "c"))
    looks.clear()
    total = GraphStore(graph.store.path).combination([1, 1, 1], ["a", "b", "c"]).run()
    assert total.tobytes() == (rows[0] + rows[1] + rows[2]).tobytes()
    assert len(looks) == 1
