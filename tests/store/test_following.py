"""A commit is its record in the journal; the index follows, and whoever reads finds everything."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mgraph_store import (
    Connection,
    Evaluation,
    GraphStore,
    Member,
    Node,
    NodeBuffers,
    NodeTerm,
    Run,
    new_id,
    problems,
)
from mgraph_store.errors import CorruptError, InputError, MGraphError, NameTakenError, OutcomeUnknownError, StoreError
from mgraph_store.index import commits, following
from mgraph_store.index.changes import Changes
from mgraph_store.index.index import Index
from mgraph_store.index.instances import Instances
from mgraph_store.index.journal import Journal
from mgraph_store.index.lock import GraphLock
from mgraph_store.rows.constraints import verify
from mgraph_store.rows.schema import columns
from mgraph_store.transaction import Transaction
from mgraph_store.upkeep.check import examine
from mgraph_store.upkeep.copying import copy
from mgraph_store.upkeep.problems import LOST
from mgraph_store.upkeep.repair import repair

MANY = int(os.environ.get("MGRAPH_EXAMPLES", "1"))  # so many times more of them: make stress


@pytest.fixture
def lazy(graph: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A graph whose index is brought up to date only by those who read it; its process knows what is in it."""
    monkeypatch.setattr(following, "RESTING", 1e9)
    graph.add(graph.parameters(100))
    names(graph.store)
    return graph


def lacks(store: GraphStore) -> int:
    """Return how many commits the index lacks."""
    with store.lock.shared(), store.index.connect(read_only=True, behind=True) as con:
        (number,) = con.execute("SELECT commits FROM meta").fetchone() or (0,)
    count = store.index.journal.count()
    assert count is not None
    return count.number - number


def names(store: GraphStore) -> set[str | None]:
    with store.reading() as reader:
        return {n.name for n in reader.all(Node)}


def test_a_commit_is_its_record(lazy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB is not needed for it; whoever reads finds it, in this process or another."""
    with monkeypatch.context() as patch:
        patch.setattr(Instances, "opened", None)
        a, b = lazy.add(lazy.parameters(0), lazy.parameters(1), names=("a", "b"))
        with lazy.store.transaction() as tx:
            tx.add(Run(new_id("r"), "train", "{}"))
        lazy.derive([0.5, 0.5], [a, b])
    assert lacks(lazy.store) == 3
    assert names(GraphStore.open(lazy.store.path)) == {"a", "b", None}
    assert lacks(lazy.store) == 0


def test_names_and_ids_are_checked_against_commits_that_the_index_lacks(lazy: Any) -> None:
    other = GraphStore.open(lazy.store.path)
    with other.transaction() as tx:
        tx.write_parameters([lazy.parameters(7)])  # now it knows the index, as the first one does
    (a,) = lazy.add(lazy.parameters(0), names=("a",))
    with pytest.raises(NameTakenError, match=f"'a' belongs to {a.id}"), other.transaction() as tx:
        tx.add(replace(a, id=new_id("m")))
    with pytest.raises(InputError, match=f"id {a.id} is already used"), other.transaction() as tx:
        tx.add(replace(a, name=None))
    with other.transaction() as tx:
        tx.add(replace(a, id=new_id("m"), name="b"))
    assert lazy.store.read_parameters("b").tobytes() == lazy.parameters(0).tobytes()
    with lazy.store.transaction() as tx:
        tx.update(replace(a, name="c"))
    (d,) = lazy.add(lazy.parameters(3), names=("a",))  # which is free again
    assert names(other) == {"a", "b", "c", None}
    lazy.derive([1.0], [d])


def test_two_who_add_in_turn_open_the_index_once(lazy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other = GraphStore.open(lazy.store.path)
    opened: list[bool] = []
    original = Instances.opened

    def watched(instances: Instances, index: Path, *, read_only: bool) -> Any:
        opened.append(read_only)
        return original(instances, index, read_only=read_only)

    with monkeypatch.context() as patch:
        patch.setattr(Instances, "opened", watched)
        for seed in range(4):
            lazy.add(lazy.parameters(seed), names=(f"a{seed}",))
            with other.transaction() as tx:
                (ref,) = tx.write_parameters([lazy.parameters(seed + 10)])
                tx.add(lazy.node(ref, f"b{seed}"))
    assert opened == [False, True]  # the other one's first look
    assert len(names(other)) == 9


def test_who_commits_again_and_again_gets_to_know_the_index(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "RESTING", 1e9)
    opened: list[bool] = []
    original = Instances.opened

    def watched(instances: Instances, index: Path, *, read_only: bool) -> Any:
        opened.append(read_only)
        return original(instances, index, read_only=read_only)

    store = GraphStore(graph.store.path)
    with monkeypatch.context() as patch:
        patch.setattr(Instances, "opened", watched)
        for _ in range(4):
            with store.transaction() as tx:
                tx.add(Run(new_id("r"), "train", "{}"))
    assert opened == [False, False]
    with store.reading() as reader:
        assert len(reader.all(Run)) == 4


def test_very_much_does_not_gather(lazy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GraphLock, "is_awaited", lambda _: True)
    monkeypatch.setattr(following, "MOST_RECORDS", 3)
    names(lazy.store)
    found = []
    for seed in range(5):
        lazy.add(lazy.parameters(seed))
        found.append(lacks(lazy.store))
    assert found == [1, 2, 3, 0, 1]
    monkeypatch.setattr(following, "MOST_BYTES", 1)
    lazy.add(lazy.parameters(9))
    assert lacks(lazy.store) == 0


def test_an_index_follows_at_once_unless_it_just_did_or_somebody_waits(
    lazy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "RESTING", 0.0)
    lazy.add(lazy.parameters(0))
    assert lacks(lazy.store) == 0
    monkeypatch.setattr(following, "RESTING", 1e9)
    lazy.add(lazy.parameters(1))
    monkeypatch.setattr(following, "RESTING", 0.0)
    lock = lazy.store.lock
    with ThreadPoolExecutor(1) as pool:
        with lock.exclusive():
            assert not lock.is_awaited()
            waiting = pool.submit(names, GraphStore(lazy.store.path))
            while not lock.is_awaited():
                time.sleep(0.001)
            count, applied = lazy.store.index.journal.standing()
            following.follow_if_due(lazy.store.index, lock, count, applied)
            assert lacks(lazy.store) == 1
        assert waiting.result() == {None}
    assert lacks(lazy.store) == 0


ADDS = """
import sys, time
from mgraph_store import GraphStore, Run, new_id
store = GraphStore.open(sys.argv[1])
import numpy as np
with store.transaction() as tx:
    tx.write_parameters([np.ones(17, "f4")])  # from now on it knows the index
for _ in range(3):
    with store.transaction() as tx:
        tx.add(Run(new_id("r"), "train", "{}"))
exec(sys.argv[2])
"""


def _runs(path: Path) -> int:
    with duckdb.connect(str(path / "index.duckdb"), read_only=True) as con:
        return int(con.execute("SELECT count(*) FROM easy.runs").fetchall()[0][0])


@pytest.mark.parametrize(
    ("then", "seen"),
    [("", 3), ("import os; os._exit(0)", 1), ("print('there', flush=True); time.sleep(60)", 3)],
    ids=["ends", "is stopped", "goes on"],
)
def test_what_other_programs_find(lazy: Any, then: str, seen: int) -> None:
    """What was committed, as soon as the process that did it ends, or a second later."""
    following.follow_at_last()
    with subprocess.Popen(
        [sys.executable, "-c", ADDS, lazy.store.path, then], stdout=subprocess.PIPE, text=True
    ) as process:
        if "there" in then:
            assert process.stdout is not None
            process.stdout.readline()
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                with contextlib.suppress(duckdb.Error):
                    if _runs(lazy.store.path) == seen:
                        break
                time.sleep(0.05)
            process.kill()
        else:
            assert process.wait(60) == 0
    # Of one that is stopped at once, perhaps the first: that index had not been changed for a while.
    assert _runs(lazy.store.path) in ((0, 1) if then.endswith("os._exit(0)") else (seen,))
    with lazy.store.reading() as reader:
        assert len(reader.all(Run)) == 3


@pytest.mark.parametrize("how", ["disk", "lock"])
def test_who_may_not_write_reads_a_copy(lazy: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str) -> None:
    """Of a graph on a read-only medium, whose last commits its index lacks; nothing is changed there."""
    (a,) = lazy.add(lazy.parameters(0), names=("a",))
    (b,) = lazy.add(lazy.parameters(1), names=("b",))
    files = {p: p.read_bytes() for p in lazy.store.path.rglob("*") if p.is_file() and p.suffix != ".lock"}
    connect, exclusive = Index.connect, GraphLock.exclusive

    def refusing(index: Index, *, read_only: bool, **more: Any) -> Any:
        if not read_only:
            raise StoreError("not accessible to this user")
        return connect(index, read_only=read_only, **more)

    def refused(lock: GraphLock) -> Any:
        raise StoreError("can only be read")

    with monkeypatch.context() as patch:
        patch.setattr(Index, "connect", refusing) if how == "disk" else patch.setattr(GraphLock, "exclusive", refused)
        store = GraphStore.open(lazy.store.path)
        assert names(store) == {"a", "b", None}
        with store.reading() as reader, store.reading() as again:
            assert reader.find_node("b") == again.find_node("b") == b
        assert store.query_guarded("SELECT count(*) FROM modes").rows == [(3,)]
        assert problems(store, deep=True) == []
        copy(store, tmp_path / "copy.mgraph")
    assert {p: p.read_bytes() for p in lazy.store.path.rglob("*") if p in files} == files
    assert exclusive is GraphLock.exclusive
    assert names(GraphStore.open(tmp_path / "copy.mgraph")) == {"a", "b", None}
    assert lacks(lazy.store) == 2
    lazy.derive([1.0], [a])


def test_a_lock_that_is_held_already_is_no_reason_to_miss_a_commit(lazy: Any) -> None:
    lazy.add(lazy.parameters(0), names=("a",))
    with lazy.store.lock.shared():
        assert names(lazy.store) == {"a", None}
    assert lacks(lazy.store) == 1
    with lazy.store.lock.exclusive():
        assert names(lazy.store) == {"a", None}


def test_a_reader_whom_a_writer_overtakes_looks_again(lazy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And if writers overtake it again and again, it reads a copy."""
    original, left = Index.connect, [0]
    other = GraphStore.open(lazy.store.path)
    with other.transaction() as tx:
        tx.write_parameters([lazy.parameters(7)])

    def connect(index: Index, *, read_only: bool, **more: Any) -> Any:
        if index is lazy.store.index and read_only and left[0]:
            left[0] -= 1
            journal = index.journal  # somebody got in while the lock was lowered
            count = journal.count()
            assert count is not None
            run = Run(new_id("r"), "late", "{}")
            journal.append(count, Changes.of({Run: [run]}, ()).document())
        return original(index, read_only=read_only, **more)

    monkeypatch.setattr(Index, "connect", connect)
    for often in (1, 2, 9):
        left[0] = often
        with lazy.store.reading() as reader:
            assert reader.all(Run)
        left[0] = 0
    assert problems(other, deep=True) == []


@pytest.mark.parametrize("slots", [True, False])
def test_a_damaged_record_that_the_index_lacks(damaged: Any, monkeypatch: pytest.MonkeyPatch, slots: bool) -> None:
    """It is lost, and said to be, unless nothing shows that it was ever whole: then its commit was never reported."""
    monkeypatch.setattr(following, "RESTING", 1e9)
    damaged.add(damaged.parameters(0), names=("a",))
    count = damaged.store.index.journal.count()
    damaged.add(damaged.parameters(1), names=("b",))
    damaged.add(damaged.parameters(2), names=("c",))
    last = damaged.store.index.journal.count()
    file = damaged.store.path / "journal" / count.file
    data = bytearray(file.read_bytes())
    data[random.Random(0).randrange(last.length - 60, last.length)] ^= 4
    file.write_bytes(data)
    if not slots:
        (file.parent / "count").unlink()
        assert names(damaged.store) == {"a", "b"}
        damaged.add(damaged.parameters(3), names=("d",))
        assert problems(damaged.store, deep=True) == []
        return
    with pytest.raises(CorruptError, match=r"has lost its last \d commits: the index has \d of 4, and the"):
        GraphStore.open(damaged.store.path)
    with pytest.raises(CorruptError), GraphStore(damaged.store.path).transaction() as tx:
        tx.add(Run(new_id("r"), "train", "{}"))
    found = examine(damaged.store)
    assert [p.outcome for p in found if p.subject == "index"] == [LOST]
    assert "1 of which the journal has no record" in " ".join(p.what for p in found)
    assert "up to commit 3" in repair(damaged.store)[0]
    assert names(damaged.store) == {"a", "b"}
    assert problems(damaged.store, deep=True) == []


COLUMNS = [c.name for c in columns(Run)]


@pytest.mark.parametrize(
    "document",
    [
        {"remove": [["nodes; DROP TABLE runs", "id", ["x"]]]},
        {"remove": [["nodes", "id\" = 'x' OR 1 = 1 OR \"id", ["x"]]]},
        {"remove": [["meta", "commits", ["1"]]]},
        {"remove": [["nodes", "id", "x"]]},
        {"remove": [["nodes"]]},
        {"add": {"runs (id) VALUES ('x'); DROP TABLE nodes; --": {"columns": ["id"], "rows": [["x"]]}}},
        {"add": {"runs": {"columns": ["id); DROP TABLE nodes; --"], "rows": [["x"]]}}},
        {"add": {"runs": {"columns": COLUMNS, "rows": [["x"]]}}},
        {"add": {"runs": {"columns": COLUMNS, "rows": [[{}] * len(COLUMNS)]}}},
        {"add": {"runs": {"columns": COLUMNS, "rows": 3}}},
        {"add": {"runs": [1]}},
        {"add": [1]},
        {"update": {"evaluations": {"columns": [c.name for c in columns(Evaluation)], "rows": [[None] * 11]}}},
        {"update": {"runs": {"columns": COLUMNS, "rows": [["rnobody"] + [None] * (len(COLUMNS) - 1)]}}},
    ],
    ids=str,
)
def test_a_record_of_a_stranger_does_nothing_but_what_records_do(damaged: Any, document: dict[str, Any]) -> None:
    damaged.add(damaged.parameters(), names=("a",))
    before, journal = damaged.counts(), damaged.store.index.journal
    count = journal.count()
    assert count is not None
    journal.append(count, document)
    store = GraphStore(damaged.store.path)
    with pytest.raises(StoreError), store.transaction() as tx:
        tx.add(Run(new_id("r"), "train", "{}"))
    with pytest.raises(StoreError):
        names(store)
    journal._take_back(count, OSError())
    journal._note(count, 0)
    assert damaged.counts() == before


def test_a_disk_that_takes_nothing_back_leaves_the_tensors(damaged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the record will be there, nobody knows; if it is, its tensors must be."""
    damaged.add(damaged.parameters(0))
    original = Journal._write

    def broken(journal: Journal, name: str, data: bytes, place: int, **more: Any) -> int:
        if name.endswith(".log"):
            if data:
                original(journal, name, data, place, **more)
            raise OSError(5, "Input/output error")
        return original(journal, name, data, place, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_write", broken)
        with pytest.raises(OutcomeUnknownError, match="is seen when the disk works again"):
            damaged.add(damaged.parameters(1), names=("b",))
    assert damaged.store.read_parameters("b").tobytes() == damaged.parameters(1).tobytes()
    assert problems(damaged.store, deep=True) == []


def test_a_disk_without_any_room_can_be_read(lazy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the index lacks commits and cannot be copied, so that something can be found to be deleted."""
    (a,) = lazy.add(lazy.parameters(0), names=("a",))
    lazy.derive([1.0], [a])
    connect = Index.connect

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    def refusing(index: Index, *, read_only: bool, **more: Any) -> Any:
        if not read_only:
            raise StoreError("No space left")
        return connect(index, read_only=read_only, **more)

    expected = None
    for _ in range(2):
        with monkeypatch.context() as patch:
            if expected is None:
                patch.setattr(Index, "connect", refusing)
                patch.setattr("mgraph_store.index.older.copied", full)
            with lazy.store.reading() as reader:
                found = reader.snapshot()
                with lazy.store.reading() as again:
                    assert again.snapshot() == found
            assert lacks(lazy.store) == (2 if expected is None else 0)
        assert expected in (None, found)
        expected = found
    assert problems(lazy.store, deep=True) == []


def test_a_disk_that_is_full_for_the_index_only(lazy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit is done when its record is there; the index gets it later."""
    (a,) = lazy.add(lazy.parameters(0), names=("a",))
    opened = Instances.opened

    @contextlib.contextmanager
    def full(instances: Instances, index: Path, *, read_only: bool) -> Iterator[Any]:
        with opened(instances, index, read_only=read_only) as con:
            yield _Full(con) if not read_only else con

    class _Full:
        def __init__(self, con: Any) -> None:
            self._con = con

        def __getattr__(self, name: str) -> Any:
            return getattr(self._con, name)

        def commit(self) -> None:
            raise duckdb.IOException("Could not write file: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Instances, "opened", full)
        with lazy.store.transaction() as tx:
            tx.update(replace(a, name="b"))  # for this the index is asked
        assert names(lazy.store) == {"b", None}  # through a copy
    assert names(lazy.store) == {"b", None}
    assert problems(lazy.store, deep=True) == []


some = st.integers(0, 5)
record = st.one_of(
    st.builds(
        lambda i, n, s, kind: Node(
            f"m{i:0>12}".replace("0", "a").replace("1", "b"),
            "mode",
            s,
            name=n,
            tensor_key=None if kind == "derived" else "t",
            kernel=None if kind == "stored" else 1,
            columns="[[0,3]]" if kind == "partial" else None,
            nbytes=12 if kind == "partial" else 0,
        ),
        some,
        st.sampled_from([None, "x", "y", "z"]),
        st.sampled_from(["space", "ghost"]),
        st.sampled_from(["stored", "stored", "derived", "partial"]),
    ),
    st.builds(lambda i, n: ("k", i, n), some, st.sampled_from([None, "x", "y"])),
    st.builds(lambda i, p, s: ("term", i, p, s), some, some, some),
    st.builds(lambda i: ("buffers", i), some),
    st.builds(lambda i: ("run", i), some),
    st.builds(lambda i, j: ("evaluation", i, j), some, some),
    st.builds(lambda i, j: ("member", i, j), some, some),
)


def _made(drawn: Any, space: str) -> Any:
    def id_of(letter: str, i: int) -> str:
        return letter + f"{i:0>12}".replace("0", "a").replace("1", "b")

    if isinstance(drawn, Node):
        return replace(drawn, space_id=space if drawn.space_id == "space" else "aghost")
    what, i, *more = drawn
    if what == "k":
        return Connection(id_of("k", i), "linear", space, "{}", "{}", name=more[0])
    if what == "term":
        return NodeTerm(id_of("m", i), more[0], id_of("m", more[1]), 1.0)
    if what == "buffers":
        return NodeBuffers(id_of("m", i), "own", "t", "0", 4)
    if what == "run":
        return Run(id_of("r", i), "x", "{}")
    if what == "evaluation":
        return Evaluation(id_of("m", i), None, id_of("r", more[0]), "test", "all", "own", "fp32", "loss", 1.0, None, 1)
    return Member(id_of("k", i), id_of("m", more[0]), "end", 0)


@settings(max_examples=6 * MANY, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.lists(st.lists(record, min_size=1, max_size=4), max_size=8), data=st.data())
def test_what_surely_fits_is_what_the_index_takes(
    tmp_path_factory: pytest.TempPathFactory, copied_helper: Any, drawn: list[list[Any]], data: Any
) -> None:
    """Whatever a process is sure of by memory, the index would have verified; and both then have the same rows."""
    place = tmp_path_factory.mktemp("fits")
    helper = copied_helper(place / "g.mgraph")
    store, space = helper.store, helper.space.id
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(following, "RESTING", 1e9)
        patch.setattr(Transaction, "_check_tensors", lambda *_: None)
        with store.reading() as reader:
            store.index.known.learn(reader.connection, store.index.journal)
        for batch in drawn:
            records = [_made(r, space) for r in batch]
            added: dict[type[Any], list[Any]] = {}
            for r in records:
                added.setdefault(type(r), []).append(r)
            fits = store.index.known.fit(added)
            if fits and data.draw(st.booleans()):  # ask the index, before it has them
                with store.lock.exclusive(), store.index.connect(read_only=False) as con:
                    con.begin()
                    commits.settle(con, store.index.journal)
                    Changes.of(added, ()).apply(con)
                    verify(con, added, [])
                    con.rollback()
            with contextlib.suppress(MGraphError), store.transaction() as tx:
                tx.add(*records)
        with store.reading() as reader:
            known, fresh = store.index.known._rows, Index(store.path / "index.duckdb").known
            fresh.learn(reader.connection, store.index.journal)
            if known is not None:
                assert fresh._rows is not None
                assert known == fresh._rows
    shutil.rmtree(place)
