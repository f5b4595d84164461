"""Upgrade the rows of bundles packed by an older mgraph to the current format, in the same way as those of a graph.

The rows are put into an in-memory database of their format, the steps of :mod:`mgraph_store.index.migrations` are
applied there, and the result is rows of the current format. So there is only one way from format to format.
"""

from __future__ import annotations

from typing import Any

import duckdb

from mgraph_store.exchange.closure import Rows
from mgraph_store.index import migrations
from mgraph_store.index.instances import CONFIG
from mgraph_store.index.reader import Reader
from mgraph_store.rows import schema
from mgraph_store.rows.records import Record, now
from mgraph_store.rows.schema import TABLES, columns, to_row

_WITHOUT_BLOCKS = 2
"""The last format whose graphs have no blocks. Bundles have none in later formats either, so they begin here."""


def upgrade(rows: Rows, version: int) -> Rows:
    """Upgrade the rows of a bundle from a format to the current one; columns added later are ignored.

    Raises
    ------
    duckdb.Error
        If they are not rows of that format.
    """
    if version == schema.FORMAT_VERSION:
        return rows
    lacking, version = migrations.new_since(version), min(version, _WITHOUT_BLOCKS)
    with duckdb.connect(":memory:", config=dict(CONFIG)) as con:
        con.execute("SET enable_external_access = false")
        con.execute(schema.create_meta())
        con.execute("INSERT INTO meta VALUES (?, ?, ?, 0)", [version, now().replace(tzinfo=None), ""])
        for table, kind in TABLES.items():
            kept = [c for c in columns(kind) if f"{table}.{c.name}" not in lacking]
            parts = [f'"{c.name}" {c.type}{"" if c.nullable else " NOT NULL"}' for c in kept]
            con.execute(f"CREATE TABLE {table} ({', '.join(parts)})")
            _insert(con, table, [c.name for c in columns(kind)], rows.get(kind, []), lacking)
        migrations.take_steps(con, version)
        reader = Reader(con)
        return {kind: reader.all(kind, order="rowid") for kind in TABLES.values()}


def _insert(
    con: duckdb.DuckDBPyConnection, table: str, names: list[str], records: list[Record], lacking: frozenset[str]
) -> None:
    kept = [i for i, name in enumerate(names) if f"{table}.{name}" not in lacking]
    kinds: tuple[Any, ...] = columns(TABLES[table])
    listed, parts = (
        ", ".join(text) for text in ([f'"{names[i]}"' for i in kept], [f"unnest(?::{kinds[i].type}[])" for i in kept])
    )
    found = [to_row(record) for record in records]
    if found:
        con.execute(f"INSERT INTO {table} ({listed}) SELECT {parts}", [[row[i] for row in found] for i in kept])
