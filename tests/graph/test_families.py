"""Every shape of connection from end to end: what is stored, swept, merged, drawn and written is θ(t) = c(t)ᵀP."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import mgraph
from mgraph_store import Layout, Node, assert_consistent

Point = Callable[[np.ndarray, list[float]], np.ndarray]


def casteljau(rows: np.ndarray, t: float) -> np.ndarray:
    """A point of a Bézier curve by repeated interpolation: another way than the package's."""
    while len(rows) > 1:
        rows = (1 - t) * rows[:-1] + t * rows[1:]
    return np.asarray(rows[0])


def on_curve(rows: np.ndarray, at: list[float]) -> np.ndarray:
    return casteljau(rows, at[0])


def on_surface(*degree: int) -> Point:
    n, m = degree

    def point(rows: np.ndarray, at: list[float]) -> np.ndarray:
        u, v = at
        across = [casteljau(rows[i * (m + 1) : (i + 1) * (m + 1)], v) for i in range(n + 1)]
        return casteljau(np.stack(across), u)

    return point


def on_chain(rows: np.ndarray, at: list[float]) -> np.ndarray:
    pieces = len(rows) - 1
    piece = min(int(at[0] * pieces), pieces - 1)
    part = at[0] * pieces - piece
    return np.asarray((1 - part) * rows[piece] + part * rows[piece + 1])


def on_simplex(rows: np.ndarray, at: list[float]) -> np.ndarray:
    return np.asarray(sum(a * row for a, row in zip(at, rows, strict=True)))


# Ends and method; the grid asked for, its points; what stands in the graph; a point in between, and how to get there.
CASES: dict[str, tuple[str, str, int, dict[str, Any], str, Point]] = {
    "a segment": ("a b --linear", "5", 5, {"family": "segment"}, "0.3", on_curve),
    "a bilinear surface": (
        "a b c d --linear",
        "2,3",
        6,
        {"family": "bezier-surface", "degree": [1, 1]},
        "0.3,0.8",
        on_surface(1, 1),
    ),
    "a simplex of three": ("a b c --simplex", "4", 10, {"family": "simplex", "corners": 3}, "0.2,0.3,0.5", on_simplex),
    "a simplex of four": (
        "d c b a --simplex",
        "3",
        10,
        {"family": "simplex", "corners": 4},
        "0.1,0,0.3,0.6",
        on_simplex,
    ),
    "a chain": ("a b --chain --bends 3 --epochs 1", "7", 7, {"family": "polygonal-chain", "bends": 3}, "0.6", on_chain),
    "a curve": ("a b --curve --bends 2 --epochs 1", "7", 7, {"family": "bezier-curve", "bends": 2}, "0.6", on_curve),
    "a surface": (
        "a b c d --surface --degree 3,2 --epochs 1",
        "4,3",
        12,
        {"family": "bezier-surface", "degree": [3, 2]},
        "0.25,0.9",
        on_surface(3, 2),
    ),
}


# A simplex of four corners has what one of three has, and a surface what a curve has.
_LESS = ("a simplex of three", "a curve")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.stress] * (n in _LESS)) for n in CASES])
def test_what_is_connected_is_where_its_formula_says(g: Any, beside: Any, name: str) -> None:
    args, grid, points, family, at, formula = CASES[name]
    row = beside("connect", *args.split(), "--grid", grid, "--name", "new", "--json").row
    ends = [word for word in args.split() if word in set("abcd")]
    assert (row["family"], row["ends"], row["status"]) == (family, ends, "complete")
    pairs = [(e["source"], e["target"]) for e in row["edges"] if (e["split"], e["metric"]) == ("test", "loss")]
    assert pairs == list(combinations(ends, 2))
    store, connected = g.session.store, g.connection("new")
    with store.reading() as reader:
        nodes = {node.id: node for node in reader.all(Node)}
    rows = np.stack([store.read_parameters(nodes[p["node"]]) for p in row["control_points"]])
    swept = connected.swept()
    assert swept.parameters.shape == (points, 1 if "segment" in name else len(at.split(",")))
    exact = rows.astype(np.float64)
    for node_id, parameter in zip(swept.node_ids, swept.parameters.tolist(), strict=True):
        found = store.read_parameters(nodes[node_id])
        np.testing.assert_allclose(found, formula(exact, parameter), rtol=0, atol=1e-6)
    middle = next(i for i, node_id in enumerate(swept.node_ids) if nodes[node_id].kind == "sample")
    again = g.node(swept.node_ids[middle]).evaluate("test")["loss"].value
    assert again == pytest.approx(swept.values["test", "loss"][middle], abs=1e-6)

    if "--linear" in args:
        return  # whose merging has tests of its own
    merged = beside("merge", "new", "--at", at, "--force", "--name", "m", "--json").row
    assert merged["parameter"] == [float(part) for part in at.split(",")]
    beside("export", "m", "-o", "m.safetensors")
    written = load_file(g.path.parent / "m.safetensors")
    offsets, there = offsets_of(g), formula(exact, merged["parameter"])
    for tensor, values in g.node("m").tensors().items():
        start = offsets[tensor]
        np.testing.assert_array_equal(written[tensor], values)
        np.testing.assert_allclose(values.ravel(), there[start : start + values.size], rtol=0, atol=1e-6)
    counts = beside("ensemble", "new", "--grid", 2, "--json").row["grid"]
    assert counts == ([2, 2] if "surface" in name else [2])
    assert_consistent(store)


def offsets_of(g: Any) -> dict[str, int]:
    """Where each tensor's coordinates begin in the canonical order."""
    parameters = Layout.from_json(g.session.space().layout).parameters
    starts = np.cumsum([0, *(spec.size for spec in parameters)]).tolist()
    return {spec.name: start for spec, start in zip(parameters, starts[:-1], strict=True)}


@pytest.mark.stress  # tests/report has tables and pictures of both in every run
def test_tables_and_pictures_of_the_new_shapes(g: Any, beside: Any, tmp_path: Path) -> None:
    for name, ends in (("chain", ["a", "b"]), ("tri", ["a", "b", "c"]), ("tetra", ["a", "b", "c", "d"])):
        beside("sweep", name, "--grid", 3)
        table = beside("show", name, "--table", "--json").row
        assert table["ends"] == ends
        shown = beside("show", name, "--table").stdout
        assert ("best on validation data" in shown) == (name != "chain")
        assert " int " in shown
        assert "length" in shown if name == "chain" else "length" not in shown
    for name in ("chain", "tri"):
        beside("plot", name, "-o", f"{name}.svg", "--no-before")
        assert "</svg>" in (g.path.parent / f"{name}.svg").read_text()
    assert "drawn" in beside("plot", "tetra", "-o", "tetra.svg", code=2).stderr


@pytest.mark.stress  # test_sweeps has one without a grid in every run
def test_without_a_grid_a_simplex_has_one_of_its_own(beside: Any) -> None:
    row = beside("connect", *"abc", "--simplex", "--json").row
    assert row["sweeps"][0]["grid"] == [11]
    assert len(beside("ls", "--kind", "sample", "--json").rows) == 11 * 12 // 2 - 3  # the corners are modes


def test_a_straight_simplex_is_the_lines_between_its_corners(g: Any, beside: Any) -> None:
    """Along an edge of a simplex, and of a bilinear surface, lies the segment of the two modes."""
    line = g.connect("a", "c", method=mgraph.Linear(), grid=6).swept()
    tri = g.connection("tri").sweep(6)
    along = [i for i, p in enumerate(tri.parameters.tolist()) if p[1] == 0]
    order = np.argsort(-tri.parameters[along, 0])
    wall = g.connection("wall").sweep((6, 2))  # a at (0,0), c at (1,0)
    edge = [i for i, p in enumerate(wall.parameters.tolist()) if p[1] == 0]
    for key, values in line.values.items():
        np.testing.assert_allclose(tri.values[key][along][order], values, atol=1e-6)
        np.testing.assert_allclose(wall.values[key][edge], values, atol=1e-6)
