"""SQL from a user: what it may do, and attempts at everything else."""

from __future__ import annotations

import contextlib
import os
import time
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgraph_store import GraphStore
from mgraph_store.errors import InputError, MGraphError
from mgraph_store.index.sql import check_statement, open_guarded, run_guarded

READING = [
    "SELECT 1",
    "FROM nodes",
    "TABLE nodes",
    "VALUES (1)",
    "WITH x AS (SELECT 1) FROM x",
    "DESCRIBE nodes",
    "SHOW TABLES",
    "SUMMARIZE nodes",
    "EXPLAIN SELECT 1",
    "PIVOT nodes ON kind IN ('mode') USING count(*)",
    "/* ; DROP TABLE nodes; */ SELECT 1 -- ; DROP TABLE nodes",
    "SELECT ';' AS \"; drop table nodes\";",
    "  ;; SELECT 1 ;; ",
]

NOT_READING = [
    "INSERT INTO nodes SELECT * FROM nodes",
    "WITH x AS (SELECT 1) INSERT INTO meta SELECT 1, now(), 'x'",
    "WITH x AS (SELECT 1) DELETE FROM nodes",
    "UPDATE nodes SET name = NULL",
    "DELETE FROM nodes",
    "TRUNCATE nodes",
    "MERGE INTO nodes USING nodes n ON nodes.id = n.id WHEN MATCHED THEN DELETE",
    "DROP TABLE nodes",
    "ALTER TABLE nodes ADD COLUMN x INT",
    "COMMENT ON TABLE nodes IS 'x'",
    "CREATE TABLE x AS SELECT 1",
    "CREATE TEMP TABLE x AS SELECT 1",
    "CREATE VIEW x AS SELECT 1",
    "CREATE MACRO f() AS 1",
    "CREATE SECRET s (TYPE s3)",
    "COPY nodes TO '/tmp/x.csv'",
    "COPY (SELECT 1) TO '/tmp/x.csv'",
    "COPY nodes FROM '/etc/passwd'",
    "copy\tnodes\nto '/tmp/x.csv'",
    "/**/COPY/**/nodes/**/TO/**/'/tmp/x.csv'",
    "EXPORT DATABASE '/tmp/x'",
    "IMPORT DATABASE '/tmp/x'",
    "ATTACH '/tmp/x.db'",
    "DETACH main",
    "USE main",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '/tmp/x.duckdb_extension'",
    "UPDATE EXTENSIONS",
    "PRAGMA database_list",
    "PRAGMA enable_external_access = true",
    "PRAGMA memory_limit='64GB'",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "RESET memory_limit",
    "SET VARIABLE x = 1",
    "CALL pragma_version()",
    "CALL enable_logging()",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "CHECKPOINT",
    "VACUUM",
    "ANALYZE",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DEALLOCATE p",
    "PIVOT nodes ON kind",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE nodes",
    "SELECT 1\u037e DROP TABLE nodes",  # a Greek question mark looks like a semicolon
    "SELECT 1 \uff1b DROP TABLE nodes",
    "SELECT '\ud800'",
    "SELECT 1\x00; DROP TABLE nodes",
    "",
    " ; -- nothing",
    "nonsense",
    "SELECT",
    "SELECT " + "(" * 200 + "1",
]

ESCAPES = [
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_csv_auto('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    'SELECT * FROM "/etc/passwd"',
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM parquet_scan('/etc/passwd')",
    "SELECT * FROM parquet_metadata('/etc/passwd')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM read_csv('https://example.com/x.csv')",
    "SELECT * FROM read_csv('/dev/fd/0')",
    "SELECT * FROM duckdb_secrets()",
    "SELECT getenv('HOME')",
    "SELECT * FROM query('COPY nodes TO ''/tmp/x.csv''')",
    "SELECT * FROM query('SELECT 1; DROP TABLE nodes')",
    "SELECT * FROM sqlite_scan('/tmp/x.db', 'y')",
    "SELECT * FROM enable_logging(storage='file', storage_path='/tmp')",
    "SELECT * FROM df",
    "SELECT * FROM task",
    "EXPLAIN ANALYZE INSERT INTO meta SELECT 1, NULL, 'x'",
    "EXPLAIN ANALYZE COPY nodes TO '/tmp/mgraph-escaped.csv'",
    "EXPLAIN ANALYZE CREATE TABLE x AS SELECT 1",
]


@pytest.mark.parametrize("sql", READING)
def test_one_statement_that_reads_is_accepted(sql: str) -> None:
    assert check_statement(sql).type.name in ("SELECT", "EXPLAIN")


@pytest.mark.parametrize("sql", NOT_READING)
def test_everything_else_is_refused_by_its_kind(sql: str) -> None:
    with pytest.raises(InputError):
        check_statement(sql)


@settings(max_examples=30, deadline=None)
@given(
    st.text() | st.builds("{}{}{}".format, st.sampled_from(READING), st.text(max_size=5), st.sampled_from(NOT_READING))
)
def test_any_text_is_one_reading_statement_or_refused(sql: str) -> None:
    with contextlib.suppress(InputError):
        assert check_statement(sql).type.name in ("SELECT", "EXPLAIN")


def test_escapes_fail_and_leave_nothing(graph: Any) -> None:
    # On the same connection settings, in this process, where one start serves them all.
    df = {"a": [1]}  # what DuckDB's Python module would otherwise find by its name
    with open_guarded(graph.store.path / "index.duckdb") as con:
        for sql in ESCAPES:
            with pytest.raises(duckdb.Error):
                print(sql, con.execute(check_statement(sql)).fetchall())
        for setting in ("enable_external_access", "lock_configuration", "memory_limit"):
            with pytest.raises(duckdb.Error, match="lock"):
                con.execute(f"RESET {setting}")
    assert df
    assert not list(Path("/tmp").glob("mgraph-escaped*"))


def test_a_slow_query_draws_no_progress_bar_into_its_answer(graph: Any) -> None:
    with open_guarded(graph.store.path / "index.duckdb") as con:
        assert con.sql("SELECT current_setting('enable_progress_bar')").fetchall() == [(False,)]
        with pytest.raises(duckdb.Error):
            con.execute("SET enable_progress_bar = true")


def test_an_answer_has_names_types_and_rows(graph: Any) -> None:
    node, _ = graph.add(graph.parameters(1), graph.parameters(2), names=("a", "b"))
    answer = graph.store.query_guarded(
        "SELECT id, name, created FROM nodes WHERE name IN (SELECT unnest(?::VARCHAR[]))", [["a"]]
    )
    assert answer.columns == ("id", "name", "created")
    assert answer.types == ("VARCHAR", "VARCHAR", "TIMESTAMP")
    assert answer.rows == [(node.id, "a", node.created.astimezone(UTC).replace(tzinfo=None))]


def test_values_of_every_type_arrive_as_python_has_them(store: GraphStore) -> None:
    sql = """SELECT true, 1, 170141183460469231731687303715884105727, 1.5::DOUBLE, 'inf'::FLOAT, 'ü', NULL,
        1.25::DECIMAL(5, 2), TIMESTAMP '2026-01-02 03:04:05.678', DATE '2026-01-02', TIME '03:04:05',
        INTERVAL 90 MINUTE, '\\x00\\xFF'::BLOB, '00000000-0000-0000-0000-000000000001'::UUID,
        [1, NULL], [DATE '2026-01-02'], {'a': 1, '$b': [2]}, MAP {DATE '2026-01-02': 'x'}, 'x'::ENUM('x', 'y')"""
    (row,) = store.query_guarded(sql).rows
    expected: tuple[Any, ...] = (
        *(True, 1, 2**127 - 1, 1.5, float("inf"), "ü", None, Decimal("1.25")),
        *(datetime(2026, 1, 2, 3, 4, 5, 678000), date(2026, 1, 2), time_of_day(3, 4, 5), timedelta(minutes=90)),
        *(b"\x00\xff", UUID(int=1), [1, None], [date(2026, 1, 2)], {"a": 1, "$b": [2]}, {date(2026, 1, 2): "x"}, "x"),
    )
    assert row == expected


@pytest.mark.parametrize(
    "value",
    ["now()", *(pytest.param(v, marks=pytest.mark.stress) for v in ("[now()]", "{'a': now()}")), "MAP {now(): 1}"],
)
def test_times_with_a_zone_are_to_be_cast(store: GraphStore, value: str) -> None:
    with pytest.raises(InputError, match="times with a zone"):
        store.query_guarded(f"SELECT {value}")
    assert store.query_guarded(f"SELECT typeof({value}), now()::TIMESTAMP > TIMESTAMP '2026-01-01'").rows[0][1]


def test_an_escape_is_refused_end_to_end(store: GraphStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with pytest.raises(InputError, match="disabled by configuration"):
        store.query_guarded(f"SELECT * FROM read_csv('{secret}')")


def test_the_process_knows_no_secret_and_writes_nothing(monkeypatch: pytest.MonkeyPatch, store: GraphStore) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do not tell")
    seen: dict[str, Any] = {}
    import subprocess

    real = subprocess.Popen

    def spy(command: list[str], **options: Any) -> Any:
        seen.update(options["env"])
        return real(command, **options)

    monkeypatch.setattr(subprocess, "Popen", spy)
    store.query_guarded("SELECT 1")
    assert "AWS_SECRET_ACCESS_KEY" not in seen
    assert "PATH" in seen


@pytest.mark.parametrize(
    "sql",
    [
        pytest.param("SELECT count(*) FROM range(1000000000000)", marks=pytest.mark.stress),
        "WITH RECURSIVE r AS (SELECT 1 x UNION ALL SELECT x + 1 FROM r) SELECT max(x) FROM r",
        "SELECT count(*) FROM range(100000) a, range(100000) b, range(100000) c WHERE a.range * b.range = c.range",
        # two that do not notice an interruption: their process is ended
        "SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))",
        pytest.param("SELECT " + "(" * 4000 + "1", marks=pytest.mark.stress, id="brackets"),
    ],
)
def test_a_query_that_takes_too_long_is_stopped(store: GraphStore, sql: str) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=r"longer than 0\.2 s"):
        store.query_guarded(sql, max_seconds=0.2)
    assert time.monotonic() - began < 60  # they would take a minute of CPU time


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT length(repeat('x', 2000000000))",
        "SELECT string_agg(range::VARCHAR) FROM range(100000000)",
        pytest.param("SELECT list(range) FROM range(100000000)", marks=pytest.mark.stress),
    ],
)
def test_a_query_that_needs_too_much_memory_is_stopped(store: GraphStore, sql: str) -> None:
    with pytest.raises(InputError, match="128 MiB of memory"):
        store.query_guarded(sql, limit_memory=128 << 20)


def test_too_many_rows_are_no_answer(store: GraphStore) -> None:
    assert len(store.query_guarded("FROM range(100)", limit_rows=100).rows) == 100
    with pytest.raises(InputError, match="more than 100 rows"):
        store.query_guarded("FROM range(101)", limit_rows=100)


def test_writers_get_in_after_a_query_that_was_stopped(graph: Any) -> None:
    with pytest.raises(InputError):
        graph.store.query_guarded("SELECT count(*) FROM range(1000000000000)", max_seconds=0.1)
    graph.add(graph.parameters(), names=("after",))
    assert graph.store.query_guarded("SELECT name FROM nodes").rows == [("after",)]


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_time_limit_is_a_positive_number(store: GraphStore, seconds: float) -> None:
    with pytest.raises(InputError, match="time limit"):
        store.query_guarded("SELECT 1", max_seconds=seconds)


def test_parameters_are_plain(store: GraphStore) -> None:
    with pytest.raises(InputError, match="parameters"):
        store.query_guarded("SELECT ?", [object()])
    with pytest.raises(InputError):
        store.query_guarded("SELECT ?")


def test_a_damaged_index_is_said_to_be_one(tmp_path: Path) -> None:
    index = tmp_path / "index.duckdb"
    index.write_bytes(os.urandom(4096))
    with pytest.raises(MGraphError, match="cannot be read"):
        run_guarded(index, "SELECT 1")


def test_views_that_a_stranger_has_stored_are_not_asked(graph: Any) -> None:
    graph.add(graph.parameters(), names=("a",))
    graph.counts()  # now the index has it
    index = graph.store.path / "index.duckdb"
    with duckdb.connect(str(index)) as con:
        con.execute("CREATE OR REPLACE VIEW easy.modes AS SELECT 'forged' AS name")
        con.execute("CREATE OR REPLACE VIEW easy.runs AS SELECT * FROM read_text('/etc/hostname')")
    assert run_guarded(index, "SELECT name FROM modes").rows == [("a",)]
    with pytest.raises(MGraphError, match="file"):
        run_guarded(index, "SELECT * FROM easy.runs")
