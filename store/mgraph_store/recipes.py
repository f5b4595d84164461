"""Computed nodes: a derived node is a sum of others; a partial node replaces some columns of such a sum.

What a node depends on, including sources of sources, is looked up at once. Then it is computed chunk by chunk, and
every node of the recipe is read or summed once per chunk, no matter how many others need it.
"""

from __future__ import annotations

import contextlib
import copy
import graphlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mgraph_store.errors import CorruptError, FormatError, InputError
from mgraph_store.index.reader import Reader
from mgraph_store.rows import columns
from mgraph_store.rows.limits import RECIPE_DEPTH, RECIPE_NODES
from mgraph_store.rows.records import Node, NodeTerm
from mgraph_store.tensors.arrays import StoredArray
from mgraph_store.tensors.chunkfiles import ChunkStream
from mgraph_store.tensors.kernel import BLOCK, KERNEL_VERSION, active_terms, add_term, kernel_step
from mgraph_store.tensors.memory import new_array
from mgraph_store.tensors.threads import THREADS, deal

_MOST_HELD = 64  # folders, of the thousand or so that a process may have open

STREAM_BLOCK = 1 << 18
"""Elements that are read and summed at a time: output and one row stay in the cache, and the threads, which hand Python
to each other after every step, do so seldom."""


_TOGETHER = 256  # points of a sweep that are looked up together: in twice the time of one
_BLOCKS = 8  # blocks of a sweep that these may be in: points of an edge have other terms, so they are in others


@dataclass(frozen=True)
class Recipe:
    """A node and its terms (coefficient, id of the source), without those that have no effect; none if it is stored."""

    node: Node
    terms: tuple[tuple[np.float32, str], ...] = ()


_Recipes = dict[str, list[Recipe]]


def sum_of_stored(total: Node, terms: Sequence[NodeTerm], sources: Sequence[Node]) -> list[Recipe]:
    """Return what :func:`look_up` would for a node whose sources are known and all stored."""
    active = _terms(total, terms)
    used = {source for _, source in active}
    recipes = {n.id: Recipe(n) for n in sources if n.id in used}
    return [*recipes.values(), Recipe(total, active)]


def is_computed(node: Node) -> bool:
    """Return whether a node is derived or partial, so that reading its tensors is not enough."""
    return node.tensor_key is None or node.columns is not None


def look_up(reader: Reader, node: Node, given: Sequence[NodeTerm] | None = None) -> list[Recipe]:
    """Read what a node depends on: sources before what they are summed to, the node itself last.

    A node that is not stored comes with its terms.

    Raises
    ------
    FormatError
        If a part needs another summation kernel.
    CorruptError
        If rows are missing or refer to each other in a circle.
    """
    return _looked_up(reader, [node], given)[node.id]


def look_up_beside(reader: Reader, node: Node, others: Sequence[Node]) -> _Recipes:
    """Read what a node depends on, as :func:`look_up` does, and with the same queries what others do: by id.

    The others are left out if one of them cannot be computed.
    """
    if others:
        with contextlib.suppress(CorruptError, FormatError):  # of a node that nobody has asked for
            return _looked_up(reader, [node, *others], None)
    return _looked_up(reader, [node], None)


def _looked_up(reader: Reader, nodes: Sequence[Node], given: Sequence[NodeTerm] | None) -> _Recipes:
    first = nodes[0]
    recipes: dict[str, Recipe] = {}
    level, depth = list(nodes), 0
    while level:
        depth += 1
        if depth > RECIPE_DEPTH or len(recipes) > RECIPE_NODES:
            raise CorruptError(
                f"Node {first.id} cannot be computed: its recipe is more than {RECIPE_DEPTH} sums deep, or names over "
                f"{RECIPE_NODES} nodes."
            )
        computed = [n for n in level if is_computed(n)]
        terms: dict[str, list[NodeTerm]] = {n.id: [] for n in computed}
        for term in given if given is not None and depth == 1 else _terms_of(reader, terms):
            terms[term.node_id].append(term)
        recipes |= {n.id: Recipe(n, _terms(n, terms[n.id]) if n.id in terms else ()) for n in level}
        wanted = {source for n in computed for _, source in recipes[n.id].terms} - recipes.keys()
        level = reader.all(Node, id=list(wanted)) if wanted else []
        _check_sources(first, wanted, level)
    return {node.id: _in_order(node, recipes) for node in nodes}


def _in_order(node: Node, recipes: Mapping[str, Recipe]) -> list[Recipe]:
    """Put what a node depends on before it, and so on."""
    sources: dict[str, list[str]] = {}
    left = [node.id]
    while left:
        current = left.pop()
        if current not in sources:
            sources[current] = [source for _, source in recipes[current].terms]
            left += sources[current]
    try:
        order = list(graphlib.TopologicalSorter(sources).static_order())
    except graphlib.CycleError:
        raise CorruptError(f"The recipe of node {node.id} is circular: run `mgraph check`.") from None
    return [recipes[k] for k in order]


def others_near(reader: Reader, node: Node) -> list[Node]:
    """Find other points of the sweep that a point belongs to, some hundreds; none if it is no swept point.

    Whoever reads a second point often reads the others, and to look up many takes no longer than to look up two.
    """
    if node.tensor_key is not None:
        return []
    # Of its own block from a multiple of that number on, so that it does not matter in which order points are read.
    sql = f"""WITH own AS (
    SELECT id, connection_id, place - (place - 1) % {_TOGETHER} AS first
    FROM (SELECT id, connection_id, list_position(node_ids, ?) AS place FROM point_blocks)
    WHERE place > 0
), near AS (
    SELECT node_ids, if(b.id = own.id, first, 1) AS first, b.id = own.id AS is_own
    FROM point_blocks b JOIN own ON b.connection_id = own.connection_id
    ORDER BY is_own DESC, b.id LIMIT {_BLOCKS}
)
SELECT unnest(node_ids[first:first + {_TOGETHER - 1}]) FROM near ORDER BY is_own DESC LIMIT {_TOGETHER}"""
    _, rows = reader.query(sql, [node.id])
    others = [r for (r,) in rows if r != node.id]
    return [n for n in reader.all(Node, id=others) if n.tensor_key is None] if others else []


class Computation:
    """Computes the parameters of the last of some recipes, given in the order of :func:`look_up`.

    ``open_stored`` opens the tensors of a stored or partial node. Several threads each work on one chunk, and the
    memory they need does not grow with the nodes: two or three chunks each, and one more for every node that several
    others refer to or that is itself a sum.
    """

    size: int
    """D, the number of coordinates."""

    chunk: int
    """How many of them are computed at a time."""

    def __init__(self, recipes: Sequence[Recipe], open_stored: Callable[[Node], StoredArray]) -> None:
        self._recipes = recipes
        self._arrays: dict[str, StoredArray] = {}
        self._columns: dict[str, columns.Ranges] = {}
        uses: dict[str, list[int]] = {}
        sizes: dict[str, int] = {}
        for i, (node, terms) in enumerate((r.node, r.terms) for r in recipes):
            for _, source in terms:
                uses.setdefault(source, []).append(i)
            if node.tensor_key is not None or node.columns is not None:
                self._arrays[node.id] = open_stored(node)
            sizes[node.id] = _common_size(terms, sizes) if terms else self._arrays[node.id].size
            if node.columns is not None:
                self._columns[node.id] = _stored_columns(node, self._arrays[node.id].size, sizes[node.id])
        # A stored node that is used once is read only when its turn in the sum comes.
        self._passing = {r.node.id for r in recipes[:-1] if not r.terms and len(uses[r.node.id]) == 1}
        kept = {k: max(at) for k, at in uses.items() if k not in self._passing}
        self._done = [[k for k, last in kept.items() if last == i] for i in range(len(recipes))]
        self.size = sizes[recipes[-1].node.id]
        self.chunk = next(self._arrays[r.node.id].chunk for r in recipes if not r.terms)

    def run(self, threads: int = THREADS) -> NDArray[np.float32]:
        """Compute all; a new array of shape (D,)."""
        out = _new(self.size)
        with self._held() as held:

            def work(starts: Iterator[int]) -> None:
                scratch = _Scratch(min(self.chunk, self.size))
                for start in starts:
                    held._fill(out[start : start + self.chunk], start, scratch)

            deal(range(0, self.size, self.chunk), work, threads)
        return out

    def stream(self, write: Callable[[int, NDArray[np.float32]], None], threads: int = THREADS) -> None:
        """Compute everything and pass it on in chunks, ``write(offset, values)``, from ``threads`` threads, in no fixed
        order.

        The values are overwritten when ``write`` returns.
        """

        with self._held() as held:

            def work(starts: Iterator[int]) -> None:
                length = min(self.chunk, self.size)
                out, scratch = _new(length), _Scratch(length)
                for start in starts:
                    part = out[: min(self.chunk, self.size - start)]
                    held._fill(part, start, scratch)
                    write(start, part)

            deal(range(0, self.size, self.chunk), work, threads)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Compute only the coordinates from ``start`` up to ``stop``; a new array."""
        out = _new(stop - start)
        scratch = _Scratch(min(self.chunk, out.shape[0]))
        while start < stop:  # to the end of a chunk, because one read in parts is read that many times
            end = min(stop, (start // self.chunk + 1) * self.chunk)
            self._fill(out[out.shape[0] - (stop - start) :][: end - start], start, scratch)
            start = end
        return out

    @contextlib.contextmanager
    def _held(self) -> Iterator[Computation]:
        """Return the same computation for a block, with the folders of some arrays held open, if they have more than
        one chunk: threads hand Python on to each other at every folder that one of them opens."""
        with contextlib.ExitStack() as opened:
            held = copy.copy(self)
            if self.size > self.chunk:
                near = itertools.islice(self._arrays.items(), _MOST_HELD)
                held._arrays = self._arrays | {k: opened.enter_context(array.holding()) for k, array in near}
            yield held

    def _fill(self, out: NDArray[np.float32], start: int, scratch: _Scratch) -> None:
        stop = start + out.shape[0]
        values: dict[str, NDArray[np.float32]] = {}
        for i, (node, terms) in enumerate((r.node, r.terms) for r in self._recipes):
            if node.id in self._passing:
                continue
            value = out if i == len(self._recipes) - 1 else scratch.take(out.shape[0])
            if terms:
                self._sum(value, [(c, s) for c, s in terms if c != 0], values, start, scratch)
            else:
                self._arrays[node.id].read_into(value, start)
            if node.id in self._columns:
                before, ranges = columns.clip(self._columns[node.id], start, stop)
                if ranges:
                    own = self._arrays[node.id].read(before, before + columns.count(ranges))
                    columns.put(value, ranges, own)
            values[node.id] = value
            for source in self._done[i]:
                scratch.give_back(values.pop(source))

    def _sum(
        self,
        out: NDArray[np.float32],
        terms: Sequence[tuple[np.float32, str]],
        values: Mapping[str, NDArray[np.float32]],
        start: int,
        scratch: _Scratch,
    ) -> None:
        # Like kernel.combine_into, but a stored node is read only when its turn comes.
        if not terms:
            out[...] = 0
        elif len(terms) == 1 and terms[0][0] == 1:
            self._copy(out, terms[0][1], values, start)
        elif all(s not in self._passing or self._arrays[s].is_chunk(start, start + out.shape[0]) for _, s in terms):
            self._sum_blocks(out, terms, values, start, scratch)
        else:
            row = scratch.take(out.shape[0])
            for k, (c, source) in enumerate(terms):
                if source in self._passing:
                    self._copy(row, source, values, start)
                add_term(out, c, values.get(source, row), scratch.product, first=k == 0)
            scratch.give_back(row)

    def _sum_blocks(
        self,
        out: NDArray[np.float32],
        terms: Sequence[tuple[np.float32, str]],
        values: Mapping[str, NDArray[np.float32]],
        start: int,
        scratch: _Scratch,
    ) -> None:
        # All terms of a block while it is in the cache. The sum is valid only once all checksums match.
        with contextlib.ExitStack() as opened:
            streams: dict[str, ChunkStream] = {}
            for source in (s for _, s in terms if s in self._passing):
                streams[source] = self._arrays[source].stream(start)
                opened.callback(streams[source].close)
            # Nothing is entered or looked up once for each block: that would cost as much as to add one.
            current = terms[0][1]
            try:
                with np.errstate(over="ignore", invalid="ignore", under="ignore"):
                    for begin in range(0, out.shape[0], STREAM_BLOCK):
                        block = out[begin : begin + STREAM_BLOCK]
                        row = scratch.row[: block.shape[0]]
                        for k, (c, current) in enumerate(terms):
                            stream = streams.get(current)
                            if stream is None:
                                kernel_step(block, c, values[current][begin : begin + STREAM_BLOCK], row, k == 0)
                            else:
                                stream.read_into(row)
                                kernel_step(block, c, row, row, k == 0)
                for current in streams:
                    streams[current].finish()
            except Exception:
                with self._arrays[current].blaming():
                    raise

    def _copy(
        self, out: NDArray[np.float32], source: str, values: Mapping[str, NDArray[np.float32]], start: int
    ) -> None:
        if source in self._passing:
            self._arrays[source].read_into(out, start)
        else:
            out[...] = values[source]


class _Scratch:
    """The memory of one thread, reused for every chunk, because fresh memory costs as much time as the sum."""

    def __init__(self, length: int) -> None:
        self.product, self.row = (_new(min(n, length)) for n in (BLOCK, STREAM_BLOCK))
        self._length = length
        self._free: list[NDArray[np.float32]] = []
        self._taken: dict[int, NDArray[np.float32]] = {}

    def take(self, length: int) -> NDArray[np.float32]:
        whole = self._free.pop() if self._free else _new(self._length)
        part = whole[:length]
        self._taken[id(part)] = whole
        return part

    def give_back(self, array: NDArray[np.float32]) -> None:
        self._free.append(self._taken.pop(id(array)))


def _new(size: int) -> NDArray[np.float32]:
    return new_array(size, np.dtype(np.float32))


def _terms_of(reader: Reader, nodes: Iterable[str]) -> list[NodeTerm]:
    wanted = list(nodes)
    return reader.all(NodeTerm, node_id=wanted) if wanted else []


def _terms(node: Node, terms: Sequence[NodeTerm]) -> tuple[tuple[np.float32, str], ...]:
    if node.kernel != KERNEL_VERSION:
        raise FormatError(
            f"Node {node.id} needs version {node.kernel} of the summation kernel, but this mgraph has "
            f"version {KERNEL_VERSION}: use the mgraph that wrote it."
        )
    if not terms:
        raise CorruptError(f"The recipe of node {node.id} is incomplete: run `mgraph check`.")
    active = [(c, terms[k].source_id) for k, c in active_terms([t.coefficient for t in terms])]
    return tuple(active) or ((np.float32(0), terms[0].source_id),)  # an empty sum still has a size


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
            f"Partial node {node.id} stores {stored} of {size} coordinates, which its columns do not match: "
            "run `mgraph check`."
        )
    return ranges
