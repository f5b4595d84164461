"""When the index follows the journal: before it is read, when there is time after a commit, and when a process ends.

A commit is its record in the journal. To give the index what it lacks takes longer than that, so a writer does it only
if nobody waits and it was not done just before, or if very much has gathered. Otherwise the next reader does, or the
next writer who has to look something up; if there is neither, the process that committed does it a second later, or
when it ends, for those who read the index without mgraph. A reader who may not write the graph reads a copy with what
is lacking.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import duckdb

from mgraph_store.errors import BehindError, CorruptError, LockTimeoutError, MGraphError, StoreError
from mgraph_store.index import commits
from mgraph_store.index.index import Index
from mgraph_store.index.journal import Count, Journal
from mgraph_store.index.lock import GraphLock

T = TypeVar("T")

RESTING = 1.0
"""Seconds that an index is left alone after it was changed, if nobody reads it."""

MOST_RECORDS, MOST_BYTES = 200, 1 << 20
"""How much the index may lack before a writer brings it up to date even if others wait."""

_ATTEMPTS = 4  # of a reader, before it makes do with a copy because writers overtake it
_TRIES = 10  # once a second, if others use the index
_PATIENCE = 0.5  # seconds, for other programs, before a reader makes do with a copy


@contextlib.contextmanager
def reading(index: Index, lock: GraphLock) -> Iterator[duckdb.DuckDBPyConnection]:
    """Hold the shared lock and open an index that has every commit.

    Raises
    ------
    LockTimeoutError
        If somebody writes for too long.
    CorruptError, FormatError
        If the index cannot be read, or has lost commits.
    """
    index.prepare()
    with holding(
        index, lock, lambda copied: index.connect(read_only=True, patience=lock.timeout, copied=copied)
    ) as con:
        yield con


@contextlib.contextmanager
def holding(index: Index, lock: GraphLock, opened: Callable[[bool], AbstractContextManager[T]]) -> Iterator[T]:
    """Hold the shared lock with an index that has every commit, and what ``opened`` then opens.

    That is told whether it should make do with a copy, and raises BehindError if the index lacks commits otherwise.
    """
    with contextlib.ExitStack() as stack:
        yield _opened(index, lock, opened, stack)


def _opened(
    index: Index, lock: GraphLock, opened: Callable[[bool], AbstractContextManager[T]], stack: contextlib.ExitStack
) -> T:
    if lock.is_held():  # nobody can have committed since; but perhaps nobody has looked
        stack.enter_context(lock.shared())
        return stack.enter_context(opened(True))
    behind = index.may_be_behind()
    for _ in range(_ATTEMPTS):
        copied = behind and not _follow_and_hold(index, lock, stack)
        if not behind or copied:
            stack.enter_context(lock.shared())
        try:
            return stack.enter_context(opened(copied))
        except BehindError:  # somebody has just committed
            stack.close()
            behind = True
    stack.enter_context(lock.shared())
    return stack.enter_context(opened(True))


def _follow_and_hold(index: Index, lock: GraphLock, stack: contextlib.ExitStack) -> bool:
    """Bring an index up to date, and hold the shared lock; return False, without a lock, if it cannot be written."""
    with contextlib.ExitStack() as own:
        try:
            lower = own.enter_context(lock.exclusive())
        except LockTimeoutError:
            raise
        except StoreError:
            return False
        try:
            follow(index, _PATIENCE)
        except CorruptError:
            raise
        except StoreError:  # the disk is full, or another program has it open; or whoever reads it says what is wrong
            return False
        lower()
        stack.enter_context(own.pop_all())
    return True


def follow(index: Index, patience: float) -> Count:
    """Bring an index up to date with its journal, under the exclusive lock; return the last commit.

    Programs that ignore our lock have ``patience`` seconds to close it.

    Raises
    ------
    CorruptError, FormatError, LockTimeoutError, StoreError
        If the index cannot be opened or written, or has lost commits.
    """
    return _changed(index, patience, commits.catch_up)


def settle(index: Index, patience: float) -> Count:
    """Bring an index up to date, or begin a journal that lacks what the index has; otherwise like :func:`follow`."""
    return _changed(index, patience, commits.settle)


def _changed(index: Index, patience: float, change: Callable[[duckdb.DuckDBPyConnection, Journal], Count]) -> Count:
    with index.connect(read_only=False, patience=patience) as con:
        con.begin()
        count = change(con, index.journal)
        con.commit()
    index.journal.note_applied(count)
    return count


def follow_if_due(index: Index, lock: GraphLock, count: Count, applied: Count) -> None:
    """Bring an index up to date if it is time, under the exclusive lock of somebody whose commit is already done.

    ``count`` is that commit, and ``applied`` the one up to which the index has come.
    """
    with contextlib.suppress(MGraphError, OSError):  # the next one tries again, and says what is wrong
        if applied.generation == count.generation:
            few = count.number - applied.number <= MOST_RECORDS and count.length - applied.length <= MOST_BYTES
            if few and (_is_resting(index) or lock.is_awaited()):
                follow_later(index)
                return
        follow(index, 0.0)


def follow_later(index: Index) -> None:
    """Let this process bring an index up to date in a second, or when it ends, if nobody else does."""
    _lacking.add(index.path)
    with contextlib.suppress(RuntimeError):  # no more threads
        _later.arm()


def follow_at_last() -> None:
    """Bring the indexes up to date that this process left behind, unless others use them now; never fails.

    For those who read them without mgraph.
    """
    for path in list(_lacking):
        index, lock = Index(path), GraphLock(path.parent, 0.0)
        try:
            if not lock.is_held() and index.may_be_behind():
                with lock.exclusive():
                    follow(index, 0.0)
        except LockTimeoutError:
            continue
        except (MGraphError, OSError, duckdb.Error):
            pass  # whoever reads it says what is wrong
        _lacking.discard(path)


class _Later:
    """Follows a second after a commit that was not followed by anything else."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._timer: threading.Timer | None = None
        self._left = 0

    def arm(self) -> None:
        with self._guard:
            self._left = _TRIES
            self._start()

    def stop(self) -> None:
        with self._guard:
            timer, self._timer, self._left = self._timer, None, 0
        if timer is not None:
            timer.cancel()
            timer.join()

    def _start(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(RESTING, self._run)
            self._timer.daemon = True
            self._timer.start()

    def _run(self) -> None:
        follow_at_last()
        with self._guard:
            self._left -= 1
            if self._timer is not None:
                self._timer = None
                if _lacking and self._left > 0:
                    self._start()


def _is_resting(index: Index) -> bool:
    found = index.folder.check_file(index.path.name)
    return found is not None and abs(time.time() - found.st_mtime) < RESTING


_lacking: set[Path] = set()
_later = _Later()


def _at_exit() -> None:
    _later.stop()
    follow_at_last()


def _after_in_child() -> None:
    global _later
    _lacking.clear()  # the parent does it
    _later = _Later()


os.register_at_fork(after_in_child=_after_in_child)
atexit.register(_at_exit)
