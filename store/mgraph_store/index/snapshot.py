"""Copies of an index as of one commit, made while others go on working, for looking at all of it without a lock.

A large index is copied in slices: the lock is held for each of them, and let go in between, so that a commit waits for
milliseconds. If somebody does commit between two slices, the copy begins again; after some attempts, it is made in one
go. A small index is looked at where it is, which takes less time than a copy.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import duckdb

from mgraph_store.errors import CorruptError, StoreError
from mgraph_store.folder import Folder
from mgraph_store.index import commits
from mgraph_store.index.complaints import translated
from mgraph_store.index.following import reading
from mgraph_store.index.index import Index
from mgraph_store.index.instances import CONFIG, instances
from mgraph_store.index.interrupts import interruptible
from mgraph_store.index.journal import Count
from mgraph_store.index.lock import GraphLock
from mgraph_store.index.reader import Reader
from mgraph_store.rows import schema

MEMORY = "512 MiB"
"""What DuckDB takes at most for a copy; beyond this, it uses the disk beside it."""

LARGE = 1 << 20
"""Bytes from which an index is copied rather than locked."""

SLICE = 0.01
"""Seconds for which a slice goes on copying."""

_PIECE = 1 << 20  # bytes copied at once
_ATTEMPTS = 20
_PAUSE = 0.05  # seconds from one attempt to the next, in which others may finish


@dataclass(frozen=True)
class Snapshot:
    """An index as of one commit, and which that was."""

    reader: Reader
    count: Count | None


def is_large(index: Index) -> bool:
    """Return whether to look at an index takes so long that others should not wait for it; it may be missing."""
    found = index.folder.check_file(index.path.name)
    return found is not None and found.st_size >= LARGE


@contextlib.contextmanager
def looked_at(index: Index, lock: GraphLock) -> Iterator[Snapshot]:
    """Open an index for reading: a large one as a copy, without a lock, a small one under the shared lock.

    Raises
    ------
    CorruptError, FormatError
        If it cannot be read, or has lost commits.
    StoreError
        If there is no room for the copy.
    LockTimeoutError
        If somebody writes for too long.
    """
    index.prepare()
    with lock.shared():  # of an older format there is a copy anyway, and nobody can write it
        direct = not is_large(index) or index.format(lock.timeout) < schema.FORMAT_VERSION
    if direct:
        with reading(index, lock) as con:
            yield Snapshot(Reader(con), index.journal.count())
        return
    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="mgraph-"))
            count = take(index, lock, Folder(Path(directory)))
        except OSError as error:
            raise StoreError(
                f"A copy of {index.path} is needed, for which there is no room below {tempfile.gettempdir()} "
                f"({error.strerror or error}): free some, or set TMPDIR to a directory that has it."
            ) from error
        con = stack.enter_context(opened(index, Path(directory) / index.path.name, read_only=True))
        index.check(con, count)
        yield Snapshot(Reader(con), count)


def take(index: Index, lock: GraphLock, folder: Folder) -> Count | None:
    """Copy an index, and DuckDB's log beside it, into a folder; return the last commit that the copy has.

    The copy is not flushed. Raises OSError if the disk refuses, and like :func:`looked_at`.
    """
    with reading(index, lock):
        pass  # now it is up to date, or cannot be written
    for attempt in range(_ATTEMPTS + 1):
        for name in (index.path.name, f"{index.path.name}.wal"):
            folder.unlink(name)
        with contextlib.ExitStack() as stack:
            if attempt == _ATTEMPTS:  # others commit faster than we can copy
                stack.enter_context(lock.shared())
            done, count = _copied(index, lock, folder)
            if done and count != index.journal.applied():
                done = _bring_up_to_date(index, folder, count)
            if done:
                return count
        time.sleep(_PAUSE)
    raise AssertionError("a copy under the lock is always whole")


@contextlib.contextmanager
def opened(index: Index, copy: Path, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a copy of an index by itself; errors speak of the original."""
    with interruptible():
        try:
            with duckdb.connect(str(copy), read_only=read_only, config=dict(CONFIG)) as con:
                con.execute(f"SET memory_limit = '{MEMORY}'")
                con.execute("SET enable_external_access = false")  # no view of an index leads elsewhere
                yield con
        except duckdb.InterruptException:
            raise  # Ctrl-C
        except duckdb.Error as error:
            raise translated(error, index.path) from error


def _bring_up_to_date(index: Index, folder: Folder, count: Count | None) -> bool:
    """Give a copy the commits that the index lacked; whether the journal still had them."""
    if count is None:
        return True
    with folder.opened() as descriptor:
        try:
            with opened(index, folder.path_within(descriptor) / index.path.name, read_only=False) as con:
                if commits.number_of(con) < count.number:
                    con.begin()
                    commits.follow(con, index.journal, count)
                    con.commit()
        except CorruptError:
            if index.journal.reaches(count):  # else somebody has just begun it anew
                raise
            return False
    return True


def _copied(index: Index, lock: GraphLock, folder: Folder) -> tuple[bool, Count | None]:
    """Copy slice by slice; return whether nobody has written meanwhile, and the last commit."""
    name, log = index.path.name, f"{index.path.name}.wal"
    with lock.shared():
        state, count, place = state_of(index), index.journal.count(), index.place()
        file = index.folder.reader(name)
    target = folder.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        size, at = os.fstat(file.fileno()).st_size, 0
        while True:
            with lock.shared():
                if state_of(index) != state:
                    return False, count
                until = time.monotonic() + SLICE
                while at < size:
                    at += _copy_piece(file, target, at, min(_PIECE, size - at))
                    if time.monotonic() >= until:
                        break
                if at == size:
                    if index.folder.has(log):
                        index.folder.copy_file(log, folder)
                    return True, count
    finally:
        os.close(target)
        instances().close_file(place, file)


def _copy_piece(file: BinaryIO, target: int, at: int, length: int) -> int:
    """Copy some bytes of a file, in the kernel where it can; return how many."""
    clone: Callable[..., int] | None = getattr(os, "copy_file_range", None)
    if clone is not None:
        with contextlib.suppress(OSError):  # another file system, or one that cannot
            done = clone(file.fileno(), target, length, at, at)
            if done:
                return done
    data = os.pread(file.fileno(), length, at)
    if not data:
        raise OSError("the file became shorter while it was copied")
    return os.pwrite(target, data, at)


def state_of(index: Index) -> tuple[Any, ...]:
    """Return what changes with every commit, and with whatever another program does to the index."""
    found = [index.folder.check_file(name, own=True) for name in (index.path.name, f"{index.path.name}.wal")]
    return index.journal.count(), *((f.st_ino, f.st_size, f.st_mtime_ns) if f else None for f in found)
