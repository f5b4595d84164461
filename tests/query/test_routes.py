"""Routes, trees, neighbours and isolated modes of stored edges: which edges count, and what is said of them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mgraph.errors import InputError, NotFoundError
from mgraph.query.components import components, isolated, neighbours
from mgraph.query.criterion import Criterion, criterion_from
from mgraph.query.edges import load_edges
from mgraph.query.routes import route
from mgraph.query.tree import dendrogram, spanning_forest
from mgraph_store import Evaluation, Member

PEAK = Criterion()
BARRIER = Criterion("barrier")


@pytest.fixture
def chain(builder: Any) -> Any:
    """a - b - c - d with barriers 0.1, 0.3, 0.2, a long way round from a to c at 0.3, and e alone."""
    space = builder.space()
    nodes = {name: builder.node(space, name=name) for name in "abcde"}
    for one, other, barrier, length in (
        ("a", "b", 0.1, 1.0),
        ("c", "b", 0.3, 1.0),
        ("c", "d", 0.2, 1.0),
        ("a", "c", 0.3, 5.0),
        ("b", "a", 0.15, 0.5),
        ("d", "e", math.nan, 1.0),
    ):
        sweep = builder.sweep(builder.connection(space, name=f"{one}{other}" if length != 0.5 else "short"), (11,))
        builder.edge(sweep, nodes[one], nodes[other], barrier, length=length, examples=1000)
        ends = ((nodes[one], 0.0), (nodes[other], 1.0))
        builder.records += [Member(sweep.connection_id, n.id, "sample", i, None, [t]) for i, (n, t) in enumerate(ends)]
    builder.nodes, builder.home = nodes, space
    builder.done()
    return builder


def test_a_route_is_the_shortest_of_those_with_the_lowest_maximum(chain: Any) -> None:
    a, d = chain.nodes["a"], chain.nodes["d"]
    found = route(chain.store, BARRIER, a, d)
    assert [v.name for v in found.vertices] == ["a", "b", "c", "d"]
    assert found.value == 0.3
    # Between a and b the shorter one: it is below the maximum, so that its own barrier does not matter.
    assert [step.link.connection for step in found.steps] == ["short", "cb", "cd"]
    assert found.length == 2.5
    # In the direction of travel, though short runs from b to a, and cb from c to b.
    assert [step.parameters for step in found.steps] == [((1.0,), (0.0,)), ((1.0,), (0.0,)), ((0.0,), (1.0,))]
    assert found.steps[0].nodes == (a.id, chain.nodes["b"].id)
    back = route(chain.store, BARRIER, d, a)
    assert [v.name for v in back.vertices] == ["d", "c", "b", "a"]
    assert back.row()["value"] == 0.3
    with pytest.raises(NotFoundError, match="join a and e"):
        route(chain.store, BARRIER, a, chain.nodes["e"])
    with pytest.raises(NotFoundError, match=r"barrier <= 0.25 join a and d"):
        route(chain.store, Criterion("barrier", 0.25), a, d)
    with pytest.raises(InputError, match="both start and goal"):
        route(chain.store, BARRIER, a, a)


def test_tree_and_dendrogram_of_stored_edges(chain: Any) -> None:
    forest = spanning_forest(chain.store, BARRIER)
    assert [link.connection for link in forest.edges] == ["ab", "cd", "cb"]
    assert forest.trees == 2
    assert forest.total == pytest.approx(0.6)
    tree = dendrogram(chain.store, BARRIER)
    assert tree.linkage.tolist() == [[0, 1, 0.1, 2], [2, 3, 0.2, 2], [5, 6, 0.3, 4]]
    assert tree.roots == [7, 4]
    assert str(tree) == "0.3\n├─ 0.1\n│  ├─ a\n│  └─ b\n└─ 0.2\n   ├─ c\n   └─ d\ne"
    assert tree.row()["linkage"] == [[0, 1, 0.1, 2], [2, 3, 0.2, 2], [5, 6, 0.3, 4]]


def test_leaves_of_a_tree_of_peaks_begin_at_their_own_loss(chain: Any) -> None:
    a = chain.nodes["a"]
    for metric, value in (("loss", 0.05), ("accuracy", 0.75)):
        chain.records.append(Evaluation(a.id, None, None, "train", "all", "own", "fp32", metric, value, None, 1000))
    chain.done()
    assert dendrogram(chain.store, PEAK).own[0] == 0.05
    assert "a  0.05" in str(dendrogram(chain.store, PEAK))
    assert math.isnan(dendrogram(chain.store, BARRIER).own[0])


def test_neighbours_by_their_best_edge(chain: Any) -> None:
    links = neighbours(chain.store, BARRIER, chain.nodes["a"])
    assert [(link.source.name, link.target.name, link.connection) for link in links] == [
        ("a", "b", "ab"),
        ("a", "c", "ac"),
    ]
    assert [v.target.name for v in neighbours(chain.store, Criterion("barrier", 0.1), chain.nodes["a"])] == ["b"]
    assert neighbours(chain.store, BARRIER, chain.nodes["e"]) == []


def test_isolated_modes_and_why(chain: Any) -> None:
    lonely, failed = chain.node(chain.home), chain.node(chain.home)
    chain.done()

    def reasons(criterion: Criterion) -> dict[str, tuple[str, float | None]]:
        return {r["vertex"].label: (r["reason"], r["lowest"]) for r in isolated(chain.store, criterion)}

    connection = chain.connection(chain.home, "failed")
    chain.records += [Member(connection.id, n.id, "end", i, i) for i, n in enumerate((failed, chain.nodes["e"]))]
    (de,) = [c for c in load_all(chain.store) if c.name == "de"]
    chain.records += [Member(de.id, chain.nodes["e"].id, "end", 1, 1)]
    chain.done()
    assert reasons(BARRIER) == {
        "e": ("no edge has a finite train loss", None),
        lonely.id: ("not connected to anything", None),
        failed.id: ("every connection failed", None),
    }
    close = reasons(Criterion("barrier", 0.1))
    assert close["c"] == ("the lowest barrier is above the limit", 0.2)
    assert "a" not in close  # at the limit is within it


def load_all(store: Any) -> list[Any]:
    from mgraph_store import Connection

    with store.reading() as reader:
        found: list[Any] = reader.all(Connection)
    return found


def test_certified_edges_are_fine_and_on_enough_examples(builder: Any) -> None:
    space = builder.space()
    nodes = [builder.node(space) for _ in range(4)]
    # The split has 500 examples, so that 500 are enough.
    builder.records.append(Evaluation(nodes[0].id, None, None, "train", "all", "own", "fp32", "loss", 1.0, None, 500))
    both = builder.connection(space)
    # The finer sweep decides, but on so few examples it certifies nothing: then the coarser one does.
    builder.edge(builder.sweep(both, (11,)), nodes[0], nodes[1], 0.4, resolution=11, examples=500)
    builder.edge(builder.sweep(both, (99,)), nodes[0], nodes[1], 0.1, resolution=99, examples=20)
    coarse = builder.connection(space)
    builder.edge(builder.sweep(coarse, (5,)), nodes[1], nodes[2], 0.2, resolution=5, examples=500)
    policy = builder.connection(space)
    other = builder.edge(builder.sweep(policy, (61,)), nodes[2], nodes[3], 0.3, resolution=61, examples=500)
    builder.records[builder.records.index(other)] = type(other)(**{**vars(other), "batchnorm": "recompute(x)"})
    store = builder.done()

    def found(**criteria: Any) -> list[tuple[float, bool]]:
        edges = load_edges(store, criterion_from(by="barrier", **criteria))
        return sorted(zip(edges.arrays.value.tolist(), edges.uncertain.tolist(), strict=True))

    assert found() == [(0.1, True), (0.2, True), (0.3, False)]
    assert found(certified=True) == [(0.3, False), (0.4, False)]
    assert found(min_resolution=5) == [(0.2, True), (0.3, False), (0.4, False)]
    assert found(min_resolution=61) == [(0.3, False)]
    assert found(min_examples=20, min_resolution=11) == [(0.1, True), (0.3, False)]
    assert found(batchnorm="recompute(x)") == [(0.3, False)]
    assert len(components(store, criterion_from(max_barrier=0.5, certified=True, threshold=True))) == 2
    with pytest.raises(InputError, match=r"route of 100 points or more .* sweep finer"):
        found(min_resolution=100)
    with pytest.raises(InputError, match=r"policy 'own'; there are: none, recompute\(x\)"):
        found(batchnorm="own")


def test_without_edges_every_question_says_what_to_sweep(builder: Any) -> None:
    space = builder.space()
    a, b = builder.node(space), builder.node(space)
    store = builder.done()
    questions = (
        lambda: components(store, Criterion("barrier", 0.1)),
        lambda: route(store, PEAK, a, b),
        lambda: spanning_forest(store, PEAK),
        lambda: dendrogram(store, PEAK),
        lambda: neighbours(store, PEAK, a),
        lambda: isolated(store, PEAK),
    )
    for ask in questions:
        with pytest.raises(InputError, match=r"no edge with a train loss.*mgraph connect A B --linear"):
            ask()
    builder.connection(space, name="unswept")
    builder.done()
    for ask in questions:
        with pytest.raises(InputError, match="mgraph sweep unswept"):
            ask()


def test_a_node_that_has_no_edges_by_nature_is_refused(chain: Any) -> None:
    control = chain.node(chain.home, "control")
    chain.done()
    with pytest.raises(InputError, match="is a control; edges join modes"):
        neighbours(chain.store, PEAK, control)


def test_a_graph_that_changes_meanwhile_is_not_mixed_up(chain: Any) -> None:
    edges = load_edges(chain.store, BARRIER)
    chain.edge(chain.sweep(load_all(chain.store)[0], (99,)), chain.nodes["a"], chain.nodes["b"], 0.7)
    chain.done()
    with chain.store.reading() as reader:
        assert [link.connection for link in edges.links(reader, [0])] == ["ab"]
    with chain.store.transaction() as tx:
        from mgraph_store import Edge

        tx.remove(Edge, "connection_id", [load_all(chain.store)[0].id])
    with chain.store.reading() as reader, pytest.raises(InputError, match="was changed while it was read"):
        edges.links(reader, [0])
