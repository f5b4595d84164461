"""What a sweep stores is the same whether it is in rows or in blocks, whatever becomes of it afterwards."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgraph_store import Connection, Evaluation, GraphStore, Member, Node, NodeTerm, Record, Sweep, new_id, problems
from mgraph_store.errors import CorruptError, InputError
from mgraph_store.exchange.arrival import unpack
from mgraph_store.exchange.bundle import pack
from mgraph_store.index.changes import Changes
from mgraph_store.rows.blocks import BLOCK_POINTS, Gathering, Number, gathered
from mgraph_store.rows.records import EvaluationBlock, PointBlock, TermBlock
from mgraph_store.rows.schema import BLOCKS, ROWS, STORED, create_statements, stored_in
from mgraph_store.upkeep.check import sums
from mgraph_store.upkeep.removal import plan_removal

MANY = int(os.environ.get("MGRAPH_EXAMPLES", "1"))  # so many times more of them: make stress

KINDS = (NodeTerm, Member, Evaluation)
SOURCES = ("maaaaaaaaaaa2", "maaaaaaaaaaa3", "maaaaaaaaaaa4")
SPLITS, METRICS = ("train", "test"), ("loss", "accuracy")


@pytest.fixture(scope="module")
def databases() -> Iterator[list[duckdb.DuckDBPyConnection]]:
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(duckdb.connect(":memory:", config={"threads": "1"})) for _ in range(3)]
        for con in found:
            for statement in create_statements(comments=False):
                con.execute(statement)
        yield found


def by_kind(records: Sequence[Record]) -> dict[type[Any], list[Record]]:
    found: dict[type[Any], list[Record]] = {}
    for record in records:
        found.setdefault(type(record), []).append(record)
    return found


def views(con: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
    return {table: sorted(map(repr, con.execute(f"FROM {table}").fetchall())) for table in (*ROWS, "nodes")}


numbers = st.floats() | st.integers(0, 9).map(lambda k: k / 10)
errors = st.none() | st.floats(0, 1)


@st.composite
def swept(draw: st.DrawFn) -> list[Record]:
    """Rows of some points: new and old samples of two connections, some with terms, measured by two sweeps."""
    records: list[Record] = []
    for i in range(draw(st.integers(1, 6))):
        node = Node(f"s{i}", draw(st.sampled_from(("sample", "merged"))), "a", kernel=1)
        if draw(st.booleans()):
            records.append(node)
        terms = draw(st.lists(st.tuples(st.sampled_from(SOURCES), st.floats(allow_nan=False)), max_size=3))
        shift = draw(st.sampled_from((0, 0, 0, 1)))
        records += [NodeTerm(node.id, k + shift, source, c) for k, (source, c) in enumerate(terms)]
        for connection in draw(st.sets(st.sampled_from("kq"))):
            role = draw(st.sampled_from(("sample", "sample", "control")))
            parameter = draw(st.none() | st.lists(st.floats(0, 1), max_size=2))
            row = draw(st.sampled_from((None, None, 1)))
            records.append(Member(connection, node.id, role, draw(st.integers(0, 9)), row, parameter))
        for sweep in draw(st.sets(st.sampled_from(("w", "v", None)))):
            for split in draw(st.sets(st.sampled_from(SPLITS))):
                for metric in METRICS:
                    found = draw(numbers), draw(errors), draw(st.sampled_from((10, 10, 20)))
                    records.append(Evaluation(node.id, sweep, None, split, "all", "none", "fp32", metric, *found))
    return records


removals = st.sampled_from(
    [("evaluations", "sweep_id", ["w", "w"]), ("evaluations", "split", ["test"]), ("members", "connection_id", ["k"])]
    + [("members", "role", ["sample"]), ("node_terms", "source_id", [SOURCES[0]]), ("nodes", "id", ["s1"])]
    + [(table, "node_id", nodes) for table in ROWS for nodes in (["s0"], ["s1", "s0"], [f"s{i}" for i in range(6)])]
)


@settings(max_examples=7 * MANY, deadline=None)
@given(st.lists(swept(), min_size=1, max_size=3), st.lists(removals, max_size=5))
def test_the_same_rows_in_blocks_and_not(
    databases: list[duckdb.DuckDBPyConnection], portions: list[list[Record]], removed: list[tuple[str, str, list[str]]]
) -> None:
    """As written, as made from the journal, and after removals, of which the same ones remove anything."""
    write(databases, [(portion, gathered(portion)) for portion in portions])
    for part in ([], removed[:2], removed[2:]):
        remove(databases, part)


def write(databases: list[duckdb.DuckDBPyConnection], portions: Sequence[tuple[list[Record], list[Record]]]) -> None:
    """Empty all three, then write portions: as rows, in blocks, and what the journal has of these."""
    in_rows, in_blocks, replayed = databases
    for con in databases:
        for table in STORED:
            con.execute(f"DELETE FROM {stored_in(table)}")
    for rows, blocks in portions:
        Changes.of(by_kind(rows), ()).apply(in_rows)
        changes = Changes.of(by_kind(blocks), ())
        document = json.loads(json.dumps(changes.document()))
        changes.apply(in_blocks)
        Changes.from_document(document).apply(replayed)


def remove(databases: list[duckdb.DuckDBPyConnection], removed: Sequence[tuple[str, str, list[str]]]) -> None:
    """Remove from all three, and require that they have the same."""
    in_rows, in_blocks, replayed = databases
    of_rows, of_blocks = Changes({}, {}, list(removed)), Changes({}, {}, list(removed))
    of_rows.apply(in_rows)
    of_blocks.apply(in_blocks)
    assert of_blocks.removed == of_rows.removed
    Changes.from_document(json.loads(json.dumps(of_blocks.document()))).apply(replayed)
    assert views(in_blocks) == views(in_rows)
    assert sums_of(replayed) == sums_of(in_blocks)


def sums_of(con: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    return {table: found for table, found in sums(con).items() if table != "meta"}


def test_blocks_hold_no_more_than_they_may_and_no_point_twice() -> None:
    points = Gathering()
    what = Number("w", None, "test", "all", "none", "fp32", "loss", 1)
    for i in [*range(BLOCK_POINTS + 1), 0]:
        points.add(f"s{i}", sample_of="k", position=i, parameter=[i / 2], numbers=[(what, (float(i), None))])
    found = list(points.records())
    assert [len(r.node_ids) for r in found if isinstance(r, PointBlock)] == [BLOCK_POINTS, 1, 1]
    assert [len(r.values) for r in found if isinstance(r, EvaluationBlock)] == [BLOCK_POINTS, 1, 1]


@pytest.fixture
def surface(graph: Any) -> tuple[Any, list[Record]]:
    """A graph with a sweep of 300 points in blocks, and the rows that they stand for."""
    return graph, grown(graph)


def grown(graph: Any) -> list[Record]:
    a, b = graph.add(graph.parameters(), graph.parameters(1), names=("a", "b"))
    connection, *ends = graph.connection(a, b, "k")
    sweep = Sweep(new_id("w"), connection.id, None, (300,), "none", "fp32")
    records: list[Record] = []
    for i in range(300):
        node = Node(new_id("s"), "sample", graph.space.id, kernel=1)
        value = math.nan if i == 77 else math.inf if i == 78 else 1 / (i + 3)
        records += [node, NodeTerm(node.id, 0, a.id, i / 7), NodeTerm(node.id, 1, b.id, 1 - i / 7)]
        records.append(Member(connection.id, node.id, "sample", i, None, (i / 300, 0.5)))
        for metric, error in (("loss", 1 / (i + 7)), ("accuracy", None)):
            records.append(
                Evaluation(node.id, sweep.id, None, "test", "all", "none", "fp32", metric, value, error, 1000)
            )
    with graph.store.transaction() as tx:
        tx.add(connection, *ends, sweep)
    with graph.store.transaction() as tx:
        tx.add(*gathered(records))
    return records


def named(graph: Any, name: str) -> str:
    with graph.store.reading() as reader:
        return str(reader.find(name).id)


def read(store: GraphStore, kind: type[Any], **equals: Any) -> str:
    with store.reading() as reader:
        return repr(reader.all(kind, order="" if equals else "rowid", **equals))


def test_a_sweep_in_blocks_is_read_as_its_rows_in_their_order(surface: tuple[Any, list[Record]]) -> None:
    graph, records = surface
    with graph.store.reading() as reader:
        counts = dict(reader.query(" UNION ALL ".join(f"SELECT '{t}', count(*) FROM {t}" for t in stored_tables()))[1])
    assert [counts[t] for t in (*BLOCKS, "member_rows")] == [3, 6, 6, 0, 0, 2]
    assert counts["term_rows"] == counts["evaluation_rows"] == 0
    for kind, skipped in ((NodeTerm, 0), (Member, 2), (Evaluation, 0)):
        expected = [r for r in records if isinstance(r, kind)]
        with graph.store.reading() as reader:
            assert repr(reader.all(kind, order="rowid")[skipped:]) == repr(expected)
            nodes = [r.node_id for r in expected[:4:3]]
            assert repr(reader.all(kind, node_id=nodes)) == repr(
                sorted((r for r in expected if r.node_id in nodes), key=lambda r: getattr(r, "position", 0))
            )
    assert problems(graph.store, deep=True) == []


def stored_tables() -> list[str]:
    return [stored_in(table) for table in STORED]


def test_what_is_unfolded_here_is_what_the_view_has(surface: tuple[Any, list[Record]]) -> None:
    """Whichever columns are asked for, whether points are in blocks or have been taken out of them."""
    graph, records = surface
    samples = [r for r in records if isinstance(r, Node)]
    with graph.store.transaction() as tx:  # the others of its block become rows
        tx.remove(Evaluation, "node_id", [samples[5].id])
        tx.add(Evaluation(samples[7].id, None, None, "test", "all", "none", "fp32", "loss", 0.5, None, 10))
    (sweep,) = {r.sweep_id for r in records if isinstance(r, Evaluation)}
    (connection,) = {r.connection_id for r in records if isinstance(r, Member)}
    some = [samples[i].id for i in (250, 7, 5, 120)]
    asked: list[tuple[type[Any], dict[str, Any]]] = [
        (Evaluation, {"sweep_id": [sweep, "w"], "metric": "loss"}),
        (Evaluation, {"sweep_id": None}),
        (Evaluation, {"sweep_id": sweep, "run_id": None, "node_id": some, "count": 1000}),
        (Evaluation, {"node_id": [s.id for s in samples[50:]], "standard_error": None}),
        (Evaluation, {"split": "valid"}),
        (Member, {}),
        (Member, {"role": "end"}),
        (Member, {"role": ["end", "sample"], "node_id": samples[0].id, "row": None}),
        (Member, {"connection_id": connection, "role": "sample"}),
        (Member, {"connection_id": None}),
        (Member, {"position": 3}),
        (Member, {"row": 0}),
        (NodeTerm, {"node_id": some, "position": 1}),
        (NodeTerm, {"node_id": []}),
        (NodeTerm, {"source_id": named(graph, "a")}),
    ]
    with graph.store.reading() as reader:
        for kind, equals in asked:
            assert repr(reader.all(kind, **equals)) == repr(reader.all(kind, where="TRUE", **equals)), equals
        assert [e.value for e in reader.all(Evaluation, node_id=samples[7].id, sweep_id=None)] == [0.5]
        with pytest.raises(InputError, match="no column 'nodes'"):
            reader.all(Member, nodes=1)


def test_a_bundle_holds_rows_and_they_arrive_as_blocks(surface: tuple[Any, list[Record]], tmp_path: Any) -> None:
    graph, _ = surface
    pack(graph.store, [named(graph, "k")], tmp_path / "k.zip")
    other = GraphStore.create(tmp_path / "other.mgraph")
    unpack(other, tmp_path / "k.zip")
    for kind in KINDS:
        assert sorted(read(graph.store, kind)) == sorted(read(other, kind))
    with other.reading() as reader:
        assert reader.query("SELECT count(*) FROM point_blocks")[1] == [(3,)]
    pack(other, [named(graph, "k")], tmp_path / "again.zip")
    assert (tmp_path / "again.zip").stat().st_size == (tmp_path / "k.zip").stat().st_size
    assert problems(other, deep=True) == []


def test_what_is_removed_is_taken_out_of_blocks(surface: tuple[Any, list[Record]]) -> None:
    graph, records = surface
    samples = [r for r in records if isinstance(r, Node)]
    with graph.store.transaction() as tx:
        for kind in KINDS:
            tx.remove(kind, "node_id", [samples[5].id])
        tx.remove(Node, "id", [samples[5].id])
    for kind in KINDS:
        expected = [r for r in records if isinstance(r, kind) and r.node_id != samples[5].id]
        with graph.store.reading() as reader:
            assert repr([r for r in reader.all(kind) if r.node_id in {s.id for s in samples}]) == repr(
                sorted(expected, key=lambda r: getattr(r, "position", 0))
            )
    with graph.store.reading() as reader:
        plan = plan_removal(reader, [reader.find_connection("k")])
    plan.apply(graph.store)
    with graph.store.reading() as reader:
        left = {
            t: n
            for t, n in reader.query(" UNION ALL ".join(f"SELECT '{t}', count(*) FROM {t}" for t in stored_tables()))[1]
            if n
        }
    assert left == {"spaces": 1, "nodes": 2}
    assert problems(graph.store, deep=True) == []


def test_removing_all_at_once_leaves_no_block(surface: tuple[Any, list[Record]]) -> None:
    graph, _ = surface
    with graph.store.reading() as reader:
        plan = plan_removal(reader, [reader.find_connection("k")])
    plan.apply(graph.store)
    with graph.store.reading() as reader:
        for table in (*BLOCKS, *ROWS.values()):
            assert reader.query(f"SELECT count(*) FROM {table}")[1] == [(0,)]


@pytest.mark.parametrize("column", ["sweep_id", "split", "metric"])
def test_a_condition_is_looked_for_in_the_blocks(surface: tuple[Any, list[Record]], column: str) -> None:
    """Before they are unfolded."""
    graph, _ = surface
    with graph.store.reading() as reader:
        sql = f"EXPLAIN SELECT value FROM evaluations WHERE {column} = 'x'"
        told = reader.connection.execute(sql).fetchall()[0][1]
    scan = told.partition("evaluation_blocks")[2]
    assert f"{column} = 'x'" in scan.partition("point_blocks")[0] or "Empty Result" in told


N = [f"m{i}" for i in range(2)]
NUMBERS = ("w", None, "test", "all", "none", "fp32", "loss")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([PointBlock("b", [])], "it has 0 points"),
        ([PointBlock("b", ["m"] * 2)], "a point twice"),
        ([PointBlock("b", [f"m{i}" for i in range(BLOCK_POINTS + 1)])], f"{BLOCK_POINTS + 1} points"),
        ([PointBlock("b", N, "k", [0, 1])], "incomplete"),
        ([PointBlock("b", N, "k", [0], [[0.5], [0.5]])], "a list of 1"),
        ([PointBlock("b", N), TermBlock("b", 0, "m", [1.0])], "has 2 points, but a list of 1"),
        ([PointBlock("b", N, "k", [0, 1], [[0.5], [0.5, 0.5]])], "not of one length"),
        ([PointBlock("b", N), EvaluationBlock("b", *NUMBERS, [1.0], None, 1)], "has 2 points, but a list of 1"),
        ([EvaluationBlock("b", *NUMBERS, [1.0], None, 1)], "not added with it"),
        ([EvaluationBlock("b", *NUMBERS, [1.0], [1.0, 2.0], 1)], "2 standard errors"),
        ([PointBlock("b", N), EvaluationBlock("b", *NUMBERS, [1.0, None], None, 1)], "does not fit column values"),
        ([PointBlock("b", ["mzzzzzzzzzzzz"])], "not in nodes"),
    ],
)
def test_a_block_that_does_not_hold_together_is_refused(graph: Any, wrong: list[Record], message: str) -> None:
    graph.add(graph.parameters())
    with pytest.raises(InputError, match=message), graph.store.transaction() as tx:
        tx.add(*wrong)


def test_terms_of_a_derived_node_are_refused_in_blocks_too(surface: tuple[Any, list[Record]]) -> None:
    graph, records = surface
    sample = next(r for r in records if isinstance(r, Node))
    node = Node(new_id("s"), "sample", graph.space.id, kernel=1)
    with pytest.raises(InputError, match="is derived"), graph.store.transaction() as tx:
        tx.add(*gathered([node, NodeTerm(node.id, 0, sample.id, 1.0)]))


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE point_blocks SET positions = positions[1:2]",
        "UPDATE point_blocks SET connection_id = NULL",
        "UPDATE term_blocks SET coefficients = coefficients[1:9]",
        'UPDATE evaluation_blocks SET "values" = "values"[1:9]',
    ],
)
def test_a_damaged_block_is_said_to_be(damaged: Any, damage: str) -> None:
    graph = damaged
    grown(graph)
    read(graph.store, Connection)
    with duckdb.connect(str(graph.store.path / "index.duckdb")) as con:
        con.execute(damage)
    found = problems(graph.store)[-1]
    assert "does not say the same about each of its points" in found
    kind = {"term_blocks": NodeTerm, "evaluation_blocks": Evaluation}.get(damage.split()[1])
    if kind is not None:
        with pytest.raises(CorruptError, match="mgraph check"):
            read(graph.store, kind)
        with pytest.raises(CorruptError, match="mgraph check"), graph.store.reading() as reader:
            reader.all(kind)
