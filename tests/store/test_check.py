"""What `problems` and `garbage` find in a spoilt graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from mgraph_store import NodeBuffers, NodeTerm, columns, garbage, problems
from mgraph_store.tensors.attributes import contradiction
from mgraph_store.upkeep.check import examine
from mgraph_store.upkeep.repair import repair


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
        con.execute("INSERT INTO member_rows VALUES ('k', ?, 'end', 0, 0, NULL)", [a.id])
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


# What the attributes of arrays say


def spoil(file: Path, **said: Any) -> None:
    document = json.loads(file.read_text())
    document["attributes"] |= said
    file.write_text(json.dumps(document, indent=2))


def described(graph: Any, layout: Any) -> tuple[Any, ...]:
    """Add two nodes in a segment, one alone, a partial one and buffers, all with their layout."""
    ranges = ((0, 3), (12, 17))
    with graph.store.transaction() as tx:
        refs = tx.write_parameters([graph.parameters(0), graph.parameters(1)], layout=layout)
        (alone,) = tx.write_parameters([graph.parameters(2)], layout=layout, codec="blosc")
        own = columns.take(graph.parameters(3), ranges)
        (part,) = tx.write_parameters([own], layout=layout, ranges=[ranges])
        nodes = [graph.node(ref) for ref in (*refs, alone)]
        nodes.append(graph.node(part, kernel=1, columns=columns.to_json(ranges)))
        groups = {"float32": np.ones(4, np.float32), "int64": np.array([7])}
        buffers = tx.write_buffers(groups, layout=layout)
        tx.add(*nodes, NodeTerm(nodes[3].id, 0, nodes[0].id, 1.0))
        tx.add(NodeBuffers(nodes[0].id, "own", buffers.key, buffers.digest, buffers.nbytes))
    return (*nodes, buffers)


def test_arrays_say_what_they_are(graph: Any, layout: Any) -> None:
    a, b, alone, part, buffers = described(graph, layout)
    tensors = [{"name": "first.weight", "shape": [3, 4]}, {"name": "second.bias", "shape": [5]}]
    known = {"layout_hash": layout.fingerprint, "tensors": tensors}
    root = graph.store.path / "tensors.zarr"
    said = {file.parent.relative_to(root): json.loads(file.read_text())["attributes"] for file in root.rglob("*.json")}
    assert a.tensor_key == b.tensor_key
    assert said[Path(a.tensor_key)] == {"digests": [a.digest, b.digest], **known}
    assert said[Path(alone.tensor_key, "float32")] == {"digest": alone.digest, **known}
    assert said[Path(part.tensor_key, "float32")] == {"digest": part.digest, **known, "columns": [[0, 3], [12, 17]]}
    assert said[Path(buffers.key, "int64")]["tensors"] == [{"name": "first.num_batches_tracked", "shape": []}]
    assert problems(graph.store, deep=True) == []


@pytest.mark.parametrize("said", [{"digest": "sha256-" + "0" * 64}, {"tensors": [{"name": "x", "shape": [17]}]}])
def test_attributes_that_contradict_the_index_are_found_and_written_again(
    damaged: Any, layout: Any, said: dict[str, Any]
) -> None:
    a, b, alone, part, buffers = described(damaged, layout)
    root = damaged.store.path / "tensors.zarr"
    of_segment = {"digests": [a.digest]} if "digest" in said else said
    spoil(root / a.tensor_key / "zarr.json", **of_segment)
    spoil(root / alone.tensor_key / "float32" / "zarr.json", **said)
    spoil(root / part.tensor_key / "float32" / "zarr.json", **said)
    spoil(root / buffers.key / "int64" / "zarr.json", **said)
    found = {p.subject: p for p in examine(damaged.store)}
    assert set(found) == {a.id, b.id, alone.id, part.id}  # a by its buffers, which are reported under their node
    assert {p.outcome for p in found.values()} == {"repairable"}
    assert all("contradicts the index" in p.what for p in found.values())
    assert damaged.store.read_parameters(alone).tobytes() == damaged.parameters(2).tobytes()
    assert repair(damaged.store)
    assert problems(damaged.store, deep=True) == []
    assert damaged.store.read_parameters(alone).tobytes() == damaged.parameters(2).tobytes()


def test_a_digest_of_an_earlier_algorithm_contradicts_nothing(graph: Any, layout: Any) -> None:
    (a, *_) = described(graph, layout)
    older = "0123456789abcdef" * 2
    assert contradiction({"digest": a.digest}, older) is None
    assert contradiction({"digest": older}, older) is None
    assert contradiction({}, a.digest) is None
    assert contradiction({"digests": "x"}, a.digest, 0, layout) is not None
