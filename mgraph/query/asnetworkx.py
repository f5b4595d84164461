"""Conversion to networkx."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mgraph.query.criterion import NODE_KINDS
from mgraph.query.edges import current_edges
from mgraph_store import Connection, Edge, GraphStore, Node, Space


def to_networkx(store: GraphStore, space: Space | None = None) -> Any:
    """Return a networkx MultiGraph: modes and merged nodes, and every edge that counts and has not failed.

    Edge keys are (connection id, split, metric); attributes are connection (its name), method, peak, barrier, drop,
    length, resolution, examples, batchnorm, precision and chosen_on.
    """
    import networkx as nx

    graph = nx.MultiGraph(path=str(store.path))
    with store.reading() as reader:
        nodes = {n.id: n for n in reader.all(Node, kind=list(NODE_KINDS))}
        connections = {c.id: c for c in reader.all(Connection)}
    edges = [e for e in current_edges(store, space) if connections[e.connection_id].status != "failed"]
    touched = {n for e in edges for n in (e.source_id, e.target_id)}
    for node in nodes.values():
        if space is None or node.space_id == space.id or node.id in touched:
            graph.add_node(node.id, name=node.name, kind=node.kind, space=node.space_id)
    for edge in edges:
        connection = connections[edge.connection_id]
        graph.add_edge(
            edge.source_id,
            edge.target_id,
            key=(edge.connection_id, edge.split, edge.metric),
            connection=connection.name or connection.id,
            method=connection.kind,
            **dict(_attributes(edge)),
        )
    return graph


_ATTRIBUTES = (
    *("split", "metric", "peak", "barrier", "drop", "length"),
    *("resolution", "examples", "batchnorm", "precision", "chosen_on"),
)


def _attributes(edge: Edge) -> Iterator[tuple[str, Any]]:
    for name in _ATTRIBUTES:
        yield name, getattr(edge, name)
