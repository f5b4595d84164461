"""What one commit changes in the index, as SQL values, to be applied to a database or written to the journal as JSON.

A document of the journal names the columns of every table, so that it can be read without this package:
``{"add": {"nodes": {"columns": […], "rows": [[…], …]}}, "update": {…}, "remove": [["nodes", "id", ["m…"]]]}``.
Rows that may be in blocks go by the name of their view; numbers in blocks are base64
(:mod:`mgraph_store.index.blockrows`). Rows are added first, then replaced by their id, then removed. Times are text,
and numbers that are not finite are ``NaN`` and ``Infinity``, as Python's JSON has them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import duckdb

from mgraph_store.errors import FormatError, NotFoundError
from mgraph_store.index import blockrows
from mgraph_store.index.migrations import FOLLOWED, new_since
from mgraph_store.rows.lists import fill
from mgraph_store.rows.records import Record
from mgraph_store.rows.schema import (
    BLOCKS,
    META,
    ROWS,
    STORED,
    TABLE_OF,
    TABLES,
    Column,
    columns,
    stored_in,
    to_row,
    to_rows,
)
from mgraph_store.rows.statements import run

Row = tuple[Any, ...]

PART = 10_000  # rows

_IN_BLOCK = 50  # rows that are about as long as one of a block
_FEW = 4  # rows that are given value by value, which takes half the time of lists
_MANY = 100  # rows for which columns are made
_ROWS = "mgraph_rows"
_GONE = "mgraph_gone"
_LATER = new_since(FOLLOWED)  # columns that older records, which are read as they are, do not have
_DTYPES = {"VARCHAR": "object", "BIGINT": "int64", "DOUBLE": "float64", "TIMESTAMP": "datetime64[us]"}


@dataclass
class Changes:
    """Rows to add and to replace, by table, and conditions for rows to remove: table, column, values."""

    added: dict[str, list[Row]] = field(default_factory=dict)
    replaced: dict[str, list[Row]] = field(default_factory=dict)
    removed: list[tuple[str, str, list[Any]]] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        added: Mapping[type[Any], Sequence[Record]],
        updated: Iterable[Record],
        removed: Iterable[tuple[str, str, Sequence[Any]]] = (),
    ) -> Changes:
        """Convert records to rows; InputError if a value does not fit its column."""
        changes = cls({TABLE_OF[kind]: to_rows(records) for kind, records in added.items()})
        for record in updated:
            changes.replaced.setdefault(TABLE_OF[type(record)], []).append(to_row(record))
        changes.removed = [(t, column, v if isinstance(v, list) else list(v)) for t, column, v in removed]
        return changes

    def apply(self, con: duckdb.DuckDBPyConnection) -> None:
        """Change the database; ``NotFoundError`` if a row to be replaced does not exist."""
        for table, rows in self.added.items():
            insert_rows(con, table, rows)
        for table, rows in self.replaced.items():
            own, *rest = columns(TABLES[table])
            sets = ", ".join(f'"{c.name}" = ?' for c in rest)
            for row in rows:
                changed = run(con, f"UPDATE {table} SET {sets} WHERE id = ?", [*row[1:], row[0]]).fetchone()
                if changed is None or changed[0] == 0:
                    raise NotFoundError(f"Nothing in {table} has the {own.name} {row[0]}: it cannot be updated.")
        gone, known = [], None
        for table, column, values in self.removed:
            if values is not known:  # the same values are usually removed from several tables
                fill(con, _GONE, values)
                known = values
            if table in ROWS:
                count = blockrows.take_out(con, table, column, _GONE)
            else:
                sql = f'DELETE FROM {table} WHERE "{column}" IN (SELECT value FROM {_GONE})'
                count = con.execute(sql).fetchall()[0][0]
            if count:
                gone.append((table, column, values))
        if known is not None:
            con.execute(f"DROP TABLE temp.{_GONE}")
        if any(table in ROWS for table, _, _ in gone):
            blockrows.tidy(con)
        self.removed = gone  # removals that matched nothing are left out of the journal

    def document(self) -> dict[str, Any]:
        """Describe the changes for the journal."""
        document: dict[str, Any] = {}
        for key, tables in (("add", self.added), ("update", self.replaced)):
            if tables:
                document[key] = {table: _table(table, rows) for table, rows in tables.items()}
        if self.removed:
            document["remove"] = [list(part) for part in self.removed]
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Changes:
        """Read what :meth:`document` wrote; FormatError if it is something else, or of another version."""
        try:
            added, replaced = (
                {table: rows_of(table, part) for table, part in document.get(key, {}).items()}
                for key in ("add", "update")
            )
            return cls(added, replaced, [_removal(*part) for part in document.get("remove", ())])
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"The journal has a record that cannot be read ({error}).") from None


def parts(con: duckdb.DuckDBPyConnection, rows: int = PART) -> Iterator[dict[str, Any]]:
    """Describe a whole index for the journal, in parts of some thousand rows; the first has the row of ``meta``.

    The connection must not be used for anything else meanwhile.
    """
    head, part, filled = empty(con), Changes(), 0
    for table, record in STORED.items():
        listed = ", ".join(f'"{c.name}"' for c in columns(record))
        con.execute(f"SELECT {listed} FROM {stored_in(table)} ORDER BY rowid")
        each = weight(table)
        while found := con.fetchmany(-(-(rows - filled) // each)):
            part.added.setdefault(table, []).extend(found)
            filled += each * len(found)
            if filled >= rows:
                yield head | part.document()
                head, part, filled = {}, Changes(), 0
    if head or filled:
        yield head | part.document()


def weight(table: str) -> int:
    """Return as how many rows one of a table counts where rows are counted to bound memory or time."""
    return _IN_BLOCK if table in BLOCKS else 1


def empty(con: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Describe an index without rows for the journal: the row of ``meta`` alone."""
    meta = run(con, f"SELECT {', '.join(META)} FROM meta").fetchone()
    assert meta is not None
    return {"meta": {k: _plain(v) for k, v in zip(META, meta, strict=True)}}


def snapshot(con: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Describe a whole index at once: its row of ``meta``, and all rows of all tables as added."""
    (whole,) = parts(con, sys.maxsize)
    return whole


def insert_rows(con: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Row]) -> None:
    """Append rows of one table, which need not be in blocks though others are, in one statement; of blocks in one
    each."""
    if table in BLOCKS:
        blockrows.insert(con, table, rows)
        return
    kinds, table = columns(TABLES[table]), stored_in(table)
    if 0 < len(rows) <= _FEW:
        places = ", ".join([f"({', '.join('?' * len(kinds))})"] * len(rows))
        run(con, f"INSERT INTO {table} VALUES {places}", [value for row in rows for value in row])
        return
    arrays = _arrays(kinds, rows) if len(rows) >= _MANY else None
    if arrays is None:
        parts = ", ".join(f"unnest(?::{c.type}[])" for c in kinds)
        run(con, f"INSERT INTO {table} SELECT {parts}", [[row[i] for row in rows] for i in range(len(kinds))])
        return
    # A value that all rows have is given once.
    listed = ", ".join(f"{f'c{i}' if f'c{i}' in arrays else '?'}::{c.type}" for i, c in enumerate(kinds))
    given = [rows[0][i] for i in range(len(kinds)) if f"c{i}" not in arrays]
    con.execute("SELECT 1 WHERE false").fetchall()  # so that nothing of an earlier query is left to fetch
    con.register(_ROWS, arrays)
    try:
        run(con, f"INSERT INTO {table} SELECT {listed} FROM {_ROWS}", given).fetchall()  # done with
    finally:
        con.unregister(_ROWS)


def _arrays(kinds: Sequence[Column], rows: Sequence[Row]) -> dict[str, Any] | None:
    """Turn rows into NumPy columns, which DuckDB reads four times as fast; None if that would change a value.

    This is the case for lists, and for NaN, which DuckDB reads as NULL. Columns in which all rows are alike are left
    out, but for one.
    """
    import numpy as np

    if any(c.type not in _DTYPES for c in kinds):
        return None
    found: dict[str, Any] = {}
    for i, (c, values) in enumerate(zip(kinds, zip(*rows, strict=True), strict=True)):
        if found and c.type != "DOUBLE" and values.count(values[0]) == len(values):  # there, 0.0 == -0.0
            continue
        if c.type == "BIGINT":
            missing = [v is None for v in values]
            numbers = np.array([0 if v is None else v for v in values], np.int64)
            found[f"c{i}"] = np.ma.masked_array(numbers, missing) if any(missing) else numbers
        else:
            if c.type == "DOUBLE" and any(v is not None and v != v for v in values):
                return None
            found[f"c{i}"] = np.array(values, _DTYPES[c.type])  # None becomes NaN or NaT, and that NULL
    return found


def _table(table: str, rows: Sequence[Row]) -> dict[str, Any]:
    kinds = columns(STORED[table])
    if table in BLOCKS:
        made = [[blockrows.packed(c.type, v) for c, v in zip(kinds, row, strict=True)] for row in rows]
    else:
        made = list(map(list, rows))
        for i in [i for i, c in enumerate(kinds) if c.type == "TIMESTAMP"]:
            texts = {moment: _plain(moment) for moment in {row[i] for row in rows}}
            for row in made:
                row[i] = texts[row[i]]
    return {"columns": [c.name for c in kinds], "rows": made}


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _removal(table: str, column: str, values: list[Any]) -> tuple[str, str, list[Any]]:
    if table not in TABLES or column not in {c.name for c in columns(TABLES[table])} or not isinstance(values, list):
        raise FormatError(f"The journal removes rows by {column} of {table}, which are not of this version.")
    return table, column, values


def rows_of(table: str, part: Mapping[str, Any]) -> list[Row]:
    """Read the rows of one table in a document; FormatError if they are not those of this or an earlier format."""
    kinds = columns(STORED[table]) if table in STORED else ()
    names, many = [c.name for c in kinds], len(part["columns"])
    missing = max(0, len(kinds) - many)  # in records of a format that had fewer
    known = bool(kinds) and part["columns"] == names[:many]
    if not known or not _LATER.issuperset(f"{table}.{name}" for name in names[many:]):
        raise FormatError(f"The journal has columns of {table} that are not those of this version.")
    given, lacking = part["rows"], [None] * missing
    if table in BLOCKS:
        unpacked = blockrows.unpacked
        return [tuple([unpacked(c.type, v) for c, v in zip(kinds, [*row, *lacking], strict=True)]) for row in given]
    times = [i for i, c in enumerate(kinds) if c.type == "TIMESTAMP"]
    rows = []
    for row in given:
        for i in times:
            if row[i] is not None:
                row[i] = datetime.fromisoformat(row[i])
        rows.append((*row, *lacking))
    return rows
