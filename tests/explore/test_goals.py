"""Goals: what they accept, what can never hold, and their values against networkx."""

from __future__ import annotations

import math

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgraph.errors import InputError
from mgraph.explore.goals import Condition, Goal
from mgraph.query.arrays import EdgeArrays

EDGES = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.sampled_from([0.0, 0.1, 0.1 + 1e-12, 0.5])).filter(
        lambda e: e[0] != e[1]
    ),
    max_size=12,
)


def arrays(edges: list[tuple[int, int, float]], size: int = 6) -> dict[str, EdgeArrays]:
    given = EdgeArrays.of(size, *(list(zip(*edges, strict=True)) or [(), (), ()]))
    return {"peak": given, "barrier": given}


@pytest.mark.parametrize(
    ("text", "conditions"),
    [
        ("components(0.1) == 1", [Condition("barrier", 0.1, "==", 1)]),
        (" components( .1 ,peak)<=3 ", [Condition("peak", 0.1, "<=", 3)]),
        ("max_barrier<5e-2", [Condition("barrier", None, "<", 0.05)]),
        (
            "components(0) == 2 and max_peak <= 1",
            [Condition("barrier", 0.0, "==", 2), Condition("peak", None, "<=", 1)],
        ),
    ],
)
def test_it_is_read(text: str, conditions: list[Condition]) -> None:
    goal = Goal.parse(text)
    assert list(goal.conditions) == conditions
    assert Goal.parse(str(goal)) == goal


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not one"),
        ("done", "'done' is not one"),
        ("components == 1", "is not one"),
        ("components(0.1) >= 1", "is not one"),
        ("components(0.1) == 1 or max_peak < 1", "is not one"),
        ("components(0.1) == 1; import os", "is not one"),
        ("__import__('os')", "is not one"),
        ("components(0.1, drop) == 1", "is not one"),
        ("components(0.1) == 0", "there is always a component"),
        ("components(0.1) < 1", "there is always a component"),
        ("components(0.1) == 1.5", "components are counted"),
        ("max_barrier <= -0.1", "no barrier is below 0"),
        ("max_barrier < 0", "no barrier is below 0"),
        ("max_peak == 0.1", "not by =="),
        ("components(0.1) == 1 and components(0.1) == 3", "contradict"),
        ("components(0.1) == 3 and components(0.05) <= 2", "contradict"),
        ("components(0.05) == 1 and components(0.1) == 2", "contradict"),
        ("components(0.1) == 2 and max_barrier <= 0.1", "contradict"),
    ],
)
def test_it_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=r"--until") as caught:
        Goal.parse(text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "components(0.1) == 1 and components(0.05) == 3",
        "components(0.1) == 3 and components(0.1) <= 3",
        "components(0.1) == 2 and max_barrier <= 0.2",
        "components(0.1) == 2 and components(0.1, peak) == 5",
        "max_peak <= -3",  # of a loss that can be negative
    ],
)
def test_what_only_looks_contradictory_is_accepted(text: str) -> None:
    Goal.parse(text)


def test_more_components_than_modes_are_refused() -> None:
    goal = Goal.parse("components(0.1) == 5")
    goal.check_size(5)
    with pytest.raises(InputError, match="only 4 modes"):
        goal.check_size(4)


@settings(max_examples=50, deadline=None)
@given(EDGES, st.sampled_from([0.0, 0.1, 0.3]))
def test_values_are_those_of_networkx(edges: list[tuple[int, int, float]], limit: float) -> None:
    graph, whole = nx.Graph(), nx.Graph()
    graph.add_nodes_from(range(6))
    whole.add_nodes_from(range(6))
    graph.add_edges_from((a, b) for a, b, v in edges if v <= limit)
    for a, b, v in sorted(edges, key=lambda e: -e[2]):
        whole.add_edge(a, b, weight=v)
    known = arrays(edges)
    components = nx.number_connected_components(graph)
    assert Condition("barrier", limit, "==", 1).value(known) == components
    worst = math.inf
    if nx.is_connected(whole):
        worst = max(d["weight"] for *_, d in nx.minimum_spanning_tree(whole).edges(data=True))
    assert Condition("peak", None, "<=", 1).value(known) == worst
    assert Goal.parse(f"components({limit}) == {components}").is_met(known)
    assert Goal.parse(f"components({limit}) == {components + 1}").missed(known) is not None
    assert Goal.parse(f"components({limit}) == {components}").missed(known) is None


@settings(max_examples=25, deadline=None)
@given(EDGES, EDGES)
def test_more_edges_undo_no_upper_bound(
    edges: list[tuple[int, int, float]], more: list[tuple[int, int, float]]
) -> None:
    for text in ("components(0.1) <= 3", "max_barrier <= 0.1", "max_peak < 0.5 and components(0) <= 5"):
        goal = Goal.parse(text)
        assert goal.is_met(arrays(edges + more)) or not goal.is_met(arrays(edges))


def test_how_things_stand() -> None:
    goal = Goal.parse("components(0.1) == 1 and max_peak <= 0.2")
    assert goal.state(arrays([(0, 1, 0.1)], 2)) == "components(0.1) = 1, max_peak = 0.1"
    assert goal.state(arrays([], 2)) == "components(0.1) = 2, max_peak = inf"
    assert goal.guide == goal.conditions[0]
    assert Goal.parse("max_barrier <= 1 and components(0.3, peak) == 1").guide.limit == 0.3
