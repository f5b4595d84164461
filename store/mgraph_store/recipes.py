"""Nodes that are computed: a derived node is a sum of others, a partial node has its own columns laid over one.

What a node depends on, sources of sources included, is looked up at once. Then it is computed chunk by chunk:
every node of the recipe has one chunk at a time in memory, and is read or summed once per chunk, no matter
how many others need it.
"""

from __future__ import annotations

import graphlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mgraph_store import columns
from mgraph_store.errors import CorruptError, FormatError, InputError
from mgraph_store.kernel import KERNEL_VERSION, active_terms, combine_into
from mgraph_store.reader import Reader
from mgraph_store.records import Node, NodeTerm
from mgraph_store.tensors import StoredArray


@dataclass(frozen=True)
class Recipe:
    """A node and its terms (coefficient, id of the source), those without effect left out; none: it is stored."""

    node: Node
    terms: tuple[tuple[np.float32, str], ...] = ()


def is_computed(node: Node) -> bool:
    """Say whether a node is derived or partial, so that reading its tensors is not enough."""
    return node.tensor_key is None or node.columns is not None


def look_up(reader: Reader, node: Node) -> list[Recipe]:
    """Read what a node depends on: sources before what they are summed to, the node itself last.

    Raises
    ------
    FormatError
        If a part needs another summation kernel.
    CorruptError
        If rows are missing, or refer to each other in a circle.
    """
    recipes: dict[str, Recipe] = {}
    level = [node]
    while level:
        computed = [n for n in level if is_computed(n)]
        terms: dict[str, list[NodeTerm]] = {n.id: [] for n in computed}
        if computed:
            for term in reader.all(NodeTerm, node_id=list(terms)):
                terms[term.node_id].append(term)
        recipes |= {n.id: Recipe(n, _terms(n, terms[n.id]) if n.id in terms else ()) for n in level}
        wanted = {source for n in computed for _, source in recipes[n.id].terms} - recipes.keys()
        level = reader.all(Node, id=list(wanted)) if wanted else []
        _check_sources(node, wanted, level)
    sources = {k: [source for _, source in r.terms] for k, r in recipes.items()}
    try:
        order = list(graphlib.TopologicalSorter(sources).static_order())
    except graphlib.CycleError:
        raise CorruptError(f"The recipe of node {node.id} runs in a circle: run `mgraph check`.") from None
    return [recipes[k] for k in order]


class Computation:
    """Computes the parameters of the last of some recipes, in the order of :func:`look_up`.

    ``open_stored`` opens the tensors of a stored or partial node.
    """

    def __init__(self, recipes: Sequence[Recipe], open_stored: Callable[[Node], StoredArray]) -> None:
        self._recipes = recipes
        self._arrays: dict[str, StoredArray] = {}
        self._columns: dict[str, columns.Ranges] = {}
        last_use: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for i, (node, terms) in enumerate((r.node, r.terms) for r in recipes):
            last_use |= {source: i for _, source in terms}
            if node.tensor_key is not None or node.columns is not None:
                self._arrays[node.id] = open_stored(node)
            sizes[node.id] = _common_size(terms, sizes) if terms else self._arrays[node.id].size
            if node.columns is not None:
                self._columns[node.id] = _stored_columns(node, self._arrays[node.id].size, sizes[node.id])
        self._done = [[k for k, last in last_use.items() if last == i] for i in range(len(recipes))]
        self.size = sizes[recipes[-1].node.id]
        self.chunk = next(self._arrays[r.node.id].chunk for r in recipes if not r.terms)

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Compute the elements from ``start`` up to ``stop``; a new array."""
        stop = self.size if stop is None else min(stop, self.size)
        out = np.empty(stop - start, np.float32)
        for first in range(start, stop, self.chunk):
            self._fill(out[first - start : first - start + self.chunk], first)
        return out

    def _fill(self, out: NDArray[np.float32], start: int) -> None:
        stop = start + out.shape[0]
        values: dict[str, NDArray[np.float32]] = {}
        for i, (node, terms) in enumerate((r.node, r.terms) for r in self._recipes):
            if terms:
                values[node.id] = out if i == len(self._recipes) - 1 else np.empty_like(out)
                used = [(c, values[source]) for c, source in terms if c != 0]
                combine_into(values[node.id], [c for c, _ in used], [row for _, row in used])
                del used
            else:
                values[node.id] = self._arrays[node.id].read(start, stop)
            if node.id in self._columns:
                before, ranges = columns.clip(self._columns[node.id], start, stop)
                if ranges:
                    own = self._arrays[node.id].read(before, before + columns.count(ranges))
                    columns.put(values[node.id], ranges, own)
            for source in self._done[i]:
                del values[source]


def _terms(node: Node, terms: Sequence[NodeTerm]) -> tuple[tuple[np.float32, str], ...]:
    if node.kernel != KERNEL_VERSION:
        raise FormatError(
            f"Node {node.id} needs version {node.kernel} of the summation kernel, this mgraph has "
            f"version {KERNEL_VERSION}: use the mgraph that wrote it."
        )
    if not terms:
        raise CorruptError(f"The recipe of node {node.id} is incomplete: run `mgraph check`.")
    active = [(c, terms[k].source_id) for k, c in active_terms([t.coefficient for t in terms])]
    return tuple(active) or ((np.float32(0), terms[0].source_id),)  # a sum of nothing still has a size


def _check_sources(node: Node, wanted: set[str], found: Sequence[Node]) -> None:
    if wanted != {n.id for n in found}:
        raise CorruptError(f"The recipe of node {node.id} is incomplete: run `mgraph check`.")
    for source in found:
        if source.tensor_key is None:
            raise CorruptError(f"Node {source.id} is the source of a sum, but has no tensors: run `mgraph check`.")


def _common_size(terms: Sequence[tuple[np.float32, str]], sizes: dict[str, int]) -> int:
    found = {sizes[source] for _, source in terms}
    if len(found) > 1:
        names = ", ".join(source for _, source in terms)
        raise CorruptError(f"The nodes {names} of one sum differ in size: run `mgraph check`.")
    return found.pop()


def _stored_columns(node: Node, stored: int, size: int) -> columns.Ranges:
    try:
        ranges = columns.from_json(node.columns or "")
    except InputError:
        raise CorruptError(f"The columns of partial node {node.id} cannot be read: run `mgraph check`.") from None
    if columns.count(ranges) != stored or ranges[-1][1] > size:
        raise CorruptError(
            f"Partial node {node.id} stores {stored} of {size} coordinates, which its columns do not fit: "
            "run `mgraph check`."
        )
    return ranges
