"""One machine of several that share a graph, to be killed: it adds modes whose names others want too."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from mgraph_store import GraphStore, Node, Space, new_id
from mgraph_store.errors import NameTakenError
from mgraph_store.machines import join

SIZE = 17


def machine(folder: str, place: str, owner: str) -> GraphStore:
    """Open this machine's directory, or join the graph."""
    path = Path(folder, f"{owner}.mgraph")
    return GraphStore.open(path, lock_timeout=30) if path.exists() else join(path, place, lock_timeout=30)


def names(store: GraphStore) -> dict[str, str]:
    """Map the names of modes to their digests, as this machine sees them now."""
    with store.reading() as reader:
        return {str(n.name): str(n.digest) for n in reader.all(Node)}


def add(store: GraphStore, name: str, seed: int) -> str:
    """Add a mode with random parameters; return its digest."""
    with store.reading() as reader:
        space = reader.all(Space)[0]
    row = np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)
    with store.transaction() as tx:
        (ref,) = tx.write_parameters([row])
        made = Node(new_id("m"), "mode", space.id, name=name, tensor_key=ref.key, tensor_row=ref.row, digest=ref.digest)
        tx.add(made if ref.nbytes == 0 else _with_size(made, ref.nbytes))
    return ref.digest


def _with_size(node: Node, nbytes: int) -> Node:
    from dataclasses import replace

    return replace(node, nbytes=nbytes)


def work(folder: str, place: str, owner: str, until: int, skew: float = 0.0) -> None:
    """Add modes until there are so many; say which ones in ``folder``/``owner``.said when they are stored.

    Names are tried in order from what this machine has seen when it last succeeded, so most are contested.
    """
    true_time = time.time
    time.time = lambda: true_time() + skew
    store, said, lost = machine(folder, place, owner), Path(folder, f"{owner}.said"), Path(folder, f"{owner}.lost")
    said.touch()
    number, seed = len(names(store)), hash((owner, true_time())) % (1 << 30)
    while number < until:
        seed += 1
        try:
            digest = add(store, f"n{number}", seed)
        except NameTakenError:
            with lost.open("a") as file:
                file.write(f"n{number}\n")
        else:
            with said.open("a") as file:
                file.write(f"n{number} {digest}\n")
        number += 1
