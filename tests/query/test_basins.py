"""Basins against the definition, by brute force, and against the edges of the same sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgraph.errors import InputError
from mgraph.families import TensorGrid
from mgraph.query.basins import merged

VALUES = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0, float("nan"), float("inf")]), min_size=12, max_size=12)


def components(values: np.ndarray, neighbours: Any, level: float) -> list[set[int]]:
    """The connected parts of the points at or below a level."""
    graph = nx.Graph()
    graph.add_nodes_from(np.flatnonzero(np.isfinite(values) & (values <= level)).tolist())
    graph.add_edges_from((i, j) for i in graph for j in neighbours[i] if j in graph)
    return [set(part) for part in nx.connected_components(graph)]


@settings(max_examples=40, deadline=None)
@given(VALUES)
def test_at_every_level_there_are_as_many_basins_as_parts(numbers: list[float]) -> None:
    values, neighbours = np.array(numbers), TensorGrid.even((3, 4)).neighbours
    merges, alone = merged(values, neighbours)
    assert sorted({m.basin for m in merges} | set(alone)) == sorted([*(m.basin for m in merges), *alone])
    assert [values[m.saddle] for m in merges] == sorted(values[m.saddle] for m in merges)
    for level in (0.0, 0.1, 0.2, 0.5, 1.0):
        there = [m for m in merges if values[m.basin] <= level < values[m.saddle]]
        parts = components(values, neighbours, level)
        assert len(there) + sum(values[point] <= level for point in alone) == len(parts)
        for part in parts:  # each part holds one basin that goes on, and that is its lowest
            (one,) = [p for p in [*(m.basin for m in there), *alone] if p in part]
            assert values[one] == min(values[list(part)])
    for m in merges:
        assert values[m.into] <= values[m.basin] < values[m.saddle]


def level(tree: Any, one: str, other: str) -> float:
    """The value at which two leaves are joined."""
    members = [{leaf.label} for leaf in tree.leaves]
    for left, right, value, _ in tree.linkage.tolist():
        members.append(members[int(left)] | members[int(right)])
        if {one, other} <= members[-1]:
            return float(value)
    raise AssertionError(f"{one} and {other} never join")


def test_modes_join_at_the_peaks_of_the_edges(graph: Any) -> None:
    """The tree of a surface and that of the graph speak of the same numbers."""
    wall = graph.connection("wall")
    found = wall.basins(depth=0)
    assert {"a", "b", "c", "d"} <= {row["basin"] for row in found.rows()}
    chosen = ("train", "loss", "train loss")
    edges = [e for e in wall.describe()["edges"] if (e["split"], e["metric"], e["chosen_on"]) == chosen]
    assert len(edges) == 6
    for edge in edges:
        assert level(found.tree, edge["source"], edge["target"]) == edge["peak"]


def test_ripples_are_left_out_and_counted(graph: Any) -> None:
    wall = graph.connection("wall")
    everything = wall.basins(depth=0)
    deepest = everything.rows()[1]["depth"]
    assert everything.rows()[0]["depth"] is None
    few = wall.basins(depth=deepest)
    assert len(few.points) == 2
    assert few.shallow == len(everything.points) - 2
    assert f"{few.shallow} basin" in few.said


def test_an_accuracy_has_basins_of_errors(graph: Any) -> None:
    found = graph.connection("wall").basins(split="test", metric="accuracy", depth=0)
    assert found.tree.criterion.metric == "error"
    assert found.rows()[0]["value"] == 1 - max(graph.connection("wall").swept().values["test", "accuracy"])


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"split": "holdout"}, "has no holdout loss, only train loss, train accuracy"),
        ({"metric": "top5"}, "has no train top5"),
        ({"depth": -1.0}, "at least 0, not -1"),
        ({"depth": float("nan")}, "at least 0, not nan"),
    ],
)
def test_what_has_no_basins(graph: Any, keywords: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        graph.connection("wall").basins(**keywords)


def test_commands(run: Any) -> None:
    shown = run("show", "wall", "--basins", "--json").row
    assert shown["basins"][0]["basin"] in "abcd"
    assert "at which basins join" in run("show", "wall", "--basins").stdout
    assert "mgraph sweep bare" in run("show", "bare", "--basins", code=2).stderr
    assert "are for --basins" in run("show", "wall", "--depth", "0.1", code=2).stderr
    run("plot", "wall", "-o", "b.png", "--basins")
    assert "mgraph sweep bare" in run("plot", "bare", "-o", "n.png", "--basins", code=2).stderr
    assert "not for --basins" in run("plot", "wall", "-o", "n.png", "--basins", "--no-before", code=2).stderr
    assert [p.name for p in Path(run.directory).glob("*.png")] == ["b.png"]
