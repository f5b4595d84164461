"""Training some layers: control points that store only those, and everything that reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import mgraph
from mgraph_store import Layout, assert_consistent

METHODS = {
    "curve": ("ab", mgraph.BezierCurve(bends=2, epochs=1, train_only="4.*")),
    "chain": ("ab", mgraph.PolygonalChain(bends=1, epochs=1, train_only="1.*,4.bias")),
    "surface": ("abcd", mgraph.BezierSurface(epochs=1, train_only="4.*", samples=4, batch_size=128)),
}
D, HEAD = 64 * 8 + 8 + 2 * 8 + 8 * 10 + 10, 8 * 10 + 10


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What methods produced, collected before it is stored."""
    found: list[Any] = []
    original = mgraph.methods.curves.trained.TrainedMethod.run

    def run(*args: Any) -> Any:
        found.append(original(*args))
        return found[-1]

    monkeypatch.setattr("mgraph.methods.curves.trained.TrainedMethod.run", run)
    return found


def rows_of(g: Any, connected: Any) -> list[Any]:
    return [g.node(p["node"]) for p in connected.describe()["control_points"]]


def columns_of(g: Any, names: set[str]) -> np.ndarray:
    """A mask of the coordinates of some parameters."""
    parts = [np.full(s.size, s.name in names) for s in Layout.from_json(g.session.space().layout).parameters]
    return np.concatenate(parts)


@pytest.mark.parametrize(
    "name",  # of curves and surfaces, the tests below compare the same
    ["chain", *(pytest.param(name, marks=pytest.mark.stress) for name in ("curve", "surface"))],
)
def test_control_points_store_what_was_trained_and_read_back_whole(g: Any, outcomes: list[Any], name: str) -> None:
    ends, method = METHODS[name]
    connected = g.connect(*ends, method=method, grid=4)
    family, store = method.family(len(ends)), g.session.store
    (outcome,) = outcomes
    trained = columns_of(g, set(outcome.trained))
    straight = family.initial() @ np.stack([store.read_parameters(g.node(e).record) for e in ends]).astype(float)
    for k, node in enumerate(rows_of(g, connected)):
        values = store.read_parameters(node.record)
        assert values.tobytes() == outcome.control_points[k].tobytes()
        np.testing.assert_allclose(values[~trained], straight[k, ~trained], rtol=0, atol=1e-6)
        if k in family.free:
            assert node.record.nbytes == 4 * trained.sum() < 4 * D
            assert node.describe()["own_coordinates"] == trained.sum()
            assert np.abs(values[trained] - straight[k, trained]).max() > 1e-4
        else:
            assert node.describe()["own_coordinates"] is None
    swept = connected.swept()
    sample = next(i for i, n in enumerate(swept.node_ids) if g.node(n).kind == "sample")
    again = g.node(swept.node_ids[sample]).evaluate("train")["loss"].value
    assert again == pytest.approx(swept.values["train", "loss"][sample], abs=1e-6)
    assert_consistent(store)


def test_a_merged_point_is_whole(g: Any, beside: Any, outcomes: list[Any]) -> None:
    beside("connect", *"abcd", "--surface", "--epochs", 1, "--train-only", "4.*", "--name", "s", "--grid", 3)
    assert beside("merge", "s", "--at", "0.25,0.5", "--force", "--name", "m", "--json").row["parameter"] == [0.25, 0.5]
    beside("export", "m", "-o", "m.safetensors")
    written = load_file(g.path.parent / "m.safetensors")
    basis = mgraph.BezierSurface().family(4).coefficients([[0.25, 0.5]])[0]
    wanted = basis @ outcomes[0].control_points.astype(float)
    flat = np.concatenate([written[name].ravel() for name in g.node("m").tensors()])
    np.testing.assert_allclose(flat, wanted, rtol=0, atol=1e-6)
    assert g.node("m").record.nbytes == 4 * D
    assert beside("ensemble", "s", "--grid", 2, "--json").row["grid"] == [2, 2]


def test_what_is_shown_of_a_partial_node(g: Any, beside: Any) -> None:
    beside("connect", *"ab", "--curve", "--epochs", 1, "-s", "train_only=4.*", "--name", "k", "--no-sweep")
    (listed,) = [r for r in beside("ls", "--kind", "control", "--json").rows if r["nbytes"] == 4 * HEAD]
    assert listed["stored"] is True
    shown = beside("show", listed["id"], "--json").row
    assert (shown["stored"], shown["own_coordinates"], shown["nbytes"]) == (True, HEAD, 4 * HEAD)
    assert shown["terms"] == [{"node": "a", "c": 0.5}, {"node": "b", "c": 0.5}]
    assert f"own coordinates  {HEAD}" in beside("show", listed["id"]).stdout
    assert beside("show", "a", "--json").row["own_coordinates"] is None
    assert beside("show", "k", "--json").row["settings"]["train_only"] == ["4.*"]


def test_partial_points_can_be_raised_and_trained_on(g: Any, outcomes: list[Any]) -> None:
    """A start from control points that are themselves sums: the columns of either training are its own."""
    first = g.connect("a", "b", method=mgraph.BezierCurve(epochs=1, train_only="4.*"), name="first", grid=5)
    exact = g.connect("a", "b", method=mgraph.BezierCurve(bends=2, epochs=0, train_only="1.*"), init="first", grid=5)
    for key, values in first.swept().values.items():
        np.testing.assert_allclose(exact.swept().values[key], values, rtol=0, atol=1e-6)
    further = g.connect("a", "b", method=mgraph.BezierCurve(bends=3, epochs=1, train_only="1.*"), init=exact, grid=3)
    for connected, outcome in zip((first, exact, further), outcomes, strict=True):
        for node, row in zip(rows_of(g, connected), outcome.control_points, strict=True):
            assert g.session.store.read_parameters(node.record).tobytes() == row.tobytes()
    # The head is that of the first training still, the body its own.
    head = columns_of(g, {"4.weight", "4.bias"})
    raised = mgraph.BezierCurve(bends=3).family(2).coefficients([0.5])[0] @ outcomes[2].control_points.astype(float)
    before = mgraph.BezierCurve().family(2).coefficients([0.5])[0] @ outcomes[0].control_points.astype(float)
    np.testing.assert_allclose(raised[head], before[head], rtol=0, atol=1e-6)
    assert np.abs(raised - before)[columns_of(g, {"1.weight", "1.bias"})].max() > 1e-4
    assert_consistent(g.session.store)


def test_a_pattern_without_a_match_stores_nothing(g: Any, beside: Any, snapshot: Callable[..., Any]) -> None:
    before = snapshot(g.path)
    for pattern in ("fc.*", "4.*,layer4.*", "4"):
        said = beside("connect", *"ab", "--curve", "--train-only", pattern, "--name", "k", code=2).stderr
        assert f"the pattern {pattern.rpartition(',')[2]!r} matches no trainable parameter; there are 1.weight" in said
    assert snapshot(g.path) == before


def test_fixed_rows_stay_where_they_start(g: Any, beside: Any) -> None:
    options = ("--chain", "--bends", 3, "--fixed", "1,3", "--no-sweep", "--json")
    row = beside("connect", *"ab", *options, "--epochs", 1).row
    still = beside("connect", *"ab", *options, "--epochs", 0).row
    moved = [
        g.node(p["node"]).digest != g.node(q["node"]).digest
        for p, q in zip(row["control_points"], still["control_points"], strict=True)
    ]
    assert moved == [False, False, True, False, False]
    assert row["settings"]["fixed"] == [1, 3]
