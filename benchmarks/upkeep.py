"""What upkeep costs in a graph with very many swept points: gc, check, rm; a part of ``store.py``.

Each is done in a process of its own: wall and CPU time, the largest memory, and the longest time that it kept writers
waiting (holding the lock to read) or everybody (holding it to write), with the most CPU time that it used while it did.
"""

from __future__ import annotations

import contextlib
import json
import math
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
    Record,
    Space,
    Sweep,
    TensorSpec,
    new_id,
)
from mgraph_store.index.lock import GraphLock
from mgraph_store.index.snapshot import looked_at
from mgraph_store.rows.blocks import Gathering, Number
from mgraph_store.rows.ids import random_characters
from mgraph_store.rows.records import GridTerm, PointGrid, like
from mgraph_store.upkeep.check import examine
from mgraph_store.upkeep.collect import plan_collection
from mgraph_store.upkeep.removal import plan_removal

SMALL = 1000  # points of a second connection, to be removed
BATCH = 10_000  # points of the large connection that are stored at a time
PORTIONS, PORTION = 10, 1000  # points of a third one, which are stored as a sweep does, some at a time
SPLITS, METRICS = ("train", "valid", "test"), ("loss", "accuracy")


def upkeep(scratch: Path, points: int) -> None:
    """Make a graph with so many swept points, and look after it."""
    path = scratch / "g.mgraph"
    each = _grow(path, points)
    made = f"{_took(each)}, index {each['index']:.0f} B and {each['free']:.0f} B free for the next ones"
    print(f"\n{points} swept points, of 23 numbers each: {made}, journal {each['journal']:.0f} B a point")
    before = _as_rows(scratch / "rows.mgraph")
    both = (each["index"] + each["journal"]) / (before["index"] + before["journal"])
    print(
        f"as rows of their own, of which {PORTIONS * PORTION} were stored: {_took(before)}, index "
        f"{before['index']:.0f} B, journal {before['journal']:.0f} B; the blocks above take {both:.2f} of these bytes "
        f"and {each['cpu'] / before['cpu']:.2f} of the CPU"
    )
    print(f"{'what':>24} {'s':>9} {'CPU s':>9} {'MB':>7} {'lock to read, ms (CPU)':>23} {'to write, ms (CPU)':>19}")
    for what in ("gc --dry-run", "check", "rm small", "check --deep", "rm large", "gc"):
        done = subprocess.run([sys.executable, __file__, str(path), what], check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        print(
            f"{what:>24} {found['wall']:>9.2f} {found['cpu']:>9.2f} {found['peak'] / 1e6:>7.0f} "
            f"{_longest(found['shared']):>23} {_longest(found['exclusive']):>19}",
            flush=True,
        )


def _took(each: dict[str, float]) -> str:
    return f"{1e6 * each['wall']:.0f} us, CPU {1e6 * each['cpu']:.0f} us"


def _longest(held: list[list[float]]) -> str:
    """Name the longest time that the lock was held, and the most CPU that was used meanwhile, in milliseconds."""
    wall, cpu = (1000 * max((times[k] for times in held), default=0.0) for k in (0, 1))
    return f"{wall:.0f} ({cpu:.0f})"


def _grow(path: Path, points: int) -> dict[str, float]:
    """Make a graph with sweeps of many and of few points; return what each point took."""
    store, space, nodes, made = _begun(path, {"large": points, "small": SMALL, "measured": PORTIONS * PORTION})
    _store_points(store, space, nodes, *made["small"], _Swept(SMALL), slice(None))
    swept = _Swept(PORTIONS * PORTION)
    each, after = _measured(store, lambda part: _store_points(store, space, nodes, *made["measured"], swept, part))
    swept = _Swept(points)
    for k in range(0, points, BATCH):
        _store_points(store, space, nodes, *made["large"], swept, slice(k, min(k + BATCH, points)))
    grown = _sizes(store)
    return each | {"index": (grown["index"] - after["index"]) / points, "free": grown["free"] / points}


def _as_rows(path: Path) -> dict[str, float]:
    """Store points as rows of their own, as an import does; return what each point took."""
    store, space, nodes, made = _begun(path, {"measured": PORTIONS * PORTION})
    swept = _Swept(PORTIONS * PORTION)
    return _measured(store, lambda part: _store_rows(store, space, nodes, *made["measured"], swept, part))[0]


def _measured(store: GraphStore, store_part: Callable[[slice], None]) -> tuple[dict[str, float], dict[str, int]]:
    """Store points in portions; return what each point took, and how large everything is then."""
    before = _sizes(store)
    wall, cpu = time.perf_counter(), time.process_time()
    for k in range(PORTIONS):
        store_part(slice(k * PORTION, (k + 1) * PORTION))
    with store.reading():
        pass  # now the index has it, too
    took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    after = _sizes(store)
    took |= {key: after[key] - before[key] for key in ("index", "journal")}
    return {key: value / (PORTIONS * PORTION) for key, value in took.items()}, after


def _begun(
    path: Path, points: dict[str, int]
) -> tuple[GraphStore, Space, list[Node], dict[str, tuple[Connection, Sweep]]]:
    """Make a graph of nine modes, with connections and sweeps of no points yet."""
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
    for name, count in points.items():
        connection = Connection(new_id("k"), "surface", space.id, "{}", "{}", name=name)
        sweep = Sweep(new_id("w"), connection.id, None, (count,), "none", "fp32")
        with store.transaction() as tx:
            tx.add(connection, sweep, *[Member(connection.id, n.id, "end", i, i) for i, n in enumerate(nodes[:4])])
        made[name] = connection, sweep
    return store, space, nodes, made


def _sizes(store: GraphStore) -> dict[str, int]:
    """Return the bytes of journal and index; ``free`` are those of the index that the next rows will take."""
    with store.reading() as reader:
        sql = """SELECT used_blocks * block_size, free_blocks * block_size FROM pragma_database_size()
WHERE database_name = current_database()"""
        ((used, free),) = reader.query(sql)[1]
    journal = sum(f.stat().st_size for f in store.path.glob("journal/*.log"))
    return {"index": used, "free": free, "journal": journal}


class _Swept:
    """What a sweep of a 3 × 3 Bézier surface finds: coefficients of the control points, losses, accuracies.

    Losses are any numbers, accuracies are of 1000 examples, and both come with their standard errors.
    """

    def __init__(self, points: int) -> None:
        rng, side = np.random.default_rng(points), math.isqrt(points - 1) + 1
        self.axis = t = np.linspace(0, 1, side)
        self.basis = basis = np.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2], axis=1)
        u, v = np.arange(points) // side, np.arange(points) % side
        self.parameters = np.stack([t[u], t[v]], axis=1)
        self.coefficients = (basis[u][:, :, None] * basis[v][:, None, :]).reshape(points, 9)
        self.grid_id: str | None = None
        self.numbers = {}
        for split in SPLITS:
            self.numbers[split, "loss"] = rng.gamma(2.0, 0.2, points), rng.uniform(0.01, 0.05, points)
            accuracy = rng.binomial(1000, 0.9, points) / 1000
            self.numbers[split, "accuracy"] = accuracy, np.sqrt(accuracy * (1 - accuracy) / 999)


def _grid(swept: _Swept, nodes: list[Node]) -> list[PointGrid | GridTerm]:
    """Describe the grid of a sweep, the first time that this is asked."""
    if swept.grid_id is not None:
        return []
    swept.grid_id, axis = "q" + random_characters(12), swept.axis.tolist()
    factors = swept.basis.T.tolist()
    terms = [GridTerm(swept.grid_id, k, n.id, factors[k // 3], factors[k % 3]) for k, n in enumerate(nodes)]
    return [PointGrid(swept.grid_id, axis, axis), *terms]


def _store_points(
    store: GraphStore, space: Space, nodes: list[Node], made: Connection, sweep: Sweep, swept: _Swept, part: slice
) -> None:
    """Store a part of what a sweep found, as one does."""
    parameters, coefficients = swept.parameters[part].tolist(), swept.coefficients[part]
    inside = (coefficients != 0).all(axis=1).tolist()
    whats = [Number(sweep.id, None, split, "all", "none", "fp32", metric, 1000) for split, metric in swept.numbers]
    values, errors = (np.stack([both[k][part] for both in swept.numbers.values()], axis=1).tolist() for k in range(2))
    points, like_this = Gathering(), Node("", "sample", space.id, kernel=1)
    rows: list[Record] = [*_grid(swept, nodes)]
    with store.transaction() as tx:
        for i in range(len(parameters)):
            sample, at = like(like_this, id=new_id("s")), (part.start or 0) + i
            rows.append(sample)
            measured = zip(whats, zip(values[i], errors[i], strict=True), strict=True)
            if inside[i]:
                points.add(sample.id, sample_of=made.id, position=at, grid_id=swept.grid_id, place=at, numbers=measured)
                continue
            points.add(
                sample.id,
                sample_of=made.id,
                position=at,
                parameter=parameters[i],
                terms=[(n.id, c) for n, c in zip(nodes, coefficients[i].tolist(), strict=True) if c != 0],
                numbers=measured,
            )
        tx.add(*rows, *points.records())


def _store_rows(
    store: GraphStore, space: Space, nodes: list[Node], made: Connection, sweep: Sweep, swept: _Swept, part: slice
) -> None:
    """Store a part of what a sweep found as rows of their own."""
    parameters, coefficients = swept.parameters[part].tolist(), swept.coefficients[part].tolist()
    with store.transaction() as tx:
        for i in range(len(parameters)):
            at = (part.start or 0) + i
            sample = Node(new_id("s"), "sample", space.id, kernel=1)
            terms = [(n.id, c) for n, c in zip(nodes, coefficients[i], strict=True) if c != 0]
            tx.add(
                sample,
                *[NodeTerm(sample.id, k, source, c) for k, (source, c) in enumerate(terms)],
                Member(made.id, sample.id, "sample", at, None, parameters[i]),
                *[
                    Evaluation(
                        sample.id, sweep.id, None, split, "all", "none", "fp32", metric, value[at], error[at], 1000
                    )
                    for (split, metric), (value, error) in swept.numbers.items()
                ],
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
