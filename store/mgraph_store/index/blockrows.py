"""Rows of blocks in the database: how they are added, and how rows are removed that may be in blocks.

See :mod:`mgraph_store.rows.blocks`. A block of whose points only some are concerned by a removal is dissolved first:
what it says becomes rows of their own, as if it had never been gathered. So the same removals, done to the same rows,
always give the same tables, whether an index is changed or made from its journal.
"""

from __future__ import annotations

import math
import sys
from array import array
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from itertools import chain, groupby, repeat
from typing import Any

import duckdb

from mgraph_store.rows.blockviews import ON_GRID, in_blocks
from mgraph_store.rows.lists import filled
from mgraph_store.rows.schema import BLOCKS, ROWS, Column, columns
from mgraph_store.rows.statements import run

Row = tuple[Any, ...]

_FEW = 12  # rows that are given value by value in one statement
_MANY = {"point_blocks": 500}
_MANY_OTHERS = 5000
"""Points of rows together for which NumPy columns are made."""
_ROWS = "mgraph_lists"
_IN_USE = "SELECT grid_id FROM point_blocks WHERE grid_id IS NOT NULL"  # grids on which points are
_BLOCKS = {"node_terms": "term_blocks", "members": "point_blocks", "evaluations": "evaluation_blocks"}


def insert(con: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Row]) -> None:
    """Append rows of a table of blocks."""
    kinds = columns(BLOCKS[table])
    for as_arrays, alike in _runs(kinds, rows):
        if as_arrays and sum(_points(kinds, alike)) >= _MANY.get(table, _MANY_OTHERS):
            _insert_arrays(con, table, alike)
            continue
        for start in range(0, len(alike), _FEW):
            part = alike[start : start + _FEW]
            places = ", ".join([f"({', '.join('?' * len(kinds))})"] * len(part))
            run(con, f"INSERT INTO {table} VALUES {places}", [value for row in part for value in row])


def _runs(kinds: Sequence[Column], rows: Sequence[Row]) -> Iterator[tuple[bool, list[Row]]]:
    """Split rows into runs that can be passed to DuckDB as NumPy columns, or cannot."""
    run_of = list[Row]()
    last: int | None = 0
    for shape, some in groupby(rows, lambda row: _shape(kinds, row)):
        if run_of and (shape is None or last is None or (shape and last and shape != last)):
            yield last is not None, run_of
            last, run_of = 0, []
        last = None if shape is None else max(last or 0, shape)
        run_of += some
    if run_of:
        yield last is not None, run_of


def _points(kinds: Sequence[Column], rows: Sequence[Row]) -> list[int]:
    """Return how many points the lists of each row are about."""
    k = next(k for k, c in enumerate(kinds) if c.type.endswith("[]"))
    return [len(row[k]) for row in rows]


def _shape(kinds: Sequence[Column], row: Row) -> int | None:
    """Return how long the parameters of a block are, 0 if it has none; None if a row is not whole, or cannot be passed
    to DuckDB as NumPy columns, of which it reads NaN as NULL."""
    lists = [(c.type, v) for c, v in zip(kinds, row, strict=True) if c.type.endswith("[]") and v is not None]
    if len({len(v) for _, v in lists}) > 1:
        return None
    width = 0
    for kind, values in lists:
        if kind == "DOUBLE[][]":
            lengths = {len(v) for v in values}
            if len(lengths) != 1 or math.isnan(sum(map(sum, values))):
                return None
            (width,) = lengths
        elif kind == "DOUBLE[]" and math.isnan(sum(values)):
            return None
    return width


def _insert_arrays(con: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Row]) -> None:
    """Append rows through NumPy columns, which takes a third of the time."""
    import numpy as np

    kinds = columns(BLOCKS[table])
    sizes = _points(kinds, rows)
    found: dict[str, Any] = {
        "g": np.repeat(np.arange(len(rows)), sizes),
        "i": np.concatenate([np.arange(size) for size in sizes]),
    }
    parts: list[str] = []
    values: list[list[Any]] = []
    for k, c in enumerate(kinds):
        column = [row[k] for row in rows]
        if not c.type.endswith("[]"):
            parts.append(f"(?::{c.type}[])[g + 1]")
            values.append(column)
            continue
        flat = list(
            chain.from_iterable(v if v is not None else repeat(None, n) for v, n in zip(column, sizes, strict=True))
        )
        if c.type == "DOUBLE[][]":
            width = max((len(v) for v in flat if v is not None), default=0)
            made = np.array([v if v is not None else (0.0,) * width for v in flat], np.float64)
            found |= {f"c{k}_{j}": np.ascontiguousarray(made[:, j]) for j in range(width)}
            listed = f"list([{', '.join(f'c{k}_{j}' for j in range(width))}] ORDER BY i)"
        else:
            missing = 0 if c.type == "BIGINT[]" else None
            found[f"c{k}"] = np.array([missing if v is None else v for v in flat], _DTYPES[c.type])
            listed = f"list(c{k} ORDER BY i)"
        if c.nullable:
            parts.append(f"if((?::BOOLEAN[])[g + 1], {listed}, NULL)")
            values.append([v is not None for v in column])
        else:
            parts.append(listed)
    con.execute("SELECT 1 WHERE false").fetchall()  # so that nothing of an earlier query is left to fetch
    con.register(_ROWS, found)
    try:
        con.execute(
            f"INSERT INTO {table} SELECT {', '.join(parts)} FROM {_ROWS} GROUP BY g ORDER BY g", values
        ).fetchall()
    finally:
        con.unregister(_ROWS)


_DTYPES = {"VARCHAR[]": "object", "BIGINT[]": "int64", "DOUBLE[]": "float64"}


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


def take_out(con: duckdb.DuckDBPyConnection, table: str, column: str, gone: str) -> int:
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
    if column in {c.name for c in columns(BLOCKS[_BLOCKS[table]])}:  # the same for all points
        same = f'"{column}" IN (SELECT value FROM {gone})'
        on_grids = f"DELETE FROM grid_terms WHERE {same} AND grid_id IN ({_IN_USE})"  # others go anyway
        more = int(con.execute(on_grids).fetchall()[0][0]) if table == "node_terms" else 0
        return _clear(con, table, same, []) + more
    if column != "node_id":  # which nobody does to many
        _to_rows(con, table, [block for (block,) in con.execute("SELECT id FROM point_blocks").fetchall()])
        return 0
    part = "WHERE connection_id IS NOT NULL" if table == "members" else ""
    hit = f"""SELECT id, count(value) = count(*) AS whole FROM (
    SELECT id, unnest(node_ids) AS node FROM point_blocks {part}
) LEFT JOIN {gone} ON value = node GROUP BY id HAVING count(value) > 0"""
    found = con.execute(hit).fetchall()
    _to_rows(con, table, [block for block, whole in found if not whole])
    whole = [block for block, whole in found if whole]
    if not whole:
        return 0
    with filled(con, mgraph_whole=whole):
        return _clear_all(con, table, "SELECT value FROM mgraph_whole")


def _own(table: str) -> str:
    return "id" if table == "members" else "block_id"


def _clear(con: duckdb.DuckDBPyConnection, table: str, condition: str, values: list[Any]) -> int:
    """Take what blocks say for a view out of those that meet a condition; return how many did."""
    if table == "members":
        sql = "UPDATE point_blocks SET connection_id = NULL, positions = NULL, parameters = NULL"
    else:
        sql = f"DELETE FROM {_BLOCKS[table]}"
    return int(con.execute(f"{sql} WHERE {condition}", values).fetchall()[0][0])


def _clear_all(con: duckdb.DuckDBPyConnection, table: str, blocks: str) -> int:
    """Take all that is said for a view out of the blocks whose ids this SQL selects; return how many were concerned."""
    if table != "node_terms":
        return _clear(con, table, f"{_own(table)} IN ({blocks})", [])
    return _clear(con, table, f"block_id IN ({blocks})", []) + _leave_grid(con, blocks)


def _leave_grid(con: duckdb.DuckDBPyConnection, blocks: str) -> int:
    """Take blocks off the grids that say their terms; from then on they say themselves where their points are."""
    parameters = ON_GRID.format(places="places")
    left = con.execute(
        f"""UPDATE point_blocks SET parameters = if(connection_id IS NULL, NULL, {parameters}), grid_id = NULL,
    places = NULL
FROM point_grids g WHERE g.id = point_blocks.grid_id AND point_blocks.id IN ({blocks})
    AND point_blocks.grid_id IN (SELECT grid_id FROM grid_terms)"""
    )
    return int(left.fetchall()[0][0])


def _to_rows(con: duckdb.DuckDBPyConnection, table: str, blocks: list[str]) -> None:
    if blocks:
        con.execute("CREATE OR REPLACE TEMP TABLE mgraph_dissolved AS SELECT unnest(?::VARCHAR[]) AS id", [blocks])
        some = "SELECT id FROM temp.mgraph_dissolved"
        con.execute(f"INSERT INTO {ROWS[table]} {in_blocks(table, f'id IN ({some})')}")
        _clear_all(con, table, some)
        con.execute("DROP TABLE temp.mgraph_dissolved")


def tidy(con: duckdb.DuckDBPyConnection) -> None:
    """Remove the blocks of points about which nothing is said any more, and the grids on which no point is."""
    con.execute(
        "DELETE FROM point_blocks WHERE connection_id IS NULL AND id NOT IN "
        "(SELECT block_id FROM term_blocks UNION ALL SELECT block_id FROM evaluation_blocks) "
        "AND (grid_id IS NULL OR grid_id NOT IN (SELECT grid_id FROM grid_terms))"
    )
    for table, own in (("grid_terms", "grid_id"), ("point_grids", "id")):
        con.execute(f"DELETE FROM {table} WHERE {own} NOT IN ({_IN_USE})")
