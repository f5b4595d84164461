"""A store must agree with a dict: random operations on both, failures in between included."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mgraph_store import (
    GraphStore,
    Layout,
    Node,
    NodeTerm,
    Space,
    TensorSpec,
    assert_consistent,
    columns,
    combine,
    garbage,
    new_id,
)
from mgraph_store.errors import NameTakenError, StillNeededError
from mgraph_store.index import snapshot
from mgraph_store.upkeep.collect import plan_collection
from mgraph_store.upkeep.removal import plan_removal

SIZE = 5
LAYOUT = Layout((TensorSpec("weight", (SIZE,), "float32", "parameter"),))
vectors = st.lists(st.floats(-1e6, 1e6, width=32), min_size=SIZE, max_size=SIZE).map(lambda v: np.array(v, np.float32))
a_name = st.sampled_from([f"n{i}" for i in range(8)])


class StoreMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.store = GraphStore.create(self.directory / "g.mgraph")
        self.space = Space(new_id("a"), "s", "mlp", "digits", "loss", LAYOUT.to_json(), "0", "0")
        with self.store.transaction() as tx:
            tx.add(self.space)
        self.values: dict[str, Any] = {}  # id -> vector
        self.stored: list[str] = []  # and partial: whatever a sum may refer to
        self.named: dict[str, str] = {}  # name -> id
        self.sources: dict[str, set[str]] = {}  # id -> ids that it is computed from

    def teardown(self) -> None:
        if hasattr(self, "store"):
            assert_consistent(self.store)
            assert garbage(self.store) == []
            shutil.rmtree(self.directory)

    @rule(
        rows=st.lists(vectors, min_size=1, max_size=3),
        name=st.none() | a_name,
        codec=st.sampled_from(["none", "blosc"]),
        fail=st.booleans(),
    )
    def add(self, rows: list[Any], name: str | None, codec: str, fail: bool) -> None:
        try:
            with self.store.transaction() as tx:
                nodes = [
                    Node(
                        new_id("m"),
                        "mode",
                        self.space.id,
                        name=name if i == 0 else None,
                        tensor_key=ref.key,
                        tensor_row=ref.row,
                        digest=ref.digest,
                        nbytes=ref.nbytes,
                    )
                    for i, ref in enumerate(tx.write_parameters(rows, codec=codec))
                ]
                tx.add(*nodes)
                if fail:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert fail
        except NameTakenError:
            assert name in self.named
        else:
            assert name not in self.named
            self.values |= {n.id: row for n, row in zip(nodes, rows, strict=True)}
            self.stored += [n.id for n in nodes]
            if name:
                self.named[name] = nodes[0].id

    @precondition(lambda self: self.stored)
    @rule(data=st.data())
    def derive(self, data: st.DataObject) -> None:
        sources = data.draw(st.lists(st.sampled_from(self.stored), min_size=1, max_size=3))
        coefficients = data.draw(st.lists(st.floats(-2, 2), min_size=len(sources), max_size=len(sources)))
        node = Node(new_id("s"), "sample", self.space.id, kernel=1)
        with self.store.transaction() as tx:
            tx.add(node)
            tx.add(*(NodeTerm(node.id, k, s, c) for k, (s, c) in enumerate(zip(sources, coefficients, strict=True))))
        self.values[node.id] = combine(coefficients, [self.values[s] for s in sources])
        self.sources[node.id] = set(sources)

    @precondition(lambda self: self.stored)
    @rule(data=st.data(), row=vectors, start=st.integers(0, SIZE - 1), length=st.integers(1, SIZE))
    def part(self, data: st.DataObject, row: Any, start: int, length: int) -> None:
        sources = data.draw(st.lists(st.sampled_from(self.stored), min_size=1, max_size=3))
        coefficients = data.draw(st.lists(st.floats(-2, 2), min_size=len(sources), max_size=len(sources)))
        ranges = [(start, min(start + length, SIZE))]
        with self.store.transaction() as tx:
            (ref,) = tx.write_parameters([columns.take(row, ranges)])
            node = Node(
                new_id("c"),
                "control",
                self.space.id,
                tensor_key=ref.key,
                digest=ref.digest,
                nbytes=ref.nbytes,
                kernel=1,
                columns=columns.to_json(ranges),
            )
            tx.add(node)
            tx.add(*(NodeTerm(node.id, k, s, c) for k, (s, c) in enumerate(zip(sources, coefficients, strict=True))))
        value = combine(coefficients, [self.values[s] for s in sources])
        value[slice(*ranges[0])] = row[slice(*ranges[0])]
        self.values[node.id] = value
        self.stored.append(node.id)
        self.sources[node.id] = set(sources)

    @precondition(lambda self: self.named)
    @rule(data=st.data(), to=a_name)
    def rename(self, data: st.DataObject, to: str) -> None:
        from dataclasses import replace

        old = data.draw(st.sampled_from(sorted(self.named)))
        with self.store.reading() as reader:
            node = reader.find_node(old)
        try:
            with self.store.transaction() as tx:
                tx.update(replace(node, name=to))
        except NameTakenError:
            assert to in self.named
            assert to != old
        else:
            self.named[to] = self.named.pop(old)

    @precondition(lambda self: self.values)
    @rule(data=st.data(), cascade=st.booleans(), large=st.booleans())
    def rm(self, data: st.DataObject, cascade: bool, large: bool) -> None:
        first = data.draw(st.sampled_from(sorted(self.values)))
        gone, level = {first}, {first}
        while level:
            level = {node for node, sources in self.sources.items() if sources & level} - gone
            gone |= level
        with self.store.reading() as reader:
            node = reader.get(Node, id=first)
            if len(gone) > 1 and not cascade:
                with pytest.raises(StillNeededError):
                    plan_removal(reader, [node])
                return
            plan = plan_removal(reader, [node], cascade=cascade)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(snapshot, "LARGE", 0 if large else snapshot.LARGE)
            plan.apply(self.store)
        self.values = {k: v for k, v in self.values.items() if k not in gone}
        self.stored = [k for k in self.stored if k not in gone]
        self.named = {name: k for name, k in self.named.items() if k not in gone}
        self.sources = {k: v for k, v in self.sources.items() if k not in gone}

    @rule()
    def gc(self) -> None:
        plan = plan_collection(self.store, 0)
        assert plan.items == ()  # every failure has cleaned up after itself
        plan.apply(self.store)

    @rule()
    def reopen(self) -> None:
        self.store = GraphStore.open(self.store.path)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "store"):
            return
        with self.store.reading() as reader:
            nodes = reader.all(Node)
        assert {n.id for n in nodes} == set(self.values)
        assert {n.name: n.id for n in nodes if n.name} == self.named
        for node in nodes[-3:]:
            assert self.store.read_parameters(node).tobytes() == self.values[node.id].tobytes()


StoreMachine.TestCase.settings = settings(max_examples=4, stateful_step_count=12, deadline=None)
TestStore = pytest.mark.filterwarnings("error")(StoreMachine.TestCase)
