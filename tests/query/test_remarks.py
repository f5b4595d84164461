"""An answer says on what lesser ground its edges rest, and which edges were left out for a doubt."""

from __future__ import annotations

from typing import Any

import pytest

from mgraph.bookkeeping.listing import list_connections
from mgraph.errors import NotFoundError
from mgraph.query.asnetworkx import to_networkx
from mgraph.query.components import components, isolated, neighbours
from mgraph.query.criterion import Criterion
from mgraph.query.matrix import matrix
from mgraph.query.routes import route
from mgraph.query.sweepdata import finest_sweep
from mgraph.query.tree import dendrogram, spanning_forest
from mgraph_store import Evaluation, GraphStore, Member

DOUBT = "The ends are not what the modes are alone."


def join(builder: Any, space: Any, one: Any, other: Any) -> Any:
    """Connect two modes, with the swept points that their edges run through."""
    line = builder.connection(space, name=f"{one.name}{other.name}")
    for i, end in enumerate((one, other)):
        builder.records.append(Member(line.id, end.id, "end", i, i))
        builder.records.append(Member(line.id, end.id, "sample", i, parameter=(float(i),)))
    return line


@pytest.fixture
def doubted(builder: Any) -> GraphStore:
    """A and b are joined by a doubted edge only, b and c by a doubted one of 21 points and a good one of 11."""
    space = builder.space()
    a, b, c = (builder.node(space, name=name) for name in "abc")
    builder.edge(builder.sweep(join(builder, space, a, b)), a, b, 0.0, doubt=DOUBT)
    bc = join(builder, space, b, c)
    builder.edge(builder.sweep(bc), b, c, 0.25)
    builder.edge(builder.sweep(bc, (21,)), b, c, 0.0, doubt=DOUBT)
    return builder.done()


def node(store: GraphStore, name: str) -> Any:
    with store.reading() as reader:
        return reader.find_node(name)


def test_an_edge_with_a_doubt_counts_nowhere(doubted: GraphStore) -> None:
    by = Criterion("barrier", 0.5)
    found = components(doubted, by)
    assert [[v.label for v in group] for group in found.groups] == [["b", "c"], ["a"]]
    assert [link.barrier for link in found.edges] == [0.25]  # the finer one is doubted, and hides nothing
    assert [link.target.label for link in neighbours(doubted, by, node(doubted, "b"))] == ["c"]
    assert spanning_forest(doubted, by).trees == 2
    assert len(dendrogram(doubted, by).linkage) == 1
    assert to_networkx(doubted).number_of_edges() == 1
    (alone,) = isolated(doubted, by)
    assert alone["reason"] == "its edges are doubtful and do not count"
    assert [c["barrier"] for c in list_connections(doubted)] == [None, 0.25]
    with doubted.reading() as reader:
        assert finest_sweep(reader, reader.find_connection("bc")).grid == (11,)


def test_the_answer_says_which_and_why(doubted: GraphStore) -> None:
    by = Criterion("barrier", 0.5)
    said = [f"ab, from a to b, does not count: {DOUBT}", f"bc, from b to c, does not count: {DOUBT}"]
    assert components(doubted, by).notes == said
    assert spanning_forest(doubted, by).notes == said
    assert list(dendrogram(doubted, by).notes) == said
    assert list(matrix(doubted, by).notes) == said
    assert neighbours(doubted, by, node(doubted, "b")).notes == said
    assert list(route(doubted, by, node(doubted, "b"), node(doubted, "c")).notes) == said
    with pytest.raises(NotFoundError, match=r"join a and c, .* ab, from a to b, does not count: The ends"):
        route(doubted, by, node(doubted, "a"), node(doubted, "c"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_overflow_in_less_than_full_precision_hides_nothing(builder: Any, value: float) -> None:
    space = builder.space()
    a, b = builder.node(space, name="a"), builder.node(space, name="b")
    line = builder.connection(space, name="line")
    builder.edge(builder.sweep(line), a, b, 0.25)
    builder.edge(builder.sweep(line, (99,)), a, b, value, precision="bf16")
    store = builder.done()
    found = components(store, Criterion("barrier", 0.5))
    assert ([link.barrier for link in found.edges], found.notes) == ([0.25], [])
    assert [c["barrier"] for c in list_connections(store)] == [0.25]
    with store.reading() as reader:
        assert finest_sweep(reader, reader.find_connection("line")).grid == (11,)


def test_an_answer_says_where_it_rests_on_less(builder: Any) -> None:
    space = builder.space()
    a, b, c, d = (builder.node(space, name=name) for name in "abcd")
    for mode in (a, b, c, d):
        builder.records.append(Evaluation(mode.id, None, None, "train", "all", "own", "fp32", "loss", 1.0, 0.1, 500))
    usual = {"examples": 500, "batchnorm": "recompute(2000)"}
    ab = join(builder, space, a, b)
    builder.edge(builder.sweep(ab), a, b, 0.1, **usual)
    builder.edge(builder.sweep(ab, (23,)), a, b, 0.2, resolution=23, **usual | {"precision": "bf16"})
    builder.edge(builder.sweep(join(builder, space, b, c)), b, c, 0.1, **usual | {"examples": 100})
    few = usual | {"batchnorm": "recompute(10)"}
    builder.edge(builder.sweep(join(builder, space, c, d)), c, d, 0.1, **few)
    store = builder.done()
    by = Criterion("barrier", 0.5)
    found = components(store, by)
    assert sorted(found.notes) == [
        "ab: measured in bf16, which is less than full precision.",
        "bc: measured on 100 of 500 train examples.",
        "cd: measured under the BatchNorm policy recompute(10), most edges under recompute(2000).",
    ]
    assert [step.link.precision for step in route(store, by, a, d).steps] == ["bf16", "fp32", "fp32"]
    assert list(route(store, by, a, b).notes) == ["ab: measured in bf16, which is less than full precision."]
    # A certified answer is in full precision; a finer one that is not hides nothing.
    certified = neighbours(store, Criterion("barrier", 0.5, certified=True), a)
    assert [(link.barrier, link.precision) for link in certified] == [(0.1, "fp32")]
    assert certified.notes == []
