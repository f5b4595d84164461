"""Composite paths in a graph: joined at modes, measured, thinned, saved from a route, and used as any connection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mgraph
from mgraph.errors import InputError, NotFoundError
from mgraph.query.sweepdata import family_of
from mgraph_store import Member, assert_consistent


def parameters(graph: Any, node: str) -> Any:
    return graph.session.store.read_parameters(node)


def rows(graph: Any, connected: Any, role: str) -> list[str]:
    with graph.session.store.reading() as reader:
        members = reader.all(Member, connection_id=connected.id, role=role)
    return [m.node_id for m in sorted(members, key=lambda m: m.position)]


def test_pieces_meet_at_their_modes_and_are_measured_as_before(graph: Any) -> None:
    joined = graph.compose("curve", "s:b:c", name="ac")
    assert joined.kind == "composite"
    assert [p.name for p in joined.ends] == ["a", "c"]
    family = family_of(joined.record)
    # a, the curve's bend, b; then c, d and the five others of the surface: a and b are there once.
    assert family.size == 3 + 7
    swept = joined.swept()
    where = family.joint_parameters[0]
    at = swept.index_of(np.array([where]))
    b = graph.node("b")
    assert swept.node_ids[at] == b.id
    np.testing.assert_array_equal(parameters(graph, swept.node_ids[at]), parameters(graph, b.id))
    # Its curve is the curve, at the same loss; its way over the surface passes the swept points of the route.
    curve, surface = graph.connection("curve").swept(), graph.connection("s").swept()
    key = ("train", "loss")
    for t, loss in zip(curve.parameters[:, 0], curve.values[key], strict=True):
        i = int(np.argmin(np.abs(family.coefficients(swept.parameters) @ np.eye(family.size)[:, 0] - (1 - t) ** 2)))
        assert swept.values[key][i] == pytest.approx(loss, rel=0.02)
    step = graph.route("b", "c").steps[0]
    assert step.link.connection == "s"
    for parameter in step.parameters:
        found = surface.values[key][surface.index_of(np.array(parameter))]
        assert np.abs(swept.values[key] - found).min() < 1e-5
    (edge,) = [e for e in joined.describe()["edges"] if (e["split"], e["metric"]) == key]
    assert (edge["source"], edge["target"]) == ("a", "c")
    assert edge["peak"] == swept.values[key].max()
    assert joined.record.reason == "a → b → c"
    assert_consistent(graph.session.store)


def test_it_is_used_as_any_connection(graph: Any, tmp_path: Path) -> None:
    joined = graph.compose("line", "s:b:d", name="ad", grid=5)
    assert joined.plot(tmp_path / "ad.png").stat().st_size > 0
    merged = joined.merge(at=0.3, force=True)
    coefficients = family_of(joined.record).coefficients([[0.3]])[0]
    with graph.session.store.reading() as reader:
        members = reader.all(Member, connection_id=joined.id, role=["end", "control"])
    points = {m.row: parameters(graph, m.node_id) for m in members}
    expected = sum(c * points[k] for k, c in enumerate(coefficients))
    np.testing.assert_allclose(parameters(graph, merged.node.id), expected, rtol=1e-5, atol=1e-6)
    assert joined.ensemble(grid=3).members == 3
    assert len(joined.export_ensemble(tmp_path / "members", grid=3)["members"]) == 3
    assert not joined.trained
    # A curve may start from it, and a path may go through it again, the other way round.
    fitted = graph.connect("d", "a", method=mgraph.PolygonalChain(bends=2, epochs=1), init=joined, sweep=False)
    assert "least-squares fit to ad" in fitted.record.reason
    again = graph.compose("ad", sweep=False)
    assert family_of(again.record) == family_of(joined.record)
    back = graph.compose("ad:d:a", sweep=False)
    assert [p.name for p in back.ends] == ["d", "a"]
    t = np.linspace(0, 1, 9)[:, None]
    there, here = (family_of(c.record).coefficients(t) for c in (joined, back))
    order = [rows_in_order(graph, joined).index(node) for node in rows_in_order(graph, back)]
    np.testing.assert_allclose(here[::-1], there[:, order], atol=1e-12)
    assert_consistent(graph.session.store)


def rows_in_order(graph: Any, connected: Any) -> list[str]:
    return [c["node"] for c in connected.describe()["control_points"]]


@pytest.mark.stress  # tests/cli saves one in every run
def test_a_route_is_saved_as_one_connection(graph: Any) -> None:
    graph.train(seed=9, epochs=1, name="e")
    graph.connect("d", "e", method=mgraph.Linear(), name="de", grid=5)
    route = graph.route("a", "e")
    saved = graph.compose(route, name="ae", grid=9)
    assert [p.name for p in saved.ends] == ["a", "e"]
    assert saved.record.reason == " → ".join(v.label for v in route.vertices)
    family = family_of(saved.record)
    assert family.pieces[0].waypoints == route.steps[0].parameters
    assert [json.loads(saved.record.settings)["of"][i]["connection"] for i in range(2)] == [
        step.link.connection_id for step in route.steps
    ]
    # Now that it exists, it is an edge beside the others, and no better than its worst piece.
    assert graph.route("a", "e").value <= route.value


def test_a_thinned_path_is_a_chain_through_some_of_its_points(graph: Any) -> None:
    whole = graph.compose("curve", "s:b:c", sweep=False)
    thin = graph.compose("curve", "s:b:c", thin=0.02, name="thin", grid=5)
    family = family_of(thin.record)
    assert family.name == "polygonal-chain"
    assert "points kept, within 2 % of its length" in thin.record.reason
    nodes = rows_in_order(graph, thin)
    modes = [graph.node(n).id for n in "abc"]
    assert [n for n in nodes if n in modes] == modes
    new = [n for n in nodes if n not in modes]
    assert 0 < len(new) < 30
    assert {graph.node(n).kind for n in new} == {"control"}
    # They lie on the path.
    P = np.stack([parameters(graph, n) for n in rows_in_order(graph, whole)]).astype(np.float64)
    path = family_of(whole.record).coefficients(np.linspace(0, 1, 2000)[:, None]) @ P
    for node in new:
        assert np.linalg.norm(path - parameters(graph, node), axis=1).min() < 0.02 * np.linalg.norm(P[0] - P[-1])
    assert_consistent(graph.session.store)


def test_what_does_not_join_is_refused(graph: Any, tmp_path: Path) -> None:
    before = len(graph.connections())
    for pieces, message in (
        (("line", "bare"), "line and bare share no mode to continue from: they join a, b and c, d"),
        (("line", "s"), "The path stops at one of a, b in line: say between which ends, line:FROM:TO"),
        (("line:a:b", "s"), "The path stops at one of a, c, d in s: say between which ends, s:FROM:TO"),
        (("s", "line"), "stops at one of a, b in s: say between which ends, s:FROM:TO"),
        (("line", "curve"), "say between which ends"),
        (("line", "s:c:d"), "line and s share no mode"),
        (("line:a:b", "curve:b:a"), "ends at a, where it began"),
        (("line:a:c",), "c is not an end of line: a, b"),
        (("s:a:a",), "would end at a, where it starts"),
        (("line:a",), "CONN or CONN:FROM:TO"),
        (("bare", "line:a:b"), "share no mode"),
        ((), "needs a connection"),
    ):
        with pytest.raises(InputError, match=message):
            graph.compose(*pieces, sweep=False)
    for thin in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="share of the path's length"):
            graph.compose("line", thin=thin)
    with pytest.raises(NotFoundError):
        graph.compose("lime")
    with pytest.raises(InputError, match="belongs to"):
        graph.compose("line", name="a")
    unswept = graph.connect(*"abcd", method=mgraph.Linear(), name="unswept", sweep=False)
    with pytest.raises(InputError, match="no route from a to d yet; sweep it first: mgraph sweep unswept"):
        graph.compose(f"{unswept.name}:a:d")
    assert len(graph.connections()) == before + 1


def test_pieces_of_two_spaces_are_refused(graph: Any) -> None:
    graph.add_space("mlp?hidden=8,", "digits", name="other")
    for seed in (1, 2):
        graph.train(seed=seed, epochs=1, name=f"o{seed}", space="other")
    graph.connect("o1", "o2", method=mgraph.Linear(), name="far", sweep=False)
    with pytest.raises(InputError, match="share no mode"):
        graph.compose("line", "far")
