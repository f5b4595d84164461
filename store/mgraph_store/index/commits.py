"""How the index is made from the journal, and the journal begun anew from the index.

See :mod:`mgraph_store.index.journal` for what is written when. :func:`settle` is called under the exclusive lock.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import duckdb

from mgraph_store.errors import CorruptError, FormatError, NotFoundError, StoreError
from mgraph_store.index.changes import PART, Changes, parts, weight
from mgraph_store.index.journal import Count, Journal
from mgraph_store.index.journalrecord import Entry
from mgraph_store.rows import schema
from mgraph_store.rows.relations import easy_statements
from mgraph_store.rows.statements import run

_AT_ONCE = 50 * PART
"""Rows of one transaction where nobody can see a part of them: DuckDB keeps what is not committed in memory."""
_TOGETHER = 4 * PART  # rows that are added together, because to add any takes several milliseconds


def number_of(con: duckdb.DuckDBPyConnection) -> int:
    """Read how many commits an index has seen."""
    row = run(con, "SELECT commits FROM meta").fetchone()
    assert row is not None
    return int(row[0])


def settle(con: duckdb.DuckDBPyConnection, journal: Journal) -> Count:
    """Give an index, in its open transaction, all commits of the journal, or begin a journal that lacks some.

    Raises
    ------
    CorruptError
        If the index lacks commits, and so does the journal.
    """
    count = catch_up(con, journal)
    number = number_of(con)
    # What is written behind a gap could never be read back.
    if journal.is_former() or number > count.number or not journal.reaches(count):
        return journal.begin(number, parts(con))
    return count


def catch_up(con: duckdb.DuckDBPyConnection, journal: Journal) -> Count:
    """Give an index, in its open transaction, all commits of the journal; return the last one. Errors as
    :func:`settle`."""
    number, count = number_of(con), journal.count()
    if count is None:
        raise gone(journal)
    if number >= count.number:
        return count
    if journal.is_former():
        raise lost(journal, number, count)
    try:
        journal.flush(count)  # before the index says that it has them
    except FileNotFoundError:
        pass  # which is told below
    except OSError as error:
        raise StoreError(f"The journal of graph {journal.graph} cannot be flushed ({error.strerror}).") from error
    follow(con, journal, count)
    return count


def follow(con: duckdb.DuckDBPyConnection, journal: Journal, count: Count) -> None:
    """Give an index, in its open transaction, the commits that it lacks.

    Raises
    ------
    CorruptError
        If the journal lacks one of them, or has others than those that the index was made from.
    """
    number = number_of(con)
    try:
        _apply(con, journal.since(number, count))
    except (CorruptError, NotFoundError):
        raise lost(journal, number, count) from None
    run(con, "UPDATE meta SET commits = ?", [count.number])


def lost(journal: Journal, number: int, count: Count) -> CorruptError:
    """Return the error for an index with so many commits of so many, that cannot be given the others."""
    missing = count.number - number
    return CorruptError(
        f"Graph {journal.graph} has lost its last {'commit' if missing == 1 else f'{missing} commits'}: the index has "
        f"{number} of {count.number}, and the journal cannot give it the others: `mgraph check` says what is lost, "
        "`mgraph check --repair` brings back what the journal has."
    )


def gone(journal: Journal) -> CorruptError:
    """Return the error for a graph without a journal, of which nobody knows what it had that the index has not."""
    return CorruptError(
        f"Graph {journal.graph} has lost its journal, and perhaps commits with it: `mgraph check --repair` begins a "
        "new one with all rows of the index."
    )


def replay(con: duckdb.DuckDBPyConnection, entries: Iterable[Entry], *, comments: bool = True) -> int:
    """Fill an empty database with the index described by the records of a journal; return its last commit's number.

    If this fails, a part is left.

    Raises
    ------
    FormatError
        If the journal has another format.
    """
    rest = iter(entries)
    first = next(rest)
    con.begin()
    _begin(con, first.document.get("meta", {}), comments)
    number = _apply(con, itertools.chain([first], rest), at_once=_AT_ONCE)
    con.execute("UPDATE meta SET commits = ?, format_version = ?", [number, schema.FORMAT_VERSION])
    con.commit()
    return number


def _apply(con: duckdb.DuckDBPyConnection, entries: Iterable[Entry], *, at_once: float = math.inf) -> int:
    """Do what some records say, new rows together as far as possible; return the number of the last one.

    The transaction is committed, and another one begun, after about so many rows as are added ``at_once``.
    """
    number, waiting, filled, uncommitted = 0, Changes(), 0, 0
    for entry in entries:
        changes = Changes.from_document(entry.document)
        for table, rows in changes.added.items():
            waiting.added.setdefault(table, []).extend(rows)
            filled += weight(table) * len(rows)
        if changes.replaced or changes.removed or filled >= _TOGETHER:
            waiting.apply(con)
            uncommitted += filled
            waiting, filled = Changes(), 0
            Changes({}, changes.replaced, changes.removed).apply(con)
            if uncommitted >= at_once:
                con.commit()
                con.begin()
                uncommitted = 0
        number = entry.number
    waiting.apply(con)
    return number


def _begin(con: duckdb.DuckDBPyConnection, meta: dict[str, Any], comments: bool) -> None:
    found, present = meta.get("format_version"), schema.FORMAT_VERSION
    if found != present:
        raise FormatError(f"The journal has format {found}, but this mgraph has {present}.")
    if comments:
        for statement in (*schema.create_statements(), *easy_statements()):
            con.execute(statement)
    else:
        for statement in schema.create_statements(comments=False):
            run(con, statement)
    created = datetime.fromisoformat(meta["created"])
    con.execute("INSERT INTO meta VALUES (?, ?, ?, 0)", [present, created, meta["written_by"]])
