"""The Python side: what the front page shows, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mgraph
from mgraph.errors import AmbiguousError, InputError, NameTakenError, NotFoundError
from mgraph_store.index import instances


@pytest.mark.stress  # the pages of the docs do the same in every run
def test_the_front_page_works(tmp_path: Path) -> None:
    """As in the package's docstring, with smaller settings."""
    g = mgraph.create(tmp_path / "digits.mgraph", arch="mlp?hidden=8,", data="digits", device="cpu")
    a, b, c, d = (g.train(seed=s, name=n, epochs=1) for s, n in enumerate("abcd"))
    s = g.connect(a, b, c, d, method=mgraph.BezierSurface(degree=(2, 2), epochs=3), grid=2)
    s.sweep(grid=3)
    assert set(s.best().state_dict()) == set(a.state_dict())
    assert s.merge(name="m").node.selected_on == "valid"
    assert 0 < s.ensemble(grid=2).evaluate("test")["accuracy"].value < 1
    assert [len(x) for x in g.components(max_barrier=1e9).groups] == [4]
    assert (repr(g), repr(a)) == (f"<Graph {tmp_path / 'digits.mgraph'}>", "<mode a>")
    assert repr(s) == f"<surface {s.id}>"


def test_every_public_name_is_there(python: Callable[..., str]) -> None:
    assert set(dir(mgraph)) >= set(mgraph.__all__)
    for name in mgraph.__all__:
        assert getattr(mgraph, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mgraph.nothing
    script = "import sys, mgraph; mgraph.Graph; mgraph.METHODS; mgraph.BezierSurface(); print('torch' in sys.modules)"
    assert python(script) == "False\n"


def test_progress_is_reported(graph: Any) -> None:
    seen: list[Any] = []
    graph.train(seed=9, epochs=2, batch_size=100, progress=seen.append)
    assert [p.done for p in seen] == list(range(1, 23))
    assert {(p.phase, p.total) for p in seen} == {("train", 22)}
    assert all(p.loss > 0 for p in seen)
    seen.clear()
    method = mgraph.BezierSurface(phases=("edges:1", "columns:1", "surface:1"), batch_size=300)
    graph.connect(*"abcd", method=method, grid=2, progress=seen.append)
    assert list(dict.fromkeys(p.phase for p in seen)) == ["edges", "columns", "surface", "sweep"]
    assert (seen[-1].done, seen[-1].total) == (4, 4)


def test_tensors_are_named_views_of_one_array(graph: Any) -> None:
    tensors = graph.node("a").tensors()
    state = graph.node("a").state_dict()
    assert set(tensors) < set(state)
    for name in tensors:
        assert np.array_equal(tensors[name], state[name].numpy())
    bases = {id(tensors[name].base) for name in tensors}
    assert len(bases) == 1


def test_a_state_dict_is_ones_own(graph: Any) -> None:
    first = graph.node("a").state_dict()
    for tensor in first.values():
        tensor.zero_()
    second = graph.node("a").state_dict()
    assert all(bool(t.abs().sum() > 0) for t in second.values())
    assert isinstance(second["0.weight"], torch.Tensor)


def test_looking_things_up(graph: Any) -> None:
    a = graph.node("a")
    assert graph.node(a.id).id == graph.node(a.id[:8]).id == a.id
    assert graph.find("s").id == graph.connection("s").id
    assert [p.name for p in graph.connection("s").ends] == list("abcd")
    assert graph.connection("s").space.name == "cnn-digits"
    with pytest.raises(NotFoundError):
        graph.node(a.id[:3])
    with pytest.raises(InputError, match="a is a mode, not a connection"):
        graph.connection("a")
    with pytest.raises(InputError, match="s is a connection"):
        graph.node("s")
    assert issubclass(AmbiguousError, InputError)


def test_what_is_refused(graph: Any, path: Path) -> None:
    with pytest.raises(InputError, match="no split 'dev'"):
        graph.node("a").evaluate("dev")
    with pytest.raises(InputError, match="valid and test"):
        graph.connection("line").ensemble(grid=2).evaluate("train")
    with pytest.raises(InputError, match="only one way to choose the point, not at and soup"):
        graph.connection("line").merge(at=0.5, soup="uniform")
    with pytest.raises(InputError, match="no setting 'epoch'"):
        graph.train(epoch=3)
    with pytest.raises(NameTakenError):
        mgraph.create(path, arch="mlp", data="digits")
    with pytest.raises(NotFoundError):
        mgraph.open(path.parent / "none.mgraph")
    with pytest.raises(NotFoundError):
        mgraph.create(path.parent / "no" / "g.mgraph", arch="mlp", data="digits")
    with pytest.raises(InputError, match="at least 2"):
        graph.connect("a", "b", method=mgraph.BezierCurve(), grid=1)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda g: g.connect("a", "b", method=mgraph.Linear(), nmae="x"),
            r"connect\(\) .* did you mean name",
        ),
        (lambda g: g.connect_auto("a", "b", max_bariers=1), r"connect_auto\(\) .* did you mean max_barrier"),
        (lambda g: g.connection("line").sweep(3, gird=5), r"sweep\(\) .*; further keywords are splits, examples"),
        (lambda g: g.connection("line").merge(soups="greedy"), r"merge\(\) .* did you mean soup"),
        (lambda g: g.add_mode("x.pt", weight="ema"), r"add_mode\(\) .* did you mean weights"),
        (lambda g: g.add_space("mlp", "digits", codecs="none"), r"add_space\(\) .* did you mean codec"),
        (lambda g: g.nodes(were="kind = 'mode'"), r"nodes\(\) .* did you mean where"),
        (lambda g: g.suggest(untill="components(0.1) == 1"), r"suggest\(\) .* did you mean until"),
        (lambda g: g.explore(max_pair=1), r"explore\(\) .* did you mean max_pairs"),
        (lambda g: g.components(max_barier=1), r"unexpected keyword argument 'max_barier'; did you mean max_barrier"),
    ],
)
def test_a_misspelt_keyword_is_refused_as_python_does(graph: Any, call: Callable[[Any], Any], said: str) -> None:
    runs = len(graph.runs())
    with pytest.raises(TypeError, match=said):
        call(graph)
    assert len(graph.runs()) == runs


def test_a_misspelt_keyword_makes_no_graph(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="did you mean name"):
        mgraph.create(tmp_path / "x.mgraph", arch="mlp", data="digits", nam="x")  # type: ignore[call-arg]
    assert not (tmp_path / "x.mgraph").exists()


def test_listing_as_the_command_line_does(graph: Any) -> None:
    found = graph.ls()
    assert list(found.rows) == ["nodes", "connections"]
    assert found.rows["nodes"] == graph.nodes()
    assert found.columns["nodes"][:2] == ("name", "id")
    # What is named is shown, and decides what is listed.
    found = graph.ls(where="barrier < 1e9", sort="-barrier", columns="+created")
    assert list(found.rows) == ["connections"]
    assert found.columns["connections"][-2:] == ("barrier", "created")
    assert found.rows["connections"] == graph.connections(where="barrier < 1e9", sort="-barrier")
    only = graph.ls("mode", columns=["name", "train_loss"], limit=2)
    assert (only.columns, len(only.rows["nodes"])) == ({"nodes": ("name", "train_loss")}, 2)
    assert {row["of"] for row in graph.columns("connection")} == {"connections"}
    assert set(only.columns["nodes"]) < {row["name"] for row in graph.columns("mode")}
    with pytest.raises(InputError, match=r"There is no kind 'modes'; choose from mode, .*, connection"):
        graph.ls("modes")
    with pytest.raises(InputError, match="tarin_loss"):
        graph.ls(columns="tarin_loss")


def test_what_is_told_is_told_as_rows_and_lines_too(graph: Any, tmp_path: Path) -> None:
    curve = graph.connection("curve")
    cells = curve.table_cells()
    lowest = next(row["min"] for row in curve.table()["rows"] if row["quantity"] == "train loss")
    assert [c["value"] for c in cells if (c["quantity"], c["statistic"]) == ("train loss", "min")] == [lowest]
    assert curve.ancestry_lines()[0].startswith("curve (curve), connect r")
    assert {"modes", "edges"} <= {row["view"] for row in graph.views()}
    graph.check_picture(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"must end in \.png"):
        graph.check_picture(tmp_path / "x.gif")


def test_a_grid_is_a_number_or_one_for_each_direction(graph: Any) -> None:
    assert graph.connection("wall").sweep(2).sweep.grid == (2, 2)
    assert graph.connection("wall").sweep((2, 3)).sweep.grid == (2, 3)
    assert graph.connection("line").sweep([4]).sweep.grid == (4,)
    with pytest.raises(InputError):
        graph.connection("line").sweep((4, 4))


@pytest.mark.stress  # test_sweeps counts them in every run
def test_sweeping_again_reuses_the_points(graph: Any) -> None:
    line = graph.connection("line")
    before = len(graph.nodes("sample"))
    line.sweep(5)
    assert len(graph.nodes("sample")) == before
    line.sweep(9)
    assert len(graph.nodes("sample")) == before + 4  # every other one was there
    coarse, fine = line.sweep(3), line.sweep(5)
    for split, metric in coarse.values:
        assert np.array_equal(coarse.values[split, metric], fine.values[split, metric][::2])


def test_a_subset_of_the_examples_is_recorded(graph: Any) -> None:
    data = graph.connection("line").sweep(3, examples=40, splits=("valid",))
    assert data.counts == {("valid", "loss"): 40, ("valid", "accuracy"): 40}
    rows = graph.node(data.node_ids[1]).describe()["evaluations"]
    subset = {e["subset"] for e in rows if e["sweep_id"] == data.sweep.id}
    assert len(subset) == 1
    assert subset != {"all"}


def test_deleting_nothing_and_asking_twice_costs_no_run(graph: Any) -> None:
    before = len(graph.runs())
    graph.components(max_barrier=0.1)
    graph.to_networkx()
    graph.node("a").evaluate("test")
    graph.connection("s").describe()
    graph.connection("s").swept()
    assert len(graph.runs()) == before


def test_an_operation_opens_the_index_few_times(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening it takes longer than most questions to it, so those that come together are asked together."""
    opened: list[str] = []
    attach = instances._attached
    monkeypatch.setattr(instances, "_attached", lambda *given: opened.append(given[2]) or attach(*given))
    connected = graph.connect("a", "c", method=mgraph.Linear(), grid=3)
    assert sum("READ_ONLY" in how for how in opened) <= 10
    opened.clear()
    connected.merge(at=0.5, force=True)
    assert sum("READ_ONLY" in how for how in opened) <= 12
