"""Graphs that several machines share, at a URL or in a directory: each of these has a directory of its own here."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from machine import add, machine, names, work

from mgraph_store import GraphStore, Node, assert_consistent, garbage, new_id
from mgraph_store.errors import (
    ConflictError,
    CorruptError,
    InputError,
    MGraphError,
    NameTakenError,
    NotFoundError,
    StoreError,
    UnseenCommitsWarning,
)
from mgraph_store.folder import Folder
from mgraph_store.index.journal import Journal
from mgraph_store.machines import join, share
from mgraph_store.objectstorage import ObjectStorage
from mgraph_store.sharedlog import SharedLog
from mgraph_store.upkeep.collect import plan_collection
from mgraph_store.upkeep.copying import copy
from mgraph_store.upkeep.removal import plan_removal
from mgraph_store.upkeep.repair import repair

if TYPE_CHECKING:
    pass

pytest.importorskip("obstore", reason="obstore is not installed")


@pytest.fixture(params=["directory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for a shared graph."""
    if request.param == "s3":
        request.getfixturevalue("s3")
    return str(tmp_path / "shared") if request.param == "directory" else f"{request.param}://bucket/{tmp_path.name}"


@pytest.fixture
def first(place: str, tmp_path: Path, space_factory: Callable[..., Any]) -> GraphStore:
    """The machine that made the graph, with a space."""
    store = share(tmp_path / "a.mgraph", place, lock_timeout=30)
    with store.transaction() as tx:
        tx.add(space_factory())
    return store


@pytest.fixture
def second(first: GraphStore, place: str, tmp_path: Path) -> GraphStore:
    """Another machine."""
    return join(tmp_path / "b.mgraph", place, lock_timeout=30)


AT_A_URL_TOO = pytest.mark.parametrize("place", ["directory", "memory"], indirect=True)


def rows(store: GraphStore) -> dict[str, list[Any]]:
    """All rows of all tables, after what others have committed is taken over."""
    store.pull()
    with store.reading() as reader:
        tables = [r[0] for r in reader.query("SELECT table_name FROM duckdb_tables() ORDER BY 1")[1]]
        return {t: sorted(map(repr, reader.query(f"SELECT * FROM {t}")[1])) for t in tables}


def remove(store: GraphStore, name: str) -> None:
    with store.reading() as reader:
        plan = plan_removal(reader, [reader.find_node(name)])
    plan.apply(store)


@AT_A_URL_TOO
def test_machines_see_what_the_others_commit(first: GraphStore, second: GraphStore, place: str, tmp_path: Path) -> None:
    digest = add(first, "one", 1)
    with pytest.raises(NameTakenError, match="'one' belongs to"):
        add(second, "one", 2)
    assert names(second) == {"one": digest}
    add(second, "two", 3)
    remove(first, "one")
    assert names(GraphStore.open(first.path)).keys() == {"two"}
    third = join(tmp_path / "c.mgraph", place)
    assert rows(first) == rows(second) == rows(third)
    assert third.read_parameters("two").tobytes() == second.read_parameters("two").tobytes()
    for store in (first, second, third):
        assert_consistent(store, deep=True)
    assert third.tensor_store.keys() == second.tensor_store.keys()


def test_what_two_do_to_one_row_is_a_conflict(first: GraphStore, second: GraphStore) -> None:
    add(first, "one", 1)
    second.pull()
    with second.reading() as reader:
        node = reader.find_node("one")
    remove(first, "one")
    with pytest.raises(ConflictError, match="changed or removed"), second.transaction() as tx:  # noqa: PT012
        tx.expect(node)
        tx.add(Node(new_id("m"), "mode", node.space_id, tensor_key=node.tensor_key, digest=node.digest, nbytes=68))
    assert rows(first) == rows(second)


def test_of_many_who_want_a_name_one_gets_it(first: GraphStore, place: str, tmp_path: Path) -> None:
    machines = [first, *(join(tmp_path / f"{i}.mgraph", place, lock_timeout=60) for i in range(2))]

    def contend(k: int) -> list[str]:
        got = []
        for i in range(6):
            try:
                add(machines[k], f"n{i}", 100 * k + i)
                got.append(f"n{i}")
            except NameTakenError:
                pass
        return got

    with ThreadPoolExecutor(3) as pool:
        got = [name for part in pool.map(contend, range(3)) for name in part]
    assert sorted(got) == [f"n{i}" for i in range(6)]
    whole = rows(first)
    assert all(rows(store) == whole for store in machines)
    assert not garbage(first)


@pytest.mark.parametrize("name", ["append", "_write"])
def test_who_is_stopped_after_the_log_has_it_finds_it_there(
    first: GraphStore, second: GraphStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, name, stop)
        with pytest.raises(KeyboardInterrupt):
            add(first, "one", 1)
    assert names(GraphStore.open(first.path)).keys() == {"one"}
    assert rows(first) == rows(second)
    assert first.read_parameters("one").size == 17


def test_a_machine_with_a_full_disk_loses_nothing(
    first: GraphStore, second: GraphStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", full)
        with pytest.raises(StoreError, match="is in the shared log"):
            add(first, "one", 1)
    assert rows(first) == rows(second)
    assert second.read_parameters("one").size == 17


def test_where_the_log_was_left_need_not_be_written(
    first: GraphStore, second: GraphStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Folder.write

    def full(self: Folder, name: str, data: bytes) -> None:
        if "position" in name:
            raise OSError(28, "No space left on device")
        write(self, name, data)

    monkeypatch.setattr(Folder, "write", full)
    for i, store in enumerate((first, second, first)):
        add(store, f"n{i}", i)
    assert rows(first) == rows(second)


def test_a_full_disk_takes_nothing_over_and_says_so(
    first: GraphStore, second: GraphStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(first, "one", 1)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_write", full)
        with pytest.raises(StoreError, match=r"cannot be written into .* free some disk space"):
            add(second, "two", 2)
    assert rows(first) == rows(second)
    assert names(second).keys() == {"one"}


def test_without_the_shared_disk_one_can_read(first: GraphStore, place: str, tmp_path: Path) -> None:
    add(first, "one", 1)
    names(first)
    Path(place).rename(tmp_path / "elsewhere")
    with pytest.warns(UnseenCommitsWarning, match="mount it"):
        store = GraphStore.open(first.path)
    assert names(store).keys() == {"one"}
    with pytest.raises(StoreError, match="mount it"):
        add(store, "two", 2)


def test_a_log_that_cannot_be_read_does_not_keep_one_from_reading(
    first: GraphStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(first, "one", 1)

    def fail(*_: Any) -> None:
        raise StoreError("It cannot be reached.")

    monkeypatch.setattr("mgraph_store.sharedlog.SharedLog.since", fail)
    with pytest.warns(UnseenCommitsWarning, match="what other machines have committed"):
        store = GraphStore.open(first.path)
    assert names(store).keys() == {"one"}
    with pytest.raises(StoreError, match="cannot be reached"):
        add(store, "two", 2)
    with pytest.raises(StoreError, match="cannot be reached"):
        plan_collection(store, 0)


@AT_A_URL_TOO
def test_a_log_that_was_emptied_is_recognised(first: GraphStore, second: GraphStore, place: str) -> None:
    add(first, "one", 1)
    if "://" in place:
        log = ObjectStorage(f"{place}/log")
        log.delete([file.name for file in log.find("records")])
    else:
        shutil.rmtree(Path(place, "log", "records"))
    with pytest.raises(CorruptError, match="shared log"):
        GraphStore.open(first.path)
    with pytest.raises(CorruptError, match="shared log"):
        add(second, "two", 2)


def test_a_record_that_is_no_commit_is_not_taken_over(first: GraphStore, second: GraphStore, place: str) -> None:
    log = SharedLog.at(f"{place}/log")
    log.append(b"not a commit", list(log.since())[-1].position)
    for store in (first, second):
        with pytest.raises(CorruptError, match=r"Record 3 .* is no commit"):
            store.pull()
        assert names(store) == {}


# Garbage


@AT_A_URL_TOO
def test_what_somebody_is_writing_is_no_garbage(first: GraphStore, second: GraphStore) -> None:
    with first.transaction() as tx:
        (ref,) = tx.write_parameters([np.ones(17, np.float32)])
        plan = plan_collection(second, min_age=0)
        assert not plan.items
        assert "so nothing newer is removed" in str(plan.writing)
        with first.reading() as reader:
            space = reader.query("SELECT id FROM spaces")[1][0][0]
        tx.add(Node(new_id("m"), "mode", space, name="one", tensor_key=ref.key, digest=ref.digest, nbytes=ref.nbytes))
    assert plan_collection(second, min_age=0).writing is None
    assert second.read_parameters("one").size == 17


def test_what_a_killed_machine_left_is_removed_when_it_is_said_to_be_gone(
    first: GraphStore, second: GraphStore
) -> None:
    mark = first.index.journal.begin_writing()
    first.tensor_store.write("tgarbage1", {"float32": np.ones(3, np.float32)})
    assert not plan_collection(second, min_age=0).items
    writing = second.index.journal.writing()
    assert writing is not None
    assert writing.marks == (mark,)
    second.index.journal.end_writing(writing.marks)
    plan = plan_collection(second, min_age=0)
    assert [item.name for item in plan.items] == ["tgarbage1"]
    plan.apply(second)
    assert not garbage(first)


def test_what_a_killed_machine_had_half_written_is_removed(
    first: GraphStore, second: GraphStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = first.index.journal.begin_writing()
    with monkeypatch.context() as broken:  # as if the power had failed before the object was renamed
        broken.setattr(Folder, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        broken.setattr(type(first.tensor_store), "remove", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            first.tensor_store.write("tgarbage1", {"float32": np.ones(3, np.float32)})
    left = first.tensor_store.unfinished
    assert left.entries() == ["tgarbage1"]
    assert not plan_collection(second, min_age=0).items  # it may still be at work
    first.index.journal.end_writing([mark])
    assert not plan_collection(second, min_age=3600).items
    plan = plan_collection(second, min_age=0)
    assert [(item.kind, item.name) for item in plan.items] == [("unfinished", f"{left.path}/tgarbage1")]
    plan.apply(second)
    assert left.entries() == []


def test_tensors_that_another_machine_frees_are_not_taken_up_again(first: GraphStore, second: GraphStore) -> None:
    add(first, "one", 1)
    second.pull()
    with second.transaction() as tx:  # it has seen the same numbers in the graph, and writes no others
        (ref,) = tx.write_parameters([second.read_parameters("one")])
        with second.reading() as reader:
            node = reader.find_node("one")
        tx.add(Node(new_id("m"), "mode", node.space_id, name="same", tensor_key=ref.key, digest=ref.digest, nbytes=68))
    assert rows(first) == rows(second)
    with pytest.raises(StoreError, match="was removed before its row was stored"), second.transaction() as tx:  # noqa: PT012
        (ref,) = tx.write_parameters([second.read_parameters("one")])
        remove(first, "one")
        remove(first, "same")
        tx.add(Node(new_id("m"), "mode", node.space_id, name="late", tensor_key=ref.key, digest=ref.digest, nbytes=68))
    assert rows(first) == rows(second)
    assert not garbage(first)


@pytest.mark.parametrize("skew", [1e6, -1e6])
def test_a_wrong_clock_takes_nothing_for_garbage(
    first: GraphStore, second: GraphStore, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    first.tensor_store.write("tgarbage1", {"float32": np.ones(3, np.float32)})
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + skew)
    assert not plan_collection(second, min_age=3600).items


# New machines, copies, repairs


def test_a_new_machine_begins_with_a_snapshot(
    first: GraphStore, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mgraph_store.index.shared.SNAPSHOT_EVERY", 3)
    for i in range(6):
        add(first, f"n{i}", i)
    remove(first, "n0")
    third = join(tmp_path / "c.mgraph", place)
    assert rows(third) == rows(first)
    count = third.index.journal.count()
    assert count is not None
    assert next(iter(third.index.journal.entries(count))).number == 6
    assert_consistent(third, deep=True)
    add(third, "later", 7)
    assert rows(third) == rows(first)


@AT_A_URL_TOO
def test_a_copied_directory_is_one_more_machine(first: GraphStore, second: GraphStore, tmp_path: Path) -> None:
    stale = GraphStore.open(shutil.copytree(second.path, tmp_path / "stale.mgraph"))
    add(first, "one", 1)
    add(stale, "two", 2)
    assert rows(first) == rows(second) == rows(stale)
    assert plan_collection(first, 0).shared is None
    own = tmp_path / "own.mgraph"
    copy(first, own)
    alone = GraphStore.open(own)
    assert not alone.index.journal.is_shared
    add(alone, "three", 3)
    assert "three" not in names(GraphStore.open(first.path))


def test_a_damaged_directory_is_replaced_not_repaired(first: GraphStore, place: str, tmp_path: Path) -> None:
    add(first, "one", 1)
    with first.reading():
        pass
    (first.path / "index.duckdb").write_bytes(b"nothing" * 1000)
    with pytest.raises(InputError, match="join the graph again"):
        repair(GraphStore(first.path))
    assert names(join(tmp_path / "c.mgraph", place)).keys() == {"one"}


def test_places_that_are_taken_or_empty_are_refused(first: GraphStore, place: str, tmp_path: Path) -> None:
    with pytest.raises(NameTakenError):
        share(tmp_path / "other.mgraph", place)
    other = f"{place}-other"
    with pytest.raises(NotFoundError, match="no shared graph"):
        join(tmp_path / "other.mgraph", other)
    with pytest.raises(NameTakenError, match="exists already"):
        join(first.path, place)
    assert not (tmp_path / "other.mgraph").exists()
    assert_consistent(first)


@AT_A_URL_TOO
def test_a_graph_that_could_not_be_made_leaves_its_place_free(place: str, tmp_path: Path) -> None:
    share(tmp_path / "a.mgraph", place).discard()
    assert not (tmp_path / "a.mgraph").exists()
    assert share(tmp_path / "a.mgraph", place).index.journal.is_shared


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"log": "/x/log"}', "[" * 100_000, '{"log": "/x/log", "tensors": "/home", "id": "x"}'],
)
def test_a_changed_note_of_the_place_is_refused(store: GraphStore, text: str) -> None:
    (store.path / "shared.json").write_text(text)
    with pytest.raises(MGraphError, match=r"shared\.json does not say"):
        GraphStore.open(store.path)


def test_a_strangers_graph_writes_nowhere_but_where_it_is_shared(graph: Any, first: GraphStore, tmp_path: Path) -> None:
    """The note of a graph from elsewhere names a directory of ours, or a graph that we share."""
    for place in (tmp_path, first.path.parent / "shared"):
        note = {"log": f"{place}/log", "tensors": f"{place}/tensors", "id": "guessed"}
        (graph.store.path / "shared.json").write_text(json.dumps(note))
        before = sorted(path for path in tmp_path.rglob("*") if graph.store.path not in path.parents)
        with warnings.catch_warnings(), pytest.raises(MGraphError, match=r"is not the one|no directory"):  # noqa: PT012
            warnings.simplefilter("ignore", UnseenCommitsWarning)
            store = GraphStore.open(graph.store.path)
            plan_collection(store, 0).apply(store)
        with pytest.raises(MGraphError):
            add(GraphStore(graph.store.path), "one", 1)
        assert before == sorted(path for path in tmp_path.rglob("*") if graph.store.path not in path.parents)
    (graph.store.path / "shared.json").unlink()


@pytest.mark.stress
@pytest.mark.parametrize("place", ["directory", "s3"], indirect=True)
def test_nothing_is_lost_when_machines_are_killed(first: GraphStore, place: str, tmp_path: Path) -> None:
    """Four machines, one of which begins late, two with wrong clocks; often one of them is killed and starts again."""
    until, kills = (40, 6) if "://" in place else (120, 12)  # the server is in this process
    spawn = multiprocessing.get_context("spawn")
    skews = {"b": 0.0, "c": 1e5, "d": -1e7, "e": 0.0}

    def start(owner: str) -> Any:
        process = spawn.Process(target=work, args=(str(tmp_path), place, owner, until, skews[owner]))
        process.start()
        return process

    running = {owner: start(owner) for owner in "bcd"}
    for k in range(1, kills + 1):
        while len(rows(first)["nodes"]) < k * until // (kills + 1):
            time.sleep(0.2)
        if k == 2:
            running["e"] = start("e")
        owner = random.choice(sorted(running))
        running[owner].kill()
        running[owner].join()
        running[owner] = start(owner)
    for process in running.values():
        process.join(300)
        assert process.exitcode == 0
    assert any(tmp_path.glob("*.lost"))
    whole = rows(first)
    found = names(first)
    assert sorted(found) == sorted(f"n{i}" for i in range(until))
    said = [line.split() for file in tmp_path.glob("*.said") for line in file.read_text().splitlines()]
    assert len({name for name, _ in said}) == len(said) >= until - kills
    assert all(found[name] == digest for name, digest in said)
    for owner in skews:
        store = machine(str(tmp_path), place, owner)
        assert rows(store) == whole
        assert_consistent(store, deep=True)
