"""Connections that start from another one: refined, raised in degree, turned round, split off."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mgraph
from mgraph.errors import InputError
from mgraph_store import assert_consistent

CURVE, CHAIN, SURFACE = mgraph.BezierCurve, mgraph.PolygonalChain, mgraph.BezierSurface


@pytest.fixture(scope="module")
def trained(unswept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unswept graph with a trained curve, chain and surface of a, b, c and d."""
    path = Path(shutil.copytree(unswept, tmp_path_factory.mktemp("trained") / "g.mgraph"))
    graph = mgraph.open(path, device="cpu")
    graph.connect("a", "b", method=CURVE(epochs=2), name="curve", sweep=False)
    graph.connect("a", "b", method=CHAIN(epochs=2), name="bent", sweep=False)
    graph.connect(*"abcd", method=SURFACE(epochs=2), name="s", sweep=False)
    return path


@pytest.fixture
def g(trained: Path, tmp_path: Path) -> Any:
    return mgraph.open(shutil.copytree(trained, tmp_path / "init" / "g.mgraph"), device="cpu")


def same(one: Any, other: Any, order: Any = slice(None)) -> None:
    """Compare every number of two sweeps, point by point."""
    assert one.values.keys() == other.values.keys()
    for key, values in one.values.items():
        np.testing.assert_allclose(other.values[key], values[order], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("source", "ends", "method", "grid"),
    [
        ("curve", "ab", CURVE(bends=4, epochs=0), 7),
        ("bent", "ab", CHAIN(bends=3, epochs=0), 9),
        ("s", "abcd", SURFACE(degree=(3, 4), epochs=0), (4, 3)),
        pytest.param("line", "ab", CURVE(bends=2, epochs=0), 5, marks=pytest.mark.stress),
        pytest.param("wall", "abcd", SURFACE(degree=(2, 3), epochs=0), (3, 4), marks=pytest.mark.stress),
    ],
    ids=["a curve", "a chain", "a surface", "a segment", "a bilinear surface"],
)
def test_raising_a_degree_changes_no_number(g: Any, source: str, ends: str, method: Any, grid: Any) -> None:
    raised = g.connect(*ends, method=method, init=source, grid=grid)
    same(g.connection(source).sweep(grid), raised.swept())
    row = raised.describe()
    assert row["reason"] == f"{method.name} finished"  # the fit is exact: nothing to say
    assert row["settings"]["init"] == g.connection(source).id
    assert len(row["control_points"]) == method.family(len(ends)).size
    assert_consistent(g.session.store)


def test_the_same_family_starts_at_the_very_same_points(g: Any) -> None:
    for source, ends, method in (("curve", "ab", CURVE(epochs=0)), ("s", "abcd", SURFACE(epochs=0))):
        again = g.connect(*ends, method=method, init=source, sweep=False)
        digests = [
            [g.node(p["node"]).digest for p in c.describe()["control_points"]] for c in (again, g.connection(source))
        ]
        assert digests[0] == digests[1]


def test_reversed_ends_turn_a_path_round(g: Any) -> None:
    turned = g.connect("b", "a", method=CURVE(bends=2, epochs=0), init="curve", grid=6)
    same(g.connection("curve").sweep(6), turned.swept(), slice(None, None, -1))
    assert [p.name for p in turned.ends] == ["b", "a"]


@pytest.mark.parametrize(
    ("ends", "along"),
    [
        pytest.param("ac", (slice(None), 0), marks=pytest.mark.stress),
        ("db", (slice(None, None, -1), -1)),
        pytest.param("ab", (0,), marks=pytest.mark.stress),
    ],
)
def test_an_edge_of_a_surface_becomes_a_curve(g: Any, ends: str, along: Any) -> None:
    edge = g.connect(*ends, method=CURVE(epochs=0), init="s", grid=5)
    surface = g.connection("s").sweep((5, 5))
    same(surface, edge.swept(), np.arange(25).reshape(5, 5)[along])
    assert "fit" not in edge.describe()["reason"]


def test_a_diagonal_is_a_curve_of_the_sum_of_the_degrees(g: Any) -> None:
    diagonal = g.connect("a", "d", method=CURVE(bends=3, epochs=0), init="s", grid=5)
    same(g.connection("s").sweep((5, 5)), diagonal.swept(), np.arange(25).reshape(5, 5).diagonal())


def test_a_surface_can_be_turned(g: Any) -> None:
    turned = g.connect(*"cadb", method=SURFACE(epochs=0), init="s", grid=3)
    same(g.connection("s").sweep(3), turned.swept(), np.arange(9).reshape(3, 3)[::-1].T.ravel())


def test_a_chain_refined_as_a_curve_starts_at_the_fit_and_says_so(g: Any) -> None:
    curve = g.connect("a", "b", method=CURVE(bends=3, epochs=0), init="bent", sweep=False)
    assert curve.describe()["reason"] == "curve finished; started at the least-squares fit to bent"
    rows = _rows(g, curve)
    bent = _rows(g, g.connection("bent"))
    assert rows[0].tobytes() == bent[0].tobytes()
    assert rows[-1].tobytes() == bent[-1].tobytes()
    t = (np.arange(400)[:, None] + 0.5) / 400
    wanted = CHAIN().family(2).coefficients(t) @ bent.astype(float)
    basis = CURVE(bends=3).family(2).coefficients(t)
    best = np.linalg.lstsq(basis[:, 1:-1], wanted - basis[:, [0, -1]] @ rows[[0, -1]].astype(float))[0]
    np.testing.assert_allclose(rows[1:-1], best, atol=2e-3 * np.abs(best).max())
    # Trained from there it goes on, and the name of the start is kept.
    trained = g.connect("a", "b", method=CURVE(bends=3, epochs=1), init=g.connection("bent"), sweep=False)
    assert "least-squares fit to bent" in trained.describe()["reason"]
    assert _rows(g, trained)[2].tobytes() != rows[2].tobytes()


def test_training_that_starts_nearer_ends_lower(g: Any) -> None:
    """What was learnt is not lost: one epoch from a trained curve beats one epoch from the straight line."""
    options: dict[str, Any] = {"grid": 5}
    cold = g.connect("a", "b", method=CURVE(bends=2, epochs=1), **options)
    warm = g.connect("a", "b", method=CURVE(bends=2, epochs=1), init="curve", **options)
    loss = [c.swept().values["train", "loss"].mean() for c in (cold, warm)]
    assert loss[1] < loss[0]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("connect a c --curve --init curve", ("c is not an end of curve", "joins its ends")),
        ("connect a b c d --surface --init curve", ("c is not an end of curve",)),
        ("connect a b --curve --init a", ("a is a mode, not a connection",)),
        ("connect a b --curve --init nothing", ("nothing",)),
    ],
)
def test_what_cannot_be_a_start(
    g: Any, beside: Any, snapshot: Callable[..., Any], args: str, said: tuple[str, ...]
) -> None:
    before = snapshot(g.path)
    message = beside(*args.split(), "--no-sweep", code=2).stderr
    for part in said:
        assert part in message
    assert snapshot(g.path) == before


def test_a_simplex_of_four_starts_a_surface_but_none_starts_it(g: Any) -> None:
    bilinear = g.connect(*"abcd", method=SURFACE(epochs=0), init="tetra", grid=3)
    same(g.connection("wall").sweep(3), bilinear.swept())
    with pytest.raises(InputError, match="A simplex has no control points besides its ends"):
        g.connect(*"abcd", method=mgraph.Simplex(), init="s")


def _rows(g: Any, connected: Any) -> Any:
    nodes = [g.node(p["node"]).record for p in connected.describe()["control_points"]]
    return np.stack([g.session.store.read_parameters(node) for node in nodes])


@pytest.mark.parametrize(("method", "ends"), [(mgraph.Linear(), "ab"), (mgraph.Simplex(), "abc")])
def test_what_has_no_control_points_cannot_start_elsewhere(graph, method, ends):
    with pytest.raises(mgraph.MGraphError, match="no control points besides its ends"):
        graph.connect(*ends, method=method, init="s")
