"""Planes: where their points are, what is measured there, and what is projected on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mgraph
from mgraph.errors import InputError
from mgraph.families.gram import gram
from mgraph.operations.planes import around, directions, principal, through
from mgraph_store import Layout, Space

RNG = np.random.default_rng(0)
POINTS = [RNG.normal(size=50).astype(np.float32) for _ in range(5)]


def position(family: Any, points: list[Any], t: Any) -> Any:
    """The weights at parameters, shape (S, D)."""
    return family.coefficients(t) @ np.array(points, dtype=np.float64)


def test_the_plane_through_three_points_is_orthonormal_and_has_a_margin() -> None:
    a, b, c = (p.astype(np.float64) for p in POINTS[:3])
    family = through(gram(POINTS[:3]), 0.2, [0, 1, 2], list("abc"))
    np.testing.assert_allclose(position(family, POINTS[:3], family.end_parameters()), [a, b, c], atol=1e-12)
    corner, right, up = position(family, POINTS[:3], [[0, 0], [1, 0], [0, 1]])
    assert abs((right - corner) @ (up - corner)) < 1e-10
    assert np.linalg.norm(right - corner) == pytest.approx(family.x[1] - family.x[0])
    assert np.linalg.norm(up - corner) == pytest.approx(family.y[1] - family.y[0])
    page = family.page(family.end_parameters())
    assert np.linalg.norm(page[1] - page[2]) == pytest.approx(np.linalg.norm(b - c))
    wide, high = np.ptp(page, axis=0)
    assert family.x == pytest.approx((page[:, 0].min() - 0.2 * wide, page[:, 0].max() + 0.2 * wide))
    assert family.y == pytest.approx((-0.2 * high, 1.2 * high))
    grid = family.grid(7)
    assert grid.counts == (7, 7)
    assert [tuple(grid.points[i]) for i in grid.ends] == list(family.at)  # nodes lie on the grid, bit for bit


def test_principal_components_are_those_of_the_differences_to_the_last() -> None:
    family, explained = principal(gram(POINTS), 0.1, list("abcde"))
    D = np.array(POINTS[:-1], dtype=np.float64) - POINTS[-1]
    _, s, V = np.linalg.svd(D, full_matrices=False)
    assert explained == pytest.approx((s**2 / (s**2).sum())[:2].tolist())
    corner, right, up = position(family, POINTS, [[0, 0], [1, 0], [0, 1]])
    for side, direction in ((right - corner, V[0]), (up - corner, V[1])):
        assert abs(side @ direction) == pytest.approx(np.linalg.norm(side))
    np.testing.assert_allclose(position(family, POINTS, family.end_parameters()), [POINTS[-1]], atol=1e-12)


def test_random_directions_are_filter_normalised_and_orthogonal(path: Path) -> None:
    g = mgraph.open(path, device="cpu")
    with g.session.store.reading() as reader:
        layout = Layout.from_json(reader.all(Space)[0].layout)
    theta = np.asarray(g.session.store.read_parameters(g.node("a").record))
    one, other = directions(layout, theta, seed=3)
    assert abs(one.astype(float) @ other) < 1e-3 * np.linalg.norm(one) * np.linalg.norm(other)
    given = layout.parameter_views(theta)
    for drawn in (one, other):
        for name, tensor in layout.parameter_views(drawn).items():
            if tensor.ndim < 2:
                assert not tensor.any()
            else:
                norms = [np.linalg.norm(t.reshape(len(t), -1), axis=1) for t in (tensor, given[name])]
                np.testing.assert_allclose(*norms, rtol=1e-5)
    assert not np.array_equal(one, directions(layout, theta, seed=4)[0])
    assert around(2.0).page([[0.5, 0.5]]).tolist() == [[0.0, 0.0]]


@pytest.fixture(scope="module")
def planes(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The template with a plane of each sort, measured on few points."""
    path = Path(shutil.copytree(template, tmp_path_factory.mktemp("planes") / "digits.mgraph"))
    g = mgraph.open(path, device="cpu")
    g.plane("a", "b", "c", name="abc", grid=5)
    g.plane("a", random=True, name="around", grid=4, splits=["train"], examples=200)
    g.plane(*"abcd", pca=True, name="parts", grid=4, splits=["train", "test"])
    return g


def test_its_nodes_have_the_numbers_that_other_sweeps_found(planes: Any) -> None:
    """Statistics are recomputed for every cell as in every sweep, so the modes have the same loss on a plane."""
    data, line = planes.connection("abc").swept(), planes.connection("line").swept()
    for end, place in ((0, 0), (1, len(line.grid) - 1)):
        assert data.values["test", "loss"][data.grid.ends[end]] == line.values["test", "loss"][place]
    assert len(set(data.node_ids)) == 25
    assert [data.node_ids[i] for i in data.grid.ends] == [p.id for p in planes.connection("abc").ends]
    edges = planes.connection("abc").describe()["edges"]
    assert {(e["source"], e["target"]) for e in edges} == {("a", "b"), ("a", "c"), ("b", "c")}


def test_a_plane_is_taken_up_again(planes: Any) -> None:
    before = len(planes.runs())
    again = planes.plane("a", "b", "c", grid=5)
    assert again.id == planes.connection("abc").id
    assert "25 of 25 points were measured before" in " ".join(planes.connection("abc").sweep(5).notes)
    assert len(planes.runs()) == before + 2  # two sweeps, no new plane
    with pytest.raises(InputError, match="at least 5 points along each direction, not 3"):
        planes.plane("a", "b", "c", grid=3)


def test_merging_and_exporting_work_on_its_cells(planes: Any, tmp_path: Path) -> None:
    abc = planes.connection("abc")
    merged = abc.merge(at=[0.25, 0.25], force=True, name="cell")
    place = abc.record.id and json.loads(abc.record.family)
    c = np.array(place["origin"]) + 0.25 * np.array(place["across"]) + 0.25 * np.array(place["up"])
    wanted = sum(
        k * np.asarray(planes.session.store.read_parameters(p.record)) for k, p in zip(c, abc.ends, strict=True)
    )
    np.testing.assert_allclose(planes.session.store.read_parameters(merged.node), wanted, atol=1e-5)
    planes.node("cell").export(tmp_path / "cell.safetensors")
    assert (tmp_path / "cell.safetensors").stat().st_size > 1000
    assert planes.connection("abc").basins().rows()


def test_a_plane_around_one_node_is_a_connection_too(planes: Any) -> None:
    one = planes.connection("around")
    assert [point.name for point in one.ends] == ["a"]
    assert one.describe()["edges"] == []
    assert one.swept().grid.counts == (4, 4)
    assert "filter-normalised" in one.record.reason
    assert one.at(0.5, 0.5).id == planes.node("a").id


def test_a_path_is_projected_with_its_distance(planes: Any) -> None:
    abc, curve = planes.connection("abc"), planes.connection("curve")
    trace = abc.project("curve")
    rows = [np.asarray(planes.session.store.read_parameters(p), dtype=np.float64) for p in rows_of(planes, curve)]
    family = planes.session.family_of(curve.record)
    points = family.coefficients(trace.t[:, None]) @ np.array(rows)
    a, b, c = (np.asarray(planes.session.store.read_parameters(p.record), dtype=np.float64) for p in abc.ends)
    basis = np.linalg.qr(np.stack([b - a, c - a]).T)[0]
    away = (points - a) - (points - a) @ basis @ basis.T
    np.testing.assert_allclose(trace.distance, np.linalg.norm(away, axis=1), atol=1e-4)
    assert trace.distance[[0, -1]] == pytest.approx([0, 0], abs=1e-6)
    assert trace.distance.max() > 0.01
    np.testing.assert_allclose(
        np.hypot(trace.x - trace.x[0], trace.y - trace.y[0])[-1], np.linalg.norm(b - a), rtol=1e-6
    )
    bend = next(p.id for p in rows_of(planes, curve) if p.kind == "control")
    own = planes.plane("a", "b", bend, sweep=False)
    assert own.project(curve).distance.max() < 1e-5  # its own plane holds the curve ([G] fig. 1)
    assert [point.name for point in own.ends] == ["a", "b"]


def rows_of(g: Any, connected: Any) -> list[Any]:
    from mgraph.session.members import rows_of as rows

    with g.session.store.reading() as reader:
        return rows(reader, connected.record)


@pytest.mark.stress  # its sweep is resumed as any in test_resume
def test_an_interrupted_plane_is_resumed(path: Path) -> None:
    g = mgraph.open(path, device="cpu")

    def stop(progress: Any) -> None:
        if progress.phase == "sweep" and progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        g.plane("a", "b", "c", name="abc", grid=5, splits=["train"], progress=stop)
    stopped = g.runs()[-1]
    assert (stopped["command"], stopped["resumable"]) == ("sweep", True)
    g.resume(stopped["id"])
    assert g.connection("abc").swept().grid.counts == (5, 5)
    assert [run["command"] for run in g.runs()].count("plane") == 1


@pytest.mark.parametrize(
    ("nodes", "keywords", "said"),
    [
        (("a", "b", "middle"), {}, r"a, b, middle lie on a line, so they span no plane"),
        (("a", "b", "elsewhere"), {}, "elsewhere.*different networks"),
        (("a", "b"), {}, "goes through three nodes; 2 given"),
        (("a", "b", "a"), {}, "a is given twice"),
        (("a", "b"), {"random": True}, "lies around one node; 2 given"),
        (("a", "b"), {"pca": True}, "takes three or more nodes; 2 given"),
        (("a", "b", "middle"), {"pca": True}, "lie on a line"),
        (("a", "b", "c"), {"pca": True, "random": True}, "not both"),
        (("a", "b", "c"), {"margin": -0.1}, "margin of a plane"),
        (("a",), {"random": True, "radius": 0.0}, "radius of a plane"),
    ],
)
def test_what_spans_no_plane(planes: Any, nodes: tuple[str, ...], keywords: Any, said: str) -> None:
    if "middle" in nodes and not any(n["name"] == "middle" for n in planes.nodes()):
        planes.connection("line").merge(at=0.5, force=True, name="middle")
    if "elsewhere" in nodes:
        planes.add_space(arch="mlp?hidden=4,", data="digits", name="small")
        planes.train(space="small", seed=0, epochs=1, name="elsewhere")
    before = len(planes.connections())
    with pytest.raises(InputError, match=said):
        planes.plane(*nodes, **keywords)
    assert len(planes.connections()) == before


def test_commands(planes: Any, commands: Any) -> None:
    run = commands(Path(planes.path).parent)
    made = run("plane", "a", "b", "c", "--grid", "5", "--path", "curve", "--path", "line", "-o", "p.png")
    assert "The plane is abc: plane through a, b, c." in made.stderr
    assert run("plane", "a", "b", "c", "--grid", "5", "--json").row["kind"] == "plane"
    run("plot", "parts", "-o", "q.svg", "--split", "train", "--metric", "loss")
    assert "is a surface, not a path" in run("plane", "a", "b", "c", "--path", "s", "-o", "x.png", code=2).stderr
    assert "-o plane.png" in run("plane", "a", "b", "c", "--path", "curve", code=2).stderr
    assert "seen from above, and s is a surface" in run("plot", "s", "-o", "x.png", "--path", "curve", code=2).stderr
    assert "leave out --no-sweep" in run("plane", "a", "b", "c", "-o", "x.png", "--no-sweep", code=2).stderr
    assert not (Path(planes.path).parent / "x.png").exists()
    assert "plane" in run("--help").stdout
