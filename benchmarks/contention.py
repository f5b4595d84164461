"""Many processes on one graph: how long does a writer, a reader, a connector wait, and does anybody starve?

Writers add nodes one by one (tensors flushed to the disk, then one transaction each), readers list all nodes as fast as
they can, a connector adds whole connections. What is timed is the wait for the graph's lock, and the whole
operation. First one writer alone, for comparison. In the end everything must be there, and the graph sound.
Run: ``python benchmarks/contention.py [--writers 8 --nodes 50 --readers 2]``
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import zarr

from mgraph_store import Connection, GraphStore, Layout, Member, Node, Run, Space, TensorSpec, assert_consistent, new_id
from mgraph_store.index.lock import GraphLock

SIZE = 61_706  # parameters of LeNet-5


def make_graph(path: Path) -> GraphStore:
    """Make a graph with one space and two modes to connect."""
    layout = Layout((TensorSpec("weight", (SIZE,), "float32", "parameter"),))
    space = Space(new_id("a"), "s", "mlp", "digits", "loss", layout.to_json(), layout.fingerprint, "0" * 32)
    store = GraphStore.create(path)
    with store.transaction() as tx:
        tx.add(space)
        tx.add(*nodes(tx, space.id, 2, np.random.default_rng(0), names=["a", "b"]))
    return store


def nodes(tx: Any, space: str, count: int, rng: np.random.Generator, kind: str = "mode", names: Any = ()) -> list[Node]:
    """Write nodes; their rows."""
    refs = tx.write_parameters([rng.standard_normal(SIZE).astype(np.float32) for _ in range(count)])
    name = dict(enumerate(names))
    return [
        Node(new_id(kind[0]), kind, space, None, name.get(i), ref.key, ref.row, ref.digest, ref.nbytes)
        for i, ref in enumerate(refs)
    ]


class Watch:
    """Times of a process: of whole operations, and of waiting for the lock in each."""

    def __init__(self) -> None:
        self.operations: list[float] = []
        self.waits: list[float] = []
        acquire = GraphLock._acquire

        def timed(lock: GraphLock, descriptor: int, mode: int, deadline: float) -> None:
            begun = time.perf_counter()
            acquire(lock, descriptor, mode, deadline)
            self.waits[-1] += time.perf_counter() - begun

        GraphLock._acquire = timed  # type: ignore[method-assign]

    @contextlib.contextmanager
    def operation(self) -> Iterator[None]:
        """Time one operation."""
        self.waits.append(0.0)
        begun = time.perf_counter()
        yield
        self.operations.append(time.perf_counter() - begun)


def work(role: str, path: Path, space: str, seed: int, count: int, gate: Any, over: Any, told: Any) -> None:
    """Do one role's work; the times go to ``told``."""
    store, rng = GraphStore.open(path), np.random.default_rng(seed)
    np.asarray(zarr.config.get("async.concurrency"))  # Zarr is imported before anything is timed
    watch = Watch()
    gate.wait()
    if role == "reader":
        while not over.is_set():
            with watch.operation(), store.reading() as reader:
                reader.all(Node)
    for i in range(count):
        with watch.operation(), store.transaction() as tx:
            if role == "writer":
                tx.add(*nodes(tx, space, 1, rng, names=[f"w{seed}.{i}"]))
            else:
                connect(tx, store, space, rng, f"k{i}")
    told.put((role, watch.operations, watch.waits))


def connect(tx: Any, store: GraphStore, space: str, rng: np.random.Generator, name: str) -> None:
    """Add a connection of the two first modes with a trained control point."""
    with store.reading() as reader:
        ends = [reader.find_node("a"), reader.find_node("b")]
    run = Run(new_id("r"), "connect", "{}", status="complete")
    controls = nodes(tx, space, 1, rng, "control")
    connection = Connection(new_id("k"), "curve", space, "{}", "{}", run.id, name)
    members = [Member(connection.id, n.id, "end", i, 2 * i) for i, n in enumerate(ends)]
    tx.add(run, connection, *controls, *members, Member(connection.id, controls[0].id, "control", 0, 1))


def play(directory: Path, writers: int, count: int, readers: int, connections: int) -> dict[str, Any]:
    """Let all work at once; times by role, and the seconds that it took."""
    path = directory / f"{writers}.mgraph"
    store = make_graph(path)
    with store.reading() as reader:
        space = reader.find_space().id
    context: ForkServerContext = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["zarr", "duckdb", "mgraph_store.store"])
    roles = [("writer", count)] * writers + [("reader", 0)] * readers + [("connector", connections)] * bool(connections)
    gate, over, told = context.Barrier(len(roles) + 1), context.Event(), context.Queue()
    processes = [
        context.Process(target=work, args=(role, path, space, seed, n, gate, over, told), daemon=True)
        for seed, (role, n) in enumerate(roles)
    ]
    for process in processes:
        process.start()
    gate.wait()
    begun = time.perf_counter()
    times: dict[str, Any] = {}
    for left in range(len(roles), 0, -1):
        if left == readers:
            times["seconds"] = time.perf_counter() - begun
            over.set()
        role, operations, waits = told.get(timeout=600)
        for key, values in (("operation", operations), ("wait", waits)):
            times.setdefault((role, key), []).extend(values)
    times.setdefault("seconds", time.perf_counter() - begun)
    for process in processes:
        process.join()
        if process.exitcode:
            raise SystemExit(f"a process ended with {process.exitcode}")
    with store.reading() as reader:
        names = {n.name for n in reader.all(Node, kind="mode")}
        assert names == {"a", "b"} | {f"w{s}.{i}" for s in range(writers) for i in range(count)}
        assert len(reader.all(Connection)) == connections
    assert_consistent(store)
    return times


def main() -> None:
    """Measure, check and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--connections", type=int, default=20)
    options = parser.parse_args()
    from harness import invocation  # imports torch, which the processes of this benchmark have no use for

    print(invocation())
    print(
        f"Python {platform.python_version()}, duckdb {duckdb.__version__}, zarr {zarr.__version__}, "
        f"{os.cpu_count()} cores, nodes of {SIZE} parameters; ms"
    )
    print(f"{'':24}{'operations':>11}{'median':>9}{'wait':>9}{'wait 95 %':>11}{'worst wait':>12}{'nodes/s':>9}")
    with tempfile.TemporaryDirectory() as directory:
        for writers, readers, connections in ((1, 0, 0), (options.writers, options.readers, options.connections)):
            times = play(Path(directory), writers, options.nodes, readers, connections)
            for role in ("writer", "reader", "connector"):
                if (role, "wait") not in times:
                    continue
                waits = sorted(1e3 * t for t in times[role, "wait"])
                operations = [1e3 * t for t in times[role, "operation"]]
                number = {"writer": writers, "reader": readers}.get(role, 1)
                rate = f"{writers * options.nodes / times['seconds']:.1f}" if role == "writer" else ""
                label = f"{number} {role}{'s' * (number > 1)}"
                print(
                    f"{label:24}{len(operations):11}{statistics.median(operations):9.1f}{statistics.median(waits):9.1f}"
                    f"{waits[round(0.95 * (len(waits) - 1))]:11.1f}{waits[-1]:12.1f}{rate:>9}"
                )
    print("Everything that was added is there, and the graph is sound.")


if __name__ == "__main__":
    main()
