"""What one commit changes in the index, as SQL values, to be applied to a database or written to the journal as JSON.

A document of the journal names the columns of every table, so that it can be read without this package:
``{"add": {"nodes": {"columns": […], "rows": [[…], …]}}, "update": {…}, "remove": [["nodes", "id", ["m…"]]]}``.
Rows are added first, then replaced by their id, then removed. Times are text, and numbers that are not finite are
``NaN`` and ``Infinity``, as Python's JSON has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import duckdb

from mgraph_store.errors import FormatError, NotFoundError
from mgraph_store.rows.records import Record
from mgraph_store.rows.schema import META, TABLE_OF, TABLES, columns, to_row

Row = tuple[Any, ...]


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
        changes = cls({TABLE_OF[kind]: [to_row(r) for r in records] for kind, records in added.items()})
        for record in updated:
            changes.replaced.setdefault(TABLE_OF[type(record)], []).append(to_row(record))
        changes.removed = [(table, column, list(values)) for table, column, values in removed]
        return changes

    def apply(self, con: duckdb.DuckDBPyConnection) -> None:
        """Change the database; ``NotFoundError`` if a row to be replaced does not exist."""
        for table, rows in self.added.items():
            insert_rows(con, table, rows)
        for table, rows in self.replaced.items():
            own, *rest = columns(TABLES[table])
            sets = ", ".join(f'"{c.name}" = ?' for c in rest)
            for row in rows:
                changed = con.execute(f"UPDATE {table} SET {sets} WHERE id = ?", [*row[1:], row[0]]).fetchone()
                if changed is None or changed[0] == 0:
                    raise NotFoundError(f"Nothing in {table} has the {own.name} {row[0]}: it cannot be updated.")
        for table, column, values in self.removed:
            con.execute(f'DELETE FROM {table} WHERE "{column}" IN (SELECT unnest(?::VARCHAR[]))', [values])

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
        """Read what :meth:`document` wrote; FormatError if its tables differ from those of this version."""
        added, replaced = (
            {table: _rows(table, part) for table, part in document.get(key, {}).items()} for key in ("add", "update")
        )
        return cls(added, replaced, [(table, column, values) for table, column, values in document.get("remove", ())])


class Rows:
    """The rows of an index in memory, as each commit leaves them."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[Any, Row]] = {table: {} for table in TABLES}  # by id, or by a number
        self._next = 0

    def apply(self, changes: Changes) -> None:
        """Apply changes, as :meth:`Changes.apply` does to a database."""
        for table, rows in changes.added.items():
            named = columns(TABLES[table])[0].name == "id"
            for row in rows:
                self._next += 1
                self._rows[table][row[0] if named else self._next] = row
        for table, rows in changes.replaced.items():
            for row in rows:
                self._rows[table][row[0]] = row
        for table, column, values in changes.removed:
            place = [c.name for c in columns(TABLES[table])].index(column)
            gone = set(values)
            self._rows[table] = {k: row for k, row in self._rows[table].items() if row[place] not in gone}

    def tables(self) -> dict[str, list[Row]]:
        """Return the rows of every table that has any."""
        return {table: list(rows.values()) for table, rows in self._rows.items() if rows}


def snapshot(con: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Describe a whole index for the journal: its row of ``meta``, and all rows of all tables as additions."""
    names = ", ".join(META)
    meta = con.execute(f"SELECT {names} FROM meta").fetchone()
    assert meta is not None
    changes = Changes()
    for table, record in TABLES.items():
        listed = ", ".join(f'"{c.name}"' for c in columns(record))
        rows = con.execute(f"SELECT {listed} FROM {table} ORDER BY rowid").fetchall()
        if rows:
            changes.added[table] = rows
    return {"meta": {k: _plain(v) for k, v in zip(META, meta, strict=True)}} | changes.document()


def insert_rows(con: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Row]) -> None:
    """Append rows of one table in one statement."""
    kinds = columns(TABLES[table])
    parts = ", ".join(f"unnest(?::{c.type}[])" for c in kinds)
    con.execute(f"INSERT INTO {table} SELECT {parts}", [[row[i] for row in rows] for i in range(len(kinds))])


def _table(table: str, rows: Sequence[Row]) -> dict[str, Any]:
    return {"columns": [c.name for c in columns(TABLES[table])], "rows": [[_plain(v) for v in row] for row in rows]}


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _rows(table: str, part: Mapping[str, Any]) -> list[Row]:
    names = [c.name for c in columns(TABLES[table])] if table in TABLES else None
    if part["columns"] != names or names is None:
        raise FormatError(f"The journal has columns of {table} that are not those of this version.")
    times = [i for i, c in enumerate(columns(TABLES[table])) if c.type == "TIMESTAMP"]
    rows = []
    for row in part["rows"]:
        for i in times:
            if row[i] is not None:
                row[i] = datetime.fromisoformat(row[i])
        rows.append(tuple(row))
    return rows
