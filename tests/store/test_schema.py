from __future__ import annotations

import dataclasses
import math
import os
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, get_args, get_type_hints

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgraph_store import Evaluation, GraphStore, Node, Run, describe
from mgraph_store.errors import InputError
from mgraph_store.index.changes import insert_rows
from mgraph_store.rows.records import PointBlock
from mgraph_store.rows.relations import VIEWS, view_statements
from mgraph_store.rows.schema import ROWS, STORED, TABLE_OF, TABLES, columns, create_statements, stored_in, to_row
from mgraph_store.rows.selecting import rows_to_records

MANY = int(os.environ.get("MGRAPH_EXAMPLES", "1"))  # so many times more of them: make stress
_VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(st.characters(codec="utf-8"), max_size=8),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(),
    datetime: st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
}


def values(hint: Any) -> st.SearchStrategy[Any]:
    if hint in _VALUES:
        return _VALUES[hint]
    if type(None) in get_args(hint):
        (inner,) = (a for a in get_args(hint) if a is not type(None))
        return st.none() | values(inner)
    (item,) = get_args(hint)
    return st.lists(values(item), max_size=4).map(tuple)


def records_of(kind: type) -> st.SearchStrategy[Any]:
    return st.builds(kind, **{name: values(hint) for name, hint in get_type_hints(kind).items()})


def same(a: Any, b: Any) -> bool:
    """Equal, with NaN equal to itself and the sign of zero minded."""
    if isinstance(a, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return bool(a == b and type(a) is type(b))


def insert(con: duckdb.DuckDBPyConnection, kind: type[Any], records: list[Any]) -> None:
    insert_rows(con, TABLE_OF[kind], [to_row(r) for r in records])


@pytest.fixture(scope="module")
def connection() -> Any:
    con = duckdb.connect(":memory:", config={"threads": "1"})
    for statement in create_statements():
        con.execute(statement)
    yield con
    con.close()


@pytest.mark.parametrize("table", STORED)
def test_any_record_comes_back_as_it_was(
    connection: duckdb.DuckDBPyConnection, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mgraph_store.rows.limits.fault", lambda _: None)  # any text, also where JSON should be
    kind = STORED[table]

    @settings(max_examples=8 * MANY, deadline=None)
    @given(st.lists(records_of(kind), min_size=1, max_size=4))
    def check(records: list[Any]) -> None:
        connection.execute(f"DELETE FROM {stored_in(table)}")
        insert(connection, kind, records)
        found = rows_to_records(kind, connection.execute(f"SELECT * FROM {stored_in(table)} ORDER BY rowid").fetchall())
        assert len(found) == len(records)
        for old, new in zip(records, found, strict=True):
            assert all(same(a, b) for a, b in zip(_fields(old), _fields(new), strict=True)), (old, new)

    check()


def _fields(record: Any) -> list[Any]:
    return [getattr(record, f.name) for f in dataclasses.fields(record)]


def test_every_column_has_a_meaning_and_the_index_knows_it(store: GraphStore) -> None:
    described = describe()
    assert set(described) == {"meta", *STORED}
    assert all(meaning for table in described.values() for _, meaning, _ in table.values())
    with store.reading() as reader:
        _, rows = reader.query(
            "SELECT table_name, column_name, data_type, is_nullable, comment FROM duckdb_columns() "
            "WHERE NOT internal AND schema_name = 'main'"
        )
        _, of_tables = reader.query("SELECT table_name, comment FROM duckdb_tables() WHERE NOT internal")
        _, of_views = reader.query("SELECT view_name, comment FROM duckdb_views() WHERE schema_name = 'easy'")
    found = {(t, c): (kind if null else f"{kind} NOT NULL", comment) for t, c, kind, null, comment in rows}
    expected = {
        (place, name): (
            kind.removesuffix(" NOT NULL") if place in ROWS else kind,
            f"{meaning} [{unit}]" if unit else meaning,
        )
        for table, described_columns in described.items()
        for name, (kind, meaning, unit) in described_columns.items()
        for place in {table, stored_in(table)}
    }
    assert found == expected
    assert {table for table, _ in of_tables} == {"meta", *map(stored_in, STORED)}
    assert {view for view, _ in of_views} == {*VIEWS, "runs"}
    assert all(comment for _, comment in (*of_tables, *of_views))


def test_the_views_in_the_file_are_those_of_the_command_line(graph: Any) -> None:
    """Another program that opens the file finds what ``mgraph sql`` shows, and can open it with DuckDB 1.4."""
    graph.add(graph.parameters(), graph.parameters(1), names=("a", "b"))
    graph.counts()  # now the index has it
    with duckdb.connect(str(graph.store.path / "index.duckdb"), read_only=True) as con:
        names = [column for column, *_ in con.execute("SELECT * FROM easy.modes").description]
        rows = con.execute("SELECT * FROM easy.modes ORDER BY id").fetchall()
        of_runs = con.execute("SELECT id, made FROM easy.runs").fetchall()
        (tags,) = con.execute("SELECT tags FROM duckdb_databases() WHERE database_name = 'index'").fetchall()
        (size,) = con.execute("SELECT block_size FROM pragma_database_size()").fetchall()
    with graph.store.reading() as reader:
        for statement in view_statements("graph"):
            reader.connection.execute(statement)
        shown, expected = reader.query("SELECT * FROM temp.modes ORDER BY id")
    assert (names, rows) == (list(shown), [tuple(row) for row in expected])
    assert [name for name, *_ in rows]
    assert of_runs == []
    assert tags[0]["storage_version"].startswith("v1.4.0")
    assert size[0] == 65536


def test_every_table_has_columns_in_the_order_of_its_fields() -> None:
    for kind in TABLES.values():
        assert [c.name for c in columns(kind)] == [f.name for f in dataclasses.fields(kind)]


@pytest.mark.parametrize(
    "change",
    [
        {"id": 3},
        {"kind": None},
        {"nbytes": 2**63},
        {"nbytes": 1.5},
        {"created": datetime(2026, 1, 1)},
        {"info": "\ud800"},
    ],
)
def test_a_value_that_does_not_fit_its_column_is_refused(
    connection: duckdb.DuckDBPyConnection, change: dict[str, Any]
) -> None:
    node = dataclasses.replace(Node(id="m", kind="mode", space_id="a"), **change)
    with pytest.raises(InputError, match=f"Node: .* column {next(iter(change))}"):
        insert(connection, Node, [node])


@pytest.mark.parametrize("count", [3, 20, 300])
def test_rows_that_are_alike_come_back_as_they_were(connection: duckdb.DuckDBPyConnection, count: int) -> None:
    """However many, and whatever they have in common: nothing, a moment, zeros of either sign."""
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    nodes = [Node(f"s{i}", "sample", "a", kernel=1, tensor_row=5, created=moment) for i in range(count)]
    zeros = [0.0 if i % 2 else -0.0 for i in range(count)]
    numbers = [Evaluation("s", None, "r", "test", "all", "none", "fp32", "loss", z, None, 7) for z in zeros]
    for kind, records in ((Node, nodes), (Evaluation, numbers)):
        connection.execute(f"DELETE FROM {stored_in(TABLE_OF[kind])}")
        insert(connection, kind, records)
        rows = connection.execute(f"FROM {stored_in(TABLE_OF[kind])} ORDER BY rowid").fetchall()
        assert repr(rows_to_records(kind, rows)) == repr(records)


@pytest.mark.parametrize("parameters", [["ab", "c"], [[0.5], "c"], [[0.5], ["c"]], [[0.5], 1.0], [[0.5], None]])
def test_lists_of_something_other_than_numbers_are_refused(parameters: Any) -> None:
    with pytest.raises(InputError, match="column parameters"):
        to_row(PointBlock("b", ["s", "t"], "k", [0, 1], parameters))


def test_times_of_other_zones_are_stored_as_utc(connection: duckdb.DuckDBPyConnection) -> None:
    moment = datetime(2026, 3, 1, 12, 30, 15, 123456, timezone(timedelta(hours=5, minutes=30)))
    connection.execute("DELETE FROM runs")
    insert(connection, Run, [Run(id="r", command="train", settings="{}", started=moment)])
    (run,) = rows_to_records(Run, connection.execute("SELECT * FROM runs").fetchall())
    assert run.started == moment
    assert run.started.tzinfo is UTC


def test_numpy_numbers_are_numbers(connection: duckdb.DuckDBPyConnection) -> None:
    import numpy as np

    for table in ("evaluation_rows", "evaluation_blocks"):
        connection.execute(f"DELETE FROM {table}")
    row = Evaluation("m", None, None, "test", "all", "own", "fp32", "loss", np.float32(0.5), None, np.int64(7))  # type: ignore[arg-type]
    insert(connection, Evaluation, [row])
    (found,) = rows_to_records(Evaluation, connection.execute("SELECT * FROM evaluations").fetchall())
    assert (found.value, found.count) == (0.5, 7)
    assert type(found.value) is float


def test_the_page_on_the_format_lists_every_table_and_column() -> None:
    page = (Path(__file__).parents[2] / "docs" / "store-format.md").read_text()
    for table, described in describe().items():
        section = page.partition(f"### `{table}`")[2].partition("\n##")[0]
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        expected = [
            f"| `{name}` | {kind} | {meaning} | {unit} |".replace("|  |", "| |")
            for name, (kind, meaning, unit) in described.items()
        ]
        assert rows == expected, f"docs/store-format.md, table {table}"
