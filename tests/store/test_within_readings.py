"""What is done inside ``store.reading()`` while a writer waits: it goes on, and the writer comes next."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from mgraph_store import GraphStore, Node, Run, new_id

WAYS: dict[str, Callable[[GraphStore], Any]] = {
    "stored": lambda store: store.read_parameters("a"),
    "derived": lambda store: store.read_parameters("sum"),
    "partial": lambda store: store.read_parameters("part"),
    "buffers": lambda store: store.read_buffers("a")["float32"],
    "a tensor of a stored node": lambda store: store.tensors("a")["second.bias"],
    "a tensor of a derived node": lambda store: store.tensors("sum")["second.bias"],
    "a buffer": lambda store: store.tensors("a", policy="own")["first.running_mean"],
    "a stream": lambda store: store.computation("sum").run(),
    "a combination": lambda store: store.combination([0.5, 0.5], ["a", "part"]).run(),
    "side by side": lambda store: [
        blocks for _, blocks in store.parameter_blocks([_node(store, "a"), _node(store, "sum")])
    ],
}


def _node(store: GraphStore, name: str) -> Node:
    with store.reading() as reader:
        return reader.find_node(name)


@pytest.fixture
def filled(graph: Any) -> GraphStore:
    a, b = graph.add(graph.parameters(), graph.parameters(1), names=("a", "b"))
    graph.add_buffers(a, {"float32": np.ones(4, np.float32), "int64": np.array([3])})
    total = graph.derive([0.5, 0.5], [a, b])
    graph.partial([(0, 3)], graph.parameters(4), [0.5, 0.5], [a, b], name="part")
    with graph.store.transaction() as tx:
        tx.update(total.__class__(**{**vars(total), "name": "sum"}))
    store: GraphStore = graph.store
    return store


@pytest.fixture
def waiting_writer(filled: GraphStore) -> Iterator[Callable[[], list[str]]]:
    """Start a transaction that waits for the readings of the test; call it for what has become of it."""
    became: list[str] = []

    def write() -> None:
        try:
            with GraphStore.open(filled.path, lock_timeout=8).transaction() as tx:
                became.append("begun")
                begun.set()
                tx.add(Run(new_id("r"), "train", "{}"))
            became.append("committed")
        except BaseException as error:
            became.append(repr(error))

    begun, writer = threading.Event(), threading.Thread(target=write)

    def start() -> list[str]:
        writer.start()
        assert begun.wait(8)
        gate = os.open(filled.path / "gate.lock", os.O_RDWR)
        try:
            for _ in range(800):
                try:
                    fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    fcntl.flock(gate, fcntl.LOCK_UN)
                except BlockingIOError:
                    return became  # it holds the gate, and waits for the index
                time.sleep(0.01)
        finally:
            os.close(gate)
        raise AssertionError("the writer does not wait")

    yield start
    if writer.ident is not None:
        writer.join()
        assert became == ["begun", "committed"]


def test_every_way_to_read_numbers(filled: GraphStore, waiting_writer: Callable[[], list[str]]) -> None:
    before = {way: read(filled) for way, read in WAYS.items()}
    with filled.reading():
        # Opened before the writer waits: it needs another short look, which comes after that writer.
        store = GraphStore.open(filled.path, lock_timeout=1)
        became = waiting_writer()
        for way, read in WAYS.items():
            found = read(store)
            assert np.asarray(found).tobytes() == np.asarray(before[way]).tobytes(), way
        assert became == ["begun"]


def test_a_view_that_was_made_before_the_reading(filled: GraphStore, waiting_writer: Callable[[], list[str]]) -> None:
    views = [GraphStore.open(filled.path, lock_timeout=1).tensors(name) for name in ("a", "sum", "part")]
    with filled.reading():
        waiting_writer()
        for view in views:
            assert view["second.bias"].shape == (5,)
