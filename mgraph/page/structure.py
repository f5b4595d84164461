"""How the modes of each space are connected: the edges of the node-link view, the tree of merges, and the matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mgraph.errors import InputError
from mgraph.page.plain import POINT_DIGITS, number, plain
from mgraph.query.criterion import QUANTITIES, Criterion
from mgraph.query.edges import ChangedMeanwhileError, CountingEdges, load_edges
from mgraph.query.matrix import best_edges, best_routes, leaf_order
from mgraph.query.metrics import criterion_in
from mgraph.query.tree import Dendrogram, dendrogram
from mgraph_store import GraphStore, Space

Row = dict[str, Any]
T = TypeVar("T")

MOST = 100
"""Modes of a space for which there are a tree and a matrix: with more there is no room for their names."""


def structures(store: GraphStore) -> list[Row]:
    """Return tree and matrix of every space whose modes have edges, by each quantity on the train split."""
    with store.reading() as reader:
        spaces = reader.all(Space, order="created, rowid")
    rows: list[Row] = []
    for space in spaces:
        found = (_structure(store, space, quantity) for quantity in QUANTITIES)
        rows += [row for row in found if row is not None]
    return rows


def _structure(store: GraphStore, space: Space, quantity: str) -> Row | None:
    try:
        criterion = criterion_in(store, space, by=quantity)
        tree, edges = steadily(lambda: _tree_and_edges(store, criterion, space))
    except ChangedMeanwhileError:
        raise
    except InputError:  # no edge was measured in this way: there is nothing to show
        return None
    row: Row = {"space": plain(space.name), "quantity": quantity, "criterion": str(criterion)}
    if len(tree.leaves) > MOST:
        return row | {"modes": len(tree.leaves), "left_out": True}
    order = leaf_order(tree)
    both = np.ix_(order, order)
    return row | {
        "leaves": [leaf.id for leaf in tree.leaves],
        "own": [None if np.isnan(value) else number(float(value)) for value in tree.own],
        "linkage": [[int(a), int(b), number(value), int(n)] for a, b, value, n in tree.linkage.tolist()],
        "notes": plain(tree.notes),
        "order": [tree.leaves[i].id for i in order],
        "direct": _lines(best_edges(edges, quantity)[both]),
        "best": _lines(best_routes(edges.arrays)[both]),
    }


def _tree_and_edges(store: GraphStore, criterion: Criterion, space: Space) -> tuple[Dendrogram, CountingEdges]:
    tree, edges = dendrogram(store, criterion, space), load_edges(store, criterion, space)
    if [leaf.id for leaf in tree.leaves] != edges.ids.tolist():
        raise ChangedMeanwhileError("The graph was changed while it was read; try again.")
    return tree, edges


def _lines(values: NDArray[np.float64]) -> list[list[Any]]:
    return [[None if np.isnan(v) else number(float(v), POINT_DIGITS) for v in line] for line in values]


def steadily(ask: Callable[[], T], times: int = 5) -> T:
    """Ask again if the graph was changed between two readings of one question, as by a run under way."""
    for _ in range(times - 1):
        try:
            return ask()
        except ChangedMeanwhileError:
            continue
    return ask()
