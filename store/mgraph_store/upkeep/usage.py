"""Measuring where the bytes of a graph are, and what recipes and sharing save."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mgraph_store.rows.layout import Layout
from mgraph_store.rows.records import Connection, Member, Node, NodeBuffers, Space

if TYPE_CHECKING:
    from mgraph_store.store import GraphStore


@dataclass
class Share:
    """What some nodes take: their number, how many have tensors, bytes if each were a file, bytes on disk."""

    nodes: int = 0
    stored: int = 0
    whole: int = 0
    disk: float = 0.0

    def add(self, stored: bool, whole: int, disk: float) -> None:
        """Count one more node."""
        self.nodes += 1
        self.stored += stored
        self.whole += whole
        self.disk += disk


@dataclass(frozen=True)
class Usage:
    """Bytes of a graph: of nodes by kind and by connection, of buffers, of garbage, and of the other files."""

    kinds: dict[str, Share]
    connections: dict[str, Share]
    names: dict[str, str | None]
    buffers: Share
    garbage: int
    files: dict[str, int]


def measure(store: GraphStore) -> Usage:
    """Add up what is on disk. A tensor object that several rows share is divided among them.

    ``whole`` counts a node as its parameters in float32, as a checkpoint file would hold them; a connection has the
    nodes that belong to it, not the modes at its ends.
    """
    sizes = store.tensor_store.sizes()
    with store.reading() as reader:
        nodes = reader.all(Node)
        buffers = reader.all(NodeBuffers)
        spaces = {s.id: 4 * Layout.from_json(s.layout).size for s in reader.all(Space)}
        names = {c.id: c.name for c in reader.all(Connection)}
        members = {m.node_id: m.connection_id for m in reader.all(Member, where="role <> 'end'")}
        used = reader.tensor_keys()
    weight: dict[str, int] = defaultdict(int)
    rows: list[Node | NodeBuffers] = [*nodes, *buffers]
    for row in rows:
        if row.tensor_key is not None:
            weight[row.tensor_key] += row.nbytes

    def disk(row: Node | NodeBuffers) -> float:
        key = row.tensor_key
        return sizes.get(key, 0) * row.nbytes / weight[key] if key is not None and weight[key] else 0.0

    kinds: dict[str, Share] = defaultdict(Share)
    connections: dict[str, Share] = defaultdict(Share)
    for node in nodes:
        shares = [kinds[node.kind]]
        if node.id in members and node.kind not in ("mode", "merged"):
            shares.append(connections[members[node.id]])
        for share in shares:
            share.add(node.tensor_key is not None, spaces.get(node.space_id, 0), disk(node))
    statistics = Share()
    for row in buffers:
        statistics.add(True, row.nbytes, disk(row))
    parts = {n: store.folder.tree_size(n) for n in store.folder.entries() if n != store.tensor_store.name}
    return Usage(
        dict(kinds),
        dict(connections),
        names,
        statistics,
        sum(size for key, size in sizes.items() if key not in used),
        parts,
    )
