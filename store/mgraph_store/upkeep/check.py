"""Verifying the invariants of a graph: nothing committed is missing, and every row's tensors are there and right.

Each problem says what is wrong and what can be done: ``repairable`` (by :func:`mgraph_store.upkeep.repair.repair`,
which does only what it can prove), ``remake`` (by a command), ``lost``.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from mgraph_store.errors import CorruptError, FormatError, LockTimeoutError, StoreError
from mgraph_store.index import commits
from mgraph_store.index.index import Index
from mgraph_store.index.journal import Count, Journal
from mgraph_store.index.journalrecord import Entry
from mgraph_store.index.reader import Reader
from mgraph_store.index.snapshot import MEMORY, is_large, looked_at
from mgraph_store.rows import schema
from mgraph_store.rows.schema import FORMAT_VERSION, META, STORED, columns, stored_in
from mgraph_store.rows.statements import run
from mgraph_store.upkeep.problems import LOST, REPAIRABLE, Problem, listed
from mgraph_store.upkeep.rowcheck import filled_tables, row_problems
from mgraph_store.upkeep.tensorcheck import Stored, tensor_problems

if TYPE_CHECKING:
    from mgraph_store.store import GraphStore

_IN_MEMORY = 1 << 20  # bytes of a journal whose rows are compared in memory


@dataclass(frozen=True)
class JournalState:
    """The journal beside an index: its last commit, its first and last complete records, and what is wrong after that.

    ``last`` is a number, -1 if there is none.
    """

    journal: Journal
    count: Count | None
    first: Entry | None = None
    last: int = -1
    wrong: str | None = None

    @property
    def whole(self) -> bool:
        """Whether it has every commit."""
        return self.wrong is None

    @property
    def present(self) -> bool:
        """Whether it begins with an index of the current format."""
        return self.first is not None and self.first.document.get("meta", {}).get("format_version") == FORMAT_VERSION

    def entries(self, after: int = -1) -> Iterator[Entry]:
        """Read the complete records one after another, all of them or those after a given commit."""
        if self.count is None:
            return
        with contextlib.suppress(CorruptError):
            for entry in self.journal.entries(self.count):
                if entry.number > self.last:
                    return
                if entry.number > after:
                    yield entry


def examine(store: GraphStore, deep: bool = False) -> list[Problem]:
    """List what is wrong with a graph; empty if nothing is.

    Checks that index and journal have every commit, rows against rows, and for every stored and partial node that its
    tensors exist in full size. ``deep`` also compares every row of the index with the journal (not of a graph of an
    older format), reads all tensors and compares their digests.

    Raises
    ------
    FormatError
        If the graph has a format that this version does not read.
    LockTimeoutError
        If somebody writes for too long.
    """
    found = _beside_others(store, deep) if is_large(store.index) else None
    return _alone(store, deep) if found is None else found


def _beside_others(store: GraphStore, deep: bool) -> list[Problem] | None:
    """Examine a copy of the index while others work; None if there is anything that only the lock can explain."""
    try:
        with looked_at(store.index, store.lock) as shot:
            state = journal_state(store.index.journal, shot.count)
            reader = shot.reader
            if not state.whole or state.last != commits.number_of(reader.connection):
                return None
            rows = sums(reader.connection) if deep else {}
            found = [Problem(what, subject) for what, subject in row_problems(reader)]
            stored = Stored.read(reader)
            compare = deep and state.present  # the journal of an older format stays as it is
            missing = _differences(store.index, state, rows, lambda: contextlib.nullcontext(reader)) if compare else []
    except (FormatError, LockTimeoutError):
        raise
    except StoreError:
        return None
    return found + missing + tensor_problems(store, stored, deep, behind=bool(missing))


def _alone(store: GraphStore, deep: bool) -> list[Problem]:
    """Examine the index itself, under the lock."""
    with contextlib.suppress(StoreError), store.reading():
        pass  # now it has all that the journal can give it
    with store.lock.shared():
        state = journal_state(store.index.journal, store.index.journal.count())
        found = [] if state.whole else [_journal_problem(state)]
        try:
            with contextlib.ExitStack() as stack:
                try:
                    reader, behind = stack.enter_context(store.reading()), False
                except CorruptError:
                    reader, behind = stack.enter_context(store.reading(behind=True)), True
                number = commits.number_of(reader.connection)
                missing = _commits(number, state)
                rows = sums(reader.connection) if deep else {}  # also reads every block of the index
                found += missing + [Problem(what, subject) for what, subject in row_problems(reader)]
                stored = Stored.read(reader)
        except (FormatError, LockTimeoutError):
            raise
        except StoreError as error:
            return [*found, _index_problem(error, state)]
        comparable = state.whole and state.count is not None and state.count.number == number
        if deep and comparable and store.index.found == schema.FORMAT_VERSION:  # that of an older one stays as it is
            missing += _differences(store.index, state, rows, lambda: store.reading(behind=behind))
    found += [p for p in missing if p not in found]
    return found + tensor_problems(store, stored, deep, behind=any(p.subject != "journal" for p in missing))


def format_of(store: GraphStore) -> int:
    """Return the format of a graph, the current one or an older one; errors as :func:`examine`."""
    with store.lock.shared():
        return store.index.format(store.lock.timeout)


def problems(store: GraphStore, deep: bool = False) -> list[str]:
    """List the findings of :func:`examine`, one sentence each."""
    return [p.what for p in examine(store, deep)]


def assert_consistent(store: GraphStore, deep: bool = True) -> None:
    """Raise ``CorruptError`` naming the problems, if there are any."""
    found = problems(store, deep)
    if found:
        raise CorruptError(f"Graph {store.path} has {len(found)} problems: {' '.join(found)}")


def garbage(store: GraphStore) -> list[str]:
    """List keys of tensor objects that no row refers to: left by a crash, or about to be committed."""
    keys = store.tensor_store.keys()  # before the rows, so that an object committed meanwhile is not listed
    with store.reading() as reader:
        return sorted(keys - reader.tensor_keys())


def journal_state(journal: Journal, count: Count | None) -> JournalState:
    """Examine the whole journal, up to a commit, looking only at checksums and numbers; never raises."""
    if count is None:
        return JournalState(journal, None, wrong="The journal is missing")
    first: Entry | None = None
    last = -1
    try:
        for entry in journal.entries(count, contents=False):
            first, last = first or entry, entry.number
    except CorruptError as error:
        return JournalState(journal, count, first, last, str(error).rstrip("."))
    return JournalState(journal, count, first, last)


def sums(con: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Read all rows of an index and add up their hashes, so that tables with the same rows in any order agree.

    A single different bit anywhere changes the sum.
    """
    sql = "SELECT '{}', count(*), sum(hash(t)::HUGEINT) FROM {} t"
    parts = " UNION ALL ".join(sql.format(table, stored_in(table)) for table in ("meta", *filled_tables(con)))
    return {table: rest for table, *rest in run(con, parts).fetchall()}


def _differences(
    index: Index,
    state: JournalState,
    found: dict[str, Any],
    reading: Callable[[], contextlib.AbstractContextManager[Reader]],
) -> list[Problem]:
    """Compare the rows of an index with what the journal says was committed."""
    with contextlib.ExitStack() as stack:
        if state.count is None or state.count.length <= _IN_MEMORY:
            con = stack.enter_context(index.aside())
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mgraph-"))
            place = str(Path(folder) / "made.duckdb")  # on a disk, where rows take less room
            con = stack.enter_context(duckdb.connect(place, config={"threads": "1"}))
            con.execute(f"SET memory_limit = '{MEMORY}'")  # beyond this, it uses the disk, too
        commits.replay(con, state.entries(), comments=False)
        made = sums(con)
        tables = [table for table in ("meta", *STORED) if found.get(table) != made.get(table)]
        if not tables:
            return []
        with reading() as reader:
            return [_difference(table, reader, Reader(con)) for table in tables]


def _difference(table: str, reader: Reader, made: Reader) -> Problem:
    names = list(META) if table == "meta" else [c.name for c in columns(STORED[table])]
    together = ", ".join(f'"{name}"' for name in names)
    # Rows are compared by hash, equal ones in pairs, so that only rows that differ are ever loaded.
    hashes = f"SELECT hash(row({together})) AS h, count(*) FROM {stored_in(table)} GROUP BY h"
    present, committed = (Counter(dict(r.query(hashes)[1])) for r in (reader, made))
    lost, strange = committed - present, present - committed
    which = ""
    if names[0] == "id":
        sql = f"SELECT DISTINCT id FROM {table} WHERE hash(row({together})) IN (SELECT unnest(?::UBIGINT[])) ORDER BY 1"
        ids = [row[0] for r, odd in ((made, lost), (reader, strange)) for row in r.query(sql, [list(odd)])[1]]
        which = f" ({listed(dict.fromkeys(ids))})"
    return Problem(
        f"{table}: {lost.total()} of {committed.total()} rows that were committed are not there, {strange.total()} "
        f"others are{which}.",
        table,
        REPAIRABLE,
        "the journal has what was committed: mgraph check --repair",
    )


def described(entry: Entry) -> str:
    """Say what a commit did, using names where there are any."""
    parts = []
    for verb, key in (("", "add"), ("changed ", "update")):
        for table, part in entry.document.get(key, {}).items():
            rows = [dict(zip(part["columns"], row, strict=True)) for row in part["rows"]]
            told = [r["name"] or r["id"] for r in rows if r.get("name") or r.get("kind") in ("mode", "merged")]
            told += [r["id"] for r in rows if table == "connections" and not r["name"]]
            names = f" ({listed(told)})" if told else ""
            parts.append(f"{verb}{len(rows)} of {table}{names}")
    parts += [f"removed {len(values)} of {table}" for table, _, values in entry.document.get("remove", ())]
    return ", ".join(parts) or "nothing"


def _commits(number: int, state: JournalState) -> list[Problem]:
    count = state.count
    if count is None:
        return []
    if number > count.number and not (number == count.number + 1 and state.journal.is_former()):
        lacking = number - count.number
        what = f"The journal lacks {'a commit' if lacking == 1 else f'{lacking} commits'}"
        return [_journal_problem(JournalState(state.journal, count, wrong=what))]
    if number < count.number:
        lost = list(state.entries(after=number))
        what = "; ".join(f"commit {e.number}: {described(e)}" for e in lost)
        unknown = count.number - number - len(lost)
        if state.whole and state.first is not None and state.first.number > number:
            what, unknown = f"the journal begins with all rows of commit {state.first.number}", 0
        more = f"{'; ' if what else ''}{unknown} of which the journal has no record" if unknown else ""
        return [
            Problem(
                f"The index has lost its last {count.number - number} of {count.number} commits ({what}{more}).",
                "index",
                LOST if unknown else REPAIRABLE,
                "mgraph check --repair restores them from the journal" + (", as far as it has them" if unknown else ""),
            )
        ]
    return []


def _journal_problem(state: JournalState) -> Problem:
    return Problem(
        f"{state.wrong}: a commit lost by the index could not be restored.",
        "journal",
        REPAIRABLE,
        "mgraph check --repair starts a new journal with all rows of the index",
    )


def _index_problem(error: StoreError, state: JournalState) -> Problem:
    if state.whole:
        return Problem(
            str(error), "index", REPAIRABLE, "mgraph check --repair rebuilds it from the journal, which is whole"
        )
    if state.last >= 0:
        what = f"the journal is readable up to commit {state.last}"
        return Problem(str(error), "index", LOST, f"{what}: mgraph check --repair restores that much")
    return Problem(str(error), "index", LOST, "restore index.duckdb and journal from a copy of the graph")
