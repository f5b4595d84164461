"""A copy of a graph: whole, of one moment, of its own, whatever others do meanwhile."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgraph_store import GraphStore, Node, Run, assert_consistent, new_id
from mgraph_store.errors import CorruptError, InputError, NameTakenError, StoreError
from mgraph_store.states import StateFiles
from mgraph_store.tensors.objects import TensorStore
from mgraph_store.upkeep import copying
from mgraph_store.upkeep.collect import remove_objects
from mgraph_store.upkeep.copying import copy


def nodes(path: Path) -> dict[str, float]:
    store = GraphStore.open(path)
    with store.reading() as reader:
        found = reader.all(Node)
    return {node.id: float(store.read_parameters(node).sum()) for node in found}


@pytest.fixture
def full(graph: Any) -> Any:
    first, second = graph.add(graph.parameters(1), graph.parameters(2), names=("a", "b"))
    graph.add_buffers(first, {"float32": np.ones(4, np.float32), "int64": np.ones(1, np.int64)})
    graph.derive([0.5, 0.5], [first, second])
    return graph


def test_a_copy_has_everything_and_shares_nothing(full: Any, tmp_path: Path) -> None:
    run = Run(new_id("r"), "train", "{}", status="interrupted", plan="{}")
    with full.store.transaction() as tx:
        tx.add(run)
    full.store.states(run.id).save({}, {"x": np.zeros(3)}, items=0)
    (full.store.path / "tmp" / "tleft").mkdir()
    copied = copy(full.store, tmp_path / "copy.mgraph")
    assert copied.unfinished == (run.id,)
    assert copied.nbytes > 0
    assert copied.objects == len(full.store.tensor_store.keys())
    assert nodes(tmp_path / "copy.mgraph") == nodes(full.store.path)
    made = GraphStore.open(tmp_path / "copy.mgraph")
    assert_consistent(made)
    assert StateFiles(made.folder, run.id).newest() is None
    assert sorted(p.name for p in made.path.iterdir()) == [
        *("gate.lock", "index.duckdb", "index.lock", "journal", "tensors.zarr", "tmp")
    ]
    inodes = [{p.stat().st_ino for p in path.rglob("*")} for path in (made.path, full.store.path)]
    assert not inodes[0] & inodes[1]
    with made.transaction() as tx:  # it can be written, too
        tx.add(Run(new_id("r"), "train", "{}"))
    assert_consistent(made)


def test_while_others_write_and_remove(full: Any, tmp_path: Path) -> None:
    stop, errors = threading.Event(), []

    def work() -> None:
        seed = 10
        while not stop.is_set():
            seed += 1
            try:
                (node,) = full.add(full.parameters(seed))
                if seed % 3:
                    with full.store.transaction() as tx:
                        tx.remove(Node, "id", [node.id])
                    remove_objects(full.store, [node.tensor_key])
            except Exception as error:
                errors.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for k in range(3):
            copy(full.store, tmp_path / f"{k}.mgraph")
    finally:
        stop.set()
        worker.join()
    assert errors == []
    for k in range(3):
        assert_consistent(GraphStore.open(tmp_path / f"{k}.mgraph"))


def test_what_is_removed_while_it_is_copied(full: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, gone = TensorStore.copy_object, []
    (extra,) = full.add(full.parameters(5))

    def removed_first(self: TensorStore, key: str, folder: Any) -> None:
        if not gone:
            gone.append(key)
            with full.store.transaction() as tx:
                tx.remove(Node, "id", [extra.id])
            remove_objects(full.store, [extra.tensor_key])
        real(self, key, folder)

    with monkeypatch.context() as patched:
        patched.setattr(TensorStore, "copy_object", removed_first)
        copy(full.store, tmp_path / "copy.mgraph")
    assert extra.id not in nodes(tmp_path / "copy.mgraph")
    assert_consistent(GraphStore.open(tmp_path / "copy.mgraph"))
    assert GraphStore.open(tmp_path / "copy.mgraph").tensor_store.keys() == full.store.tensor_store.keys()


def test_a_graph_without_all_its_tensors_is_not_copied(full: Any, tmp_path: Path) -> None:
    key = sorted(full.store.tensor_store.keys())[0]
    shutil.move(full.store.path / "tensors.zarr" / key, tmp_path / "kept")
    with pytest.raises(CorruptError, match=f"lacks tensor object {key}"):
        copy(full.store, tmp_path / "copy.mgraph")
    shutil.move(tmp_path / "kept", full.store.path / "tensors.zarr" / key)
    assert [p.name for p in tmp_path.iterdir()] == [full.store.path.name]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_copy_leaves_nothing(
    full: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fails(*_: Any) -> None:
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr(TensorStore, "copy_object", fails)
        with pytest.raises(StoreError if isinstance(failure, OSError) else KeyboardInterrupt):
            copy(full.store, tmp_path / "copy.mgraph")
    assert [p.name for p in tmp_path.iterdir()] == [full.store.path.name]


def test_places_that_are_refused(full: Any, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(NameTakenError, match="exists already"):
        copy(full.store, tmp_path / "there")
    with pytest.raises(InputError, match="Cannot make a copy"):
        copy(full.store, tmp_path / "no" / "copy.mgraph")
    with pytest.raises(InputError, match="within the graph itself"):
        copy(full.store, full.store.path / "copy.mgraph")
    with pytest.raises(InputError, match="question mark"):
        copy(full.store, tmp_path / "what?.mgraph")


def test_giving_up_is_said(full: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_ATTEMPTS", 1)
    monkeypatch.setattr(copying, "_copy_object", lambda *_: False)
    with pytest.raises(StoreError, match="faster than they can be copied"):
        copy(full.store, tmp_path / "copy.mgraph")
