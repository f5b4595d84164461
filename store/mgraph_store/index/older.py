"""Read an index that cannot be read as it is through a copy that a process makes for itself.

That is one of an older format, of which the copy is brought to the current one, or one that lacks commits of the
journal and cannot be given them, because the graph may only be read, or the disk is full. The copy lives in the
system's directory for temporary files (if no disk has room, in memory) and is deleted with the process. The graph is
not touched, so it may be on a read-only medium, and an older mgraph can keep using it. The copy is made again if
somebody has committed meanwhile. To be written, a graph must be upgraded to the current format, see
:mod:`mgraph_store.index.migrations`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb

from mgraph_store.folder import Folder
from mgraph_store.index.commits import follow
from mgraph_store.index.instances import CONFIG
from mgraph_store.index.journal import Count, Journal
from mgraph_store.rows.ids import random_characters
from mgraph_store.rows.schema import STORED, create_views, stored_in

State = tuple[int, int | Count | None, int]
"""The state of an index when it was copied: its format, the last commit, its inode."""


class _Copy(NamedTuple):
    state: State
    directory: Path


class _Copies:
    """The copies made by this process, by the location of the index."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[Path, _Copy] = {}

    def get(
        self,
        index: Path,
        state: State,
        copy: Callable[[Folder], None],
        bring: Callable[[duckdb.DuckDBPyConnection], None],
    ) -> Path:
        with self._lock:
            found = self._made.get(index)
            if found is None or found.state != state:
                made = _Copy(state, _made(index.name, copy, bring))
                self._made[index] = made
                if found is not None:  # readers have it open
                    shutil.rmtree(found.directory, ignore_errors=True)
                found = made
            return found.directory / index.name

    def clear(self) -> None:
        with self._lock:
            while self._made:
                shutil.rmtree(self._made.popitem()[1].directory, ignore_errors=True)


def copied(
    index: Path, state: State, copy: Callable[[Folder], None], bring: Callable[[duckdb.DuckDBPyConnection], None]
) -> Path:
    """Return a copy of an index for reading.

    ``copy`` copies the index and its log into a folder, ``bring`` brings it up to date in a transaction. The caller
    holds the graph's lock. Raises duckdb.Error if that fails, OSError if there is no space.
    """
    return _present.get(index, state, copy, bring)


def _made(name: str, copy: Callable[[Folder], None], bring: Callable[[duckdb.DuckDBPyConnection], None]) -> Path:
    directory = Path(tempfile.mkdtemp(prefix="mgraph-"))
    try:
        copy(Folder(directory))
        with duckdb.connect(str(directory / name), config=dict(CONFIG)) as con:
            con.execute("SET enable_external_access = false")
            con.begin()
            bring(con)
            con.commit()
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return directory


_present = _Copies()


def _after_in_child() -> None:
    global _present
    _present = _Copies()  # the parent deletes its own


os.register_at_fork(after_in_child=_after_in_child)
atexit.register(lambda: _present.clear())


@contextlib.contextmanager
def in_memory(con: duckdb.DuckDBPyConnection, journal: Journal, count: Count) -> Iterator[None]:
    """Let a connection read a copy of its tables in memory, which is brought up to date."""
    name, (own,) = f"copy_{random_characters(8)}", con.execute("SELECT current_database()").fetchall()[0]
    con.execute(f"ATTACH ':memory:' AS {name}")
    try:
        for table in ("meta", *map(stored_in, STORED)):
            con.execute(f'CREATE TABLE {name}.main.{table} AS FROM "{own}".main.{table}')
        con.execute(f"USE {name}")
        for statement in create_views():
            con.execute(statement)
        follow(con, journal, count)
        yield
    finally:
        con.execute(f'USE "{own}"')
        con.execute(f"DETACH {name}")
