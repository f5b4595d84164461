"""One commit that changes very many rows of a large index, while others wait for milliseconds only.

The rows are changed in a copy of the index (:mod:`mgraph_store.index.snapshot`), without a lock. What others commit
meanwhile is then read from the journal and done to the copy too, until, under the exclusive lock, nothing is left to
do. The order of writes is that of every commit: the record in the journal, which is the commit; then the index, which
here means to rename the copy to ``index.duckdb``. If the process is stopped in between, the old index is behind by that
commit, and is brought up to date like any other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mgraph_store.errors import CorruptError, NotFoundError, StoreError
from mgraph_store.folder import TEMPORARY, Folder
from mgraph_store.index import commits
from mgraph_store.index.changes import Changes
from mgraph_store.index.following import settle
from mgraph_store.index.index import Index
from mgraph_store.index.instances import instances
from mgraph_store.index.journal import Count
from mgraph_store.index.journalrecord import Entry, Prepared, packed
from mgraph_store.index.lock import GraphLock
from mgraph_store.index.reader import Reader
from mgraph_store.index.shared import OvertakenError
from mgraph_store.index.snapshot import opened, take
from mgraph_store.rows.constraints import verify
from mgraph_store.rows.ids import random_characters

_ATTEMPTS = 3  # with a new copy each
_ROUNDS = 8  # of catching up with others without the lock


class NotPossibleError(StoreError):
    """The change must be made in the ordinary way, under the lock."""


def remove_rows(index: Index, lock: GraphLock, planned: Callable[[Reader], Changes]) -> None:
    """Commit the removal of rows that ``planned`` finds in a copy of the index; it may raise to stop it.

    Raises
    ------
    NotPossibleError
        If others keep changing what is to be removed, or the journal lacks something: nothing has changed.
    MGraphError
        As for any commit.
    """
    graph, making = index.folder, index.folder.sub(TEMPORARY, f"index-{random_characters(8)}")
    try:
        for _ in range(_ATTEMPTS):
            with making.opened(create=True) as descriptor:
                since = take(index, lock, making)
                work = _Work(index, making, making.path_within(descriptor) / index.path.name)
                with contextlib.suppress(_AffectedError):
                    work.begin(since, planned)
                    _finish(index, lock, graph, work)
                    return
        raise NotPossibleError("Others keep changing what is to be removed.")
    finally:
        making.above().remove(making.name)


class _AffectedError(StoreError):
    """Somebody has committed something about what is to be removed."""


class _Work:
    """A copy of the index with the rows removed, and how far it has caught up with the commits of others."""

    def __init__(self, index: Index, folder: Folder, path: Path) -> None:
        self._index, self._path, self.folder = index, path, folder
        self.count = Count(0, 0, 0)
        self.record = Prepared(b"")

    def begin(self, since: Count | None, planned: Callable[[Reader], Changes]) -> None:
        """Remove the rows."""
        with opened(self._index, self._path, read_only=False) as con:
            self._index.check(con, since)
            journal = self._index.journal
            if since is None or since.number != commits.number_of(con) or not journal.reaches(since):
                raise NotPossibleError("The journal must be begun anew.")
            changes = planned(Reader(con))
            con.begin()
            changes.apply(con)
            verify(con, {}, [], changes.removed)
            con.execute("UPDATE meta SET commits = commits + 1")
            con.commit()
        self._gone = {value for _, _, values in changes.removed for value in values}
        self.count, self.record = since, Prepared(packed(changes.document()))
        self._flush()

    def catch_up(self, now: Count) -> None:
        """Do to the copy what others have committed since; _AffectedError if that is about what was removed."""
        try:
            entries = self._index.journal.since(self.count, now)
        except CorruptError:  # it was begun anew
            raise _AffectedError("The journal was begun anew.") from None
        if any(self._affects(entry) for entry in entries):
            raise _AffectedError("Somebody has committed something about what is to be removed.")
        with opened(self._index, self._path, read_only=False) as con:
            con.begin()
            try:
                for entry in entries:
                    Changes.from_document(entry.document).apply(con)
            except NotFoundError:
                raise _AffectedError("Somebody has changed what is to be removed.") from None
            con.execute("UPDATE meta SET commits = ?", [now.number + 1])
            con.commit()
        self.count = now
        self._flush()

    def _affects(self, entry: Entry) -> bool:
        return any(word in self._gone for text in _texts(entry.document) for word in (text, *text.split('"')))

    def _flush(self) -> None:
        self.record.record(self.count.number + 1)  # now, because others wait when it is written
        if self.folder.has(f"{self._path.name}.wal"):
            raise StoreError(f"No space left for a copy of {self._index.path}, which DuckDB could not finish.")
        self.folder.flush(self._path.name)


def _finish(index: Index, lock: GraphLock, graph: Folder, work: _Work) -> None:
    place, replaced = index.place(), graph.reader(index.path.name)
    try:
        for _ in range(_ROUNDS):
            with lock.shared():  # while nobody is writing a record
                now = index.journal.count()
            if now is not None and now != work.count:
                work.catch_up(now)
            with lock.exclusive():
                if _settled(index, lock) == work.count:
                    _commit(index, graph, work)
                    return
        with lock.exclusive():  # others commit faster than we follow
            work.catch_up(_settled(index, lock))
            _commit(index, graph, work)
    finally:  # a disk frees a large file when it is closed: better after the lock was let go
        instances().close_file(place, replaced)


def _settled(index: Index, lock: GraphLock) -> Count:
    # Opened for writing, DuckDB merges its log into the file, and leaves none beside it.
    left = index.folder.has(f"{index.path.name}.wal")
    count = index.journal.count()
    if not left and count is not None and count == index.journal.applied() and index.journal.reaches(count):
        return count
    return settle(index, lock.timeout)


def _commit(index: Index, graph: Folder, work: _Work) -> None:
    name = index.path.name
    if graph.has(f"{name}.wal"):
        raise StoreError(f"No space left for {index.path}, into which DuckDB could not merge its log: try again.")
    try:
        committed = index.journal.append(work.count, work.record)
    except OvertakenError as error:
        raise NotPossibleError(str(error)) from None
    with contextlib.suppress(OSError):  # it is committed: if the disk refuses this, the old index will follow
        work.folder.rename(name, graph, name)
        graph.flush()
        index.journal.note_applied(committed)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)
