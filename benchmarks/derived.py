"""What reading a derived sample of a small network costs, beside loading its file; a part of ``store.py``.

The samples are points of a swept surface of nine control points, each read once; the sums are verified like all else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import mgraph
from mgraph_store import GraphStore, Node

ARCH = "mlp?hidden=800,"  # 60 thousand parameters, as LeNet-5 has

SIDE = 7
"""Points of the sweep along each side."""


def derived(scratch: Path) -> dict[str, Callable[[int], Any]]:
    """Sweep a surface; return what reads one of its samples in every way, in each round another."""
    g = mgraph.create(scratch / "derived.mgraph", arch=ARCH, data="digits", device="cpu")
    for seed, name in enumerate("abcd"):
        g.train(seed=seed, epochs=1, name=name)
    g.connect(*"abcd", method=mgraph.BezierSurface(epochs=1), grid=SIDE)
    store = GraphStore.open(g.path)
    with store.reading() as reader:
        samples = [node.id for node in reader.all(Node, kind="sample")]
    for i, sample in enumerate(samples):
        torch.save({n: torch.from_numpy(v.copy()) for n, v in store.tensors(sample).items()}, scratch / f"{i}.pt")
    store = GraphStore.open(g.path)  # anew: nothing of it has been read
    names = list(store.tensors(samples[0]))
    return {
        "torch.load": lambda i: torch.load(scratch / f"{max(i, 0)}.pt", weights_only=True),
        "mgraph": lambda i: store.read_parameters(samples[max(i, 0)]),
        "mgraph, by tensors": lambda i: dict(store.tensors(samples[max(i, 0)])),
        "mgraph, one tensor": lambda i: store.tensors(samples[max(i, 0)])[names[0]],
        "mgraph, a mode by name": lambda i: store.read_parameters("abcd"[i % 4]),
    }
