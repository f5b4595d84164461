"""Make the graph of the present format that every later version must open: ``python tests/data/make_graph.py``.

It writes ``v4.mgraph.zip`` for format 4, and ``v4.json`` with the digests of all its nodes and buffers. Run it again
only as long as that format is not released; the graphs of older formats were made by the versions that had them, and
``v1.bundle`` was packed by the version of format 1 (everything of its graph, and a simplex of three modes).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgraph_store import (
    FORMAT_VERSION,
    Connection,
    Edge,
    Evaluation,
    GraphStore,
    Layout,
    Measure,
    Member,
    Node,
    NodeBuffers,
    NodeTerm,
    Note,
    Record,
    Run,
    Series,
    Space,
    Summary,
    Sweep,
    TensorSpec,
    assert_consistent,
    columns,
    combine,
    new_id,
)
from mgraph_store.rows.blocks import Gathering, gathered
from mgraph_store.rows.ids import random_characters
from mgraph_store.rows.records import GridTerm, PointGrid

HERE = Path(__file__).parent
LAYOUT = Layout(
    (
        TensorSpec("first.weight", (3, 4), "float32", "parameter"),
        TensorSpec("first.running_mean", (4,), "float32", "statistic"),
        TensorSpec("first.num_batches_tracked", (), "int64", "statistic"),
        TensorSpec("second.bias", (5,), "float32", "parameter"),
    ),
    {"third.weight": "first.weight"},
)


def make(path: Path) -> GraphStore:
    """Make a graph with a row in every table and a node of every form."""
    store, rng = GraphStore.create(path), np.random.default_rng(1)
    common = ("mlp?hidden=8", "digits", "cross-entropy", LAYOUT.to_json(), LAYOUT.fingerprint, "0" * 32)
    spaces = [
        Space(new_id("a"), name, *common, codec=codec) for name, codec in (("plain", "none"), ("packed", "blosc"))
    ]
    run = Run(new_id("r"), "train", '{"lr": 0.1}', seed=1, threads=1, update="eager", host="here", pid=1)
    with store.transaction() as tx:
        tx.add(*spaces, run)
    plain, packed = spaces

    def vector() -> Any:
        return rng.standard_normal(LAYOUT.size).astype(np.float32)

    def node(kind: str, space: Space, ref: Any, name: str | None = None, **more: Any) -> Node:
        letter = {"mode": "m", "control": "c", "merged": "g"}[kind]
        return Node(new_id(letter), kind, space.id, run.id, name, ref.key, ref.row, ref.digest, ref.nbytes, **more)

    with store.transaction() as tx:  # two in a segment, with statistics
        values = [vector(), vector()]
        a, b = (node("mode", plain, ref, n) for ref, n in zip(tx.write_parameters(values), "ab", strict=True))
        tx.add(a, b)
        for n in (a, b):
            groups = {"float32": rng.standard_normal(4).astype(np.float32), "int64": np.array([7])}
            ref = tx.write_buffers(groups)
            tx.add(NodeBuffers(n.id, "own", ref.key, ref.digest, ref.nbytes))
    with store.transaction() as tx:  # one of its own, compressed
        (ref,) = tx.write_parameters([vector()], codec="blosc")
        tx.add(node("mode", packed, ref, "c"))
    ranges = ((1, 3), (8, 17))
    connection = Connection(
        new_id("k"), "curve", plain.id, '{"family": "bezier"}', '{"bends": 2}', run.id, "k", reason="done"
    )
    with store.transaction() as tx:  # a connection with a whole and a partial control point
        (whole,) = tx.write_parameters([vector()])
        (part,) = tx.write_parameters([columns.take(vector(), ranges)])
        controls = [
            node("control", plain, whole),
            node("control", plain, part, kernel=1, columns=columns.to_json(ranges)),
        ]
        tx.add(connection, *controls)
        tx.add(NodeTerm(controls[1].id, 0, a.id, 0.25), NodeTerm(controls[1].id, 1, b.id, 0.75))
        for i, n in enumerate((a, *controls, b)):
            tx.add(Member(connection.id, n.id, "control" if n in controls else "end", i // 3, i))
        tx.add(Series(connection.id, run.id, "train_loss", "", (0.0, 1.0), (2.0, float("nan"))))
        tx.add(Series(None, run.id, "learning_rate", "", (1.0, 2.0), (0.1, 0.01), node_id=a.id))
    sweep = Sweep(new_id("w"), connection.id, run.id, (3,), "fresh", "fp32", axes="[[0,0.25,1]]")
    samples = [Node(new_id("s"), "sample", plain.id, run.id, kernel=1) for _ in range(3)]
    with store.transaction() as tx:
        rows: list[Record] = [sweep, *samples]
        measured = (run.id, "test", "all", "fresh", "fp32", "loss")
        for i, n in enumerate(samples):
            rows += [NodeTerm(n.id, 0, controls[0].id, i / 2), NodeTerm(n.id, 1, controls[1].id, 1 - i / 2)]
            rows.append(Member(connection.id, n.id, "sample", i, parameter=(i / 2,)))
            rows.append(Evaluation(n.id, sweep.id, *measured, float(i), 0.1, 10))
        tx.add(*gathered(rows), Evaluation(a.id, None, *measured, 1.0, 0.1, 10))
        numbers = (2.0, float("inf"), 0.5, 3.0, 3, 10, "fresh", "fp32", [n.id for n in samples])
        ends = (connection.id, sweep.id, a.id, b.id)
        tx.add(Edge(*ends, "test", "loss", *numbers), Edge(*ends, "test", "error", *numbers, "oracle", "It is odd."))
        tx.add(Summary(connection.id, sweep.id, run.id, "test", "loss", "max", 2.0))
    surface = Connection(new_id("k"), "surface", plain.id, '{"family": "bezier-surface"}', "{}", run.id, "q")
    grid = PointGrid("q" + random_characters(12), [0.0, 0.5, 1.0], [0.25, 0.75])
    points = Gathering()
    with store.transaction() as tx:  # points of a grid
        tx.add(surface, *[Member(surface.id, n.id, "end", i, i) for i, n in enumerate((a, b))], grid)
        tx.add(GridTerm(grid.id, 0, a.id, grid.u, grid.v), GridTerm(grid.id, 1, b.id, [0.1, 0.2, 0.3], [1.0, 0.7]))
        for place in range(6):
            sample = Node(new_id("s"), "sample", plain.id, run.id, kernel=1)
            tx.add(sample)
            points.add(sample.id, sample_of=surface.id, position=place, grid_id=grid.id, place=place)
        tx.add(*points.records())
    with store.transaction() as tx:  # a merged node, and a commit that changes and removes
        (ref,) = tx.write_parameters([combine([0.5, 0.5], values)])
        merged = node("merged", plain, ref, "m", selected_on="valid", info='{"recipe": "mean"}')
        gone = replace(merged, id=new_id("g"), name="gone")
        tx.add(merged, gone, *[NodeTerm(merged.id, i, n.id, 0.5) for i, n in enumerate((a, b))])
    with store.transaction() as tx:  # what people wrote, and what was measured around a point
        tx.add(Note(new_id("n"), "good", node_id=a.id), Note(new_id("n"), "why", "flat", connection_id=connection.id))
        around = ("std", 0.5, None, 8, "train", "all", 100, "fresh", "fp32")
        tx.add(Measure(a.id, run.id, "sharpness", 0.01, *around))
    with store.transaction() as tx:
        tx.update(replace(run, status="complete", ended=run.started))
        tx.remove(Node, "id", [gone.id])
    return store


def describe(store: GraphStore) -> dict[str, Any]:
    """Digests of what a graph holds, by name or id."""
    with store.reading() as reader:
        nodes, buffers = reader.all(Node), reader.all(NodeBuffers)
        rows = {table: len(part["rows"]) for table, part in reader.snapshot()["add"].items()}
    return {
        "rows": rows,
        "parameters": {n.name or n.id: hashed(store.read_parameters(n)) for n in nodes},
        "buffers": {f"{b.node_id} {b.policy}": hashed_groups(store.read_buffers(b.node_id, b.policy)) for b in buffers},
    }


def hashed(array: NDArray[Any]) -> str:
    """What format 1 called the digest of an array; whatever a graph calls it, the numbers are the same."""
    text = f"{array.dtype.name} {list(array.shape)}\n".encode()
    return hashlib.blake2b(text + array.tobytes(), digest_size=16).hexdigest()


def hashed_groups(groups: Mapping[str, NDArray[Any]]) -> str:
    """As :func:`hashed`, of several arrays."""
    text = "".join(f"{name} {hashed(groups[name])}\n" for name in sorted(groups))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def main() -> None:
    """Write both files beside this script."""
    with tempfile.TemporaryDirectory() as directory:
        name = f"v{FORMAT_VERSION}"
        store = make(Path(directory) / f"{name}.mgraph")
        assert_consistent(store)
        (HERE / f"{name}.json").write_text(json.dumps(describe(store), indent=1) + "\n")
        shutil.make_archive(str(HERE / f"{name}.mgraph"), "zip", directory, f"{name}.mgraph")


if __name__ == "__main__":
    main()
