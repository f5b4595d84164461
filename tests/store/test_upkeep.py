"""Removing, collecting, measuring, migrating; processes that fork."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from mgraph_store import (
    FORMAT_VERSION,
    Connection,
    Evaluation,
    GraphStore,
    Member,
    Node,
    NodeBuffers,
    NodeTerm,
    Run,
    Sweep,
    garbage,
    new_id,
    problems,
)
from mgraph_store.errors import CorruptError, FormatError, InputError, OldFormatError, StillNeededError, StoreError
from mgraph_store.folder import Folder
from mgraph_store.index import migrations
from mgraph_store.index.instances import Instances, instances
from mgraph_store.index.journal import Journal
from mgraph_store.index.journalrecord import packed, record
from mgraph_store.index.processes import Process
from mgraph_store.rows import schema
from mgraph_store.transaction import Transaction
from mgraph_store.underway import PROCESS
from mgraph_store.upkeep import shortening
from mgraph_store.upkeep.collect import plan_collection
from mgraph_store.upkeep.copying import copy
from mgraph_store.upkeep.removal import plan_removal
from mgraph_store.upkeep.repair import repair
from mgraph_store.upkeep.usage import measure


def join(graph: Any, a: Node, b: Node, *owned: Node, name: str | None = None) -> Connection:
    """Connect two nodes by control points and samples."""
    connection = Connection(new_id("k"), "curve", graph.space.id, "{}", "{}", name=name)
    with graph.store.transaction() as tx:
        tx.add(connection)
        tx.add(*[Member(connection.id, n.id, "end", i, i) for i, n in enumerate((a, b))])
        for i, n in enumerate(owned):
            tx.add(Member(connection.id, n.id, "sample" if n.kind == "sample" else "control", i, i))
    return connection


def remove(graph: Any, *things: Any, cascade: bool = False) -> Any:
    with graph.store.reading() as reader:
        plan = plan_removal(reader, things, cascade=cascade)
    plan.apply(graph.store)
    return plan


def ids(graph: Any, record: type = Node) -> set[str]:
    with graph.store.reading() as reader:
        return {r.id for r in reader.all(record)}


# Removing


def test_a_connection_takes_what_is_its_own(graph: Any) -> None:
    a, b = graph.add(graph.parameters(), graph.parameters(1), names=("a", "b"))
    sample = graph.derive([0.5, 0.5], [a, b])
    connection = join(graph, a, b, sample, name="k")
    sweep = Sweep(new_id("w"), connection.id, None, (2,), "none", "fp32")
    with graph.store.transaction() as tx:
        tx.add(sweep)
    plan = remove(graph, connection)
    assert {g.record.id for g in plan.goes} == {connection.id, sample.id, sweep.id}
    assert {g.why for g in plan.goes} == {"asked for", "it belongs to k"}
    assert ids(graph) == {a.id, b.id}
    assert ids(graph, Connection) == ids(graph, Sweep) == set()
    assert garbage(graph.store) == []


def test_what_something_depends_on_stays(graph: Any) -> None:
    a, b, c = graph.add(*(graph.parameters(s) for s in range(3)), names=("a", "b", "c"))
    derived = graph.derive([1.0], [a])
    partial = graph.partial([(0, 3)], graph.parameters(4), [0.5, 0.5], [a, b])
    connection = join(graph, a, b, name="curve")
    with pytest.raises(StillNeededError) as refused:
        remove(graph, a)
    for told in ("connection curve (a is an end of it)", f"{derived.id} (it is computed from a)", partial.id):
        assert told in str(refused.value)
    assert ids(graph) == {n.id for n in (a, b, c, derived, partial)}
    remove(graph, c)  # of which nobody knows
    plan = remove(graph, a, cascade=True)
    assert {g.record.id for g in plan.goes} == {a.id, derived.id, partial.id, connection.id}
    assert ids(graph) == {b.id}
    assert graph.store.read_parameters(b).tobytes() == graph.parameters(1).tobytes()  # of the same segment as a


def test_a_merged_node_outlives_what_it_was_made_of(graph: Any) -> None:
    a, b = graph.add(graph.parameters(), graph.parameters(1))
    (merged,) = graph.add(graph.parameters(2), names=("m",))
    with graph.store.transaction() as tx:
        tx.add(*[NodeTerm(merged.id, i, n.id, 0.5) for i, n in enumerate((a, b))])
    plan = remove(graph, a)
    assert plan.forget == (merged.id,)
    assert ids(graph) == {b.id, merged.id}
    with graph.store.reading() as reader:
        assert reader.all(NodeTerm) == []  # half a recipe would be a wrong one


def test_a_control_point_of_two_connections_stays_with_the_other(graph: Any) -> None:
    a, b = graph.add(graph.parameters(), graph.parameters(1))
    sample = graph.derive([0.5, 0.5], [a, b])
    first, second = join(graph, a, b, sample), join(graph, a, b, sample)
    remove(graph, first)
    assert sample.id in ids(graph)
    remove(graph, second)
    assert sample.id not in ids(graph)


def test_a_space_goes_with_all_that_lies_in_it(graph: Any, space_factory: Callable[..., Any]) -> None:
    other = space_factory("other")
    with graph.store.transaction() as tx:
        tx.add(other)
    (a,) = graph.add(graph.parameters(), names=("a",))
    with pytest.raises(StillNeededError, match=r"mode a \(it is in space only\)"):
        remove(graph, graph.space)
    remove(graph, other)
    remove(graph, graph.space, cascade=True)
    assert ids(graph) == set()
    assert graph.store.tensor_store.keys() == set()
    assert not graph.store.tensor_store.has(a.tensor_key)


def test_a_plan_that_is_no_longer_right_is_not_carried_out(graph: Any) -> None:
    a, b = graph.add(graph.parameters(), graph.parameters(1), names=("a", "b"))
    with graph.store.reading() as reader:
        plan = plan_removal(reader, [a])
    connection = join(graph, a, b, name="late")
    with pytest.raises(StillNeededError, match="connection late"):
        plan.apply(graph.store)
    with graph.store.reading() as reader:
        plan = plan_removal(reader, [connection])
    (sample,) = [graph.derive([1.0], [a])]
    with graph.store.transaction() as tx:
        tx.add(Member(connection.id, sample.id, "sample", 0))
    with pytest.raises(StoreError, match="has changed since"):
        plan.apply(graph.store)
    assert ids(graph) == {a.id, b.id, sample.id}


def test_what_a_run_under_way_needs_stays(graph: Any) -> None:
    (a,) = graph.add(graph.parameters(), names=("a",))
    plan = f'{{"operation": "connect", "ends": ["{a.id}", "m"]}}'
    here = Process.present()
    versions = json.dumps({PROCESS: here.marks()})
    run = Run(new_id("r"), "connect", "{}", plan=plan, host=here.host, pid=here.pid, versions=versions)
    with graph.store.transaction() as tx:
        tx.add(run)
    with pytest.raises(StillNeededError, match=f"Run {run.id} .connect. is under way and needs mode a"):
        remove(graph, a)
    with graph.store.transaction() as tx:
        tx.update(replace(run, host="node-a", versions="{}"))
    with pytest.raises(StillNeededError, match=f"node-a, may be under way .* mgraph resume {run.id} --discard --force"):
        remove(graph, a)
    with graph.store.transaction() as tx:
        tx.update(replace(run, status="interrupted"))
    assert remove(graph, a).abandoned == (run.id,)
    assert ids(graph) == set()


def test_nothing_may_refer_to_what_a_transaction_removes(graph: Any) -> None:
    a, b = graph.add(graph.parameters(), graph.parameters(1))
    graph.derive([1.0], [a])
    with pytest.raises(InputError, match=f"refers to {a.id}"), graph.store.transaction() as tx:
        tx.remove(Node, "id", [a.id])
    with pytest.raises(InputError, match="no column 'nom'"), graph.store.transaction() as tx:
        tx.remove(Node, "nom", [b.id])
    assert len(ids(graph)) == 3


# Collecting


def test_garbage_goes_when_it_is_old_enough(graph: Any) -> None:
    store = graph.store
    (a,) = graph.add(graph.parameters())
    complete, running = (Run(new_id("r"), "train", "{}", status=s) for s in ("complete", "running"))
    with store.transaction() as tx:
        tx.add(complete, running)
    for name in (complete.id, running.id, "rgone"):
        (store.path / "states" / name).mkdir(parents=True)
        (store.path / "states" / name / "state").write_bytes(bytes(100))
    store.tensor_store.write("tnobodysobject22", {"float32": graph.parameters()})
    (store.path / "tmp" / "thalf").mkdir()
    (store.path / "tmp" / "thalf" / "chunk").write_bytes(bytes(50))
    young = plan_collection(store)
    assert young.items == ()
    assert young.young == 4
    plan = plan_collection(store, 0)
    assert {(i.kind, i.name) for i in plan.items} == {
        ("object", "tnobodysobject22"),
        ("unfinished", "thalf"),
        ("state", complete.id),
        ("state", "rgone"),
    }
    assert plan.nbytes >= 250
    files = graph.files()
    assert graph.files() == files  # a plan does nothing
    plan.apply(store)
    assert plan_collection(store, 0).items == ()
    assert sorted(p.name for p in (store.path / "states").iterdir()) == [running.id]
    assert store.tensor_store.keys() == {a.tensor_key}
    assert list((store.path / "tmp").iterdir()) == []


def test_what_was_committed_after_the_plan_stays(graph: Any) -> None:
    with graph.store.transaction() as tx:
        (ref,) = tx.write_parameters([graph.parameters()])
        plan = plan_collection(graph.store, 0)
        tx.add(graph.node(ref, "a"))
    assert [i.name for i in plan.items] == [ref.key]
    plan.apply(graph.store)
    assert problems(graph.store, deep=True) == []


def test_a_row_is_not_stored_when_its_tensors_were_collected(graph: Any) -> None:
    def slow() -> None:
        with graph.store.transaction() as tx:
            (ref,) = tx.write_parameters([graph.parameters()])
            plan_collection(graph.store, 0).apply(graph.store)
            tx.add(graph.node(ref, "a"))

    with pytest.raises(StoreError, match="was removed before its row"):
        slow()
    assert ids(graph) == set()


def test_a_long_journal_is_begun_anew(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mgraph_store.upkeep.collect._LEAST_JOURNAL", 100)
    for seed in range(8):
        (node,) = graph.add(graph.parameters(seed))
        remove(graph, node)
    plan = plan_collection(graph.store, 0)
    assert [i.kind for i in plan.items] == ["journal"]
    before = graph.store.index.journal.count().length
    plan.apply(graph.store)
    assert graph.store.index.journal.count().length == before - plan.nbytes
    assert plan_collection(graph.store, 0).items == ()
    graph.add(graph.parameters(), names=("a",))


def test_what_others_commit_while_a_journal_is_begun_anew_is_in_it(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of many rows, it comes in parts."""
    graph.add(*(graph.parameters(seed) for seed in range(7)))
    original = shortening.parts

    def slow(con: Any) -> Iterator[dict[str, Any]]:
        yield from original(con, 3)
        graph.derive([1.0], [graph.add(graph.parameters(9), names=("late",))[0]])

    monkeypatch.setattr(shortening, "parts", slow)
    shortening.shorten(graph.store)
    journal = graph.store.index.journal
    numbers = [e.number for e in journal.entries(journal.count())]
    assert numbers == [2, 2, 2, 3, 4]
    assert problems(graph.store, deep=True) == []
    (graph.store.path / "index.duckdb").unlink()
    repair(graph.store)
    assert len(ids(graph)) == 9


def test_of_two_who_begin_a_journal_anew_one_does(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    graph.add(graph.parameters(), names=("a",))
    original = shortening.parts

    def slow(con: Any) -> Iterator[dict[str, Any]]:
        yield from original(con)
        monkeypatch.setattr(shortening, "parts", original)
        shortening.shorten(graph.store)

    monkeypatch.setattr(shortening, "parts", slow)
    shortening.shorten(graph.store)
    graph.add(graph.parameters(1), names=("b",))
    assert len(list((graph.store.path / "journal").glob("*.log"))) == 1
    assert problems(graph.store, deep=True) == []


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no list of open files")
def test_others_wait_for_little_when_a_journal_is_begun_anew(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that nobody has touched meanwhile is not opened, nor the old journal freed, under the exclusive lock."""
    graph.add(graph.parameters(), names=("a",))
    with graph.store.reading():
        pass  # now it has everything
    journal, asked, freed = graph.store.index.journal, [], []
    old, settle, unlink = journal.count().file, shortening.settle, Folder.unlink

    def removed(folder: Folder, name: str) -> None:
        unlink(folder, name)
        if name == old:
            freed.append(not any(old in str(file.resolve()) for file in Path("/proc/self/fd").iterdir()))

    monkeypatch.setattr(shortening, "settle", lambda *what: asked.append(what) or settle(*what))
    monkeypatch.setattr(Folder, "unlink", removed)
    shortening.shorten(graph.store)
    assert (asked, freed) == ([], [False])
    assert problems(graph.store, deep=True) == []


def test_no_view_of_an_index_gets_a_file_into_the_journal(damaged: Any, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("Sesame\n")
    with duckdb.connect(str(damaged.store.index.path)) as con:
        con.execute("DROP TABLE notes")
        con.execute(
            f"CREATE VIEW notes AS SELECT * FROM read_csv('{tmp_path}/secret.csv', columns={{'id': 'VARCHAR'}})"
        )
    with pytest.raises(StoreError):
        shortening.shorten(damaged.store)
    assert b"Sesame" not in b"".join(files_of(damaged.store.path).values())


def test_the_length_of_a_journal_of_many_rows_is_guessed(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (node,) = graph.add(graph.parameters())
    rng = np.random.default_rng(1)
    with graph.store.transaction() as tx:
        for value in rng.standard_normal(3000):
            tx.add(Evaluation(node.id, None, None, "test", "all", "own", "fp32", "loss", value, None, 10))
    monkeypatch.setattr(shortening, "_SMALL", 10_000)
    exact = shortening.shortest_length(graph.store)
    monkeypatch.setattr(shortening, "_SMALL", 10)
    assert shortening.shortest_length(graph.store) == pytest.approx(exact, rel=0.25)


# Measuring


def test_usage_counts_every_byte_once(graph: Any) -> None:
    a, b = graph.add(graph.parameters(), graph.parameters(1))
    (c,) = graph.add(graph.parameters(2))
    graph.add_buffers(c, {"int64": np.array([1, 2])})
    partial = graph.partial([(0, 3)], graph.parameters(4), [0.5, 0.5], [a, b])
    join(graph, a, b, graph.derive([0.5, 0.5], [a, b]), partial, name="k")
    graph.store.tensor_store.write("tnobodysobject22", {"float32": graph.parameters()})
    found = measure(graph.store)
    size = 4 * graph.parameters().size
    assert (found.kinds["mode"].nodes, found.kinds["mode"].stored) == (4, 4)  # the helper calls partial ones modes
    assert found.kinds["sample"].whole == size
    assert found.kinds["sample"].disk == 0
    (share,) = found.connections.values()
    assert (share.nodes, share.stored) == (1, 0)
    on_disk = sum(graph.store.tensor_store.sizes().values())
    counted = sum(s.disk for s in found.kinds.values()) + found.buffers.disk + found.garbage
    assert counted == pytest.approx(on_disk)
    assert set(found.files) >= {"index.duckdb", "journal"}
    graph.store.tensor_store.remove("tnobodysobject22")


# Formats


@pytest.fixture
def newer(graph: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Let there be a format after the present one; what its step has met."""
    graph.add(graph.parameters(), names=("a",))
    ids(graph)  # now the index has it
    met: list[Any] = []

    def step(con: Any) -> None:
        met.append(con.execute("SELECT count(*) FROM nodes").fetchone()[0])
        con.execute("UPDATE nodes SET info = '{\"format\": 3}'")

    with monkeypatch.context() as patch:
        patch.setattr(schema, "FORMAT_VERSION", FORMAT_VERSION + 1)
        patch.setattr(migrations, "FOLLOWED", FORMAT_VERSION + 1)
        patch.setitem(migrations.STEPS, FORMAT_VERSION, step)
        yield met
    Instances.close(instances())


def files_of(path: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in path.rglob("*") if p.is_file() and p.suffix != ".lock"}


def info(store: GraphStore) -> str:
    with store.reading() as reader:
        return str(reader.find_node("a").info)


def test_an_older_format_is_read_as_it_is(graph: Any, newer: list[Any], tmp_path: Path) -> None:
    before = files_of(graph.store.path)
    store = GraphStore.open(graph.store.path)
    assert info(store) == info(store) == info(GraphStore.open(store.path)) == '{"format": 3}'
    assert store.query_guarded("SELECT info FROM nodes").rows == [('{"format": 3}',)]
    assert store.read_parameters("a").tobytes() == graph.parameters().tobytes()
    assert problems(store, deep=True) == []
    assert measure(store).kinds["mode"].nodes == 1
    assert plan_collection(store, 0).items == ()
    copy(store, tmp_path / "copy.mgraph")
    assert files_of(graph.store.path) == before
    assert newer == [1]  # once for this process
    assert GraphStore.open(tmp_path / "copy.mgraph").index.found == FORMAT_VERSION


def test_what_an_older_mgraph_adds_is_read(graph: Any, newer: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    store = GraphStore.open(graph.store.path)
    with store.reading() as reader:
        assert len(reader.all(Node)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(schema, "FORMAT_VERSION", FORMAT_VERSION)
        patch.setattr("mgraph_store.index.following.RESTING", float("inf"))  # the index does not follow by itself
        graph.add(graph.parameters(1), names=("b",))
        shutil.copytree(graph.store.path, graph.store.path.parent / "left.mgraph")
        ids(graph)
    with pytest.raises(FormatError, match=r"commits that only an mgraph of that format can put into its index: give"):
        GraphStore.open(graph.store.path.parent / "left.mgraph")
    with store.reading() as reader:
        assert {n.name for n in reader.all(Node)} == {"a", "b"}
    assert newer == [1, 2]


def test_an_older_format_is_not_written(graph: Any, newer: list[Any]) -> None:
    store = GraphStore.open(graph.store.path)
    store.tensor_store.write("tnobodysobject22", {"float32": graph.parameters()})
    before = files_of(store.path)
    with store.reading() as reader:
        removal = plan_removal(reader, [reader.find_node("a")])
    writers: list[Callable[[], Any]] = [
        lambda: store.transaction().__enter__(),
        lambda: plan_collection(store, 0).apply(store),
        lambda: removal.apply(store),
        lambda: repair(store),
        lambda: Transaction(store.tensor_store, store.index, store.lock).add(Run(new_id("r"), "train", "{}")),
    ]
    for write in writers[:-1]:
        with pytest.raises(OldFormatError, match="read as it is; to change it, give mgraph upgrade"):
            write()
    tx = Transaction(store.tensor_store, store.index, store.lock)  # by somebody who has not looked
    tx.add(Run(new_id("r"), "train", "{}"))
    with pytest.raises(OldFormatError):
        tx.commit()
    assert files_of(store.path) == before
    store.tensor_store.remove("tnobodysobject22")


def test_an_upgrade_is_for_good(graph: Any, newer: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = GraphStore.open(shutil.copytree(graph.store.path, tmp_path / "copy.mgraph"))
    other = GraphStore.open(store.path)
    assert store.upgrade() == FORMAT_VERSION
    assert store.upgrade() == FORMAT_VERSION + 1
    assert info(store) == '{"format": 3}'
    for one in (store, other):  # who has opened it before may write, too
        with one.transaction() as tx:
            tx.add(Run(new_id("r"), "train", "{}"))
    assert problems(store) == []
    with monkeypatch.context() as patch:
        patch.setattr(schema, "FORMAT_VERSION", FORMAT_VERSION)
        with pytest.raises(FormatError, match=f"reads format {FORMAT_VERSION}: install a newer mgraph"):
            GraphStore.open(store.path)


def test_a_format_to_which_no_way_leads_is_refused(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(schema, "FORMAT_VERSION", FORMAT_VERSION + 1)
        for act in (GraphStore.open, lambda _: graph.store.upgrade()):
            with pytest.raises(FormatError, match=f"reads only format {FORMAT_VERSION + 1}: open it with mgraph"):
                act(graph.store.path)


def test_a_step_that_fails_leaves_the_old_format(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    graph.add(graph.parameters(), names=("a",))

    def step(con: Any) -> None:
        con.execute("DELETE FROM nodes")
        con.execute("SELECT nothing FROM nowhere")

    with monkeypatch.context() as patch:
        patch.setattr(schema, "FORMAT_VERSION", FORMAT_VERSION + 1)
        patch.setitem(migrations.STEPS, FORMAT_VERSION, step)
        with pytest.raises(StoreError):
            GraphStore.open(graph.store.path)
        with pytest.raises(StoreError):
            graph.store.upgrade()
    assert len(ids(graph)) == 1


def test_an_index_that_has_lost_commits_is_not_upgraded(damaged: Any, tmp_path: Path) -> None:
    """Its journal, which would begin anew, has them."""
    shutil.unpack_archive(Path(__file__).parents[1] / "data" / "v1.mgraph.zip", tmp_path)
    path = tmp_path / "v1.mgraph"
    with duckdb.connect(str(path / "index.duckdb")) as con:
        con.execute("UPDATE meta SET commits = commits - 1")
    before = sorted(p.name for p in (path / "journal").iterdir())
    with pytest.raises(CorruptError, match="has lost its last commit"):
        GraphStore(path).upgrade()
    assert sorted(p.name for p in (path / "journal").iterdir()) == before


def _long(where: str) -> Any:
    """With make stress; tests/faults/test_upgrades.py stops it at other moments."""
    return pytest.param(where, marks=pytest.mark.stress)


@pytest.mark.parametrize(
    "where", ["in a step", _long("before the commit"), _long("before the journal"), "in the journal"]
)
def test_an_upgrade_that_is_killed(tmp_path: Path, where: str) -> None:
    """The graph is of the one format or of the other, with all rows; a stale record of before is never counted."""
    shutil.unpack_archive(Path(__file__).parents[1] / "data" / "v1.mgraph.zip", tmp_path)
    path = tmp_path / "v1.mgraph"
    with GraphStore.open(path).reading() as reader:
        rows = reader.snapshot()
    journal = Journal(path / "journal")
    stale = {"remove": [["evaluations", "split", ["test"]]]}  # of a commit that was never made
    count = journal.count()
    assert count is not None
    journal._write(count.file, record(count.number + 1, packed(stale)), count.length)
    script = """
import os, sys
import duckdb
from pathlib import Path
from mgraph_store import GraphStore
from mgraph_store.index import journal, migrations

def die(*_, **__):
    os._exit(9)

where = sys.argv[2]
if where == "in a step":
    migrations.STEPS[1] = die
elif where == "before the commit":
    migrations.schema.comment_statements = die
elif where == "before the journal":
    journal.Journal.begin = die
else:
    journal.Journal._note = die
GraphStore.open(sys.argv[1]) if where not in ("in a step", "before the commit") else None
GraphStore(Path(sys.argv[1])).upgrade()
"""
    done = subprocess.run([sys.executable, "-c", script, path, where], check=False, timeout=60)
    assert done.returncode == 9
    store = GraphStore.open(path)
    upgraded = where in ("before the journal", "in the journal")
    assert store.index.found == (FORMAT_VERSION if upgraded else 1)
    store.upgrade()
    with store.transaction() as tx:
        tx.add(Run(new_id("r"), "after", "{}"))
    assert problems(store, deep=True) == []
    with store.reading() as reader:
        found = reader.snapshot()
    assert found["add"]["evaluations"] == rows["add"]["evaluations"]
    assert found["add"]["nodes"] == rows["add"]["nodes"]


# Others at work


def test_a_forked_child_neither_commits_nor_discards(graph: Any) -> None:
    told, tell = os.pipe()
    with warnings.catch_warnings(), graph.store.transaction() as tx:
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads: Zarr's do nothing now
        (ref,) = tx.write_parameters([graph.parameters()])
        tx.add(graph.node(ref, "a"))
        child = os.fork()
        if child == 0:
            try:
                tx.commit()
            except StoreError as error:
                os.write(tell, str(error).encode())
            tx.discard()
            os._exit(0)
        os.close(tell)
        assert b"belongs to another process" in os.read(told, 1000)
        os.waitpid(child, 0)
    os.close(told)
    assert len(ids(graph)) == 1


def test_a_forked_child_may_work_on_its_own(graph: Any) -> None:
    """Nothing of DuckDB or the lock is held between calls, so a child inherits nothing that could be lost."""
    graph.add(graph.parameters(), names=("parent",))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
        if child == 0:
            try:
                with graph.store.transaction() as tx:
                    tx.add(Run(new_id("r"), "child", "{}"))
                os._exit(0)
            except BaseException:
                os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    with graph.store.reading() as reader:
        assert [r.command for r in reader.all(Run)] == ["child"]


def test_the_counter_costs_no_second_look_at_the_index(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    original = Instances.opened

    def watched(instances: Instances, index: Path, *, read_only: bool) -> Any:
        opened.append(index)
        return original(instances, index, read_only=read_only)

    monkeypatch.setattr(Instances, "opened", watched)
    with graph.store.transaction() as tx:
        tx.add(Run(id=new_id("r"), command="test", settings="{}"))
    assert len(opened) == 1


# Repairing tensors


def test_tensors_are_written_again_if_their_digest_can_be_had(damaged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Equal tensors in objects of their own, as from graphs that did not share them.
    monkeypatch.setattr("mgraph_store.transaction.parameters_at", lambda *_: {})
    monkeypatch.setattr("mgraph_store.transaction.buffers_at", lambda *_: None)
    a, b = damaged.add(damaged.parameters(), damaged.parameters(1), names=("a", "b"))
    (copy,) = damaged.add(damaged.parameters(), names=("copy",))
    from mgraph_store import combine

    (merged,) = damaged.add(combine([0.25, 0.75], [damaged.parameters(), damaged.parameters(1)]), names=("m",))
    damaged.add_buffers(a, {"float32": np.ones(4, np.float32)})
    damaged.add_buffers(b, {"float32": np.ones(4, np.float32)})
    (lost,) = damaged.add(damaged.parameters(9), names=("lost",))
    derived = damaged.derive([1.0], [lost])
    connection = join(damaged, a, lost, derived, name="k")
    with damaged.store.transaction() as tx:
        tx.add(*[NodeTerm(merged.id, i, n.id, c) for i, (n, c) in enumerate(((a, 0.25), (b, 0.75)))])
    with damaged.store.reading() as reader:
        first = reader.all(NodeBuffers)[0]
    for key in (copy.tensor_key, merged.tensor_key, first.tensor_key, lost.tensor_key):
        damaged.store.tensor_store.remove(key)
    from mgraph_store.upkeep.check import examine
    from mgraph_store.upkeep.repair import repair

    found = {p.subject: p for p in examine(damaged.store)}
    assert {s: p.outcome for s, p in found.items()} == {
        copy.id: "repairable",
        merged.id: "repairable",
        first.node_id: "repairable",
        lost.id: "lost",
        connection.id: "lost",
    }
    assert derived.id in " ".join(p.what for p in examine(damaged.store))
    monkeypatch.undo()
    assert len(repair(damaged.store)) == 3
    assert {p.subject for p in examine(damaged.store, deep=True)} == {lost.id, connection.id}
    assert damaged.store.read_parameters("copy").tobytes() == damaged.parameters().tobytes()
    with damaged.store.reading() as reader:
        assert reader.find_node("m").digest == merged.digest
    remove(damaged, lost, cascade=True)
    assert problems(damaged.store, deep=True) == []
