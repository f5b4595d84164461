"""What upkeep costs in a graph with very many swept points: gc, check, rm; a part of ``store.py``.

Each is done in a process of its own: wall and CPU time, the largest memory, and the longest time that it kept writers
waiting (holding the lock to read) or everybody (holding it to write), with the most CPU time that it used while it did.
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mgraph_store import (
    Connection,
    Evaluation,
    GraphStore,
    Layout,
    Member,
    Node,
    NodeTerm,
    Space,
    Sweep,
    TensorSpec,
    new_id,
)
from mgraph_store.index.changes import parts
from mgraph_store.index.commits import number_of
from mgraph_store.index.lock import GraphLock
from mgraph_store.index.snapshot import looked_at
from mgraph_store.upkeep.check import examine
from mgraph_store.upkeep.collect import plan_collection
from mgraph_store.upkeep.removal import plan_removal

SMALL = 1000  # points of a second connection, to be removed
SPLITS, METRICS = ("train", "valid", "test"), ("loss", "accuracy")


def upkeep(scratch: Path, points: int) -> None:
    """Make a graph with so many swept points, and look after it."""
    path = scratch / "g.mgraph"
    each = _grow(path, points)
    made = f"{1e6 * each['wall']:.0f} us, CPU {1e6 * each['cpu']:.0f} us, index {each['index']:.0f} B"
    print(f"\n{points} swept points, of 17 rows each: {made}, journal {each['journal']:.0f} B a point")
    print(f"{'what':>24} {'s':>9} {'CPU s':>9} {'MB':>7} {'lock to read, ms (CPU)':>23} {'to write, ms (CPU)':>19}")
    for what in ("gc --dry-run", "check", "rm small", "check --deep", "rm large", "gc"):
        done = subprocess.run([sys.executable, __file__, str(path), what], check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        print(
            f"{what:>24} {found['wall']:>9.2f} {found['cpu']:>9.2f} {found['peak'] / 1e6:>7.0f} "
            f"{_longest(found['shared']):>23} {_longest(found['exclusive']):>19}",
            flush=True,
        )


def _longest(held: list[list[float]]) -> str:
    """Name the longest time that the lock was held, and the most CPU that was used meanwhile, in milliseconds."""
    wall, cpu = (1000 * max((times[k] for times in held), default=0.0) for k in (0, 1))
    return f"{wall:.0f} ({cpu:.0f})"


def _grow(path: Path, points: int) -> dict[str, float]:
    """Make a graph with a large and a small sweep; return what each point of the small one took.

    The small one is stored as a sweep stores it. The rows of the large one are made by DuckDB itself, which takes a
    tenth of the time, and the journal is begun anew with them.
    """
    layout = Layout((TensorSpec("w", (64,), "float32", "parameter"),))
    store = GraphStore.create(path)
    words = {"arch": "-", "data": "-", "loss": "-", "data_hash": "0" * 32}
    space = Space(id=new_id("a"), name="x", layout=layout.to_json(), layout_hash=layout.fingerprint, **words)
    rows = np.random.default_rng(0).standard_normal((9, 64)).astype(np.float32)
    with store.transaction() as tx:
        refs = tx.write_parameters(list(rows))
        nodes = [
            Node(
                new_id("m"),
                "mode",
                space.id,
                name=f"n{i}",
                tensor_key=r.key,
                tensor_row=r.row,
                digest=r.digest,
                nbytes=r.nbytes,
            )
            for i, r in enumerate(refs)
        ]
        tx.add(space, *nodes)
    made = {}
    for name, count in (("large", points), ("small", SMALL)):
        connection = Connection(new_id("k"), "surface", space.id, "{}", "{}", name=name)
        sweep = Sweep(new_id("w"), connection.id, None, (count,), "none", "fp32")
        with store.transaction() as tx:
            tx.add(connection, sweep, *[Member(connection.id, n.id, "end", i, i) for i, n in enumerate(nodes[:4])])
        made[name] = connection, sweep
    wall, cpu, before = time.perf_counter(), time.process_time(), _sizes(path)
    with store.transaction() as tx:
        for i in range(SMALL):
            tx.add(*_point(space, nodes, *made["small"], i))
    took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    after = _sizes(path)
    _fill(store, space, nodes, *made["large"], points)
    grown = _sizes(path)
    return {
        **{key: value / SMALL for key, value in took.items()},
        "journal": (after["journal"] - before["journal"]) / SMALL,
        "index": (grown["index"] - after["index"]) / points,
    }


def _sizes(path: Path) -> dict[str, int]:
    kinds = {"index": "index.duckdb*", "journal": "journal/*.log"}
    return {kind: sum(f.stat().st_size for f in path.glob(pattern)) for kind, pattern in kinds.items()}


def _fill(store: GraphStore, space: Space, nodes: list[Node], made: Connection, sweep: Sweep, points: int) -> None:
    """Add the rows of :func:`_point` for a whole sweep by SQL, behind the back of the store, and begin its journal
    anew."""
    random = "replace(left(gen_random_uuid()::VARCHAR, 8) || right(gen_random_uuid()::VARCHAR, 4), '-', '')"
    terms = ", ".join(f"({k}, '{node.id}')" for k, node in enumerate(nodes))
    numbers = ", ".join(f"('{split}', '{metric}')" for split in SPLITS for metric in METRICS)
    with store.lock.exclusive(), store.index.connect(read_only=False) as con:
        con.execute(
            f"CREATE TEMP TABLE made AS SELECT 's' || {random} AS id, range AS i FROM range({points}) ORDER BY range"
        )
        con.execute(
            f"""INSERT INTO nodes BY NAME SELECT id, 'sample' AS kind, '{space.id}' AS space_id, 0 AS nbytes,
1 AS kernel, '{{}}' AS info, now()::TIMESTAMP AS created FROM made ORDER BY i"""
        )
        con.execute(
            f"""INSERT INTO node_terms BY NAME SELECT id AS node_id, k AS position, source AS source_id,
(k + 1) / (i + 46) AS coefficient FROM made, (VALUES {terms}) t(k, source) ORDER BY i, k"""
        )
        con.execute(
            f"""INSERT INTO members BY NAME SELECT '{made.id}' AS connection_id, id AS node_id, 'sample' AS role,
i AS position, [i / 1e6, 0.5] AS parameter FROM made ORDER BY i"""
        )
        con.execute(
            f"""INSERT INTO evaluations BY NAME SELECT id AS node_id, '{sweep.id}' AS sweep_id, split,
'all' AS subset, 'none' AS batchnorm, 'fp32' AS "precision", metric, 1 / (i + 3) AS value,
1 / (i + 7) AS standard_error, 1000 AS count FROM made, (VALUES {numbers}) t(split, metric) ORDER BY i"""
        )
        con.execute("DROP TABLE made")
        store.index.journal.begin(number_of(con), parts(con))


def _point(space: Space, nodes: list[Node], made: Connection, sweep: Sweep, i: int) -> Iterator[Any]:
    sample = Node(new_id("s"), "sample", space.id, kernel=1)
    yield sample
    for k, node in enumerate(nodes):
        yield NodeTerm(sample.id, k, node.id, (k + 1) / (i + 46))
    yield Member(made.id, sample.id, "sample", i, None, (i / 1e6, 0.5))
    for split in SPLITS:
        for metric in METRICS:
            yield Evaluation(
                sample.id, sweep.id, None, split, "all", "none", "fp32", metric, 1 / (i + 3), 1 / (i + 7), 1000
            )


def _removed(store: GraphStore, name: str) -> None:
    with looked_at(store.index, store.lock) as shot:
        plan = plan_removal(shot.reader, [shot.reader.find_connection(name)])
    plan.apply(store)


TASKS: dict[str, Callable[[GraphStore], object]] = {
    "gc --dry-run": lambda store: plan_collection(store, 0),
    "gc": lambda store: plan_collection(store, 0).apply(store),
    "check": lambda store: examine(store),
    "check --deep": lambda store: examine(store, deep=True),
    "rm small": lambda store: _removed(store, "small"),
    "rm large": lambda store: _removed(store, "large"),
}


def _peak() -> int:
    """Return the largest memory of this process, in bytes; getrusage tells of the parent, too."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _child(path: Path, what: str) -> None:
    held: dict[str, list[list[float]]] = {"shared": [], "exclusive": []}

    def watched(mode: str) -> Any:
        original = getattr(GraphLock, mode)

        @contextlib.contextmanager
        def hold(lock: GraphLock) -> Iterator[None]:
            with original(lock):
                begun, worked = time.perf_counter(), time.process_time()
                try:
                    yield
                finally:
                    held[mode].append([time.perf_counter() - begun, time.process_time() - worked])

        return hold

    for mode in held:
        setattr(GraphLock, mode, watched(mode))
    store = GraphStore(path, lock_timeout=600)
    wall, cpu = time.perf_counter(), time.process_time()
    TASKS[what](store)
    took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    peak = _peak()
    print(json.dumps({**took, **held, "peak": peak}))


if __name__ == "__main__":
    _child(Path(sys.argv[1]), sys.argv[2])
