"""One graph, several machines: what does a commit wait for, and how many are there in a second?

Each machine is a process with a directory of its own; it adds small nodes, one transaction each. The graph is local, or
shared in a directory, or on the S3 server of the test suite, where every answer takes ``--delay`` milliseconds, as from
a service that is so far away; what else the server takes, in Python, is in the times too. In the end all machines must
have the same rows.
Run: ``python benchmarks/shared.py -o benchmarks/results/shared.txt``
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import invocation, machine

from mgraph_store import GraphStore, Layout, Node, Space, TensorSpec, new_id
from mgraph_store.machines import join, share

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

SIZE = 1000  # parameters


def add(store: GraphStore, space: str, count: int, tensors: bool) -> list[float]:
    """Add nodes, or only rows of spaces, one by one; seconds for each."""
    seconds, rng = [], np.random.default_rng()
    for _ in range(count):
        start = time.perf_counter()
        with store.transaction() as tx:
            if tensors:
                (ref,) = tx.write_parameters([rng.standard_normal(SIZE).astype(np.float32)])
                made = Node(new_id("m"), "mode", space, None, None, ref.key, ref.row, ref.digest, ref.nbytes)
            else:
                layout = Layout((TensorSpec(new_id("w"), (3,), "float32", "parameter"),))
                made = make_space("space-" + new_id("s"), layout)
            tx.add(made)
        seconds.append(time.perf_counter() - start)
    return seconds


def make_space(name: str, layout: Layout) -> Space:
    """Make the row of a space."""
    return Space(new_id("a"), name, "mlp", "digits", "loss", layout.to_json(), layout.fingerprint, "0" * 32)


def work(path: str, place: str, space: str, count: int, ready: Any, results: Any) -> None:
    """Be one machine of several."""
    store = join(path, place, lock_timeout=120)
    ready.wait()
    start = time.time()
    results.put((add(store, space, count, True), start, time.time()))


def rows(store: GraphStore) -> list[str]:
    """Ids of all nodes, as of now."""
    store.pull()
    with store.reading() as reader:
        return sorted(n.id for n in reader.all(Node))


def row(what: str, seconds: list[float], each: float, requests: str = "") -> str:
    """One line of the table."""
    return f"{what:<34}{len(seconds):>8}{1e3 * statistics.median(seconds):>10.1f}{each:>11.1f}{requests:>10}"


def together(folder: Path, place: str, space: str, count: int, machines: int) -> tuple[list[float], float]:
    """Let several machines add nodes at once; seconds for each, and how many there were in a second."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(machines), context.Queue()
    started = [
        context.Process(target=work, args=(str(folder / f"m{i}.mgraph"), place, space, count, ready, results))
        for i in range(machines)
    ]
    for process in started:
        process.start()
    parts = [results.get(timeout=900) for _ in started]
    for process in started:
        process.join()
    seconds = [s for part in parts for s in part[0]]
    return seconds, len(seconds) / (max(p[2] for p in parts) - min(p[1] for p in parts))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=15, help="nodes that each machine adds")
    parser.add_argument("--delay", type=float, default=20.0, help="milliseconds before each answer of the server")
    parser.add_argument("--machines", type=int, default=4)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    from s3server import serving

    with tempfile.TemporaryDirectory() as scratch, serving() as server:
        lines = [
            *(invocation(), machine()),
            f"every answer of the server takes {given.delay:g} ms longer; ms; load average {os.getloadavg()[0]:.0f}",
        ]
        lines.append(f"{'':<34}{'commits':>8}{'median':>10}{'a second':>11}{'requests':>10}")
        places = {"alone": None, "directory": f"{scratch}/shared", "S3": "s3://bucket/shared"}
        for name, place in places.items():
            folder = Path(scratch, name)
            folder.mkdir()
            store = GraphStore.create(folder / "a.mgraph") if place is None else share(folder / "a.mgraph", place)
            space = make_space("s", Layout((TensorSpec("weight", (SIZE,), "float32", "parameter"),)))
            with store.transaction() as tx:
                tx.add(space)
            server.delay = given.delay / 1000
            for what, tensors in (("rows alone", False), ("small nodes", True)):
                before = server.answered
                seconds = add(store, space.id, given.count, tensors)
                requests = f"{(server.answered - before) / given.count:.0f}" if name == "S3" else ""
                lines.append(row(f"{name}, one machine, {what}", seconds, len(seconds) / sum(seconds), requests))
            if place is not None:
                seconds, rate = together(folder, place, space.id, given.count, given.machines)
                lines.append(row(f"{name}, {given.machines} machines, small nodes", seconds, rate))
                whole = rows(store)
                machines = [GraphStore.open(folder / f"m{i}.mgraph") for i in range(given.machines)]
                assert all(rows(other) == whole for other in machines)
                assert len(whole) == given.count * (1 + given.machines)
            server.delay = 0.0
    lines.append("All machines have the same rows.")
    print("\n".join(lines))
    if given.output:
        given.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
