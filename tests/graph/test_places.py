"""Points of connections by their parameters: nodes where there are any, else places of which nothing is stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import mgraph
from mgraph.errors import InputError


def test_where_a_node_is_it_is_that_node(graph: Any) -> None:
    curve, s = graph.connection("curve"), graph.connection("s")
    swept = s.swept()
    assert curve.at(0).id == curve.at(0.0).id == graph.node("a").id
    assert curve.at(1).name == "b"
    middle = s.at(0.5, 0.5)
    assert isinstance(middle, mgraph.Point)
    assert middle.id == s.at((0.5, 0.5)).id == swept.node_ids[swept.index_of([0.5, 0.5])]
    third = graph.connection("line").sweep(grid=4)
    assert graph.connection("line").at(1 / 3).id == third.node_ids[1]
    assert graph.connection("line").at(1 / 3 + 1e-14).id == third.node_ids[1]
    assert isinstance(graph.connection("line").at(1 / 3 + 1e-10), mgraph.Place)


def test_elsewhere_it_is_a_place_and_nothing_is_stored(graph: Any, snapshot: Any) -> None:
    before = snapshot(graph.path)
    place = graph.connection("s").at(0.25, 0.75)
    assert isinstance(place, mgraph.Place)
    assert (place.parameter, len(place.coefficients)) == ((0.25, 0.75), 9)
    assert sum(place.coefficients) == pytest.approx(1)
    assert repr(place) == "<place 0.25,0.75 of s>"
    assert {"loss", "accuracy"} <= set(place.evaluate("valid"))
    place.model()
    place.state_dict()
    assert snapshot(graph.path) == before


def test_a_place_is_what_a_sweep_would_measure_there(graph: Any) -> None:
    s = graph.connection("s")
    place = s.at(0.25, 0.75)
    module, here = place.model(), place.evaluate("test")
    swept = s.sweep(grid=5)
    there = swept.index_of([0.25, 0.75])
    assert here["loss"].value == swept.values["test", "loss"][there]
    sample = s.at(0.25, 0.75)
    assert isinstance(sample, mgraph.Point)
    state = sample.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in place.state_dict().items())
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert not module.training


def test_a_place_is_written_and_merged(graph: Any, tmp_path: Path) -> None:
    place = graph.connection("curve").at(0.3)
    state = place.state_dict()
    written = [place.export(tmp_path / name) for name in ("p.pt", "p.safetensors")]
    for found in (torch.load(written[0]), load_file(written[1])):
        assert all(torch.equal(found[name], value) for name, value in state.items())
    with safe_open(written[1], "pt") as file:
        facts = json.loads(file.metadata()["mgraph"])
    assert facts["parameter"] == [0.3]
    assert facts["terms"][0]["node"] == graph.node("a").id
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        place.export(tmp_path / "p.zip")
    merged = place.merge(name="third", force=True)
    assert merged.parameter == (0.3,)
    node = graph.node("third").state_dict()
    assert all(torch.equal(node[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("connection", "parameter", "message"),
    [
        ("curve", (1.5,), r"lie in \[0, 1\]"),
        ("curve", (float("nan"),), r"lie in \[0, 1\]"),
        ("curve", (0.1, 0.2), "is one number t"),
        ("curve", (), "is one number t"),
        ("curve", ("x",), "is one number t"),
        ("s", (0.1,), "is 2 numbers u,v"),
    ],
)
def test_what_lies_outside_is_refused(graph: Any, connection: str, parameter: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        graph.connection(connection).at(*parameter)
