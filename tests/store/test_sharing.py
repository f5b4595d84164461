"""The same tensors are stored once, and stay while anybody needs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgraph_store import GraphStore, Node, new_id
from mgraph_store.errors import CorruptError, StoreError
from mgraph_store.index import known
from mgraph_store.index.instances import Instances
from mgraph_store.upkeep.removal import plan_removal
from mgraph_store.upkeep.usage import measure


def objects(graph: Any) -> set[str]:
    return set(graph.store.tensor_store.keys())


def remove(graph: Any, node: Node) -> None:
    with graph.store.reading() as reader:
        plan = plan_removal(reader, [reader.get(Node, id=node.id)])
    plan.apply(graph.store)


def test_a_second_copy_shares_the_tensors_of_the_first(graph: Any) -> None:
    row = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    (a,) = graph.add(row, names=("a",))
    groups = {"float32": np.ones(4, np.float32), "int64": np.array([1])}
    graph.add_buffers(a, groups)
    before = objects(graph)
    (b,) = graph.add(row.copy(), names=("b",), codec="blosc")
    graph.add_buffers(b, groups)
    assert objects(graph) == before
    assert (b.tensor_key, b.tensor_row, b.digest) == (a.tensor_key, a.tensor_row, a.digest)
    assert graph.store.read_parameters("b").tobytes() == row.tobytes()
    usage = measure(graph.store)
    assert usage.kinds["mode"].stored == 2
    assert usage.kinds["mode"].disk == pytest.approx(graph.store.tensor_store.sizes()[a.tensor_key])


def test_equal_rows_of_one_call_and_rows_of_segments_are_shared(graph: Any) -> None:
    rows = [graph.parameters(i) for i in (0, 1, 0, 2)]
    nodes = graph.add(*rows)
    assert (nodes[0].tensor_key, nodes[0].tensor_row) == (nodes[2].tensor_key, nodes[2].tensor_row)
    again = graph.add(rows[3], graph.parameters(5), rows[1])
    assert [(n.tensor_key, n.tensor_row) for n in (again[0], again[2])] == [
        (n.tensor_key, n.tensor_row) for n in (nodes[3], nodes[1])
    ]
    for node, row in zip((*nodes, *again), (*rows, rows[3], graph.parameters(5), rows[1]), strict=True):
        assert graph.store.read_parameters(node).tobytes() == row.tobytes()


def test_removing_one_of_two_keeps_the_tensors(graph: Any) -> None:
    row = graph.parameters()
    (a,) = graph.add(row, names=("a",))
    (b,) = graph.add(row, names=("b",))
    remove(graph, a)
    assert graph.store.read_parameters("b").tobytes() == row.tobytes()
    remove(graph, b)
    assert not objects(graph)


def test_a_damaged_node_is_no_twin(damaged: Any) -> None:
    row = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    (a,) = damaged.add(row)
    file = damaged.store.path / "tensors.zarr" / a.tensor_key / "float32/c/0"
    data = bytearray(file.read_bytes())
    data[7] ^= 1
    file.write_bytes(data)
    (b,) = damaged.add(row)
    assert b.tensor_key != a.tensor_key
    assert damaged.store.read_parameters(b).tobytes() == row.tobytes()
    with pytest.raises(CorruptError):
        damaged.store.read_parameters(a)


def test_what_goes_while_it_is_being_shared_is_noticed(graph: Any) -> None:
    row = graph.parameters()
    (a,) = graph.add(row)

    def share() -> None:
        with graph.store.transaction() as tx:
            (ref,) = tx.write_parameters([row])
            assert ref.key == a.tensor_key
            remove(graph, a)
            tx.add(graph.node(ref, "b"))

    with pytest.raises(StoreError, match="was removed before its row was stored"):
        share()
    graph.add(row, names=("b",))
    assert graph.store.read_parameters("b").tobytes() == row.tobytes()


def test_a_transaction_that_fails_does_not_take_shared_tensors_along(graph: Any) -> None:
    row = graph.parameters()
    graph.add(row, names=("a",))

    def fail() -> None:
        with graph.store.transaction() as tx:
            (ref,) = tx.write_parameters([row])
            tx.add(Node(new_id("m"), "mode", graph.space.id, tensor_key=ref.key, digest=ref.digest, nbytes=ref.nbytes))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert graph.store.read_parameters("a").tobytes() == row.tobytes()


def test_whether_numbers_are_there_is_asked_once_and_after_the_commits_of_others(
    graph: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bool] = []
    original = Instances.opened

    def watched(instances: Instances, index: Path, *, read_only: bool) -> Any:
        opened.append(read_only)
        return original(instances, index, read_only=read_only)

    monkeypatch.setattr(Instances, "opened", watched)
    (a,) = graph.add(graph.parameters(0))
    assert opened == [True]  # to ask; the commit is its record in the journal
    (b,) = graph.add(graph.parameters(1))
    graph.add_buffers(b, {"int64": np.array([7])})
    assert opened == [True, False]  # to look whether there are other buffers of a node that was there before
    (again,) = graph.add(graph.parameters(1))
    assert (again.tensor_key, again.tensor_row) == (b.tensor_key, b.tensor_row)
    other = GraphStore.open(graph.store.path)
    with other.transaction() as tx:
        (ref,) = tx.write_parameters([graph.parameters(2)])
        tx.add(graph.node(ref))
    (same,) = graph.add(graph.parameters(2))
    assert same.tensor_key == ref.key
    del opened[:]
    (new,) = graph.add(graph.parameters(3))
    assert opened == []
    assert len({a.tensor_key, b.tensor_key, ref.key, new.tensor_key}) == 4


def test_of_very_many_digests_none_is_remembered(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "_MOST", 1)
    graph.add(graph.parameters(0))
    (b,) = graph.add(graph.parameters(1))
    graph.add(graph.parameters(2))
    (again,) = graph.add(graph.parameters(1))
    assert again.tensor_key == b.tensor_key
    count = graph.store.index.journal.count()
    assert not graph.store.index.known.lack(count, ["x"])
