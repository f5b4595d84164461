"""Sweeps of surfaces store the points of a grid as such, and what is read back is what was swept, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mgraph
from mgraph.families import BezierSurfaceFamily, TensorGrid
from mgraph.operations.sweepgrid import FactoredGrid
from mgraph_store import Member, Node, NodeTerm, assert_consistent
from mgraph_store.rows.records import GridTerm, PointBlock, PointGrid, TermBlock

SPLITS = {"splits": ("valid",), "examples": 20}


def require_exact(g: Any, data: Any, tables: Any) -> None:
    """Whatever a point is stored as, its terms are the family's coefficients, and its parameter the grid's."""
    found = tables(g, NodeTerm, Member)
    rows = [g.node(c.node_id).id for c in found["Member"] if c.role in ("end", "control")]
    terms: dict[str, dict[str, float]] = {}
    for t in sorted(found["NodeTerm"], key=lambda t: t.position):
        terms.setdefault(t.node_id, {})[t.source_id] = t.coefficient
    at = {m.node_id: m.parameter for m in found["Member"] if m.role == "sample"}
    expected = data.family.coefficients(data.grid.points).tolist()
    for node, c, parameter in zip(data.node_ids, expected, data.grid.points.tolist(), strict=True):
        assert list(at[node]) == parameter
        if node in terms:
            assert list(terms[node].values()) == [x for x in c if x != 0]
        else:
            assert node in rows


@pytest.fixture
def wall(g: Any) -> Any:
    return g.connection("wall")


def test_a_surface_is_stored_as_the_points_of_a_grid(g: Any, wall: Any, tables: Any) -> None:
    data = wall.sweep(9, **SPLITS)
    found = tables(g, PointGrid, GridTerm, PointBlock)
    (grid,) = found["PointGrid"]
    assert (list(grid.u), list(grid.v)) == (data.grid.axes[0].tolist(), data.grid.axes[1].tolist())
    assert len(found["GridTerm"]) == 4
    placed = [place for b in found["PointBlock"] if b.grid_id is not None for place in b.places]
    assert placed == [9 * i + j for i in range(1, 8) for j in range(1, 8)]
    require_exact(g, data, tables)
    assert_consistent(g.session.store, deep=True)
    sample = g.node(data.node_ids[30]).id
    listed = mgraph.open(g.path, device="cpu").session.store.read_parameters(sample)
    coefficients = np.float32(data.family.coefficients(data.grid.points)[30])
    ends = [g.session.store.read_parameters(end.id) for end in wall.ends]
    total = coefficients[0] * ends[0]
    for c, end in zip(coefficients[1:], ends[1:], strict=True):
        total = total + c * end
    assert listed.tobytes() == total.tobytes()


def test_few_points_have_lists_of_their_own(g: Any, wall: Any, tables: Any) -> None:
    data = wall.sweep(5, **SPLITS)
    found = tables(g, PointGrid, TermBlock)
    assert found["PointGrid"] == []
    assert found["TermBlock"]
    require_exact(g, data, tables)


def test_a_finer_sweep_puts_only_its_new_points_on_its_grid(g: Any, wall: Any, tables: Any) -> None:
    wall.sweep(9, **SPLITS)
    data = wall.sweep(17, **SPLITS)
    found = tables(g, PointGrid, PointBlock)
    first, second = found["PointGrid"]
    sizes = {grid.id: 0 for grid in (first, second)}
    for block in found["PointBlock"]:
        if block.grid_id is not None:
            sizes[block.grid_id] += len(block.node_ids)
    assert sizes == {first.id: 7 * 7, second.id: 15 * 15 - 7 * 7}
    require_exact(g, data, tables)
    assert_consistent(g.session.store, deep=True)


def test_an_interrupted_sweep_goes_on_with_another_grid(
    g: Any, wall: Any, tables: Any, reporter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mgraph.operations.sweeplog.FLUSH_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        wall.sweep(11, progress=reporter(25), **SPLITS)
    data = wall.sweep(11, **SPLITS)
    found = tables(g, PointGrid, PointBlock)
    assert len(found["PointGrid"]) == 2
    placed = [place for b in found["PointBlock"] if b.grid_id is not None for place in b.places]
    assert sorted(placed) == [11 * i + j for i in range(1, 10) for j in range(1, 10)]
    require_exact(g, data, tables)
    assert_consistent(g.session.store, deep=True)


def test_a_grid_that_was_taken_away_meanwhile_is_stored_again(
    g: Any, wall: Any, tables: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its only block is dissolved when one of its points is removed."""
    monkeypatch.setattr("mgraph.operations.sweeplog.FLUSH_SECONDS", 0.0)
    gone: list[str] = []

    def progress(_: Any) -> None:
        found = tables(g, PointBlock)["PointBlock"]
        if not gone and (placed := [b for b in found if b.grid_id is not None]):
            gone.append(placed[0].grid_id)
            with g.session.store.transaction() as tx:
                tx.remove(NodeTerm, "node_id", placed[0].node_ids[:1])
            with g.session.store.transaction() as tx:  # what is added is removed, too, if that is done at once
                tx.add(*[NodeTerm(n, 0, wall.ends[0].id, 1.0) for n in placed[0].node_ids[:1]])
            assert tables(g, PointGrid)["PointGrid"] == []

    wall.sweep(9, progress=progress, **SPLITS)
    assert [grid.id for grid in tables(g, PointGrid)["PointGrid"]] == gone
    assert_consistent(g.session.store, deep=True)


def test_a_coefficient_that_is_no_product_is_in_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    family, axis = BezierSurfaceFamily((2, 2)), np.linspace(0, 1, 9)
    grid = TensorGrid((axis, axis))
    nodes = [Node(f"m{k}", "mode", "a", tensor_key="t") for k in range(9)]
    coefficients = family.coefficients(grid.points)
    coefficients[40, 4] = np.nextafter(coefficients[40, 4], 1)
    found = FactoredGrid.of(family, grid, coefficients, nodes, ())
    assert found is not None
    assert sorted(found.places.values()) == [9 * i + j for i in range(1, 8) for j in range(1, 8) if 9 * i + j != 40]
    assert FactoredGrid.of(family, grid, coefficients, nodes, list(found.places)[:15]) is None
    monkeypatch.setattr("mgraph.operations.sweepgrid.GRID_TERMS", 8)
    assert FactoredGrid.of(family, grid, coefficients, nodes, ()) is None
