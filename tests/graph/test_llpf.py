"""LLPF paths in a graph: pivots as nodes, what is shared, the end of a walk towards the origin, checks and pictures."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mgraph
from mgraph.errors import InputError, NonFiniteError
from mgraph.figures import colours
from mgraph_store import Node, NodeTerm

FEW = {"ticks": 12, "keep_every": 4, "max_iters": 6, "lr": 0.02}


@pytest.fixture(scope="module")
def llpf_graph(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The template with a path of a few ticks and one whose frozen layers are shared."""
    import shutil

    path = shutil.copytree(template, tmp_path_factory.mktemp("llpf") / "digits.mgraph")
    g = mgraph.open(path, device="cpu")
    g.connect("a", "b", method=mgraph.LLPF(**FEW), name="path")
    g.connect("a", "b", method=mgraph.LLPF(groups="0.*,1.*;*", train="active", **FEW), name="shared", sweep=False)
    g.connect("a", method=mgraph.LLPF(walk="m2o", origin_ticks=12, **FEW), name="down", grid=5)
    return g


def members(g: Any, name: str) -> list[Any]:
    from mgraph.session.members import rows_of

    with g.session.store.reading() as reader:
        return rows_of(reader, g.connection(name).record)


def parameters(g: Any, node: Any) -> Any:
    return np.array(g.session.store.read_parameters(node))


def test_kept_points_are_pivots_between_the_modes(llpf_graph: Any) -> None:
    nodes = members(llpf_graph, "path")
    assert [n.kind for n in nodes] == ["mode", *["pivot"] * (len(nodes) - 2), "mode"]
    assert [nodes[0].name, nodes[-1].name] == ["a", "b"]
    assert len(nodes) == 5
    a, first = (parameters(llpf_graph, n) for n in nodes[:2])
    assert 0 < np.abs(first - a).max() < 1
    rows = llpf_graph.nodes("pivot")
    assert {n.id for n in nodes[1:-1]} <= {r["id"] for r in rows}


def test_the_sweep_is_along_the_length(llpf_graph: Any) -> None:
    data = llpf_graph.connection("path").swept()
    points = [parameters(llpf_graph, n).astype(np.float64) for n in members(llpf_graph, "path")]
    lengths = np.cumsum([np.linalg.norm(q - p) for p, q in pairwise(points)])
    assert np.allclose(data.family.knots[1:], lengths / lengths[-1])
    assert len(data.grid) == 41  # nine points on each of four pieces, the five kept ones
    ends = data.values["train", "loss"][[0, -1]]
    straight = llpf_graph.connection("line").swept().values["train", "loss"][[0, -1]]
    assert np.allclose(ends, straight)


def test_checks_come_with_the_path(llpf_graph: Any) -> None:
    row = llpf_graph.connection("path").describe()
    data = llpf_graph.connection("path").swept().values["train", "loss"]
    checks = row["checks"]
    assert checks["ticks"] == 12
    assert checks["max_train_loss"] == data.max()
    assert checks["tolerance"] == data.max() - data[[0, -1]].max()
    assert 12 * 5 <= checks["iterations"] <= 12 * 6
    assert 0 < checks["left_before_the_last_piece"] < 1
    assert checks["measured_on"] == "a sweep of 41 points"
    layers = {layer["layer"]: layer for layer in row["layers"]}
    assert list(layers) == ["0", "1", "4", "5", "9", "11"]
    assert all(layer["last_distance"] < layer["first_distance"] for layer in layers.values())
    assert [w["weight"] for w in row["weights"]] == ["0.weight", "4.weight", "9.weight", "11.weight"]
    numbers = [r for r in llpf_graph.connection("path").series() if (r["quantity"], r["subject"]) == ("distance", "4")]
    assert [r["position"] for r in numbers] == list(range(1, 13))
    assert numbers[-1]["value"] == layers["4"]["last_distance"]
    assert llpf_graph.connection("s").describe()["checks"] is None
    assert llpf_graph.connection("s").series() == []
    unswept = llpf_graph.connection("shared").describe()["checks"]
    assert unswept["measured_on"].startswith("kept points")


def test_what_no_phase_moved_yet_is_not_stored_again(llpf_graph: Any) -> None:
    nodes = members(llpf_graph, "shared")
    a = parameters(llpf_graph, nodes[0])
    own = 36 + 4 + 4 + 4  # weight and bias of the first convolution and its BatchNorm
    frozen = [n for n in nodes[1:-1] if n.columns is not None]
    assert len(frozen) == 3
    assert [n.nbytes for n in frozen] == [4 * own] * 3
    for node in frozen:
        found = parameters(llpf_graph, node)
        assert np.array_equal(found[own:], a[own:])
        assert not np.array_equal(found[:own], a[:own])
    with llpf_graph.session.store.reading() as reader:
        for node in frozen:
            assert [(t.source_id, t.coefficient) for t in reader.all(NodeTerm, node_id=node.id)] == [(nodes[0].id, 1.0)]
    assert all(n.nbytes == 4 * len(a) for n in nodes[4:])


def test_the_end_of_a_walk_towards_the_origin_is_a_mode(llpf_graph: Any) -> None:
    a, end = llpf_graph.connection("down").ends
    assert (a.name, end.name, end.kind) == ("a", "down-end", "mode")
    assert end.describe()["info"]["origin"] == "llpf"
    assert end.describe()["info"]["from"] == a.id
    first, last = parameters(llpf_graph, a.record), parameters(llpf_graph, end.record)
    assert np.linalg.norm(last) < np.linalg.norm(first)
    listed = {r["name"]: r for r in llpf_graph.nodes()}
    assert listed["down-end"]["train_loss"] == end.evaluate("train")["loss"].value
    components = llpf_graph.components(max_peak=10.0)
    assert any({"a", "down-end"} <= {n.name for n in group} for group in components.groups)
    llpf_graph.connect("b", "down-end", method=mgraph.Linear(), sweep=False)
    llpf_graph.train(seed=9, epochs=1, name="low-end")
    with pytest.raises(InputError, match="name low-end belongs to mode"):
        llpf_graph.connect("b", method=mgraph.LLPF(walk="m2o"), name="low")


def test_a_path_is_drawn_with_its_checks(llpf_graph: Any, tmp_path: Path) -> None:
    from matplotlib import colors, image

    path = llpf_graph.connection("path").plot(tmp_path / "path.png", before=llpf_graph.connection("line"))
    picture = image.imread(path)
    assert picture.shape[0] > 1000
    assert picture.shape[1] > 2000
    pixels = np.round(picture[::3, ::3, :3] * 255).astype(int).reshape(-1, 3)
    seen = {tuple(pixel) for pixel in np.unique(pixels, axis=0)}
    for colour in (colours()[split] for split in ("train", "valid", "test")):
        assert tuple(round(255 * x) for x in colors.to_rgb(colour)) in seen


@pytest.mark.parametrize(
    ("method", "error", "said"),
    [
        (mgraph.LLPF(groups="7.*;*"), InputError, "matches no parameter; there are 0.weight"),
        (mgraph.LLPF(groups="0.*"), InputError, r"No group moves 1\.weight"),
        (mgraph.LLPF(loss_threshold=1e-9), InputError, r"below the modes' own train loss"),
        (mgraph.LLPF(lr=1e25), NonFiniteError, "in tick 1; lower the learning rate"),
        (mgraph.LLPF(walk="m2o"), InputError, "2 given"),
    ],
)
def test_bad_input_stores_nothing(graph: Any, path: Path, snapshot: Any, method: Any, error: Any, said: str) -> None:
    before = snapshot(path, runs=False)
    with pytest.raises(error, match=said):
        graph.connect("a", "b", method=method)
    assert snapshot(path, runs=False) == before


def test_the_same_mode_twice_and_equal_modes(graph: Any, path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="given twice"):
        graph.connect("a", "a", method=mgraph.LLPF())
    graph.node("a").export(tmp_path / "a.safetensors")
    with pytest.warns(match="same checkpoint twice"):
        graph.add_mode(tmp_path / "a.safetensors", name="again")
    with pytest.raises(InputError, match="exactly the same parameters"):
        graph.connect("a", "again", method=mgraph.LLPF())
    with graph.session.store.reading() as reader:
        assert [n for n in reader.all(Node) if n.kind == "pivot"] == []
