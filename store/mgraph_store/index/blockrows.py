"""Rows of blocks in the database: how they are added, and how rows are removed that may be in blocks.

See :mod:`mgraph_store.rows.blocks`. A block of whose points only some are concerned by a removal is dissolved first:
what it says becomes rows of their own, as if it had never been gathered. So the same removals, done to the same rows,
always give the same tables, whether an index is changed or made from its journal.
"""

from __future__ import annotations

import sys
from array import array
from base64 import b64decode, b64encode
from collections.abc import Sequence
from itertools import chain
from typing import Any

import duckdb

from mgraph_store.rows.blocks import in_blocks
from mgraph_store.rows.schema import BLOCKS, ROWS, Column, columns

Row = tuple[Any, ...]

_MANY = 100  # numbers in a row's lists for which NumPy columns are made
_ROWS = "mgraph_lists"
_PART = {"node_terms": "sources", "members": "connection_id"}
_CLEARED = {
    "node_terms": "sources = NULL, coefficients = NULL",
    "members": "connection_id = NULL, positions = NULL, parameters = NULL",
}


def insert(con: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Row]) -> None:
    """Append rows of a table of blocks."""
    kinds = columns(BLOCKS[table])
    for row in rows:
        arrays = _arrays(kinds, row)
        if arrays is None:
            con.execute(f"INSERT INTO {table} VALUES ({', '.join(f'?::{c.type}' for c in kinds)})", list(row))
            continue
        found, lists = arrays
        parts = [lists.get(c.name, f"?::{c.type}") for c in kinds]
        plain = [value for c, value in zip(kinds, row, strict=True) if c.name not in lists]
        con.execute("SELECT 1 WHERE false").fetchall()  # so that nothing of an earlier query is left to fetch
        con.register(_ROWS, found)
        try:
            con.execute(f"INSERT INTO {table} SELECT {', '.join(parts)} FROM {_ROWS}", plain).fetchall()
        finally:
            con.unregister(_ROWS)


def _arrays(kinds: Sequence[Column], row: Row) -> tuple[dict[str, Any], dict[str, str]] | None:
    """Turn the long lists of a row into NumPy columns, and SQL that makes lists of them, in a third of the time; None
    if they are short, or would change, because DuckDB reads NaN as NULL."""
    import numpy as np

    long = {c.name: value for c, value in zip(kinds, row, strict=True) if value is not None and c.type.endswith("[]")}
    long.pop("sources", None)
    size = len(next(iter(long.values())))
    if size < _MANY:
        return None
    found: dict[str, Any] = {"i": np.arange(size)}
    lists: dict[str, str] = {}
    for name, values in long.items():
        made = np.array(values, object if isinstance(values[0], str) else None)
        if made.dtype == np.float64 and np.isnan(made).any():
            return None
        if made.ndim == 1:
            found[name] = made
            lists[name] = f'list("{name}" ORDER BY i)'
        else:
            found |= {f"{name}{k}": column for k, column in enumerate(np.ascontiguousarray(made.T))}
            lists[name] = f"list([{', '.join(f'{name}{k}' for k in range(made.shape[1]))}] ORDER BY i)"
    return found, lists


def packed(kind: str, value: Any) -> Any:
    """Write a list of numbers of a block for the journal: base64 of what they are in little-endian order.

    Before lists of lists, which are all of one length, stands that length and a colon.
    """
    if kind == "DOUBLE[]" and value is not None:
        return _encoded(value)
    if kind == "DOUBLE[][]" and value is not None:
        return f"{len(value[0])}:{_encoded(chain.from_iterable(value))}"
    return value


def unpacked(kind: str, value: Any) -> Any:
    """Read what :func:`packed` wrote; ValueError if it is something else."""
    if value is None or not kind.startswith("DOUBLE["):
        return value
    if kind == "DOUBLE[]":
        return _decoded(value)
    width, _, text = value.partition(":")
    flat, size = _decoded(text), int(width)
    if size < 1 or len(flat) % size:
        raise ValueError(f"{len(flat)} numbers are not lists of {size}")
    return [flat[at : at + size] for at in range(0, len(flat), size)]


def _encoded(values: Any) -> str:
    numbers = array("d", values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return b64encode(numbers).decode()


def _decoded(text: str) -> list[float]:
    numbers = array("d")
    numbers.frombytes(b64decode(text, validate=True))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def remove(con: duckdb.DuckDBPyConnection, table: str, column: str, gone: str) -> int:
    """Remove those rows of a view whose column has one of the values that the table ``gone`` has.

    Returns how many rows or blocks were concerned.
    """
    whole = _dissolve(con, table, column, gone)
    deleted = con.execute(f'DELETE FROM {ROWS[table]} WHERE "{column}" IN (SELECT value FROM {gone})').fetchall()
    return int(deleted[0][0]) + whole


def _dissolve(con: duckdb.DuckDBPyConnection, table: str, column: str, gone: str) -> int:
    """Take a view's rows that are to be removed out of the blocks, all that they are with or as rows of their own.

    Returns how many blocks were concerned as a whole.
    """
    blocks = "evaluation_blocks" if table == "evaluations" else "point_blocks"
    own = "block_id" if table == "evaluations" else "id"
    if column in {c.name for c in columns(BLOCKS[blocks])}:  # the same for all of its points
        condition = f'"{column}" IN (SELECT value FROM {gone})'
    elif column == "node_id":
        part = _PART.get(table)
        hit = f"""SELECT id, count(value) = count(*) AS whole FROM (
    SELECT id, unnest(node_ids) AS node FROM point_blocks {f"WHERE {part} IS NOT NULL" if part else ""}
) LEFT JOIN {gone} ON value = node GROUP BY id HAVING count(value) > 0"""
        found = con.execute(hit).fetchall()
        _to_rows(con, table, [block for block, whole in found if not whole])
        condition = f"{own} IN (SELECT unnest(?::VARCHAR[]))"
        return _clear(con, table, blocks, condition, [[block for block, whole in found if whole]])
    else:  # which nobody does to many
        _to_rows(con, table, [block for (block,) in con.execute("SELECT id FROM point_blocks").fetchall()])
        return 0
    return _clear(con, table, blocks, condition, [])


def _clear(con: duckdb.DuckDBPyConnection, table: str, blocks: str, condition: str, values: list[Any]) -> int:
    sql = f"DELETE FROM {blocks}" if table == "evaluations" else f"UPDATE {blocks} SET {_CLEARED[table]}"
    return int(con.execute(f"{sql} WHERE {condition}", values).fetchall()[0][0])


def _to_rows(con: duckdb.DuckDBPyConnection, table: str, blocks: list[str]) -> None:
    if not blocks:
        return
    con.execute("CREATE OR REPLACE TEMP TABLE mgraph_dissolved AS SELECT unnest(?::VARCHAR[]) AS id", [blocks])
    some = "(SELECT id FROM temp.mgraph_dissolved)"
    con.execute(f"INSERT INTO {ROWS[table]} {in_blocks(table, f'id IN {some}')}")
    own, name = ("block_id", "evaluation_blocks") if table == "evaluations" else ("id", "point_blocks")
    _clear(con, table, name, f"{own} IN {some}", [])
    con.execute("DROP TABLE temp.mgraph_dissolved")


def tidy(con: duckdb.DuckDBPyConnection) -> None:
    """Remove the blocks that say nothing any more."""
    con.execute(
        "DELETE FROM point_blocks WHERE connection_id IS NULL AND sources IS NULL "
        "AND id NOT IN (SELECT block_id FROM evaluation_blocks)"
    )
