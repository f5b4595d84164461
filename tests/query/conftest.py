"""A store that is filled by hand: spaces, modes, connections, sweeps and edges."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mgraph_store import Connection, Edge, GraphStore, Layout, Node, Space, Sweep, TensorSpec, new_id

LAYOUT = Layout((TensorSpec("w", (2,), "float32", "parameter"),))


class Builder:
    """Writes spaces, modes, connections, sweeps and edges straight into a store."""

    def __init__(self, path: Path) -> None:
        self.store = GraphStore.create(path)
        self.records: list[Any] = []
        self.clock = itertools.count()

    def space(self, name: str = "only") -> Space:
        layout = (LAYOUT.to_json(), LAYOUT.fingerprint, "0" * 32)
        space = Space(new_id("a"), name, "mlp", "digits", "cross_entropy", *layout)
        self.records.append(space)
        return space

    def node(self, space: Space, kind: str = "mode", name: str | None = None) -> Node:
        letter = {"mode": "m", "merged": "g", "control": "c"}[kind]
        node = Node(new_id(letter), kind, space.id, name=name, kernel=1, created=self.tick())
        self.records.append(node)
        return node

    def connection(self, space: Space, status: str = "complete", name: str | None = None) -> Connection:
        connection = Connection(
            new_id("k"), "linear", space.id, "{}", "{}", name=name, status=status, created=self.tick()
        )
        self.records.append(connection)
        return connection

    def sweep(self, connection: Connection, grid: tuple[int, ...] = (11,)) -> Sweep:
        sweep = Sweep(new_id("w"), connection.id, None, grid, "none", "fp32", created=self.tick())
        self.records.append(sweep)
        return sweep

    def edge(self, sweep: Sweep, one: Node, other: Node, barrier: float, **more: Any) -> Edge:
        how = {"length": 2.0, "resolution": 11, "examples": 10, "batchnorm": "none", "precision": "fp32"}
        values = {"peak": barrier + 1, "barrier": barrier, "drop": barrier / 2} | how | more
        split, metric = values.pop("split", "train"), values.pop("metric", "loss")
        ends = (one.id, other.id)
        edge = Edge(sweep.connection_id, sweep.id, *ends, split, metric, **values, route=ends)
        self.records.append(edge)
        return edge

    def tick(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=next(self.clock))

    def done(self) -> GraphStore:
        with self.store.transaction() as tx:
            tx.add(*self.records)
        self.records.clear()
        return self.store


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path / "g.mgraph")
