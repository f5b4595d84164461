"""Which modes are connected within a limit, which neighbours a mode has, and which modes have none."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from mgraph.errors import InputError
from mgraph.notebook import InNotebook
from mgraph.query.criterion import NODE_KINDS, Criterion
from mgraph.query.edges import CountingEdges, Link, Vertex, load_edges, rows_of
from mgraph.query.remarks import remarks
from mgraph_store import Connection, GraphStore, Member, Node, Reader, Space


@dataclass(frozen=True, eq=False)
class Components(InNotebook):
    """Groups of connected vertices, and the edges within the limit."""

    counting: CountingEdges
    labels: NDArray[np.int64]
    store: GraphStore

    @override
    def _shown(self) -> dict[str, Any]:
        groups = [{"component": i, "nodes": [v.label for v in group]} for i, group in enumerate(self.groups, start=1)]
        facts = {"threshold": str(self.criterion), "notes": self.notes}
        return facts | {"components": groups, "edges": rows_of(self.edges)}

    @property
    def criterion(self) -> Criterion:
        """What counts as an edge."""
        return self.counting.criterion

    def __len__(self) -> int:
        """Count the components."""
        return int(self.labels.max()) + 1 if len(self.labels) else 0

    @cached_property
    def groups(self) -> list[list[Vertex]]:
        """The components, largest first, then those with the oldest vertex; each oldest vertex first."""
        by_label = np.argsort(self.labels, kind="stable")
        parts = np.split(by_label, np.cumsum(np.bincount(self.labels))[:-1]) if len(by_label) else []
        return [[self.counting.vertex(i) for i in part.tolist()] for part in sorted(parts, key=lambda p: -len(p))]

    @cached_property
    def edges(self) -> list[Link]:
        """The edges within the limit, best first."""
        from mgraph.query.arrays import ranking

        with self.store.reading() as reader:
            return self.counting.links(reader, ranking(self.counting.arrays))

    @cached_property
    def notes(self) -> list[str]:
        """What a reader should know about these edges, one sentence each: see :mod:`mgraph.query.remarks`."""
        return remarks(self.store, self.counting, self.edges)


class Neighbours(list[Link], InNotebook):
    """The best edge to each neighbour, best first, and in ``notes`` what a reader should know about them."""

    @override
    def _shown(self) -> dict[str, Any]:
        return {"edges": rows_of(self), "notes": self.notes}

    def __init__(self, links: list[Link], notes: list[str]) -> None:
        super().__init__(links)
        self.notes = notes


def components(store: GraphStore, criterion: Criterion, space: Space | None = None) -> Components:
    """Group modes, and merged nodes connected to them, by the edges that count within the criterion's limit.

    Raises InputError, saying what to sweep, if no edge was measured in this way.
    """
    from mgraph.query.arrays import labels

    edges = load_edges(store, criterion, space)
    return Components(edges, labels(edges.arrays), store)


def neighbours(store: GraphStore, criterion: Criterion, node: Node, space: Space | None = None) -> Neighbours:
    """Return the best edge from a node to each of its neighbours, best first, the node as its source."""
    from mgraph.query.arrays import ranking

    edges = load_edges(store, criterion, space)
    here = place_of(edges, node)
    a = edges.arrays
    mine = np.flatnonzero(((a.source == here) | (a.target == here)) & (a.source != a.target))
    best: dict[int, int] = {}
    for i in mine[ranking(a.take(mine))].tolist():
        best.setdefault(int(a.target[i] if a.source[i] == here else a.source[i]), i)
    with store.reading() as reader:
        links = edges.links(reader, list(best.values()))
    links = [link.turned() if link.target.id == node.id else link for link in links]
    return Neighbours(links, remarks(store, edges, links))


def isolated(store: GraphStore, criterion: Criterion, space: Space | None = None) -> list[dict[str, Any]]:
    """Return the modes without an edge that counts: ``vertex``, ``reason``, and the ``lowest`` value beyond the limit.

    They are sorted oldest first. Raises InputError if no edge was measured in this way.
    """
    edges = load_edges(store, criterion.without_limit(), space)
    a, limit = edges.arrays, criterion.limit
    proper = a.source != a.target
    lowest = np.full(edges.size, np.inf)
    for end in (a.source, a.target):
        np.minimum.at(lowest, end[proper], a.value[proper])
    alone = np.flatnonzero(np.isinf(lowest) if limit is None else lowest > limit)
    with store.reading() as reader:
        members = reader.all(Member, role="end", node_id=edges.ids[alone].tolist()) if len(alone) else []
        failed = {c.id for c in reader.all(Connection, status="failed")} if members else set()
        doubted = _connections_of(reader, edges.doubted)
    ends: dict[str, set[str]] = {}
    for member in members:
        ends.setdefault(member.node_id, set()).add(member.connection_id)
    rows = []
    for i in alone.tolist():
        vertex, value = edges.vertex(i), float(lowest[i])
        joined = ends.get(vertex.id, set())
        if np.isfinite(value):
            reason = f"the lowest {criterion.quantity} is above the limit"
        elif not joined:
            reason = "not connected to anything"
        elif joined <= failed:
            reason = "every connection failed"
        elif joined <= failed | doubted:
            reason = "its edges are doubtful and do not count"
        else:
            reason = f"no edge has a finite {criterion.split} {criterion.metric}" + (
                " that is certified" if criterion.certified else ""
            )
        rows.append({"vertex": vertex, "reason": reason, "lowest": value if np.isfinite(value) else None})
    return rows


def _connections_of(reader: Reader, lines: NDArray[np.int64]) -> set[str]:
    sql = "SELECT DISTINCT connection_id FROM edges WHERE rowid IN (SELECT unnest(?::BIGINT[]))"
    return {row[0] for row in reader.query(sql, [lines.tolist()])[1]} if len(lines) else set()


def place_of(edges: CountingEdges, node: Node) -> int:
    """Return the number of a node among the vertices; InputError if it cannot have edges."""
    if node.kind not in NODE_KINDS:
        raise InputError(f"{node.name or node.id} is a {node.kind}; edges join modes and merged nodes.")
    return edges.index(node.id)
