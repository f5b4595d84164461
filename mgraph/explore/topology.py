"""Components over the stored edges (DuckDB for the rows, SciPy for the graph)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mgraph.errors import InputError
from mgraph_store import Connection, Edge, GraphStore, Node, Space, Sweep

QUANTITIES = ("barrier", "peak", "drop")
METRICS = ("loss", "error")
NODE_KINDS = ("mode", "merged")


@dataclass(frozen=True)
class Threshold:
    """When an edge counts: a quantity of a metric on a split that is at most ``limit``."""

    quantity: str
    limit: float
    metric: str = "loss"
    split: str = "train"

    def __post_init__(self) -> None:
        if self.quantity not in QUANTITIES:
            raise InputError(f"An edge has a {', '.join(QUANTITIES)}, not a {self.quantity!r}.")
        if self.metric not in METRICS:
            raise InputError(f"Edges are measured by {' or '.join(METRICS)}, not {self.metric!r}.")
        if self.split not in ("train", "valid", "test"):
            raise InputError(f"There is no split {self.split!r}; choose from train, valid, test.")
        if not np.isfinite(self.limit):
            raise InputError(f"A threshold is a finite number, not {self.limit}.")


@dataclass(frozen=True)
class Components:
    """Groups of connected nodes, largest first, and the edges below the threshold."""

    threshold: Threshold
    groups: list[list[Node]]
    edges: list[Edge]
    connections: dict[str, Connection]


def threshold_from(
    *,
    max_barrier: float | None = None,
    max_peak: float | None = None,
    max_drop: float | None = None,
    metric: str | None = None,
    split: str = "train",
) -> Threshold:
    """Build the threshold from exactly one limit; drops are of accuracy unless a metric is named."""
    given = [
        (quantity, limit)
        for quantity, limit in (("barrier", max_barrier), ("peak", max_peak), ("drop", max_drop))
        if limit is not None
    ]
    if len(given) != 1:
        raise InputError("Give exactly one of --max-barrier, --max-peak and --max-drop.")
    ((quantity, limit),) = given
    if metric == "accuracy":
        metric = "error"
    return Threshold(quantity, limit, metric or ("error" if quantity == "drop" else "loss"), split)


def current_edges(
    store: GraphStore, space: Space | None = None, *, metric: str | None = None, split: str | None = None
) -> list[Edge]:
    """Return the edges that count: of every connection and pair, those of its finest sweep.

    A coarse sweep can miss a barrier that a finer one found, so the finer one replaces it. Of equally fine ones the
    one on more examples counts, then the one in full precision, then the newest.
    """
    with store.reading() as reader:
        filters: dict[str, Any] = {k: v for k, v in (("metric", metric), ("split", split)) if v is not None}
        edges = reader.all(Edge, **filters)
        sweeps = {s.id: s for s in reader.all(Sweep)}
        if space is not None:
            inside = {c.id for c in reader.all(Connection, space_id=space.id)}
            edges = [e for e in edges if e.connection_id in inside]
    best: dict[tuple[str, ...], Edge] = {}
    for edge in edges:
        key = (edge.connection_id, edge.source_id, edge.target_id, edge.split, edge.metric)
        if key not in best or _weight(edge, sweeps) >= _weight(best[key], sweeps):
            best[key] = edge
    return list(best.values())


def _weight(edge: Edge, sweeps: Mapping[str, Sweep]) -> tuple[Any, ...]:
    sweep = sweeps[edge.sweep_id]
    return (int(np.prod(sweep.grid)), edge.examples, edge.precision in ("fp32", "fp64"), sweep.created)


def components(store: GraphStore, threshold: Threshold, space: Space | None = None) -> Components:
    """Group modes that are joined by edges whose quantity is at most the limit.

    A non-finite edge is no edge, nor is one of a failed connection. Raises InputError on a graph without any
    edge for that metric and split, saying what to sweep.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = current_edges(store, space, metric=threshold.metric, split=threshold.split)
    if not edges:
        raise InputError(
            f"The graph has no edge with a {threshold.split} {threshold.metric}; connect modes first "
            f"(mgraph connect A B --linear), or sweep a connection (mgraph sweep CONN)."
        )
    touched = {n for e in edges for n in (e.source_id, e.target_id)}
    with store.reading() as reader:
        everything = {c.id: c for c in reader.all(Connection, id=list({e.connection_id for e in edges}))}
        nodes = [
            n
            for n in reader.all(Node, kind=list(NODE_KINDS))
            # Of another space only what --same-layout connected to this one.
            if n.id in touched or (n.kind == "mode" and (space is None or n.space_id == space.id))
        ]
    below = [
        e
        for e in edges
        if everything[e.connection_id].status != "failed"
        and _value(e, threshold) <= threshold.limit  # NaN compares false
    ]
    connections = {e.connection_id: everything[e.connection_id] for e in below}
    place = {n.id: i for i, n in enumerate(nodes)}
    rows = [place[e.source_id] for e in below]
    columns = [place[e.target_id] for e in below]
    adjacency = coo_array((np.ones(len(below)), (rows, columns)), shape=(len(nodes), len(nodes)))
    _, labels = connected_components(adjacency, directed=False)
    groups: dict[int, list[Node]] = {}
    for node, group in zip(nodes, labels.tolist(), strict=True):
        groups.setdefault(group, []).append(node)
    ordered = sorted(groups.values(), key=lambda g: (-len(g), place[g[0].id]))
    return Components(threshold, ordered, sorted(below, key=lambda e: _value(e, threshold)), connections)


def _value(edge: Edge, threshold: Threshold) -> float:
    return float(getattr(edge, threshold.quantity))


def to_networkx(store: GraphStore, space: Space | None = None) -> Any:
    """Return a networkx MultiGraph: modes and merged nodes, and every edge that counts and has not failed.

    Edge keys are (connection id, split, metric); attributes are peak, barrier, drop, length and resolution.
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
            **dict(_numbers(edge)),
        )
    return graph


def _numbers(edge: Edge) -> Iterator[tuple[str, Any]]:
    for name in ("split", "metric", "peak", "barrier", "drop", "length", "resolution", "examples"):
        yield name, getattr(edge, name)
