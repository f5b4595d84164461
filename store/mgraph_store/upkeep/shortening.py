"""Rewrite a journal that is much longer than its content requires, while others keep working.

The rows come from a copy of the index, made under the shared lock. The records that others commit meanwhile are
appended under the exclusive lock, which is held only for that and for the counter.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import duckdb

from mgraph_store.folder import TEMPORARY
from mgraph_store.index import commits
from mgraph_store.index.changes import parts
from mgraph_store.index.instances import CONFIG
from mgraph_store.index.journal import Count, record_size
from mgraph_store.rows.ids import random_characters
from mgraph_store.rows.schema import TABLES, columns

if TYPE_CHECKING:
    from mgraph_store.store import GraphStore

_SAMPLE = 500  # rows sampled from each table
_SMALL = 20_000  # up to this many rows in all, no estimate is needed


def shortest_length(con: duckdb.DuckDBPyConnection) -> int:
    """Return how many bytes a journal of the current rows would take, estimated if there are many."""
    counts = {t: con.execute(f"SELECT count(*) FROM {t}").fetchall()[0][0] for t in TABLES}
    if sum(counts.values()) <= _SMALL:
        return sum(record_size(0, part) for part in parts(con))
    size = 0.0
    for table, count in counts.items():
        listed = ", ".join(f'"{c.name}"' for c in columns(TABLES[table]))
        rows = con.execute(f"SELECT {listed} FROM {table} WHERE rowid < {_SAMPLE}").fetchall()
        if rows:
            text = [[str(v) if v is not None else None for v in row] for row in rows]
            size += record_size(0, {"rows": text}) * count / len(rows)
    return int(size)


def shorten(store: GraphStore) -> None:
    """Start the journal afresh with the current rows."""
    journal = store.index.journal
    making = store.folder.sub(TEMPORARY, f"index-{random_characters(8)}")
    try:
        with store.lock.shared():
            with store.index.connect(read_only=True, patience=store.lock.timeout) as con:
                number = commits.number_of(con)
            since = journal.count()
            with making.opened(create=True):
                pass
            store.index.copy_whole_to(making)
        if since is None or since.number != number or not journal.reaches(since):  # a crash has left it so
            _at_once(store)
            return
        with making.opened() as folder, contextlib.suppress(FileNotFoundError):  # in case somebody else was faster
            path = making.path_within(folder) / store.index.path.name
            with duckdb.connect(str(path), config=dict(CONFIG)) as con:
                con.execute("SET enable_external_access = false")  # no view of an index leads elsewhere
                draft = journal.draft(number, parts(con))
            _adopt(store, draft, since)
    except duckdb.Error as error:
        raise store.index.translate(error) from error
    finally:
        making.above().remove(making.name)


def _adopt(store: GraphStore, draft: Count, since: Count) -> None:
    journal = store.index.journal
    with (
        store.lock.exclusive(),
        store.index.connect(read_only=False, patience=store.lock.timeout) as con,
    ):
        present = commits.settle(con, journal)
        if present.generation == since.generation:
            journal.adopt(journal.follow(draft, since, present))
        else:
            journal.forget(draft)


def _at_once(store: GraphStore) -> None:
    with (
        store.lock.exclusive(),
        store.index.connect(read_only=False, patience=store.lock.timeout) as con,
    ):
        store.index.journal.begin(commits.number_of(con), parts(con))
