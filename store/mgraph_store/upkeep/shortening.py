"""Rewrite a journal that is much longer than its content requires, while others keep working.

The rows come from a copy of the index (:mod:`mgraph_store.index.snapshot`). The records that others commit meanwhile
are appended under the exclusive lock, which is held only for that and to bring the index up to date.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from mgraph_store.folder import TEMPORARY
from mgraph_store.index import commits
from mgraph_store.index.changes import Changes, parts, weight
from mgraph_store.index.following import settle
from mgraph_store.index.journal import Count
from mgraph_store.index.journalrecord import record_size
from mgraph_store.index.snapshot import opened, state_of, take
from mgraph_store.rows.ids import random_characters
from mgraph_store.rows.schema import STORED, columns, stored_in
from mgraph_store.tensors.objects import disk_error

if TYPE_CHECKING:
    from mgraph_store.store import GraphStore

_SAMPLE = 500  # rows sampled from each table
_SMALL = 2000  # up to this many rows in all, no estimate is needed


def shortest_length(store: GraphStore) -> int:
    """Return how many bytes a journal of the current rows would take, estimated if there are many.

    The lock is let go after each table, so that nobody waits for all of them.
    """
    with store.reading() as reader:
        sql = " UNION ALL ".join(f"SELECT '{table}', count(*) FROM {stored_in(table)}" for table in STORED)
        counts = dict(reader.query(sql)[1])
        small = sum(count * weight(table) for table, count in counts.items()) <= _SMALL
        whole = list(parts(reader.connection)) if small else None
    if whole is not None:
        return sum(record_size(0, part) for part in whole)
    size = 0.0
    for table, count in counts.items():
        listed = ", ".join(f'"{c.name}"' for c in columns(STORED[table]))
        with store.reading() as reader:
            some = max(1, _SAMPLE // weight(table))
            rows = reader.query(f"SELECT {listed} FROM {stored_in(table)} WHERE rowid < {some}")[1] if count else []
        if rows:
            size += record_size(0, Changes({table: rows}).document()) * count / len(rows)
    return int(size)


def shorten(store: GraphStore) -> None:
    """Start the journal afresh with the current rows."""
    journal = store.index.journal
    making = store.folder.sub(TEMPORARY, f"index-{random_characters(8)}")
    try:
        with making.opened(create=True) as folder:
            since = take(store.index, store.lock, making)
            state = state_of(store.index)
            with opened(store.index, making.path_within(folder) / store.index.path.name, read_only=True) as con:
                number = commits.number_of(con)
                if since is not None and since.number == number and journal.reaches(since):
                    with contextlib.suppress(FileNotFoundError):  # in case somebody else was faster
                        _adopt(store, journal.draft(number, parts(con)), since, state)
                    return
        _at_once(store)  # it lacks something
    except OSError as error:
        raise disk_error(error, store.path) from error
    finally:
        making.above().remove(making.name)


def _adopt(store: GraphStore, draft: Count, since: Count, state: tuple[Any, ...]) -> None:
    journal = store.index.journal
    with journal.kept(since), store.lock.exclusive():
        # What the index lacks, a journal that begins later could not give it. If nobody has touched it since a copy was
        # found to have every commit, it lacks none.
        untouched = state[0] == since == journal.applied() and state_of(store.index) == state
        present = since if untouched else settle(store.index, store.lock.timeout)
        if present.generation == since.generation:
            journal.adopt(journal.follow(draft, since, present))
        else:
            journal.forget(draft)


def _at_once(store: GraphStore) -> None:
    with store.lock.exclusive():
        settle(store.index, store.lock.timeout)
        with store.index.connect(read_only=True, patience=store.lock.timeout) as con:
            store.index.journal.begin(commits.number_of(con), parts(con))
