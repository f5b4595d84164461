"""Commits: the order in which index and journal are written, and how each is rebuilt from the other.

See :mod:`mgraph_store.index.journal` for what is written when. All functions except :func:`replay` are called under the
exclusive lock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import duckdb

from mgraph_store.errors import FormatError
from mgraph_store.index.changes import PART, Changes, parts
from mgraph_store.index.journal import Count, Entry, Journal
from mgraph_store.rows import schema
from mgraph_store.rows.relations import easy_statements


def number_of(con: duckdb.DuckDBPyConnection) -> int:
    """Read how many commits an index has seen."""
    row = con.execute("SELECT commits FROM meta").fetchone()
    assert row is not None
    return int(row[0])


def settle(con: duckdb.DuckDBPyConnection, journal: Journal) -> Count:
    """Bring the journal up to date with an index that is not behind it, and clean up after a crash."""
    number, count = number_of(con), journal.count()
    if count is not None and not journal.reaches(count):
        count = None  # missing or truncated: anything written after a gap could never be read back
    if count is not None and number == count.number:
        return count
    if count is not None and number == count.number + 1:
        prepared = journal.prepared(count)
        if prepared is not None:
            journal.seal(prepared)
            return prepared
    return journal.begin(number, parts(con))


def prepare(con: duckdb.DuckDBPyConnection, journal: Journal, count: Count, changes: Changes) -> Count:
    """Write the record of a transaction that is about to be committed, and its number into the index."""
    con.execute("UPDATE meta SET commits = ?", [count.number + 1])
    return journal.prepare(count, changes.document())


def seal(journal: Journal, count: Count) -> None:
    """Count a transaction that was committed."""
    # The rows are safe. If the disk refuses this last write, the next writer makes up for it.
    with contextlib.suppress(OSError):
        journal.seal(count)


def replay(con: duckdb.DuckDBPyConnection, entries: Iterable[Entry], *, comments: bool = True) -> int:
    """Fill an empty database with the index described by the records of a journal; return its last commit's number.

    Raises
    ------
    FormatError
        If the journal has another format.
    """
    number, waiting, filled = 0, Changes(), 0
    present = schema.FORMAT_VERSION
    con.begin()
    for i, entry in enumerate(entries):
        if i == 0:
            _begin(con, entry.document.get("meta", {}), comments)
        changes = Changes.from_document(entry.document)
        for table, rows in changes.added.items():
            waiting.added.setdefault(table, []).extend(rows)
            filled += len(rows)
        if changes.replaced or changes.removed or filled >= PART:
            waiting.apply(con)
            waiting, filled = Changes(), 0
            Changes({}, changes.replaced, changes.removed).apply(con)
        number = entry.number
    waiting.apply(con)
    con.execute("UPDATE meta SET commits = ?, format_version = ?", [number, present])
    con.commit()
    return number


def _begin(con: duckdb.DuckDBPyConnection, meta: dict[str, Any], comments: bool) -> None:
    found, present = meta.get("format_version"), schema.FORMAT_VERSION
    if found != present:
        raise FormatError(f"The journal has format {found}, but this mgraph has {present}.")
    for statement in schema.create_statements(comments=comments):
        con.execute(statement)
    if comments:
        for statement in easy_statements():
            con.execute(statement)
    created = datetime.fromisoformat(meta["created"])
    con.execute("INSERT INTO meta VALUES (?, ?, ?, 0)", [present, created, meta["written_by"]])
