"""DuckDB instances that are kept, so that a look at an index need not start one.

Starting DuckDB takes a process ten times as long as opening a file in it. An instance without a database of its own
is therefore kept for the next use of the same index, which is attached for it and detached after it: no lock is held
between, and detaching checkpoints what was written, as closing does.

Access to files is off in an instance for as long as it lives, but for the directory of its index, where DuckDB has
logs and checkpoints beside it.
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
    """One that is kept for an index."""

    index: Path
    connection: duckdb.DuckDBPyConnection
    uses: int = 0


class Instances:
    """Idle instances of this process, the last used last."""

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
            sound = False  # whatever it is, it shall not meet the next one
            raise
        finally:
            instance.uses += 1
            if sound and instance.uses < _USES:
                self._keep(instance)
            else:
                instance.connection.close()

    def close(self) -> None:
        """Close all that are idle."""
        self.hold()
        self.let_go()

    def hold(self) -> None:
        """Close all that are idle, and let none become so until :meth:`let_go`."""
        self._lock.acquire()
        while self._idle:
            self._idle.pop().connection.close()

    def let_go(self) -> None:
        """Go on after :meth:`hold`."""
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
    except duckdb.Error:  # a checkpoint without space, say; what is committed is in the log, for whoever opens it next
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


# DuckDB has threads of its own, which a forked child has not: it must inherit no instance.
os.register_at_fork(
    before=lambda: instances().hold(),
    after_in_parent=lambda: instances().let_go(),
    after_in_child=_after_in_child,
)
atexit.register(lambda: instances().close())
