"""What `problems` and `garbage` find in a spoilt graph."""

from __future__ import annotations

from typing import Any

import duckdb
import numpy as np

from mgraph_store import NodeBuffers, garbage, problems


def test_check_finds_damage(damaged: Any) -> None:
    a, b = damaged.add(damaged.parameters(), damaged.parameters(1))
    (c,) = damaged.add(damaged.parameters(2))
    damaged.add_buffers(c, {"int64": np.array([1, 2])})
    assert problems(damaged.store, deep=True) == []
    with duckdb.connect(str(damaged.store.path / "index.duckdb")) as con:
        con.execute("UPDATE nodes SET digest = 'x' WHERE id = ?", [a.id])
        con.execute("UPDATE nodes SET nbytes = 4 WHERE id = ?", [b.id])
        con.execute("UPDATE nodes SET tensor_key = 'tmissingmissing22' WHERE id = ?", [c.id])
        con.execute("UPDATE node_buffers SET nbytes = 4")
        con.execute("INSERT INTO members VALUES ('k', ?, 'end', 0, 0, NULL)", [a.id])
        con.execute("INSERT INTO nodes SELECT * REPLACE ('n' AS name) FROM nodes WHERE id = ?", [b.id])
        con.execute("UPDATE nodes SET name = 'n'")
    found = " ".join(problems(damaged.store, deep=True))
    for what in (
        f"Node {a.id} (n): the digest",
        f"Node {b.id} (n): 68 bytes are stored instead of 4",
        f"Node {c.id} (n): Tensor object tmissingmissing22 is missing",
        f"Buffers own of node {c.id}: 16 bytes",
        "members.connection_id k is not in connections",
        f"nodes has several rows with the id {b.id}",
        "The name 'n' is used more than once",
    ):
        assert what in found
    assert "digest" not in " ".join(problems(damaged.store))
    assert garbage(damaged.store) == [c.tensor_key]


def test_buffers_row_type(graph: Any) -> None:
    (a,) = graph.add(graph.parameters())
    graph.add_buffers(a, {"float64": np.array([1.5])})
    with graph.store.reading() as reader:
        assert reader.get(NodeBuffers, node_id=a.id).nbytes == 8
