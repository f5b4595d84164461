"""DuckDB instances that are kept, so that reading an index need not start one.

Starting DuckDB takes ten times as long as opening a file in it. So an instance without its own database is kept for the
next use of the same index, which is attached before each use and detached afterwards: no lock is held in between, and
detaching checkpoints what was written, as closing does.

Access to files is off for the lifetime of an instance, except for the directory of its index, where DuckDB keeps logs
and checkpoints.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import duckdb

CONFIG = {
    "threads": "1",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}

STORAGE = {"storage_compatibility_version": "v1.4.0", "default_block_size": "65536"}
"""How the file of an index is created, which is permanent: DuckDB 1.4 and later read it; with DuckDB's default block
size, an index of a few rows would be as large as one of a few thousand."""

_KEPT = 4  # of 4 MB each, idle
_USES = 500  # of one instance: DuckDB keeps a kilobyte of each
_NAME = "graph"


@dataclass
class _Instance:
    """An instance kept for an index, or for another one in the directory that it may use."""

    index: Path
    directory: Path
    connection: duckdb.DuckDBPyConnection
    uses: int = 0
    readers: int = 0
    files: list[BinaryIO] = field(default_factory=list)
    sound: bool = True


class Instances:
    """Idle instances of this process, the most recently used last, and those that are open for reading now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Instance] = []
        self._reading: dict[Path, _Instance] = {}
        self._writing: set[Path] = set()

    @contextlib.contextmanager
    def opened(self, index: Path, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open an index for this block; raises duckdb.Error if it cannot be opened.

        Overlapping readings share one attachment, because the first descriptor that a process closes would drop
        DuckDB's lock on the file for all of them.
        """
        path = _resolved(index)
        instance = self._join(path) if read_only else self._begin_writing(path)
        with _used(instance, self._part if read_only else self._end_writing) as con:
            yield con

    @contextlib.contextmanager
    def aside(self, index: Path) -> Iterator[duckdb.DuckDBPyConnection]:
        """Make a database in memory for this block, in the instance that an index was read with, if it is idle."""
        path = _resolved(index)
        with self._lock:
            instance = self._take(path)
        with _used(_attached(instance, path, "", place=Path(":memory:")), self._end_aside) as con:
            yield con

    def start(self, index: Path) -> None:
        """Start an instance for an index, unless one is there; for the moment before a lock is taken."""
        path = _resolved(index)
        directory = _directory(path)
        with self._lock:
            if path not in self._reading and all(instance.directory != directory for instance in self._idle):
                self._keep(_Instance(path, directory, _started(directory)))

    def has_open(self, index: Path) -> bool:
        """Return whether we have an index open in this process."""
        path = _resolved(index)
        return path in self._reading or path in self._writing

    def close_file(self, index: Path, file: BinaryIO) -> None:
        """Close an index that was opened as a plain file, at once or after the last reading that is open here."""
        with self._lock:
            instance = self._reading.get(_resolved(index))
            if instance is not None:
                instance.files.append(file)
            else:
                file.close()

    def close(self) -> None:
        """Close all idle instances."""
        self.hold()
        self.let_go()

    def hold(self) -> None:
        """Close all idle instances, and keep none until :meth:`let_go`."""
        self._lock.acquire()
        while self._idle:
            self._idle.pop().connection.close()

    def let_go(self) -> None:
        """Keep instances again after :meth:`hold`."""
        self._lock.release()

    def _join(self, path: Path) -> _Instance:
        with self._lock:
            instance = self._reading.get(path)
            if instance is None:
                instance = _attached(self._take(path), path, " (READ_ONLY)")
                self._reading[path] = instance
            instance.readers += 1
            return instance

    def _part(self, instance: _Instance) -> None:
        with self._lock:
            instance.readers -= 1
            if instance.readers == 0:
                del self._reading[instance.index]
                self._put_back(instance, _detached(instance.connection))
                while instance.files:
                    instance.files.pop().close()

    def _begin_writing(self, path: Path) -> _Instance:
        with self._lock:
            instance = self._take(path)
        instance = _attached(instance, path, "")
        self._writing.add(path)
        return instance

    def _end_writing(self, instance: _Instance) -> None:
        detached = _detached(instance.connection)  # checkpoints, which may take a while
        self._writing.discard(instance.index)
        with self._lock:
            self._put_back(instance, detached)

    def _end_aside(self, instance: _Instance) -> None:
        with self._lock:
            self._put_back(instance, _detached(instance.connection))

    def _take(self, path: Path) -> _Instance | None:
        for i in reversed(range(len(self._idle))):
            if self._idle[i].directory == _directory(path):
                instance = self._idle.pop(i)
                instance.index = path
                return instance
        return None

    def _put_back(self, instance: _Instance, detached: bool) -> None:
        instance.uses += 1
        if not (detached and instance.sound and instance.uses < _USES):
            instance.connection.close()
            return
        self._keep(instance)

    def _keep(self, instance: _Instance) -> None:
        self._idle.append(instance)
        if len(self._idle) > _KEPT:
            self._idle.pop(0).connection.close()


def _resolved(index: Path) -> Path:
    return index.parent.resolve() / index.name


@contextlib.contextmanager
def _used(instance: _Instance, end: Callable[[_Instance], None]) -> Iterator[duckdb.DuckDBPyConnection]:
    try:
        with instance.connection.cursor() as con:
            con.execute(f"USE {_NAME}")
            yield con
    except duckdb.Error:
        instance.sound = False  # the next use must not inherit whatever went wrong
        raise
    finally:
        end(instance)


def _attached(instance: _Instance | None, path: Path, how: str, *, place: Path | None = None) -> _Instance:
    instance = instance or _Instance(path, _directory(path), _started(_directory(path)))
    try:
        instance.connection.execute(f"ATTACH {_quoted(place or path)} AS {_NAME}{how}")
    except BaseException:
        instance.connection.close()
        raise
    return instance


def _directory(path: Path) -> Path:
    """Return the directory that an instance for this index may use."""
    return path.parent


def _started(directory: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:", config=dict(CONFIG))
    connection.execute(f"SET allowed_directories = [{_quoted(directory)}]")
    connection.execute("SET enable_external_access = false")
    return connection


def _detached(connection: duckdb.DuckDBPyConnection) -> bool:
    try:
        connection.execute(f"DETACH {_NAME}")
    except duckdb.Error:  # such as a checkpoint without space; commits stay in the log for whoever opens it next
        return False
    return True


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


_present = Instances()


def instances() -> Instances:
    """Return the instances of this process."""
    return _present


def _after_in_child() -> None:
    global _present
    _present = Instances()  # the parent's is held


# DuckDB has its own threads, which a forked child does not have, so it must not inherit an instance.
os.register_at_fork(
    before=lambda: instances().hold(),
    after_in_parent=lambda: instances().let_go(),
    after_in_child=_after_in_child,
)
atexit.register(lambda: instances().close())
