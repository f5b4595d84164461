"""What a SELECT is given and gives: conditions from filters by equality, and records from the rows that it finds."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from mgraph_store.errors import CorruptError, InputError
from mgraph_store.rows import limits
from mgraph_store.rows.lists import filled
from mgraph_store.rows.schema import ROWS, TABLE_OF, Column, columns, is_one_of, tables_with

if TYPE_CHECKING:
    import duckdb


def tensor_keys(
    con: duckdb.DuckDBPyConnection, *, of: Sequence[str] | None = None, without: Sequence[str] = ()
) -> set[str]:
    """List the keys of tensor objects that rows refer to: all rows, those ``of`` some nodes, or ``without`` some."""
    some, parts = of is not None or bool(without), []
    for table in tables_with("tensor_key"):
        owner = "id" if table == "nodes" else "node_id"
        part = f"SELECT tensor_key FROM {table} WHERE tensor_key IS NOT NULL"
        if some:
            part += f" AND {owner} {'NOT IN' if of is None else 'IN'} (SELECT value FROM mgraph_owners)"
        parts.append(part)
    with filled(con, mgraph_owners=without if of is None else of) if some else contextlib.nullcontext():
        return {key for (key,) in con.execute(" UNION ".join(parts)).fetchall()}


def rows_to_records(record: type[Any], rows: Sequence[Sequence[Any]]) -> list[Any]:
    """Make records from full rows, with columns in the order of the fields."""
    restore = [(i, c.restore) for i, c in enumerate(columns(record)) if c.restore is not None]
    result = []
    if TABLE_OF[record] in ROWS:
        _require_whole(record, rows)
    if not restore:
        result = [record(*row) for row in rows]
    for row in rows if restore else ():
        values = list(row)
        for i, function in restore:
            if values[i] is not None:
                values[i] = function(values[i])
        result.append(record(*values))
    for found in result:
        wrong = limits.fault(found)
        if wrong:
            raise CorruptError(f"Row {found.id} of {TABLE_OF[record]} cannot be read: {wrong}.")
    return result


def _require_whole(record: type[Any], rows: Sequence[Sequence[Any]]) -> None:
    # Where a block has lists of different lengths, DuckDB fills up the shorter ones.
    needed = itemgetter(*(i for i, c in enumerate(columns(record)) if not c.nullable))
    if any(None in needed(row) for row in rows):
        raise CorruptError(f"A block does not have all rows of {TABLE_OF[record]}: run `mgraph check`.")


def conditions(record: type[Any], equals: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    """Turn equality filters into SQL: a value, None (IS NULL) or a list (IN)."""
    known = {c.name: c for c in columns(record)}
    parts, values = [], []
    for name, value in equals.items():
        if name not in known:
            raise InputError(f"{TABLE_OF[record]} has no column {name!r}: choose from {', '.join(known)}.")
        c = known[name]
        if value is None:
            parts.append(f'"{name}" IS NULL')
        elif isinstance(value, (list, tuple, set, frozenset)) and not c.type.endswith("[]"):
            condition, given = is_one_of(name, c.type, [_value(record, c, v) for v in value])
            parts.append(condition)
            values += given
        else:
            parts.append(f'"{name}" = ?')
            values.append(_value(record, c, value))
    return parts, values


def _value(record: type[Any], column: Column, value: Any) -> Any:
    try:
        return column.to_sql(value)
    except InputError as error:
        raise InputError(f"{record.__name__}: {error}") from None
