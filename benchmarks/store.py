"""What does a graph cost beside plain files? Adding, reading, summing and listing, against torch.save and safetensors.

Contenders alternate in one run; figures are medians, ratios those of neighbours. "Add" is durable for every contender
(files and directories flushed), and ours includes digest, checksums and the commit of the row; "digest, checksum, file"
is the least of it: SHA-256, CRC32C and one flushed file. The index follows a commit within a second; "in the index"
waits for that, and opens it to be read. The large sum runs in processes of its own, whose memory (above the start,
without mapped files) is watched.

Run: ``python benchmarks/store.py [--quick] [--scratch DIR]``
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torchvision
from derived import derived
from harness import Peak, invocation, machine, quieten
from safetensors import safe_open
from starting import starting
from torch import Tensor, nn
from upkeep import upkeep

from mgraph.architectures.builtin import lenet5
from mgraph.bookkeeping.listing import list_nodes
from mgraph.network.layout import layout_of
from mgraph.network.tensorfile import stream_safetensors
from mgraph_store import Evaluation, GraphStore, Layout, Node, NodeTerm, Run, Space, TensorSpec, new_id
from mgraph_store.tensors.chunkfiles import chunks_of

Times = dict[str, list[tuple[float, float]]]


def resnet18() -> nn.Module:
    return torchvision.models.resnet18(num_classes=10)


def trained(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """Return parameters with the randomness of trained ones."""
    torch.manual_seed(seed)
    return {name: (p.detach() + 0.01 * torch.randn_like(p)).contiguous() for name, p in module.named_parameters()}


def new_store(path: Path, layout: Layout) -> tuple[GraphStore, Space]:
    store = GraphStore.create(path)
    words = {"arch": "-", "data": "-", "loss": "-", "data_hash": "0" * 32}
    space = Space(id=new_id("a"), name="x", layout=layout.to_json(), layout_hash=layout.fingerprint, **words)
    with store.transaction() as tx:
        tx.add(space)
    return store, space


def add(store: GraphStore, space: Space, rows: list[Any], names: list[str]) -> list[Node]:
    with store.transaction() as tx:
        nodes = [
            Node(
                new_id("m"),
                "mode",
                space.id,
                name=name,
                tensor_key=r.key,
                tensor_row=r.row,
                digest=r.digest,
                nbytes=r.nbytes,
            )
            for name, r in zip(names, tx.write_parameters(rows), strict=True)
        ]
        tx.add(*nodes)
    return nodes


def flush(path: Path) -> None:
    for place in (path, path.parent):
        descriptor = os.open(place, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def timed(rounds: int, contenders: Mapping[str, Callable[[int], Any]]) -> Times:
    """Run contenders in turn; wall and CPU seconds of each round."""
    found: Times = {name: [] for name in contenders}
    for i in range(-1, rounds):
        for name, function in contenders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            result = function(i)
            took = (time.perf_counter() - wall, time.process_time() - cpu)
            if i >= 0:  # the first round warms up
                found[name].append(took)
            del result
    return found


def show(what: str, times: Times, each: int = 1) -> None:
    base = next(iter(times.values()))
    for name, pairs in times.items():
        wall, cpu = (1000 * statistics.median(p[k] for p in pairs) / each for k in (0, 1))
        ratios = [statistics.median(p[k] / b[k] for p, b in zip(pairs, base, strict=True)) for k in (0, 1)]
        print(f"{what:>24} {name:>26} {wall:>9.2f} {cpu:>9.2f} {ratios[0]:>7.2f} {ratios[1]:>7.2f}")


def add_and_read(scratch: Path, what: str, module: nn.Module, rounds: int, readings: int, batch: int) -> None:
    """Compare adding and reading nodes, ``batch`` of them at once in ours where they are small."""
    layout = layout_of(module)
    store, space = new_store(scratch / f"{what}.mgraph", layout)
    states = [trained(module, i) for i in range(batch)]
    rows = [layout.pack_parameters({n: t.numpy() for n, t in s.items()}) for s in states]

    def pt(i: int) -> None:
        for k, s in enumerate(states):
            torch.save(s, scratch / f"{what}{i}-{k}.pt")
            flush(scratch / f"{what}{i}-{k}.pt")

    def st(i: int) -> None:
        for k, s in enumerate(states):
            safetensors.torch.save_file(s, scratch / f"{what}{i}-{k}.safetensors")
            flush(scratch / f"{what}{i}-{k}.safetensors")

    def ours(i: int) -> None:
        for row in rows:
            row += np.float32(1)  # not the same content twice; in place, for new memory costs as much as the adding
        add(store, space, rows, [f"n{i + 1}-{k}" for k in range(batch)])

    def followed(i: int) -> None:
        for row in rows:
            row += np.float32(1)
        add(store, space, rows, [f"f{i + 1}-{k}" for k in range(batch)])
        with store.reading():
            pass

    def bare(i: int) -> None:
        for k, row in enumerate(rows):
            hashlib.sha256(row.data).digest()
            file = scratch / f"{what}{i}-{k}.bin"
            with file.open("wb", buffering=0) as written:
                for part in chunks_of(row, row.shape[0], 0.0):
                    for piece in part:
                        written.write(piece)
            flush(file)

    contenders = {
        "torch.save": pt,
        "safetensors": st,
        "digest, checksum, file": bare,
        "mgraph": ours,
        "mgraph, in the index": followed,
    }
    show(f"add {what}", timed(rounds, contenders), batch)
    with store.reading() as reader:
        nodes = {n.name: n for n in reader.all(Node)}
    pairs = [(i, k) for i in range(rounds) for k in range(batch)]

    def read(function: Callable[[int, int], Any]) -> Callable[[int], Any]:
        return lambda i: [function(j, k) for j, k in pairs if j == max(i, 0) % rounds]

    def copied(i: int, k: int) -> Any:
        return {n: t.clone() for n, t in safetensors.torch.load_file(scratch / f"{what}{i}-{k}.safetensors").items()}

    readers = {
        "torch.load": read(lambda i, k: torch.load(scratch / f"{what}{i}-{k}.pt", weights_only=True)),
        "safetensors, copied": read(copied),
        "mgraph": read(lambda i, k: store.read_parameters(nodes[f"n{i + 1}-{k}"])),
    }
    show(f"read {what}", timed(readings, readers), batch)


def samples(scratch: Path, rounds: int) -> None:
    """Compare reading derived samples."""
    everything, alone, count = derived(scratch)
    show("derived, 60 k, each", timed(rounds, everything), count)
    show("one alone", timed(5 * rounds, alone))


def nine_nodes(scratch: Path, rounds: int) -> None:
    """Σ c_k P_k of nine nodes of 11 M parameters, into memory and into a file."""
    K, module = 9, resnet18()
    layout = layout_of(module)
    store, space = new_store(scratch / "nine.mgraph", layout)
    files = [scratch / f"nine{k}" for k in range(K)]
    for k, file in enumerate(files):
        state = trained(module, k)
        torch.save(state, file.with_suffix(".pt"))
        safetensors.torch.save_file(state, file.with_suffix(".safetensors"))
        add(store, space, [layout.pack_parameters({n: t.numpy() for n, t in state.items()})], [f"n{k}"])
    c = [(k + 1) / 45 for k in range(K)]
    with store.reading() as reader:
        nodes = reader.all(Node)

    def plain(_: int) -> Any:
        states = [torch.load(f.with_suffix(".pt"), weights_only=True) for f in files]
        return {name: sum(c[k] * states[k][name] for k in range(K)) for name in states[0]}

    def lazy(_: int) -> Any:
        opened = [safe_open(f.with_suffix(".safetensors"), "pt") for f in files]
        total = {}
        for name in opened[0].keys():  # noqa: SIM118  (not a mapping)
            total[name] = opened[0].get_tensor(name) * c[0]
            for k in range(1, K):
                total[name].add_(opened[k].get_tensor(name), alpha=c[k])
        return total

    def saved(function: Callable[[int], Any]) -> Callable[[int], Any]:
        def run(i: int) -> None:
            safetensors.torch.save_file(function(i), scratch / "sum.safetensors")

        return run

    def streamed(_: int) -> None:
        target = scratch / "sum.safetensors"
        stream_safetensors(target, layout, store.combination(c, nodes).stream, buffers, overwrite=True)

    def lazy_on_two(i: int) -> Any:
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            return lazy(i)
        finally:
            torch.set_num_threads(before)

    layout = Layout(layout.parameters)
    buffers: dict[str, Any] = {}
    contenders: dict[str, Callable[[int], Any]] = {
        "torch.load + sum": plain,
        "safetensors, lazily": lazy,
        "mgraph": lambda _: store.combination(c, nodes).run(),
        "mgraph, one thread": lambda _: store.combination(c, nodes).run(threads=1),
        "safetensors, two threads": lazy_on_two,  # last, since torch's second thread spins on for a while
    }
    show("sum of 9 × 11 M", timed(rounds, contenders))
    to_file = {"torch.load + sum": saved(plain), "safetensors, lazily": saved(lazy), "mgraph": streamed}
    show("the same, into a file", timed(rounds, to_file))


LARGE = Layout(tuple(TensorSpec(f"t{i}", (6_250_000,), "float32", "parameter") for i in range(24)))


def large(scratch: Path) -> None:
    """Σ c_k P_k of four nodes of 150 M parameters: time and peak memory, each way in a process of its own."""
    store, space = new_store(scratch / "large.mgraph", LARGE)
    rng = np.random.default_rng(0)
    for k in range(4):
        row = rng.standard_normal(LARGE.size, np.float32)
        add(store, space, [row], [f"n{k}"])
        state = {n: torch.from_numpy(v) for n, v in LARGE.parameter_views(row).items()}
        torch.save(state, scratch / f"large{k}.pt")
        safetensors.torch.save_file(state, scratch / f"large{k}.safetensors")
    del row, state
    base = None
    for way in ("torch.load + sum", "safetensors, lazily", "mgraph", "mgraph, into a file"):
        command = [sys.executable, __file__, "--child", way, "--scratch", str(scratch)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        base = base or found
        wall, cpu = 1000 * found["wall"], 1000 * found["cpu"]
        ratios = [found[k] / base[k] for k in ("wall", "cpu")]
        peak = found["peak"] / (4 * LARGE.size)
        numbers = f"{wall:>9.0f} {cpu:>9.0f} {ratios[0]:>7.2f} {ratios[1]:>7.2f} {peak:>6.2f}"
        print(f"{'sum of 4 × 150 M':>24} {way:>26} {numbers}")


def child(scratch: Path, way: str) -> None:
    """Do one large sum and say what it took; memory is what is neither file cache nor there at the start."""
    c = [0.1, 0.2, 0.3, 0.4]
    store = GraphStore.open(scratch / "large.mgraph")
    small, _ = new_store(scratch / f"warm{os.getpid()}.mgraph", LARGE)  # imports, threads
    shutil.rmtree(small.path)
    memory = Peak()
    wall, cpu = time.perf_counter(), time.process_time()
    if way == "torch.load + sum":
        states = [torch.load(scratch / f"large{k}.pt", weights_only=True) for k in range(4)]
        result: Any = {n: sum(c[k] * states[k][n] for k in range(4)) for n in states[0]}
    elif way == "safetensors, lazily":
        opened = [safe_open(scratch / f"large{k}.safetensors", "pt") for k in range(4)]
        result = {}
        for t in LARGE.tensors:
            result[t.name] = opened[0].get_tensor(t.name) * c[0]
            for k in range(1, 4):
                result[t.name].add_(opened[k].get_tensor(t.name), alpha=c[k])
    else:
        computation = store.combination(c, [f"n{k}" for k in range(4)])
        if way == "mgraph":
            result = computation.run()
        else:
            stream_safetensors(scratch / "sum.safetensors", LARGE, computation.stream, {}, overwrite=True)
    took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak": memory.stop()}
    print(json.dumps(took))


def many(scratch: Path, count: int, rounds: int) -> None:
    """List and filter a graph of very many nodes."""
    layout = Layout((TensorSpec("w", (3,), "float32", "parameter"),))
    store, space = new_store(scratch / "many.mgraph", layout)
    run = Run(new_id("r"), "train", "{}")
    (first,) = add(store, space, [np.ones(3, np.float32)], ["first"])
    for start in range(0, count, 20_000):
        with store.transaction() as tx:
            if start == 0:
                tx.add(run)
            for i in range(start, min(start + 20_000, count)):
                node = Node(new_id("s"), "sample", space.id, run.id, name=f"x{i}", kernel=1)
                tx.add(node, NodeTerm(node.id, 0, first.id, 1.0))
                tx.add(Evaluation(node.id, None, run.id, "test", "all", "none", "fp32", "accuracy", i / count, None, 9))

    def page(_: int) -> Any:
        return list_nodes(store, sort=["-created"], limit=100)

    def by_value(_: int) -> Any:
        return list_nodes(store, kinds=("sample",), where="test_accuracy > 0.999")

    def ids(_: int) -> Any:
        with store.reading() as reader:
            return reader.fetch("SELECT id, name FROM nodes WHERE kind = 'sample' ORDER BY created")

    def whole(_: int) -> Any:
        with store.reading() as reader:
            return reader.all(Node)

    contenders = {
        "newest 100": page,
        "0.1 % by accuracy": by_value,
        "ids and names of all": ids,
        "all as records": whole,
    }
    show(f"of {count} nodes", timed(rounds, contenders))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds, and no large sum")
    parser.add_argument("--scratch", type=Path, help="where to write some 7 GB (default: a temporary directory)")
    parser.add_argument("--parts", help="only some of ls, add, derived, sum, large, many, upkeep, with commas")
    parser.add_argument("--points", type=int, help="swept points of the graph that upkeep is measured on")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    quieten()
    if options.child:
        child(options.scratch, options.child)
        return
    rounds = 3 if options.quick else 9
    parts = {
        "ls": lambda at: starting(at, 5 if options.quick else 15),
        "add": lambda at: [add_and_read(at, *case) for case in cases(rounds)],
        "derived": lambda at: samples(at, rounds),
        "sum": lambda at: nine_nodes(at, rounds),
        "large": large,
        "many": lambda at: many(at, 10_000 if options.quick else 100_000, rounds),
        "upkeep": lambda at: upkeep(at, options.points or (10_000 if options.quick else 100_000)),
    }
    chosen = options.parts.split(",") if options.parts else [p for p in parts if not (options.quick and p == "large")]
    print(f"{invocation()}\n{machine()}\n")
    print(f"{'what':>24} {'way':>26} {'ms':>9} {'CPU ms':>9} {'ratio':>7} {'of CPU':>7}   peak in nodes")
    for part in chosen:
        with tempfile.TemporaryDirectory(dir=options.scratch) as directory:
            parts[part](Path(directory))


def cases(rounds: int) -> list[tuple[str, nn.Module, int, int, int]]:
    """Name the networks whose nodes are added and read: what, network, rounds of adding and of reading, nodes at
    once."""
    small = lenet5(input_shape=(1, 28, 28), classes=10)
    # A small node takes less than a millisecond, so more of them are read, each once: the second time takes less. A
    # large one takes as long each time.
    return [
        ("11 M", resnet18(), rounds, 5 * rounds, 1),
        ("60 k", small, 5 * rounds, 5 * rounds, 1),
        ("60 k, 48 at once", small, rounds, rounds, 48),
    ]


if __name__ == "__main__":
    main()
