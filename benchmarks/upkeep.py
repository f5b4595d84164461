"""What upkeep costs in a graph with very many swept points: gc, check, rm; a part of ``store.py``.

Each is done in a process of its own: wall and CPU time, the largest memory, and the longest time that it kept writers
waiting (holding the lock to read) or everybody (holding it to write).
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
from mgraph_store.index.lock import GraphLock
from mgraph_store.upkeep.check import examine
from mgraph_store.upkeep.collect import plan_collection
from mgraph_store.upkeep.removal import plan_removal

BATCH = 10_000
SMALL = 1000  # points of a second connection, to be removed


def upkeep(scratch: Path, points: int) -> None:
    """Make a graph with so many swept points, and look after it."""
    begun, cpu = time.perf_counter(), time.process_time()
    path = scratch / "g.mgraph"
    _grow(path, points)
    took, worked = time.perf_counter() - begun, time.process_time() - cpu
    index, journal = (sum(f.stat().st_size for f in path.glob(p)) for p in ("index.duckdb*", "journal/*.log"))
    made = f"{1e6 * took / points:.0f} us, CPU {1e6 * worked / points:.0f} us, index {index / points:.0f} B"
    print(f"\n{points} swept points, of 17 rows each: {made}, journal {journal / points:.0f} B a point")
    print(f"{'what':>24} {'s':>9} {'CPU s':>9} {'MB':>7} {'lock to read, ms':>17} {'to write, ms':>13}")
    for what in ("gc --dry-run", "check", "rm small", "check --deep", "rm large", "gc"):
        done = subprocess.run([sys.executable, __file__, str(path), what], check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        print(
            f"{what:>24} {found['wall']:>9.2f} {found['cpu']:>9.2f} {found['peak'] / 1e6:>7.0f} "
            f"{1000 * found['shared']:>17.0f} {1000 * found['exclusive']:>13.0f}",
            flush=True,
        )


def _grow(path: Path, points: int) -> None:
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
    for name, count in (("large", points), ("small", SMALL)):
        made = Connection(new_id("k"), "surface", space.id, "{}", "{}", name=name)
        sweep = Sweep(new_id("w"), made.id, None, (count,), "none", "fp32")
        with store.transaction() as tx:
            tx.add(made, sweep, *[Member(made.id, n.id, "end", i, i) for i, n in enumerate(nodes[:4])])
        for start in range(0, count, BATCH):
            with store.transaction() as tx:
                for i in range(start, min(start + BATCH, count)):
                    tx.add(*_point(space, nodes, made, sweep, i))


def _point(space: Space, nodes: list[Node], made: Connection, sweep: Sweep, i: int) -> Iterator[Any]:
    sample = Node(new_id("s"), "sample", space.id, kernel=1)
    yield sample
    for k, node in enumerate(nodes):
        yield NodeTerm(sample.id, k, node.id, (k + 1) / (i + 46))
    yield Member(made.id, sample.id, "sample", i, None, (i / 1e6, 0.5))
    for split in ("train", "valid", "test"):
        for metric in ("loss", "accuracy"):
            yield Evaluation(
                sample.id, sweep.id, None, split, "all", "none", "fp32", metric, 1 / (i + 3), 1 / (i + 7), 1000
            )


def _removed(store: GraphStore, name: str) -> None:
    with store.reading() as reader:
        plan = plan_removal(reader, [reader.find_connection(name)])
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
    held = {"shared": 0.0, "exclusive": 0.0}

    def watched(mode: str) -> Any:
        original = getattr(GraphLock, mode)

        @contextlib.contextmanager
        def hold(lock: GraphLock) -> Iterator[None]:
            with original(lock):
                begun = time.perf_counter()
                try:
                    yield
                finally:
                    held[mode] = max(held[mode], time.perf_counter() - begun)

        return hold

    for mode in held:
        setattr(GraphLock, mode, watched(mode))
    store = GraphStore(path, lock_timeout=600)
    wall, cpu = time.perf_counter(), time.process_time()
    TASKS[what](store)
    took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    peak = _peak()
    print(json.dumps(took | held | {"peak": peak}))


if __name__ == "__main__":
    _child(Path(sys.argv[1]), sys.argv[2])
