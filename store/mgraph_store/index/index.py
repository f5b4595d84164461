"""The DuckDB side: open for a moment, read or write records in one transaction, close.

DuckDB admits one writing process or several reading ones, so nobody keeps a connection; :mod:`mgraph_store.index.lock`
decides who may open it. Extensions and access to other files are off, so a query cannot leave the graph.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import duckdb

from mgraph_store.errors import (
    BehindError,
    CorruptError,
    FormatError,
    InputError,
    MGraphError,
    MovedError,
    OldFormatError,
    StoreError,
)
from mgraph_store.folder import TEMPORARY, Folder
from mgraph_store.index import migrations, older
from mgraph_store.index.changes import empty, parts
from mgraph_store.index.commits import follow, gone, lost, number_of, replay, settle
from mgraph_store.index.complaints import IN_THIS_PROCESS, LOCKED, translated
from mgraph_store.index.instances import CONFIG, STORAGE, instances
from mgraph_store.index.interrupts import interruptible
from mgraph_store.index.journal import Count, Journal
from mgraph_store.index.journalrecord import Entry
from mgraph_store.index.known import Known
from mgraph_store.index.sharedplace import SharedPlace
from mgraph_store.rows import schema
from mgraph_store.rows.ids import random_characters
from mgraph_store.rows.records import now
from mgraph_store.rows.relations import easy_statements
from mgraph_store.rows.schema import (
    STORED,
    columns,
    create_statements,
    stored_in,
)
from mgraph_store.rows.statements import run

JOURNAL = "journal"

_EMPTY: dict[int, bytes] = {}
"""The file of an empty index that was made in this process, by its format."""

_IN_MEMORY = 1 << 28
"""Bytes of an index up to which it is copied into memory, if no disk has room for a copy."""

_REWRITTEN = "present.duckdb"

_OWN_PATIENCE = 5.0  # seconds; whoever has it open here may be waiting for us, and everyone else waits meanwhile


class Index:
    """The file ``index.duckdb``."""

    def __init__(self, place: Folder | Path, name: str = "") -> None:
        """``place`` is the graph's directory and ``name`` that of the file, or ``place`` is the path of the file."""
        self._folder = Folder(place.parent) if isinstance(place, Path) else place
        self._name = name or Path(str(place)).name
        self.found: int | None = None  # its format when last looked at
        self.known = Known()
        self._journal: Journal | None = None

    @property
    def path(self) -> Path:
        """The file's path when the graph was opened."""
        return self._folder.path / self._name

    @property
    def folder(self) -> Folder:
        """The graph's directory."""
        return self._folder

    @property
    def journal(self) -> Journal:
        """The journal beside it."""
        if self._journal is None:
            directory, shared = self._folder.sub(JOURNAL), SharedPlace.read(self._folder)
            if shared is None:
                self._journal = Journal(directory)
            else:
                from mgraph_store.index.shared import SharedJournal

                self._journal = SharedJournal(directory, shared)
        return self._journal

    def place(self) -> Path:
        """Return the path at which the file is now, for DuckDB, which opens files by their path.

        Raises
        ------
        EntryError
            If something else is in its place, or in that of one of the files that DuckDB keeps beside it.
        MovedError
            If the graph is gone.
        CorruptError
            If there is no file.
        """
        where = self._folder.root.where() / self._name
        for name in self._folder.entries():  # its log, and what it writes while merging the log into the file
            if name.startswith(f"{self._name}."):
                self._folder.check_file(name, own=True)
        # Checked without opening it: closing another descriptor of the file would drop DuckDB's lock on it.
        if self._folder.check_file(self._name, own=True) is None:  # DuckDB would create it
            raise CorruptError(f"{self.path} is missing: `mgraph check` says what can be done.")
        return where

    def prepare(self) -> None:
        """Do what takes time and needs no lock before opening the index: start DuckDB."""
        with contextlib.suppress(MGraphError, OSError, duckdb.Error):  # whoever opens it says what is wrong
            instances().start(self._folder.root.where() / self._name)

    def copy_to(self, folder: Folder) -> None:
        """Copy the file into a folder, flushed; the caller holds the graph's lock. Errors as for ``copy_file``."""
        place = self.place()
        file = self._folder.reader(self._name)
        try:
            folder.write_copy(self._name, file)
        finally:
            instances().close_file(place, file)

    def copy_whole_to(self, folder: Folder) -> None:
        """Copy the file like :meth:`copy_to`, together with DuckDB's log beside it."""
        self.copy_to(folder)
        if self._folder.has(log := f"{self._name}.wal"):
            self._folder.copy_file(log, folder)

    def create(self, moment: datetime | None = None) -> None:
        """Make an empty index of the current format, and its journal; StoreError or OSError if the disk refuses.

        ``moment`` is when the graph was made, in UTC without a zone; by default now.
        """
        moment = moment or now().replace(tzinfo=None)
        try:
            if schema.FORMAT_VERSION in _EMPTY:  # to copy takes a quarter of the time
                self.path.write_bytes(_EMPTY[schema.FORMAT_VERSION])
                with instances().opened(self.path, read_only=False) as con:
                    con.execute("UPDATE meta SET created = ?", [moment])
                    self.journal.begin(0, [empty(con)])
                return
            with duckdb.connect(str(self.path), config={**CONFIG, **STORAGE, "enable_external_access": "false"}) as con:
                con.begin()
                for statement in (*create_statements(), *easy_statements()):
                    con.execute(statement)
                con.execute("INSERT INTO meta VALUES (?, ?, ?, 0)", [schema.FORMAT_VERSION, moment, _version()])
                con.commit()
                self.journal.begin(0, [empty(con)])
        except duckdb.Error as error:
            raise translated(error, self.path) from error
        _EMPTY[schema.FORMAT_VERSION] = self.path.read_bytes()

    def create_from(self, number: int, document: dict[str, Any]) -> None:
        """Make an index and its journal from a record that describes a whole graph as of a commit."""
        if number == 0:
            self.create(datetime.fromisoformat(document["meta"]["created"]))
            return
        self.journal.begin(number, [document])
        try:
            with duckdb.connect(str(self.path), config={**CONFIG, **STORAGE, "enable_external_access": "false"}) as con:
                replay(con, [Entry(number, document)])
        except duckdb.Error as error:
            raise translated(error, self.path) from error

    @contextlib.contextmanager
    def connect(
        self, *, read_only: bool, patience: float = 0.0, behind: bool = False, copied: bool = False
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the index, check its format, and close it again; the caller holds the graph's lock.

        To be read, it must have all commits of the journal, unless it may be ``behind``. If it has not, a copy is
        brought up to date instead, if it may be ``copied``. To be written, it must be settled first
        (:mod:`mgraph_store.index.commits`).

        Raises
        ------
        CorruptError, FormatError
            If it is damaged, or is not an index that this version reads, or if it has lost commits.
        BehindError
            If it must be brought up to date first.
        LockTimeoutError
            If a program that ignores our lock still has it open after ``patience`` seconds.
        """
        with self._opened(read_only, patience) as con:
            found, commits = self._check_format(con)
            if not read_only and found < schema.FORMAT_VERSION:
                raise OldFormatError(self._must_be_upgraded(found))
            if (behind or not read_only or self._is_behind(commits, copied) is None) and found == schema.FORMAT_VERSION:
                yield con
                return
            count = self.journal.count()
        try:
            place = self._copy(found, commits, count)
        except StoreError:
            if count is None or found < schema.FORMAT_VERSION or self._folder.size(self._name) > _IN_MEMORY:
                raise
        else:
            with self._opened(True, patience, place) as con:
                yield con
            return
        with self._opened(True, patience) as con, older.in_memory(con, self.journal, count):  # where no disk has room
            yield con

    @contextlib.contextmanager
    def aside(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open an empty database in memory, if possible in a DuckDB that is there already: starting one takes long."""
        with instances().aside(self._folder.root.where() / self._name) as con:
            yield con

    def check(self, con: duckdb.DuckDBPyConnection, count: Count | None) -> None:
        """Check that a copy of the index is of the current format and has all commits that there were.

        Raises
        ------
        CorruptError, FormatError
            If it is not, or has not.
        """
        found, commits = self._check_format(con)
        self.require_present(found)
        if count is not None and commits < count.number:
            raise lost(self.journal, commits, count)

    def format(self, patience: float) -> int:
        """Return the format of the index, the current one or an older one; errors as :meth:`connect`."""
        with self._opened(True, patience) as con:
            return self._check_format(con)[0]

    def place_to_read(self, patience: float, *, copied: bool = False) -> Path:
        """Return a path at which another process may read the index in the current format, with no commits lost.

        Errors as :meth:`connect`; the caller holds the graph's lock.
        """
        with self._opened(True, patience) as con:
            found, commits = self._check_format(con)
        if self._is_behind(commits, copied) is None and found == schema.FORMAT_VERSION:
            return self.place()
        return self._copy(found, commits, self.journal.count())

    def may_be_behind(self) -> bool:
        """Return whether this lacks commits that the journal has, as far as one can tell without opening it."""
        if self.found is not None and self.found < schema.FORMAT_VERSION:
            return False
        return self.journal.is_ahead()

    def _is_behind(self, commits: int, copied: bool) -> Count | None:
        """Return the last commit if an index with so many of them lacks it; BehindError unless it may be copied."""
        count = self.journal.count()
        if count is None and self.found == schema.FORMAT_VERSION:
            raise gone(self.journal)
        if count is None or commits >= count.number:
            return None
        if self.journal.is_former():
            raise lost(self.journal, commits, count)
        if self.found is None or self.found < migrations.FOLLOWED:
            raise FormatError(
                f"Graph {self.path.parent} has format {self.found} and commits that only an mgraph of that format can "
                "put into its index: give any command with that one first, for example mgraph ls."
            )
        if not copied:
            raise BehindError(f"The index of graph {self.path.parent} has {commits} of {count.number} commits.")
        return count

    def migrate(self, patience: float) -> int:
        """Upgrade an index from an older format to the current one; the caller holds the graph's lock exclusively.

        Returns the format that it had. An index that has lost commits is left alone: its journal has them.
        """
        with self._opened(False, patience) as con:  # this leaves no DuckDB log beside the file
            found, commits = self._check_format(con)
            count = self._is_behind(commits, True) if found < schema.FORMAT_VERSION else None
        if found < schema.FORMAT_VERSION:
            self._rewrite(found, count)
        # An upgrade that was stopped in between is completed, too.
        with self._opened(False, patience) as con:
            con.begin()
            present = settle(con, self.journal)  # of an index that is ahead by two commits, it begins the journal anew
            con.commit()
            first = next(self.journal.entries(present, contents=False))
            if first.document["meta"]["format_version"] != schema.FORMAT_VERSION:  # of a shared graph
                self.journal.begin(number_of(con), parts(con))
        return found

    def _rewrite(self, found: int, count: Count | None) -> None:
        graph, making = self._folder, self._folder.sub(TEMPORARY, f"index-{random_characters(8)}")
        if graph.has(f"{self._name}.wal"):
            raise StoreError(f"DuckDB could not merge its log into {self.path}: free some disk space and try again.")
        try:
            with making.opened(create=True) as descriptor, interruptible():
                self.copy_to(making)
                where = making.path_within(descriptor)
                migrations.rewrite(
                    where / self._name,
                    where / _REWRITTEN,
                    found,
                    lambda con: None if count is None else follow(con, self.journal, count),
                    skip=0 if self.journal.is_shared else 2,
                )
            making.flush(_REWRITTEN)
            self.journal.announce_format()  # when all that takes room is done
            making.rename(_REWRITTEN, graph, self._name)
            graph.flush()
        except duckdb.Error as error:
            raise translated(error, self.path) from error
        finally:
            making.above().remove(making.name)

    def require_present(self, found: int) -> None:
        """Raise OldFormatError, which says what to do, if the format found is an older one."""
        if found < schema.FORMAT_VERSION:
            raise OldFormatError(self._must_be_upgraded(found))

    def _must_be_upgraded(self, found: int) -> str:
        after = (
            "here (after which an older mgraph can open it on no machine"
            if self.journal.is_shared
            else ("(after which an older mgraph cannot open it")
        )
        return (
            f"Graph {self.path.parent} has format {found}, this mgraph writes format {schema.FORMAT_VERSION}: it can "
            f"be read as it is; to change it, give mgraph upgrade {after} any more)."
        )

    def _copy(self, found: int, commits: int, count: Count | None) -> Path:
        place = self.place()
        old = found < schema.FORMAT_VERSION

        behind = count is not None and commits < count.number

        def bring(con: duckdb.DuckDBPyConnection) -> None:
            if old:
                migrations.take_steps(con, found)
            if count is not None and behind:
                follow(con, self.journal, count)

        state = (found, count if behind else commits, place.stat().st_ino)
        try:
            return older.copied(place, state, self.copy_whole_to, bring)
        except duckdb.Error as error:
            raise translated(error, self.path) from error
        except OSError as error:
            why = f"has format {found}" if old else f"has commits that {self.path.name} has not, and cannot be written"
            raise StoreError(
                f"Graph {self.path.parent} {why}, and is read through a copy of its index, for which there "
                f"is no room below {tempfile.gettempdir()} ({error.strerror or error})."
            ) from error

    def check_tables(self, con: duckdb.DuckDBPyConnection) -> None:
        """Check that the tables have all columns that this version reads.

        Raises
        ------
        FormatError
            If they lack some, as in a graph of an unreleased version.
        """
        wanted = [(stored_in(table), c.name) for table, record in STORED.items() for c in columns(record)]
        sql = """SELECT table_name, column_name FROM duckdb_columns()
WHERE database_name = current_database() AND schema_name = 'main'"""
        found = set(con.execute(sql).fetchall())
        missing = ", ".join(f"{table}.{name}" for table, name in wanted if (table, name) not in found)
        if missing:
            raise FormatError(
                f"Graph {self.path.parent} was written by an unreleased mgraph, and its index lacks {missing}: "
                "make the graph again."
            )

    @contextlib.contextmanager
    def _opened(
        self, read_only: bool, patience: float, copy: Path | None = None
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        place = copy or self.place()
        begun = time.monotonic()
        with interruptible(), contextlib.ExitStack() as stack:
            try:
                while True:
                    try:
                        con = stack.enter_context(instances().opened(place, read_only=read_only))
                        break
                    except duckdb.Error as error:
                        if time.monotonic() >= begun + _patience(error, place, patience):
                            raise
                    time.sleep(0.05)
                if copy is None:
                    self._check_same(place)
                yield con
            except duckdb.InterruptException:
                raise  # Ctrl-C
            except duckdb.Error as error:
                raise translated(error, self.path) from error

    def _check_same(self, place: Path) -> None:
        # DuckDB has followed a path: check that it led to our directory.
        found, ours = place.lstat(), self._folder.check_file(self._name, own=True)
        if ours is None or not os.path.samestat(found, ours):
            raise MovedError(f"{place} was replaced while it was being opened: nothing was read or stored; try again.")

    def _check_format(self, con: duckdb.DuckDBPyConnection) -> tuple[int, int]:
        """Return the format, and how many commits it has seen; FormatError if this version cannot read it."""
        try:
            row = run(con, "SELECT format_version, written_by, commits FROM meta").fetchone()
        except duckdb.BinderException:
            raise FormatError(
                f"Graph {self.path.parent} was written by an unreleased mgraph, and its index lacks meta.commits: "
                "make the graph again."
            ) from None
        except duckdb.CatalogException:
            row = None
        if row is None:
            raise FormatError(f"{self.path} is a DuckDB file, but not the index of a graph.")
        found, writer, commits = row
        present = schema.FORMAT_VERSION
        written = f"Graph {self.path.parent} has format {found}, written by mgraph {writer}; this mgraph"
        if found > present:
            raise FormatError(f"{written} reads format {present}: install a newer mgraph.")
        if found < present and not migrations.can_migrate(found):
            raise FormatError(f"{written} reads only format {present}: open it with mgraph {writer}.")
        self.found = int(found)
        return self.found, int(commits)


def _version() -> str:
    try:
        return version("mgraph")
    except PackageNotFoundError:
        return "unknown"


def _patience(error: duckdb.Error, place: Path, patience: float) -> float:
    """Return for how many seconds it may be worth retrying to open an index."""
    if LOCKED in str(error):
        return patience
    if IN_THIS_PROCESS in str(error) and not instances().has_open(place):
        return min(patience, _OWN_PATIENCE)
    return 0.0


def check_path(graph: Path) -> None:
    """Raise InputError for a path of a graph that DuckDB does not take literally."""
    if "?" in str(graph.resolve()):
        raise InputError(
            f"A graph cannot be at {graph}, because DuckDB takes what follows a question mark for parameters: "
            "choose a path without one."
        )
