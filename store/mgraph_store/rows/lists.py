"""Giving DuckDB long lists of texts.

As a parameter, each text takes it some 200 bytes for as long as the query runs, and ten times the time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import duckdb

_MANY = 1000  # texts for which it is worth while to load NumPy
_TEXTS = "mgraph_texts"


def fill(con: duckdb.DuckDBPyConnection, table: str, values: Sequence[str]) -> None:
    """Make a temporary table with one column, ``value``, in place of one that there may be."""
    made = f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT"
    if len(values) < _MANY:
        con.execute(f"{made} unnest(?::VARCHAR[]) AS value", [values])
        return
    import numpy as np

    con.execute("SELECT 1 WHERE false").fetchall()  # so that nothing of an earlier query is left to fetch
    con.register(_TEXTS, {"value": np.array(values, "object")})
    try:
        con.execute(f"{made} value::VARCHAR AS value FROM {_TEXTS}").fetchall()
    finally:
        con.unregister(_TEXTS)


@contextlib.contextmanager
def filled(con: duckdb.DuckDBPyConnection, **tables: Sequence[str]) -> Iterator[None]:
    """Have such tables, by their names, within a block."""
    try:
        for table, values in tables.items():
            fill(con, table, values)
        yield
    finally:
        for table in tables:
            with contextlib.suppress(duckdb.Error):  # of a transaction that failed, it is gone already
                con.execute(f"DROP TABLE IF EXISTS temp.{table}")
