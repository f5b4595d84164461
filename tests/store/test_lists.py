"""Long lists of texts in DuckDB."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from mgraph_store.rows import lists
from mgraph_store.rows.lists import filled

TEXTS = ["m2", "", "it's", 'a "b"', "é中", "m2", "x" * 100]


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:", config={"threads": "1", "enable_external_access": "false"}) as con:
        yield con


@pytest.mark.parametrize("many", [0, 1000])
@pytest.mark.parametrize("texts", [TEXTS, []], ids=["some", "none"])
def test_a_list_is_a_table_of_its_texts(
    con: duckdb.DuckDBPyConnection, texts: list[str], many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "_MANY", many)
    for _ in range(2):
        with filled(con, listed=texts, others=["y"]):
            assert con.execute("SELECT value FROM listed").fetchall() == [(text,) for text in texts]
            sql = "SELECT v FROM (SELECT unnest(['m2', 'y', 'z']) AS v) WHERE v NOT IN (SELECT value FROM listed)"
            assert con.execute(sql).fetchall() == [("m2",), ("y",), ("z",)][bool(texts) :]
        assert con.execute("SELECT table_name FROM duckdb_tables()").fetchall() == []


def test_a_transaction_that_fails_leaves_its_own_error(con: duckdb.DuckDBPyConnection) -> None:
    con.begin()
    with pytest.raises(duckdb.ConversionException), filled(con, listed=TEXTS):
        con.execute("SELECT value::BIGINT FROM listed").fetchall()
    con.rollback()
