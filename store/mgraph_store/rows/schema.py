"""The tables of the index, generated from the records; the version of the format.

What each version changed: see :mod:`mgraph_store.index.migrations`.
"""

from __future__ import annotations

import operator
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from itertools import chain
from typing import Any, NamedTuple

from mgraph_store.errors import InputError
from mgraph_store.rows.blockviews import view
from mgraph_store.rows.records import (
    Connection,
    Edge,
    Evaluation,
    EvaluationBlock,
    GridTerm,
    Measure,
    Member,
    Node,
    NodeBuffers,
    NodeTerm,
    Note,
    PointBlock,
    PointGrid,
    Record,
    Run,
    Series,
    Space,
    Summary,
    Sweep,
    TermBlock,
)

FORMAT_VERSION = 4

TABLES: Mapping[str, type[Record]] = {
    "spaces": Space,
    "nodes": Node,
    "node_terms": NodeTerm,
    "node_buffers": NodeBuffers,
    "connections": Connection,
    "members": Member,
    "sweeps": Sweep,
    "evaluations": Evaluation,
    "edges": Edge,
    "summaries": Summary,
    "series": Series,
    "measures": Measure,
    "notes": Note,
    "runs": Run,
}
"""What a graph consists of, by the name under which it is read."""

BLOCKS: Mapping[str, type[Record]] = {
    "point_blocks": PointBlock,
    "term_blocks": TermBlock,
    "evaluation_blocks": EvaluationBlock,
    "point_grids": PointGrid,
    "grid_terms": GridTerm,
}
"""Tables of rows that are lists: many rows of :data:`ROWS` in one."""

BLOCK_KINDS = frozenset(BLOCKS.values())

ROWS: Mapping[str, str] = {"node_terms": "term_rows", "members": "member_rows", "evaluations": "evaluation_rows"}
"""What is a view in the index, of rows in a table of their own and of those in blocks: view → table of the rows."""

STORED: Mapping[str, type[Record]] = {**TABLES, **BLOCKS}
"""What is stored, by the name that the journal uses; see :func:`stored_in` for that of the table."""

TABLE_OF: Mapping[type[Any], str] = {record: table for table, record in STORED.items()}

REFERENCES: Mapping[str, type[Record]] = {
    "space_id": Space,
    "node_id": Node,
    "source_id": Node,
    "target_id": Node,
    "connection_id": Connection,
    "sweep_id": Sweep,
    "run_id": Run,
    "block_id": PointBlock,
    "grid_id": PointGrid,
    "node_ids": Node,
}
"""A column with one of these names, in any table, holds the id of such a record, or a list of ids."""

META = {
    "format_version": ("BIGINT", "version of the graph's format", ""),
    "created": ("TIMESTAMP", "when the graph was created, UTC", ""),
    "written_by": ("VARCHAR", "version of mgraph that created it", ""),
    "commits": ("BIGINT", "transactions since then that this index has; the journal may have more", ""),
}
"""Columns of the table ``meta``, which has one row: type, meaning, unit."""

_MEANING_OF_META = "The graph itself, in one row: its format, and how often it was changed."


_FEW = 30
"""So many values are compared with one by one; to join more than that takes DuckDB less time."""


class Column(NamedTuple):
    """One column: its SQL type, whether it may be NULL, and how values are converted."""

    name: str
    type: str
    nullable: bool
    meaning: str
    unit: str
    convert: Callable[[Any], Any]
    restore: Callable[[Any], Any] | None

    def to_sql(self, value: Any) -> Any:
        """Check and convert a value for DuckDB; ``InputError`` if it does not fit the column."""
        if value is None and self.nullable:
            return None
        try:
            return self.convert(value)
        except (TypeError, ValueError, OverflowError):
            raise InputError(f"{value!r} does not fit column {self.name} ({self.type}).") from None


def columns(record: type[Any]) -> tuple[Column, ...]:
    """List the columns of a record's table, in the order of its fields."""
    return _COLUMNS[record]


def to_row(record: Record) -> tuple[Any, ...]:
    """Convert a record to SQL values, in the order of its columns; ``InputError`` if one does not fit."""
    kind = type(record)
    try:
        return tuple(c.to_sql(getattr(record, c.name)) for c in _COLUMNS[kind])
    except InputError as error:
        raise InputError(f"{kind.__name__}: {error}") from None


def to_rows(records: Sequence[Record]) -> list[tuple[Any, ...]]:
    """Convert records of one kind like :func:`to_row`; many of them column by column, in a fifth of the time."""
    if len(records) < _FEW:
        return [to_row(r) for r in records]
    kinds = _COLUMNS[type(records[0])]
    taken = list(map(operator.attrgetter(*(c.name for c in kinds)), records))
    converted = []
    for c, values in zip(kinds, zip(*taken, strict=True), strict=True):
        done = _column(c, values)
        if done is None:
            return [to_row(r) for r in records]  # which says what is wrong, if anything is
        converted.append(done)
    return list(zip(*converted, strict=True))


def _column(c: Column, values: Sequence[Any]) -> Sequence[Any] | None:
    """Convert a column of values that are just what they should be, if they are; else None."""
    found = set(map(type, values))
    if c.nullable:
        found.discard(type(None))
    if found <= {_PLAIN.get(c.type)} and c.type == "VARCHAR":
        try:
            "".join(v for v in set(values) if v is not None).encode()
        except UnicodeEncodeError:
            return None
        return values
    if found <= {_PLAIN.get(c.type)} and c.type == "BIGINT":
        given = [v for v in set(values) if v is not None]
        return values if not given or -(2**63) <= min(given) <= max(given) < 2**63 else None
    if found <= {_PLAIN.get(c.type)} and c.type == "DOUBLE":
        return values
    try:
        if c.type == "TIMESTAMP":  # what is stored together is often of one moment
            moments = {v: None if v is None and c.nullable else c.convert(v) for v in set(values)}
            return [moments[v] for v in values]
        return [None if v is None and c.nullable else c.convert(v) for v in values]
    except (TypeError, ValueError, OverflowError):
        return None


def stored_in(table: str) -> str:
    """Return the name of the table in which the rows of a table or view are, apart from those in blocks."""
    return ROWS.get(table, table)


def tables_with(column: str) -> list[str]:
    """List the tables and views that have a column of this name."""
    return [table for table, record in STORED.items() if any(c.name == column for c in _COLUMNS[record])]


def is_one_of(column: str, kind: str, values: Sequence[Any]) -> tuple[str, list[Any]]:
    """Return the SQL condition that a column of an SQL type has one of the values, and its parameters."""
    if 0 < len(values) <= _FEW:
        return f'"{column}" IN ({", ".join("?" * len(values))})', list(values)
    return f'"{column}" IN (SELECT unnest(?::{kind}[]))', [list(values)]


def create_statements(*, comments: bool = True) -> Iterable[str]:
    """Yield the SQL that makes an empty index, with comments on its columns; ``meta`` still needs its row."""
    yield create_meta()
    for table, record in STORED.items():
        yield create_table(stored_in(table), record)
    yield from create_views()
    if comments:
        yield from comment_statements()


def create_meta() -> str:
    """Return the SQL that makes the table ``meta``."""
    return f"CREATE TABLE meta ({', '.join(f'{name} {kind} NOT NULL' for name, (kind, _, _) in META.items())})"


def create_views() -> Iterable[str]:
    """Yield the SQL that makes the views of rows that may be in blocks, in place of earlier ones."""
    for table in ROWS:
        yield f"CREATE OR REPLACE VIEW {table} AS {view(table)}"


def create_table(name: str, record: type[Any]) -> str:
    """Return the SQL that makes a table for records of a kind."""
    parts = [f'"{c.name}" {c.type}{"" if c.nullable else " NOT NULL"}' for c in columns(record)]
    return f"CREATE TABLE {name} ({', '.join(parts)})"


def comment_statements() -> Iterable[str]:
    """Yield the SQL that records in the index what each table, each view and each column means."""
    yield f"COMMENT ON TABLE meta IS {quoted(_MEANING_OF_META)}"
    for table, record in STORED.items():
        meaning = (record.__doc__ or "").splitlines()[0]
        yield f"COMMENT ON {'VIEW' if table in ROWS else 'TABLE'} {table} IS {quoted(meaning)}"
        if table in ROWS:
            yield f"COMMENT ON TABLE {ROWS[table]} IS {quoted(f'Those rows of {table} that are in no block.')}"
    for table, described in describe().items():
        for name, (_, meaning, unit) in described.items():
            for place in dict.fromkeys((table, stored_in(table))):
                yield f'COMMENT ON COLUMN {place}."{name}" IS {quoted(f"{meaning} [{unit}]" if unit else meaning)}'


def quoted(text: str) -> str:
    """Return a text quoted for SQL."""
    return "'" + text.replace("'", "''") + "'"


def describe() -> dict[str, dict[str, tuple[str, str, str]]]:
    """Map each table or view to its columns and each column to (type, meaning, unit)."""
    tables = {
        table: {c.name: (c.type if c.nullable else f"{c.type} NOT NULL", c.meaning, c.unit) for c in columns(record)}
        for table, record in STORED.items()
    }
    meta = {name: (f"{sql} NOT NULL", text, unit) for name, (sql, text, unit) in META.items()}
    return {"meta": meta} | tables


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # a lone surrogate cannot be stored: UnicodeEncodeError is a ValueError
    return str(value)


def _integer(value: Any) -> int:
    number = operator.index(value)
    if not -(2**63) <= number < 2**63:
        raise OverflowError
    return number


def _float(value: Any) -> float:
    if isinstance(value, str):
        raise TypeError
    return float(value)


def _moment(value: Any) -> datetime:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise TypeError
    return value.astimezone(UTC).replace(tzinfo=None)


# TIMESTAMP in UTC, not TIMESTAMPTZ, whose meaning depends on the session that reads it.
_SCALARS: dict[str, tuple[str, Callable[[Any], Any], Callable[[Any], Any] | None]] = {
    "str": ("VARCHAR", _text, None),
    "int": ("BIGINT", _integer, None),
    "float": ("DOUBLE", _float, None),
    "datetime": ("TIMESTAMP", _moment, lambda value: value.replace(tzinfo=UTC)),
}


def _sequence(kind: str) -> tuple[str, Callable[[Any], Any], Callable[[Any], Any]]:
    item = kind.removeprefix("Sequence[")[:-1]
    sql, convert, restore = _SCALARS.get(item) or _sequence(item)

    def convert_all(values: Sequence[Any]) -> list[Any]:
        if isinstance(values, str):
            raise TypeError
        if item == "float":
            return _floats(values)
        if item == "Sequence[float]":
            return _lists_of_floats(values)
        if set(map(type, values)) == {_PLAIN.get(sql)}:  # what they should be, nearly always
            return _many(sql, values)
        return [convert(v) for v in values]

    def restore_all(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values) if restore is None else tuple(map(restore, values))

    return f"{sql}[]", convert_all, restore_all


def _many(sql: str, values: Sequence[Any]) -> list[Any]:
    """Convert texts or whole numbers, in a fifth of the time of one after the other."""
    if sql == "VARCHAR":
        "".join(values).encode()
    elif not -(2**63) <= min(values) <= max(values) < 2**63:
        raise OverflowError
    return list(values)


def _floats(values: Iterable[Any]) -> list[float]:
    return array("d", list(values)).tolist()  # a fifth of the time of one after the other


def _lists_of_floats(values: Sequence[Any]) -> list[list[float]]:
    if any(isinstance(v, str) for v in values):
        raise TypeError
    flat, lists, at = _floats(chain.from_iterable(values)), [], 0
    for value in values:
        lists.append(flat[at : at + len(value)])
        at += len(value)
    return lists


def _columns(record: type[Any]) -> tuple[Column, ...]:
    result = []
    for field in fields(record):
        # An annotation is a text (PEP 563); to evaluate all of them would take longer than to make the columns.
        kind, optional, _ = str(field.type).partition(" | None")
        nullable = bool(optional)
        sql, convert, restore = _SCALARS.get(kind) or _sequence(kind)
        meta = field.metadata
        result.append(Column(field.name, sql, nullable, meta["meaning"], meta["unit"], convert, restore))
    return tuple(result)


_PLAIN = {"VARCHAR": str, "BIGINT": int, "DOUBLE": float}
_COLUMNS = {record: _columns(record) for record in STORED.values()}
