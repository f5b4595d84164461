"""DuckDB is started once and kept for the next reading; nothing else of a reading is."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from mgraph_store import GraphStore, Node
from mgraph_store.errors import InputError, LockTimeoutError, NotFoundError, StoreError
from mgraph_store.index.instances import Instances
from mgraph_store.upkeep.copying import copy


def count(store: GraphStore) -> int:
    with store.reading() as reader:
        return len(reader.all(Node))


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "it's",
        "é",
        "*",
        "[1]",
        *(pytest.param(n, marks=pytest.mark.stress) for n in ('say "x"', "50%", "x:y", "$HOME", "#1")),
    ],
)
def test_a_graph_may_have_any_name(tmp_path: Path, name: str) -> None:
    store = GraphStore.create(tmp_path / name)
    assert count(GraphStore.open(store.path)) == 0


def test_but_no_question_mark(tmp_path: Path) -> None:
    """DuckDB 2 takes what follows for parameters, and would look for its log elsewhere."""
    with pytest.raises(InputError, match="question mark"):
        GraphStore.create(tmp_path / "a?b")
    assert list(tmp_path.iterdir()) == []
    store = GraphStore.create(tmp_path / "g")
    with pytest.raises(InputError, match="question mark"):
        GraphStore.open(store.path.rename(tmp_path / "g?"))


def test_the_index_is_free_between_readings(graph: Any) -> None:
    with pytest.raises(NotFoundError), graph.store.reading() as reader:
        reader.find_node("nobody")
    assert count(graph.store) == 0
    script = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute('CHECKPOINT')"  # asks for DuckDB's own lock
    subprocess.run([sys.executable, "-c", script, str(graph.store.index.path)], check=True, timeout=60)


def test_a_reading_sees_what_was_written_since_the_last(graph: Any) -> None:
    for i in range(3):
        assert count(graph.store) == i
        graph.add(graph.parameters(i), names=(f"n{i}",))


def test_readings_within_readings(graph: Any) -> None:
    graph.add(graph.parameters(), names=("a",))
    with graph.store.reading() as outer, graph.store.reading() as inner:
        assert [r.find_node("a").name for r in (outer, inner)] == ["a", "a"]


def test_nothing_is_left_for_the_next_reading(graph: Any) -> None:
    index = graph.store.index
    with index.connect(read_only=True) as con:
        con.execute("CREATE TEMP TABLE nodes AS SELECT 1 AS x")
        con.execute("SET search_path = 'memory'")
    with index.connect(read_only=True) as con:
        assert con.execute("SELECT count(*) FROM nodes").fetchall() == [(0,)]
        with pytest.raises(duckdb.CatalogException):
            con.execute("SELECT x FROM temp.nodes")


def test_only_so_many_are_kept(tmp_path: Path) -> None:
    instances = Instances()
    paths = [GraphStore.create(tmp_path / f"{i}").index.path for i in range(6)]
    for path in paths:
        with instances.opened(path, read_only=True) as con:
            assert con.execute("SELECT count(*) FROM nodes").fetchall() == [(0,)]
    assert len(instances._idle) == 4
    with (
        instances.opened(paths[-1], read_only=True) as last,
        instances.opened(paths[0], read_only=True) as first,
    ):
        assert len(instances._idle) == 3
        for con in (last, first):
            con.execute("SELECT count(*) FROM nodes")
    instances.close()
    assert not instances._idle


def test_one_is_not_kept_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB keeps some memory of every database that was attached."""
    monkeypatch.setattr("mgraph_store.index.instances._USES", 3)
    instances = Instances()
    index = GraphStore.create(tmp_path / "g").index.path
    kept = []
    for _ in range(7):
        with instances.opened(index, read_only=True) as con:
            assert con.execute("SELECT count(*) FROM nodes").fetchall() == [(0,)]
        kept.append(len(instances._idle))
    assert kept == [1, 1, 0, 1, 1, 0, 1]
    instances.close()


def test_one_that_failed_is_not_kept(tmp_path: Path) -> None:
    instances = Instances()
    index = GraphStore.create(tmp_path / "g").index.path
    with pytest.raises(duckdb.Error), instances.opened(index, read_only=False) as con:
        con.execute("SELECT * FROM cats")
    assert not instances._idle
    with contextlib.suppress(KeyboardInterrupt), instances.opened(index, read_only=False) as con:
        con.begin()
        con.execute("UPDATE meta SET commits = 7")
        raise KeyboardInterrupt
    assert len(instances._idle) == 1
    with instances.opened(index, read_only=True) as con:
        assert con.execute("SELECT commits FROM meta").fetchall() == [(0,)]
    instances.close()


def test_what_was_written_is_in_the_index_and_not_in_its_log(graph: Any) -> None:
    graph.add(graph.parameters(), names=("a",))
    assert [p.name for p in graph.store.path.glob("index.duckdb*")] == ["index.duckdb"]


def test_a_query_reaches_no_file_elsewhere(graph: Any, tmp_path: Path) -> None:
    """Not even one that is hidden in a view of an index that somebody sent."""
    secret, index = tmp_path / "secret.csv", graph.store.index
    secret.write_text("name\nSesame\n")
    with duckdb.connect(str(index.path)) as con:
        con.execute(f"CREATE VIEW peek AS SELECT * FROM read_csv('{secret}', columns={{'name': 'VARCHAR'}})")
    for read_only in (True, False):
        with pytest.raises(StoreError, match="leads to a file elsewhere"), index.connect(read_only=read_only) as con:
            con.execute("SELECT * FROM peek")


def test_an_index_is_no_link(tmp_path: Path) -> None:
    path = GraphStore.create(tmp_path / "g").index.path
    path.rename(tmp_path / "elsewhere.duckdb")
    path.symlink_to(tmp_path / "elsewhere.duckdb")
    with pytest.raises(StoreError, match="is a symbolic link"):
        GraphStore.open(tmp_path / "g")


def test_but_a_graph_may_be(graph: Any, tmp_path: Path) -> None:
    graph.add(graph.parameters(), names=("a",))
    (tmp_path / "link").symlink_to(graph.store.path)
    assert count(GraphStore.open(tmp_path / "link")) == 1


def test_threads_and_forks(graph: Any) -> None:
    """A child that was forked in the middle of a reading of another thread reads as well, and ends."""
    graph.add(graph.parameters(), names=("a",))
    counts: list[int] = []
    begun, done = threading.Event(), threading.Event()

    def read() -> None:
        with graph.store.reading() as reader:
            begun.set()
            done.wait(30)
            counts.append(len(reader.all(Node)))

    thread = threading.Thread(target=read)
    thread.start()
    begun.wait(30)
    child = os.fork()
    if child == 0:
        os._exit(count(graph.store) + 40)
    status = os.waitpid(child, 0)[1]
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 41
    assert counts == [1]


def test_a_forked_child_ends_as_any_process(graph: Any) -> None:
    """Its interpreter's end must not close what only the parent can close."""
    script = """
import os, sys
from mgraph_store import GraphStore, Node

store = GraphStore.open(sys.argv[1])
child = os.fork()
with store.reading() as reader:
    assert reader.all(Node) == []
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", script, graph.store.path], timeout=60, check=False)
    assert done.returncode == 7


# Others who open the file


FOREIGN_WRITER = (
    "import duckdb, sys; duckdb.connect(sys.argv[1]).execute('CREATE TABLE IF NOT EXISTS theirs (x INTEGER)')"
)


def foreign_writer_gets_in(index: Path) -> bool:
    """Say whether DuckDB lets another process write that knows nothing of our lock."""
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN_WRITER, str(index)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0 or "Could not set lock" in done.stderr
    return done.returncode == 0


@pytest.mark.parametrize(
    "second",
    [
        pytest.param("in the same thread", marks=pytest.mark.stress),  # as one that failed
        "in another thread",
        "one that failed",
        "sql",
        "copy",
    ],
)
def test_a_reading_that_ends_leaves_the_lock_of_another_one(graph: Any, tmp_path: Path, second: str) -> None:
    store = graph.store
    graph.add(graph.parameters(), names=("a",))

    def come_and_go() -> None:
        if second == "sql":
            store.query_guarded("SELECT 1")
        elif second == "copy":
            copy(store, tmp_path / "copy.mgraph")
        else:
            with contextlib.suppress(StoreError), store.reading() as reader:
                if second == "one that failed":
                    reader._con.execute("SELECT nothing FROM nowhere")

    with store.reading() as reader:
        if second == "in another thread":
            thread = threading.Thread(target=come_and_go)
            thread.start()
            thread.join()
        else:
            come_and_go()
        assert not foreign_writer_gets_in(store.index.path)
        assert reader.find_node("a").name == "a"
    assert foreign_writer_gets_in(store.index.path)


def test_many_threads_read_at_once(graph: Any) -> None:
    graph.add(graph.parameters(), names=("a",))
    counts: list[int] = []

    def read() -> None:
        for _ in range(10):
            counts.append(count(graph.store))

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for i in range(3):
        graph.add(graph.parameters(i + 1))
    for thread in threads:
        thread.join()
    assert len(counts) == 60
    assert set(counts) <= {1, 2, 3, 4}
    assert count(graph.store) == 4


def rename(graph: Any, node: Node, name: str) -> None:
    with graph.store.transaction() as tx:
        tx.update(replace(node, name=name))


@pytest.mark.parametrize("read_only", [True, False])
def test_a_connection_of_ones_own_in_this_process_is_waited_for_and_then_named(
    graph: Any, monkeypatch: pytest.MonkeyPatch, read_only: bool
) -> None:
    (a,) = graph.add(graph.parameters(), names=("a",))
    assert count(graph.store) == 1
    notebook = duckdb.connect(str(graph.store.index.path), read_only=read_only)
    monkeypatch.setattr("mgraph_store.index.index._OWN_PATIENCE", 0.3)
    try:
        begun = time.monotonic()
        with pytest.raises(LockTimeoutError, match=rf"open in this very process \({os.getpid()}\).* close it"):
            rename(graph, a, "b")
        assert time.monotonic() - begun >= 0.3
        if not read_only:
            with pytest.raises(LockTimeoutError, match="by a DuckDB connection that is not mgraph's"):
                count(graph.store)
        monkeypatch.undo()
        threading.Timer(0.3, notebook.close).start()
        rename(graph, a, "b")  # waits until it is closed
    finally:
        notebook.close()
    with graph.store.reading() as reader:
        assert reader.find_node("b").id == a.id


def test_a_connection_that_reads_hinders_neither_who_adds_nor_who_reads(graph: Any) -> None:
    graph.add(graph.parameters(), names=("a",))
    assert count(graph.store) == 1
    with duckdb.connect(str(graph.store.index.path), read_only=True) as notebook:
        for seed in (1, 2):
            graph.add(graph.parameters(seed))
        assert [count(graph.store) for _ in range(2)] == [3, 3]  # through a copy
        assert notebook.execute("SELECT count(*) FROM nodes").fetchall() == [(1,)]
    assert count(graph.store) == 3
    with duckdb.connect(str(graph.store.index.path), read_only=True) as notebook:
        assert notebook.execute("SELECT count(*) FROM nodes").fetchall() == [(3,)]
