"""What reading derived samples of a small network costs, beside loading their files; a part of ``store.py``.

They are the points of a swept surface of nine control points. A store that has just been opened reads all of them, one
after the other, or only one of them: from the second on, many points are looked up at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import mgraph
from mgraph_store import GraphStore, Node

ARCH = "mlp?hidden=800,"  # 60 thousand parameters, as LeNet-5 has

SIDE = 9
"""Points of the sweep along each side."""

Readers = dict[str, Callable[[int], Any]]


def derived(scratch: Path) -> tuple[Readers, Readers, int]:
    """Sweep a surface; return what reads all of its samples, what reads one, and how many there are."""
    g = mgraph.create(scratch / "derived.mgraph", arch=ARCH, data="digits", device="cpu")
    for seed, name in enumerate("abcd"):
        g.train(seed=seed, epochs=1, name=name)
    g.connect(*"abcd", method=mgraph.BezierSurface(epochs=1), grid=SIDE)
    path, store = Path(g.path), GraphStore.open(g.path)
    with store.reading() as reader:
        samples = [node.id for node in reader.all(Node, kind="sample")]
    first, *_ = store.tensors(samples[0])
    for sample in samples:
        torch.save({n: torch.from_numpy(v.copy()) for n, v in store.tensors(sample).items()}, scratch / f"{sample}.pt")

    def load(sample: str) -> Any:
        return torch.load(scratch / f"{sample}.pt", weights_only=True)

    def each(read: Callable[[GraphStore, str], Any]) -> Callable[[int], Any]:
        def run(_: int) -> None:
            fresh = GraphStore(path)
            for sample in samples:
                read(fresh, sample)

        return run

    def one_tensor(store: GraphStore, sample: str) -> Any:
        return store.tensors(sample)[first]

    everything: Readers = {
        "torch.load": each(lambda _, sample: load(sample)),
        "mgraph": each(GraphStore.read_parameters),
        "mgraph, one tensor": each(one_tensor),
    }
    alone: Readers = {
        "torch.load": lambda i: load(samples[i % len(samples)]),
        "mgraph": lambda i: GraphStore(path).read_parameters(samples[i % len(samples)]),
        "mgraph, one tensor": lambda i: one_tensor(GraphStore(path), samples[i % len(samples)]),
        "mgraph, a mode by name": lambda i: GraphStore(path).read_parameters("abcd"[i % 4]),
    }
    return everything, alone, len(samples)
