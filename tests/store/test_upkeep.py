"""Removing, collecting, measuring, migrating; processes that fork."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgraph_store import (
    FORMAT_VERSION,
    Connection,
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
from mgraph_store.errors import FormatError, InputError, OldFormatError, StillNeededError, StoreError
from mgraph_store.index import migrations
from mgraph_store.index.instances import Instances
from mgraph_store.index.processes import Process
from mgraph_store.rows import schema
from mgraph_store.underway import PROCESS
from mgraph_store.upkeep.collect import plan_collection
from mgraph_store.upkeep.removal import plan_removal
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


def test_an_older_format_is_migrated_once(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    graph.add(graph.parameters(), names=("a",))
    monkeypatch.setattr(schema, "FORMAT_VERSION", FORMAT_VERSION + 1)
    with pytest.raises(FormatError, match=f"reads only format {FORMAT_VERSION + 1}: open it with mgraph"):
        GraphStore.open(graph.store.path)
    steps: list[Any] = []

    def step(con: Any) -> None:
        steps.append(con.execute("SELECT count(*) FROM nodes").fetchone())
        con.execute("UPDATE nodes SET info = '{\"format\": 2}'")

    monkeypatch.setitem(migrations.STEPS, FORMAT_VERSION, step)
    with pytest.raises(OldFormatError, match="open the graph once"), graph.store.reading():
        pass
    store = GraphStore.open(graph.store.path)
    GraphStore.open(graph.store.path)
    assert steps == [(1,)]
    assert problems(store, deep=True) == []
    with store.reading() as reader:
        assert reader.find_node("a").info == '{"format": 2}'
    monkeypatch.setattr(schema, "FORMAT_VERSION", FORMAT_VERSION)
    with pytest.raises(FormatError, match=f"reads format {FORMAT_VERSION}: install a newer mgraph"):
        GraphStore.open(graph.store.path)
    monkeypatch.setattr(schema, "FORMAT_VERSION", FORMAT_VERSION + 1)


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
    assert len(ids(graph)) == 1


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
