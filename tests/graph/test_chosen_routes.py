"""The train loss chooses the route between two ends of a surface or simplex; test data choose nothing."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pytest

from mgraph.errors import InputError
from mgraph.evaluate.summary import measure_route
from mgraph.families import Floats, SimplexFamily
from mgraph.families.gram import gram
from mgraph.operations.sweeprows import Numbers, edges
from mgraph.query.sweepdata import family_of
from mgraph_store import Edge, Node, Sweep


def by_pair(found: list[Edge]) -> list[list[Edge]]:
    """Group edges by their ends."""

    def ends(e: Edge) -> tuple[str, str]:
        return e.source_id, e.target_id

    return [list(group) for _, group in groupby(sorted(found, key=ends), ends)]


def counting(pair: list[Edge]) -> dict[tuple[str, str], Edge]:
    return {(e.split, e.metric): e for e in pair if e.chosen_on != "oracle"}


def oracles(pair: list[Edge]) -> dict[tuple[str, str], Edge]:
    return {(e.split, e.metric): e for e in pair if e.chosen_on == "oracle"}


@pytest.mark.parametrize("name", ["wall", pytest.param("tri", marks=pytest.mark.stress)])
def test_all_splits_are_measured_along_the_route_of_the_train_loss(g: Any, name: str, tables: Any) -> None:
    connected = g.connection(name)
    data = connected.sweep(5)
    family = family_of(connected.record)
    with g.session.store.reading() as reader:
        rows = [reader.get(Node, id=c["node"]) for c in connected.describe()["control_points"]]
    G = gram([g.session.store.read_parameters(row) for row in rows])
    place = {node: i for i, node in enumerate(data.node_ids)}
    for pair in by_pair(tables(g, Edge)["Edge"]):
        mine, theirs = counting(pair), oracles(pair)
        assert {e.chosen_on for e in mine.values()} == {"train loss"}
        assert len({tuple(e.route) for e in mine.values()}) == 1
        assert set(theirs) == set(mine) - {("train", "loss")}
        for (split, metric), edge in mine.items():
            values = data.values[split, "loss"] if metric == "loss" else 1 - data.values[split, "accuracy"]
            along = measure_route([place[n] for n in edge.route], values, family.coefficients(data.parameters), G)
            assert (edge.peak, edge.barrier, edge.drop) == (along.peak, along.barrier, along.drop)
            if (split, metric) in theirs:
                assert theirs[split, metric].peak <= edge.peak


def test_validation_data_choose_on_request(g: Any, beside: Any, tables: Any) -> None:
    beside("sweep", "wall", "--grid", 3, "--route-on", "valid")
    for pair in by_pair(tables(g, Edge)["Edge"]):
        mine = counting(pair)
        assert {e.chosen_on for e in mine.values()} == {"valid loss"}
        assert ("valid", "loss") not in oracles(pair)
        assert ("train", "loss") in oracles(pair)
    g.connection("tri").sweep(3, splits=("valid", "test"))  # where train was not measured, too
    mine = [e for e in tables(g, Edge)["Edge"] if e.connection_id == g.connection("tri").id]
    assert {e.chosen_on for e in mine} == {"valid loss", "oracle"}
    for wrong, options in (("not on 'test'", {"route_on": "test"}), ("needs that split", {"route_on": "valid"})):
        with pytest.raises(InputError, match=wrong):
            g.connection("wall").sweep(3, splits=("train", "test"), **options)


def test_test_data_alone_choose_nothing(g: Any, beside: Any, tables: Any) -> None:
    done = beside("sweep", "wall", "--grid", 3, "--splits", "test")
    assert "the edges are oracles, chosen on test data, and do not count" in done.stderr
    assert {e.chosen_on for e in tables(g, Edge)["Edge"]} == {"oracle"}
    message = beside("components", "--max-barrier", 9, "--split", "test", code=2).stderr
    assert "the routes of its edges with a test loss were chosen by that test loss itself" in message
    g.connection("line").sweep(3, splits=("test",))  # a path has but one route
    assert "9" not in beside("neighbours", "a", "--split", "test", "--csv").stdout.splitlines()[0]
    assert len(beside("neighbours", "a", "--split", "test", "--json").rows) == 1


def test_show_and_queries_tell_the_oracle_from_what_counts(g: Any, beside: Any) -> None:
    g.connection("wall").sweep(5)
    row = g.connection("wall").describe()
    edge = next(e for e in row["edges"] if (e["split"], e["metric"]) == ("test", "error"))
    assert edge["chosen_on"] == "train loss"
    assert edge["oracle_peak"] <= edge["peak"]
    assert " oracle" in beside("show", "wall").stdout
    found = g.components(max_peak=1e9, metric="error", split="test")
    assert {link.chosen_on for link in found.edges} == {"train loss"}
    assert len(found.edges) == 6
    assert any("compared on test data" in text for text in found.notes)
    assert g.components(max_peak=1e9).notes == []
    sql = "SELECT count(*) FILTER (current), count(*) FROM edges WHERE split = 'test' AND metric = 'error'"
    assert g.sql(sql).rows == [(6, 12)]


def swept(test: Floats) -> list[Edge]:
    """Edges of a simplex of three points, where the train loss is lowest in the middle."""
    family = SimplexFamily(3)
    grid = family.grid((5,))
    rng = np.random.default_rng(0)
    train = rng.random(len(grid))
    values = {("train", "loss"): train, ("test", "loss"): test, ("test", "accuracy"): 1 - test / 10}
    numbers = Numbers(family, grid, values, {})
    ends = [Node(f"m{i}", "mode", "a") for i in range(3)]
    record = Sweep("w", "k", None, grid.counts, "none", "fp32")
    ids = [f"s{i}" for i in range(len(grid))]
    return list(edges(record, numbers, gram(np.eye(3)), ids, ends, {"train": 9, "test": 9}))


def test_no_route_that_counts_depends_on_test_data() -> None:
    rng = np.random.default_rng(1)
    one, other = swept(rng.random(15)), swept(rng.random(15))
    for first, second in zip(by_pair(one), by_pair(other), strict=True):
        routes = [{key: tuple(e.route) for key, e in counting(pair).items()} for pair in (first, second)]
        assert routes[0] == routes[1]
        assert counting(first)["train", "loss"] == counting(second)["train", "loss"]
    # The oracles do depend on it, so this would be noticed.
    assert [tuple(e.route) for p in by_pair(one) for e in oracles(p).values()] != [
        tuple(e.route) for p in by_pair(other) for e in oracles(p).values()
    ]
