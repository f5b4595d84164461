"""Workers write tensors; who takes their rows over commits them, all or none."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mgraph_store import Handover, Node, Run, WorkerStore, new_id
from mgraph_store.errors import ConflictError, NameTakenError, NonFiniteError, StoreError


@pytest.fixture
def worker(graph: Any) -> Any:
    return WorkerStore.open(graph.store.path)


def test_rows_wait_until_they_are_taken_over(graph: Any, worker: Any) -> None:
    run = Run(new_id("r"), "connect", "{}")
    with worker.transaction() as tx:
        tx.add(run)
    parameters = graph.parameters()
    with worker.transaction() as tx:
        (ref,) = tx.write_parameters([parameters])
        node = graph.node(ref, "late")
        tx.add(node)
        tx.update(replace(run, status="complete"))
    with graph.store.reading() as reader:
        assert reader.all(Node) == []
        assert reader.all(Run) == []
    handover = pickle.loads(pickle.dumps(worker.hand_over()))
    assert worker.hand_over() == Handover()
    assert handover.updated == ()  # the run is new, so its last version is what is added
    with graph.store.transaction() as tx:
        tx.take_over(handover)
    with graph.store.reading() as reader:
        assert [n.id for n in reader.all(Node)] == [node.id]
        assert [r.status for r in reader.all(Run)] == ["complete"]
    assert np.array_equal(graph.store.read_parameters(node), parameters)


def test_rows_of_others_are_updated(graph: Any, worker: Any) -> None:
    run = Run(new_id("r"), "sweep", "{}")
    with graph.store.transaction() as tx:
        tx.add(run)
    for status in ("failed", "complete"):
        with worker.transaction() as tx:
            tx.update(replace(run, status=status))
    handover = worker.hand_over()
    assert [r.status for r in handover.updated] == ["complete"]
    with graph.store.transaction() as tx:
        tx.take_over(handover)
    with graph.store.reading() as reader:
        assert reader.get(Run, id=run.id).status == "complete"


def test_what_cannot_be_committed_leaves_nothing(graph: Any, worker: Any) -> None:
    graph.add(graph.parameters(1), names=("taken",))
    before = graph.store.tensor_store.keys()
    with worker.transaction() as tx:
        refs = tx.write_parameters([graph.parameters(2), graph.parameters(3)])
        tx.add(graph.node(refs[0], "free"), graph.node(refs[1], "taken"))
    assert len(graph.store.tensor_store.keys()) == len(before) + 1
    with pytest.raises(NameTakenError), graph.store.transaction() as tx:
        tx.take_over(worker.hand_over())
    assert graph.store.tensor_store.keys() == before
    with graph.store.reading() as reader:
        assert [n.name for n in reader.all(Node)] == ["taken"]


def test_a_failed_transaction_of_a_worker_hands_nothing_over(graph: Any, worker: Any) -> None:
    before = graph.store.tensor_store.keys()

    def fail(tx: Any) -> None:
        (ref,) = tx.write_parameters([graph.parameters(2)])
        tx.add(graph.node(ref))
        tx.write_parameters([np.full(3, np.nan, np.float32)])

    with pytest.raises(NonFiniteError), worker.transaction() as tx:
        fail(tx)
    assert worker.hand_over() == Handover()
    assert graph.store.tensor_store.keys() == before
    with pytest.raises(StoreError):
        tx.add()


def test_what_a_worker_found_must_still_be_so(graph: Any, worker: Any) -> None:
    run = Run(new_id("r"), "sweep", "{}")
    with graph.store.transaction() as tx:
        tx.add(run)
    with worker.transaction() as tx:
        tx.expect(run)
        tx.update(replace(run, status="interrupted"))
    with worker.transaction() as tx:
        tx.expect(replace(run, status="interrupted"))  # its own change, which nobody else can have made
        tx.update(replace(run, status="complete"))
    handover = worker.hand_over()
    assert [r.status for r in handover.expected] == ["running"]
    with graph.store.transaction() as tx:
        tx.update(replace(run, status="failed"))
    with pytest.raises(ConflictError), graph.store.transaction() as tx:
        tx.take_over(handover)
    with graph.store.reading() as reader:
        assert reader.get(Run, id=run.id).status == "failed"


def test_a_worker_removes_nothing(graph: Any, worker: Any) -> None:
    for act in (lambda tx: tx.remove(Node, "id", ["x"]), lambda tx: tx.require(lambda _: None)):
        with pytest.raises(StoreError, match="the process that commits"), worker.transaction() as tx:
            act(tx)
