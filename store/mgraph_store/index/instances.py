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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb

CONFIG = {
    "threads": "1",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}

_KEPT = 4  # of 4 MB each, idle
_USES = 500  # of one instance: DuckDB keeps a kilobyte of each
_NAME = "graph"


@dataclass
class _Instance:
    """An instance kept for an index."""

    index: Path
    connection: duckdb.DuckDBPyConnection
    uses: int = 0


class Instances:
    """Idle instances of this process, the most recently used last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Instance] = []

    @contextlib.contextmanager
    def opened(self, index: Path, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open an index for this block; raises duckdb.Error if it cannot be opened."""
        path = index.parent.resolve() / index.name
        instance = self._take(path) or _Instance(path, _started(path))
        sound = False
        try:
            instance.connection.execute(f"ATTACH {_quoted(path)} AS {_NAME}{' (READ_ONLY)' if read_only else ''}")
            try:
                with instance.connection.cursor() as con:
                    con.execute(f"USE {_NAME}")
                    yield con
            finally:
                sound = _detached(instance.connection)
        except duckdb.Error:
            sound = False  # whatever went wrong, the next use must not inherit it
            raise
        finally:
            instance.uses += 1
            if sound and instance.uses < _USES:
                self._keep(instance)
            else:
                instance.connection.close()

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

    def _take(self, path: Path) -> _Instance | None:
        with self._lock:
            for i in reversed(range(len(self._idle))):
                if self._idle[i].index == path:
                    return self._idle.pop(i)
        return None

    def _keep(self, instance: _Instance) -> None:
        with self._lock:
            self._idle.append(instance)
            surplus = self._idle.pop(0) if len(self._idle) > _KEPT else None
        if surplus is not None:
            surplus.connection.close()


def _started(path: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:", config=dict(CONFIG))
    connection.execute(f"SET allowed_directories = [{_quoted(path.parent)}]")
    connection.execute("SET enable_external_access = false")
    return connection


def _detached(connection: duckdb.DuckDBPyConnection) -> bool:
    try:
        connection.execute(f"DETACH {_NAME}")
    except duckdb.Error:  # a checkpoint without space, say; what is committed is in the log for the next one to open it
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
