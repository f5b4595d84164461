"""Points of a grid are what they would be with lists of their own, bit for bit, whatever becomes of them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgraph_store import Connection, Evaluation, GraphStore, Member, Node, NodeTerm, Record, Sweep, new_id, problems
from mgraph_store.errors import CorruptError, FormatError, InputError
from mgraph_store.exchange.arrival import unpack
from mgraph_store.exchange.bundle import pack
from mgraph_store.index.changes import Changes
from mgraph_store.index.reader import Reader
from mgraph_store.rows import limits
from mgraph_store.rows.blocks import GRID_TERMS, Gathering, Number
from mgraph_store.rows.ids import random_characters
from mgraph_store.rows.records import GridTerm, PointBlock, PointGrid
from mgraph_store.rows.schema import BLOCKS, ROWS
from mgraph_store.upkeep.removal import plan_removal
from mgraph_store.upkeep.repair import repair
from tests.store.test_blocks import databases, read, remove, write

__all__ = ["databases"]

MANY = int(os.environ.get("MGRAPH_EXAMPLES", "1"))  # so many times more of them: make stress
SOURCES = ("maaaaaaaaaaa2", "maaaaaaaaaaa3", "maaaaaaaaaaa4")
LOSS = Number("w", None, "test", "all", "none", "fp32", "loss", 10)
Portion = tuple[list[Record], list[Record]]


def on_grid(
    grid: PointGrid, terms: Sequence[GridTerm], nodes: dict[int, str], connection: str | None, points: Gathering
) -> list[Record]:
    """Gather points at some places of a grid, every other one measured; return the rows that they stand for."""
    rows: list[Record] = []
    for place, node in nodes.items():
        i, j = divmod(place, len(grid.v))
        numbers = {LOSS: (place / 3, None)} if place % 2 else {}
        points.add(node, sample_of=connection, position=place, numbers=numbers.items(), grid_id=grid.id, place=place)
        for t in terms:
            with np.errstate(over="ignore", under="ignore"):
                product = float(np.multiply(t.along_u[i], t.along_v[j]))
            rows.append(NodeTerm(node, t.position, t.source_id, product))
        if connection is not None:
            rows.append(Member(connection, node, "sample", place, None, [grid.u[i], grid.v[j]]))
        rows += [Evaluation(node, w.sweep_id, None, *w[2:7], *n, w.examples) for w, n in numbers.items()]
    return rows


factors = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def grids(draw: st.DrawFn, name: str) -> list[Portion]:
    """Portions in which points of a grid are stored: as rows, and in blocks."""
    height, width = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    lists = [st.lists(factors, min_size=n, max_size=n) for n in (height, width)]
    grid = PointGrid(f"q{name}", draw(lists[0]), draw(lists[1]))
    terms = [
        GridTerm(grid.id, k, draw(st.sampled_from(SOURCES)), draw(lists[0]), draw(lists[1]))
        for k in range(draw(st.integers(1, 3)))
    ]
    places = draw(st.lists(st.integers(0, height * width - 1), min_size=1, unique=True))
    cut = draw(st.integers(1, len(places)))
    portions: list[Portion] = []
    for k, some in enumerate((places[:cut], places[cut:])):
        points, connection = Gathering(), draw(st.sampled_from(("k", "q", None)))
        rows = on_grid(grid, terms, {p: f"{name}{p}" for p in some}, connection, points)
        portions.append((rows, [*points.records(), *([grid, *terms] if k == 0 else ())]))
    return portions


removals = st.sampled_from(
    [("evaluations", "sweep_id", ["w"]), ("members", "connection_id", ["k"]), ("members", "role", ["sample"])]
    + [("node_terms", "source_id", [source]) for source in SOURCES]
    + [(table, "node_id", nodes) for table in ROWS for nodes in (["a0"], ["a1", "b0"], [f"a{i}" for i in range(9)])]
)


@settings(max_examples=8 * MANY, deadline=None)
@given(grids("a"), grids("b"), st.lists(removals, max_size=6))
def test_points_of_a_grid_are_as_in_rows(
    databases: list[duckdb.DuckDBPyConnection],
    first: list[Portion],
    second: list[Portion],
    removed: list[tuple[str, str, list[str]]],
) -> None:
    """As written, as made from the journal, and after removals, of which the same ones remove anything."""
    write(databases, [*first, *second])
    for part in ([], removed[:2], removed[2:]):
        remove(databases, part)
        _require_read_alike(databases[1])
        _require_tidy(databases[1])


def _require_read_alike(con: duckdb.DuckDBPyConnection) -> None:
    reader = Reader(con)
    asked: list[tuple[type[Any], dict[str, Any]]] = [
        (NodeTerm, {}),
        (NodeTerm, {"node_id": ["a0", "b1", "a2"]}),
        (NodeTerm, {"source_id": SOURCES[0], "node_id": [f"b{i}" for i in range(9)]}),
        (NodeTerm, {"position": 1}),
        (Member, {}),
        (Member, {"node_id": ["a0", "b1"], "connection_id": "k"}),
    ]
    for kind, equals in asked:
        assert repr(reader.all(kind, **equals)) == repr(reader.all(kind, where="TRUE", **equals))


def _require_tidy(con: duckdb.DuckDBPyConnection) -> None:
    named = {grid for (grid,) in con.execute("SELECT DISTINCT grid_id FROM point_blocks").fetchall()}
    there = con.execute("SELECT id FROM point_grids UNION SELECT grid_id FROM grid_terms").fetchall()
    assert {grid for (grid,) in there} <= named


def surface(graph: Any, side: int = 30) -> tuple[list[Record], PointGrid, list[GridTerm]]:
    """Store a sweep of a surface as points of a grid, in two portions; return the rows that they stand for."""
    a, b = graph.add(graph.parameters(), graph.parameters(1), names=("a", "b"))
    connection, *ends = graph.connection(a, b, "k")
    sweep = Sweep(new_id("w"), connection.id, None, (side, side), "none", "fp32")
    axis = np.linspace(0, 1, side)
    grid = PointGrid("q" + random_characters(12), axis.tolist(), (axis**2).tolist())
    terms = [
        GridTerm(grid.id, k, node.id, (1 / (axis + k + 1)).tolist(), np.cos(axis + k).tolist())
        for k, node in enumerate((a, b))
    ]
    what, rows = LOSS._replace(sweep_id=sweep.id), list[Record]()
    with graph.store.transaction() as tx:
        tx.add(connection, *ends, sweep)
    for part in (range(side * side // 2), range(side * side // 2, side * side)):
        points = Gathering()
        with graph.store.transaction() as tx:
            for place in part:
                node = Node(new_id("s"), "sample", graph.space.id, kernel=1)
                tx.add(node)
                points.add(
                    node.id,
                    sample_of=connection.id,
                    position=place,
                    grid_id=grid.id,
                    place=place,
                    numbers=[(what, (float(place), 0.5))],
                )
                i, j = divmod(place, side)
                rows.append(node)
                rows += [NodeTerm(node.id, t.position, t.source_id, t.along_u[i] * t.along_v[j]) for t in terms]
                rows.append(Member(connection.id, node.id, "sample", place, None, (grid.u[i], grid.v[j])))
            tx.add(*points.records(), *([grid, *terms] if part.start == 0 else ()))
    return rows, grid, terms


def test_a_surface_is_read_as_its_rows(graph: Any) -> None:
    rows, _, _ = surface(graph)
    samples = {r.id: r for r in rows if isinstance(r, Node)}
    for kind in (NodeTerm, Member):
        with graph.store.reading() as reader:
            found = [r for r in reader.all(kind, order="rowid") if r.node_id in samples]
            assert repr(found) == repr([r for r in rows if isinstance(r, kind)])
            some = list(samples)[400:600:50]
            assert repr(sorted(reader.all(kind, node_id=some), key=repr)) == repr(
                sorted((r for r in rows if isinstance(r, kind) and r.node_id in some), key=repr)
            )
    terms = [r for r in rows if isinstance(r, NodeTerm)][700:702]
    with graph.store.reading() as reader:
        sources = [reader.find_node(name) for name in "ab"]
    listed, (same,) = graph.derive([t.coefficient for t in terms], sources), {t.node_id for t in terms}
    assert graph.store.read_parameters(same).tobytes() == graph.store.read_parameters(listed).tobytes()
    assert problems(graph.store, deep=True) == []


def test_a_bundle_of_a_surface_has_the_rows(graph: Any, tmp_path: Any) -> None:
    surface(graph)
    with graph.store.reading() as reader:
        pack(graph.store, [reader.find("k").id], tmp_path / "k.zip")
    other = GraphStore.create(tmp_path / "other.mgraph")
    unpack(other, tmp_path / "k.zip")
    for kind in (NodeTerm, Member, Evaluation):
        assert sorted(read(graph.store, kind)) == sorted(read(other, kind))
    with other.reading() as reader:
        assert reader.query("SELECT count(*) FROM point_grids")[1] == [(0,)]
    assert problems(other, deep=True) == []


def test_removing_a_surface_leaves_no_grid(graph: Any) -> None:
    rows, _, _ = surface(graph)
    node = next(r for r in rows if isinstance(r, Node))
    with graph.store.transaction() as tx:
        for kind in (NodeTerm, Member, Evaluation):
            tx.remove(kind, "node_id", [node.id])
        tx.remove(Node, "id", [node.id])
    assert problems(graph.store, deep=True) == []
    for kind in (NodeTerm, Member):
        with graph.store.reading() as reader:
            found = [r for r in reader.all(kind) if getattr(r, "role", "sample") == "sample"]
        assert sorted(map(repr, found)) == sorted(repr(r) for r in rows if isinstance(r, kind) and r.node_id != node.id)
    with graph.store.reading() as reader:
        plan = plan_removal(reader, [reader.find_connection("k")])
    plan.apply(graph.store)
    with graph.store.reading() as reader:
        for table in (*BLOCKS, *ROWS.values()):
            assert reader.query(f"SELECT count(*) FROM {table}")[1] == [(0,)]
    assert problems(graph.store, deep=True) == []


def test_the_journal_makes_the_grids_anew(graph: Any) -> None:
    surface(graph)
    before = [read(graph.store, kind) for kind in (NodeTerm, Member)]
    (graph.store.path / "index.duckdb").unlink()
    store = GraphStore(graph.store.path)
    repair(store)
    assert [read(store, kind) for kind in (NodeTerm, Member)] == before
    assert problems(store, deep=True) == []


def test_the_views_use_nothing_that_duckdb_1_4_has_not(graph: Any) -> None:
    """It reads the index, too, but knows no function ``if``."""
    with graph.store.reading() as reader:
        stored = " ".join(sql for (sql,) in reader.query("SELECT sql FROM duckdb_views() WHERE NOT internal")[1])
    assert "lambda" in stored
    assert '"if"(' not in stored


N, U, V = ["s1", "s2"], [0.0, 1.0], [0.0, 0.5, 1.0]
GRID, POINTS = PointGrid("q", U, V), PointBlock("b", N, "k", [0, 1], None, "q", [0, 5])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([GRID], "Grid q has no points"),
        ([PointGrid("q", [], V), POINTS], "it has no points"),
        ([PointGrid("q", [0.0] * 2001, [0.0] * 2000), POINTS], f"of at most {limits.SWEEP_POINTS}"),
        ([GRID, POINTS, GridTerm("q", 0, "m", U, U)], "has 2 by 3 points, but a term with 2 and 2 factors"),
        ([GRID, POINTS, GridTerm("q", GRID_TERMS, "m", U, V)], f"at most {GRID_TERMS} terms"),
        ([GRID, POINTS, GridTerm("q", -1, "m", U, V)], "its position is -1"),
        ([GRID, POINTS, *[GridTerm("q", 0, "m", U, V)] * 2], "two terms at position 0"),
        ([POINTS, GridTerm("q", 0, "m", U, V)], "not added with it"),
        ([GRID, PointBlock("b", N, None, None, None, "q", [0, 6])], "at place 6 of a grid of 6"),
        ([GRID, PointBlock("b", N, None, None, None, "q", [-1, 0])], "at place -1"),
        ([GRID, PointBlock("b", N, None, None, None, "q", [0])], "a list of 1"),
        ([GRID, PointBlock("b", N, None, None, None, "q")], "either a grid or places"),
        ([GRID, PointBlock("b", N, None, None, None, None, [0, 1])], "either a grid or places"),
        ([GRID, PointBlock("b", N, "k", [0, 1], [[0.0], [1.0]], "q", [0, 1])], "a grid that says them"),
        ([GRID, PointBlock("b", N, "k", None, None, "q", [0, 1])], "incomplete"),
        ([PointBlock("b", N, None, None, None, "q", [0, 1])], "not in "),
        ([GRID, POINTS, GridTerm("q", 0, "mzzzzzzzzzzzz", U, V)], "not in "),
    ],
)
def test_a_grid_that_does_not_hold_together_is_refused(graph: Any, wrong: list[Record], message: str) -> None:
    graph.add(graph.parameters())
    with pytest.raises(InputError, match=message), graph.store.transaction() as tx:
        tx.add(*wrong)
    assert problems(graph.store, deep=True) == []


@pytest.mark.parametrize("again", [False, True])
def test_points_that_come_later_must_be_on_the_grid(graph: Any, again: bool) -> None:
    """Whether this process knows the grid, or the index is asked."""
    _, grid, _ = surface(graph, side=6)
    store = GraphStore(graph.store.path) if again else graph.store
    node = Node(new_id("s"), "sample", graph.space.id, kernel=1)
    for place, refused in ((36, True), (35, False)):
        points = Gathering()
        points.add(node.id, grid_id=grid.id, place=place)

        def add(points: Gathering = points) -> None:
            with store.transaction() as tx:
                tx.add(node, *points.records())

        if refused:
            with pytest.raises(InputError, match="at place 36 of a grid of 36"):
                add()
        else:
            add()
    assert problems(store, deep=True) == []


def test_a_derived_node_is_no_source_of_a_grid(graph: Any) -> None:
    rows, _, _ = surface(graph, side=6)
    sample = next(r for r in rows if isinstance(r, Node))
    node = Node(new_id("s"), "sample", graph.space.id, kernel=1)
    block = PointBlock("b", [node.id], None, None, None, "q", [0])
    with pytest.raises(InputError, match="is derived"), graph.store.transaction() as tx:
        tx.add(node, GRID, block, GridTerm("q", 0, sample.id, U, V))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE point_blocks SET places = list_transform(places, lambda k: k + 36)", "where each of its points is"),
        ("UPDATE point_blocks SET places = list_transform(places, lambda k: -k - 1)", "where each of its points is"),
        ("UPDATE point_grids SET v = v[1:2]", "where each of its points is"),
        ("UPDATE grid_terms SET along_u = along_u[1:2]", "where each of its points is"),
        ("UPDATE grid_terms SET along_v = list_append(along_v, 1)", "where each of its points is"),
        ("DELETE FROM point_grids", "is not in point_grids"),
        ("UPDATE point_blocks SET places = places[1:2]", "does not say the same"),
        (
            f"INSERT INTO grid_terms SELECT grid_id, {GRID_TERMS} + range, source_id, along_u, along_v "
            "FROM grid_terms, range(200)",
            "where each of its points is",
        ),
    ],
)
def test_a_damaged_grid_is_said_to_be(damaged: Any, damage: str, said: str) -> None:
    surface(damaged, side=6)
    read(damaged.store, Connection)
    with duckdb.connect(str(damaged.store.path / "index.duckdb")) as con:
        con.execute(damage)
    assert any(said in problem for problem in problems(damaged.store))
    with pytest.raises(CorruptError, match="mgraph check"), damaged.store.reading() as reader:
        reader.all(NodeTerm)


@pytest.mark.parametrize(
    ("block", "terms"),
    [
        (PointBlock("b", ["m"], None, None, None, "q", [6]), [GridTerm("q", 0, "m", U, V)]),
        (PointBlock("b", ["m"], None, None, None, "q", [-1]), [GridTerm("q", 0, "m", U, V)]),
        (PointBlock("b", ["m"], None, None, None, "q", [0]), [GridTerm("q", 0, "m", U, U)]),
        (PointBlock("b", ["m"], None, None, None, "q", [0]), [GridTerm("q", 0, "m", U, V)] * (GRID_TERMS + 1)),
        (PointBlock("b", ["m"], None, None, None, "r", [0]), [GridTerm("r", 0, "m", U, V)]),
    ],
    ids=["a place behind", "a place before", "too few factors", "too many terms", "no such grid"],
)
def test_what_a_strange_journal_says_of_a_grid_is_not_believed(
    damaged: Any, block: PointBlock, terms: list[GridTerm]
) -> None:
    """Nobody verifies a record that an index lacks; who reads the rows does."""
    journal = damaged.store.index.journal
    count = journal.count()
    assert count is not None
    journal.append(count, Changes.of({PointGrid: [GRID], PointBlock: [block], GridTerm: terms}, ()).document())
    store = GraphStore(damaged.store.path)
    with pytest.raises(CorruptError, match=f"Grid {block.grid_id} does not say"), store.reading() as reader:
        reader.all(NodeTerm)
    assert any("Grid q" in problem or "point_grids" in problem for problem in problems(store))


def test_a_record_of_the_journal_with_other_columns_is_refused() -> None:
    document = Changes.of({PointBlock: [POINTS]}, ()).document()
    columns = document["add"]["point_blocks"]["columns"]
    older = json.loads(json.dumps(document))
    part = older["add"]["point_blocks"]
    part["columns"], part["rows"] = columns[:5], [row[:5] for row in part["rows"]]
    (row,) = Changes.from_document(older).added["point_blocks"]
    assert row[5:] == (None, None)
    for wrong in (columns[:4], [*columns, "more"], columns[::-1]):
        part["columns"] = wrong
        with pytest.raises(FormatError, match="columns of point_blocks"):
            Changes.from_document(older)
