"""SQL that was parsed once in this process.

Most queries find a few rows: to parse them takes DuckDB a quarter of the time. And given a text with parameters, it
plans a query twice, because only then does it know of which types these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb

_MOST = 500
_parsed: dict[str, duckdb.Statement] = {}


def parsed(con: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement | None:
    """Parse SQL, or find what was parsed before, on whichever connection; None if it is not exactly one statement."""
    found = _parsed.get(sql)
    if found is None:
        statements = con.extract_statements(sql)
        if len(statements) != 1:
            return None
        if len(_parsed) >= _MOST:
            _parsed.clear()
        found = _parsed[sql] = statements[0]
    return found


def run(con: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any] = ()) -> duckdb.DuckDBPyConnection:
    """Execute one statement, as ``con.execute`` does."""
    statement = parsed(con, sql)
    assert statement is not None
    return con.execute(statement, parameters)
