"""A large index is looked at, and very many rows are removed from it, while others keep working."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from mgraph_store import Connection, Evaluation, GraphStore, Member, Node, NodeTerm, Note, Run, Sweep, new_id, problems
from mgraph_store.errors import CorruptError, StillNeededError, StoreError
from mgraph_store.folder import Folder
from mgraph_store.index import journalrecord, replacement, snapshot
from mgraph_store.index.lock import GraphLock
from mgraph_store.index.snapshot import looked_at
from mgraph_store.rows import lists
from mgraph_store.upkeep.check import examine
from mgraph_store.upkeep.removal import Removal, plan_removal
from mgraph_store.upkeep.shortening import shorten


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every index is a large one, copied in slices of a few blocks."""
    monkeypatch.setattr(snapshot, "LARGE", 0)
    monkeypatch.setattr(snapshot, "SLICE", 0.0)
    monkeypatch.setattr(snapshot, "_PIECE", 1 << 16)
    monkeypatch.setattr(snapshot, "_PAUSE", 0.0)


def swept(graph: Any) -> Connection:
    """Add a connection of two modes with a sweep of five points."""
    a, b = graph.add(graph.parameters(0), graph.parameters(1), names=("a", "b"))
    made, *ends = graph.connection(a, b, "k")
    sweep = Sweep(new_id("w"), made.id, None, (5,), "none", "fp32")
    with graph.store.transaction() as tx:
        tx.add(made, *ends, sweep)
        for i in range(5):
            sample = Node(new_id("s"), "sample", graph.space.id, kernel=1)
            tx.add(sample, NodeTerm(sample.id, 0, a.id, 1 - i / 4), NodeTerm(sample.id, 1, b.id, i / 4))
            tx.add(Member(made.id, sample.id, "sample", i, None, (i / 4,)))
            tx.add(Evaluation(sample.id, sweep.id, None, "test", "all", "none", "fp32", "loss", float("nan"), None, 10))
    return made


def note(text: str) -> Callable[[GraphStore], None]:
    def write(store: GraphStore) -> None:
        with store.transaction() as tx:
            tx.add(Run(new_id("r"), text, "{}"))

    return write


@contextlib.contextmanager
def others(monkeypatch: pytest.MonkeyPatch, store: GraphStore, act: Callable[[GraphStore], None], at: set[int]) -> Any:
    """Let somebody else act after the lock was let go for the n-th time, for each n in ``at``."""
    original, number = GraphLock._enter, 0
    acting = False

    @contextlib.contextmanager
    def enter(lock: GraphLock, mode: int) -> Iterator[None]:
        nonlocal number, acting
        with original(lock, mode) as hold_shared:
            yield hold_shared
        if not acting:
            number += 1
            if number in at:
                acting = True
                act(store)
                acting = False

    with monkeypatch.context() as patch:
        patch.setattr(GraphLock, "_enter", enter)
        yield lambda: number


def plan(graph: Any, *things: Any) -> Removal:
    with looked_at(graph.store.index, graph.store.lock) as shot:
        return plan_removal(shot.reader, [*things], cascade=True)


def rows(graph: Any) -> dict[str, Any]:
    with graph.store.reading() as reader:
        found: dict[str, Any] = reader.snapshot()["add"]
    return {table: part["rows"] for table, part in found.items()}


@pytest.mark.usefixtures("large")
def test_a_copy_is_of_one_commit_whoever_commits_meanwhile(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    swept(graph)
    with others(monkeypatch, graph.store, note("late"), {3, 6}) as released:
        with looked_at(graph.store.index, graph.store.lock) as shot:
            found = shot.reader.snapshot()
            assert released() > 8  # the lock was let go between slices, and the copy was begun three times
        with graph.store.reading() as reader:
            assert repr(reader.snapshot()) == repr(found)
    assert [row[1] for row in found["add"]["runs"]["rows"]] == ["late", "late"]
    assert shot.count == graph.store.index.journal.count()


@pytest.mark.usefixtures("large")
def test_a_copy_is_made_in_one_go_if_others_never_stop(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    swept(graph)
    monkeypatch.setattr(snapshot, "_ATTEMPTS", 2)
    with (
        others(monkeypatch, graph.store, note("late"), set(range(2, 40, 2))),
        looked_at(graph.store.index, graph.store.lock) as shot,
    ):
        assert len(shot.reader.all(Run)) >= 2
        assert shot.count is not None
        assert shot.reader.snapshot()["meta"]["commits"] == shot.count.number


def test_a_look_at_a_large_index_finds_what_the_lock_finds(damaged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    swept(damaged)
    clean = examine(damaged.store, deep=True)
    with duckdb.connect(str(damaged.store.path / "index.duckdb")) as con:
        con.execute("UPDATE nodes SET nbytes = 5 WHERE name = 'a'")
        con.execute("DELETE FROM member_rows WHERE position = 3")
    found = examine(damaged.store, deep=True)
    assert clean == []
    assert len(found) == 3
    monkeypatch.setattr(snapshot, "LARGE", 0)
    assert examine(damaged.store, deep=True) == found
    last = sorted((damaged.store.path / "journal").glob("*.log"))[-1]
    last.write_bytes(last.read_bytes()[:-3])
    monkeypatch.undo()
    cut = examine(damaged.store, deep=True)
    monkeypatch.setattr(snapshot, "LARGE", 0)
    assert examine(damaged.store, deep=True) == cut
    assert any("damaged at byte" in p.what for p in cut)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("many", [0, pytest.param(1000, marks=pytest.mark.stress)])
def test_rows_that_a_large_index_loses_leave_the_others(graph: Any, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And free their tensors; the file is another one, its last commit is in the journal."""
    monkeypatch.setattr(lists, "_MANY", many)
    made = swept(graph)
    c, d = graph.add(graph.parameters(2), graph.parameters(3), names=("c", "d"))
    with graph.store.transaction() as tx:
        tx.add(*graph.connection(c, d, "other"))
    before = rows(graph)
    removal = plan(graph, made)
    waited: list[bool] = []
    record = journalrecord.record

    def watched(number: int, payload: bytes) -> bytes:
        waited.append(graph.store.lock.is_held())
        return record(number, payload)

    monkeypatch.setattr(journalrecord, "record", watched)
    file = graph.store.path / "index.duckdb"
    first, number = file.stat().st_ino, graph.store.index.journal.count().number
    removal.apply(graph.store)
    assert file.stat().st_ino != first
    assert graph.store.index.journal.count().number == number + 1
    assert waited == [False]  # a long record is made before others have to wait
    after = rows(graph)
    assert set(before) - set(after) == {"sweeps", "evaluations", "node_terms"}
    assert [row[6] for row in after["connections"]] == ["other"]
    assert len(after["nodes"]) == 4
    assert problems(graph.store, deep=True) == []
    assert not list((graph.store.path / "tmp").iterdir())
    plan(graph, c).apply(graph.store)
    with graph.store.reading() as reader:
        assert reader.all(Node, name="c") == []
    assert not graph.store.tensor_store.has(c.tensor_key) or d.tensor_key == c.tensor_key


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("at", [pytest.param({5}, marks=pytest.mark.stress), {12}, set(range(2, 60, 3))])
def test_what_others_commit_while_rows_are_removed_stays(
    graph: Any, monkeypatch: pytest.MonkeyPatch, at: set[int]
) -> None:
    made = swept(graph)
    monkeypatch.setattr(replacement, "_ROUNDS", 3)
    removal = plan(graph, made)
    with others(monkeypatch, graph.store, note("late"), at) as released:
        removal.apply(graph.store)
        expected = len({n for n in at if n <= released()})
    with graph.store.reading() as reader:
        assert [r.command for r in reader.all(Run)] == ["late"] * expected
        assert reader.all(Connection) == reader.all(Sweep) == []
    assert problems(graph.store, deep=True) == []


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("at", [{1}, {11}])
def test_what_others_commit_about_removed_rows_goes_too_or_stops_it(
    graph: Any, monkeypatch: pytest.MonkeyPatch, at: set[int]
) -> None:
    made = swept(graph)
    removal = plan(graph, made)

    def tag(store: GraphStore) -> None:
        with store.reading() as reader:
            there = reader.all(Connection)
        if there:
            with store.transaction() as tx:
                tx.add(Note(new_id("n"), "good", None, connection_id=made.id))

    with others(monkeypatch, graph.store, tag, at):
        removal.apply(graph.store)
    with graph.store.reading() as reader:
        assert reader.all(Note) == reader.all(Connection) == []
    assert problems(graph.store, deep=True) == []


@pytest.mark.usefixtures("large")
def test_a_removal_of_what_is_now_needed_is_stopped(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (a,) = graph.add(graph.parameters(0), names=("a",))
    with looked_at(graph.store.index, graph.store.lock) as shot:
        removal = plan_removal(shot.reader, [a])

    def derive(store: GraphStore) -> None:
        graph.derive([1.0], [a])

    for at in ({1}, {9}):
        with others(monkeypatch, graph.store, derive, at), pytest.raises((StillNeededError, StoreError)):
            removal.apply(graph.store)
        assert not list((graph.store.path / "tmp").iterdir())
    with graph.store.transaction() as tx:
        tx.update(replace(a, name="new"))
    with pytest.raises((StillNeededError, StoreError)):
        removal.apply(graph.store)
    with graph.store.reading() as reader:
        assert reader.find_node("new").id == a.id
    assert problems(graph.store, deep=True) == []


@pytest.mark.usefixtures("large")
def test_a_full_disk_stops_a_removal(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    removal = plan(graph, swept(graph))
    before = rows(graph)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for name in ("flush", "unlink"):
        with monkeypatch.context() as patch:
            patch.setattr(Folder, name, full)
            with pytest.raises(StoreError, match="No space left"):
                removal.apply(graph.store)
        assert repr(rows(graph)) == repr(before)
        assert problems(graph.store, deep=True) == []


@pytest.mark.parametrize("where", ["append", "rename"])
def test_a_removal_that_is_killed_is_done_or_not(
    tmp_path: Path, graph_helper: Callable[[Path], Any], where: str
) -> None:
    graph = graph_helper(tmp_path / "g.mgraph")
    swept(graph)
    script = """
import os, sys
from mgraph_store import GraphStore
from mgraph_store.folder import Folder
from mgraph_store.index import replacement, snapshot
from mgraph_store.index.journal import Journal
from mgraph_store.upkeep.removal import plan_removal

snapshot.LARGE = 0
path, where = sys.argv[1:]
store = GraphStore.open(path)
with store.reading() as reader:
    plan = plan_removal(reader, [reader.find_connection("k")])
original = replacement._commit

def commit(*given):
    if where == "append":
        write = Journal._write
        Journal._write = lambda journal, name, data, place, **more: (
            write(journal, name, data[: len(data) // 2], place, **more), os._exit(9)
        )
    else:
        Folder.rename = lambda *_: os._exit(9)
    original(*given)

replacement._commit = commit
plan.apply(store)
"""
    done = subprocess.run([sys.executable, "-c", script, graph.store.path, where], check=False, timeout=60)
    assert done.returncode == 9
    store = GraphStore.open(graph.store.path)
    with store.reading() as reader:
        left = len(reader.all(Connection))
    assert left == (1 if where == "append" else 0)  # the record is the commit
    note("after")(store)
    assert problems(store, deep=True) == []
    with store.reading() as reader:
        assert len(reader.all(Connection)) == left


@pytest.mark.usefixtures("large")
def test_a_large_index_that_has_lost_commits_is_refused(damaged: Any) -> None:
    swept(damaged)
    shorten(damaged.store)
    with duckdb.connect(str(damaged.store.path / "index.duckdb")) as con:
        con.execute("UPDATE meta SET commits = commits - 2")
    with (
        pytest.raises(CorruptError, match="has lost its last 2 commits"),
        looked_at(damaged.store.index, damaged.store.lock),
    ):
        pass
