"""Starved, crowded and interrupted writers: whatever happens, every row has its tensors (kills are in tests/faults)."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mgraph_store import GraphStore, Node, problems

WRITE = """
import json, sys
import numpy as np
from mgraph_store import GraphStore, Node, new_id
a = json.loads(sys.argv[1])
store = GraphStore.open(a["path"])
print("ready", flush=True)
for i in range(a["count"]):
    rng = np.random.default_rng([a["seed"], i])
    with store.transaction() as tx:
        rows = [rng.standard_normal(a["size"]).astype("f4") for _ in range(a["rows"])]
        refs = tx.write_parameters(rows)
        nodes = [Node(new_id("m"), "mode", a["space"], name=f"{a['name']}.{i}.{k}", tensor_key=r.key,
                      tensor_row=r.row, digest=r.digest, nbytes=r.nbytes) for k, r in enumerate(refs)]
        buffers = tx.write_buffers({"int64": np.array([i])})
        tx.add(*nodes)
    print(i, flush=True)
"""

LIMITED = """
import json, resource, signal, sys
import numpy as np
from mgraph_store import GraphStore, Node, new_id
from mgraph_store.errors import StoreError
a = json.loads(sys.argv[1])
store = GraphStore.open(a["path"])
import zarr
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (a["limit"], a["limit"]))
try:
    with store.transaction() as tx:
        (ref,) = tx.write_parameters([np.ones(a["size"], "f4")])
        tx.add(Node(new_id("m"), "mode", a["space"], tensor_key=ref.key, digest=ref.digest, nbytes=ref.nbytes))
except StoreError as error:
    print(error)
"""

Start = Callable[..., "subprocess.Popen[str]"]


def names(store: GraphStore) -> set[str]:
    with store.reading() as reader:
        return {n.name for n in reader.all(Node) if n.name}


def test_four_writers_and_a_reader(graph: Any, python: Start) -> None:
    arguments = {"path": str(graph.store.path), "space": graph.space.id, "count": 6, "size": 200, "rows": 2}
    writers = [python(WRITE, **arguments, seed=w, name=f"w{w}") for w in range(4)]
    seen = [set[str]()]
    deadline = time.monotonic() + 60
    while any(w.poll() is None for w in writers) and time.monotonic() < deadline:
        seen.append(names(graph.store))
        assert seen[-2] <= seen[-1]
        time.sleep(0.01)
    for writer in writers:
        _, errors = writer.communicate()
        assert (writer.returncode, errors) == (0, "")
    assert names(graph.store) == {f"w{w}.{i}.{k}" for w in range(4) for i in range(6) for k in range(2)}


@pytest.mark.parametrize(("limit", "size"), [(100_000, 50_000), (0, 10)])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(graph: Any, python: Start, limit: int, size: int) -> None:
    """RLIMIT_FSIZE stands in for the full disk: a write fails in the middle of a chunk, or in the very first file."""
    files, counts = graph.files(), graph.counts()
    process = python(LIMITED, path=str(graph.store.path), space=graph.space.id, limit=limit, size=size)
    out, errors = process.communicate(timeout=60)
    assert out.startswith("No space left for"), errors
    assert out.count("\n") == 1
    assert errors == ""
    assert graph.files() == files
    assert graph.counts() == counts


def test_a_graph_is_made_whole_or_not_at_all(tmp_path: Path, python: Start) -> None:
    """Whatever file it is that cannot grow any more: the index, its log, the journal."""
    script = """
import json, resource, signal, sys
from mgraph_store import GraphStore
from mgraph_store.errors import MGraphError
a = json.loads(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in a["limits"]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        GraphStore.create(f"{a['path']}/{limit}.mgraph")
        print(limit)
    except MGraphError as error:
        print(error)
"""
    limits = [0, 50, 3000, 9000, 100_000, 1_000_000]
    out, errors = python(script, path=str(tmp_path), limits=limits).communicate(timeout=60)
    assert errors == ""
    told = out.splitlines()
    assert len(told) == len(limits)
    made = [line for line in told if line.isdigit()]
    assert 1 <= len(made) < len(limits)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{limit}.mgraph" for limit in made)
    for limit in made:
        assert problems(GraphStore.open(tmp_path / f"{limit}.mgraph"), deep=True) == []


def test_threads_of_one_process(graph: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def work(seed: int) -> bytes:
        (node,) = graph.add(graph.parameters(seed), names=(f"t{seed}",))
        return bytes(graph.store.read_parameters(node.id).tobytes())

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(12)))
    assert results == [graph.parameters(s).tobytes() for s in range(12)]
    assert names(graph.store) == {f"t{s}" for s in range(12)}


def test_ctrl_c_while_writing_leaves_nothing(graph: Any, python: Start) -> None:
    files, counts = graph.files(), graph.counts()
    # Where a job runs in the background of a shell, SIGINT is ignored unless it is asked for.
    ask = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script = ask + WRITE.replace("refs = tx", "print(0, flush=True); refs = tx")
    arguments = {"path": str(graph.store.path), "space": graph.space.id, "seed": 0, "name": "w", "count": 1}
    with python(script, **arguments, size=4_000_000, rows=16) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert out == ""
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    assert "Task was destroyed" not in errors
    assert graph.files() == files
    assert graph.counts() == counts
