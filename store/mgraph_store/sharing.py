"""Storing the same numbers once: before a transaction writes, it asks whether the graph already has them.

Content is identified by its digest, and read back before it is relied on, so adding a good copy of a damaged node gives
a good copy. A row that refers to a tensor object of another node keeps it, just as rows of one segment keep each
other's. What is shared may be removed before our row exists; the commit notices (`Transaction._check_tensors`), because
objects are hidden only while no row can be added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mgraph_store.errors import MGraphError
from mgraph_store.index.following import reading
from mgraph_store.index.index import Index
from mgraph_store.index.lock import GraphLock
from mgraph_store.index.reader import Reader
from mgraph_store.rows.layout import Layout
from mgraph_store.rows.records import Node, NodeBuffers
from mgraph_store.tensors.attributes import contradiction
from mgraph_store.tensors.digests import digest, has_digest, have_digest
from mgraph_store.tensors.objects import TensorStore

Place = tuple[str, int | None]
"""Key of a tensor object, and the row of a segment."""


def parameters_at(
    tensors: TensorStore, index: Index, lock: GraphLock, digests: Iterable[str], layout: Layout | None = None
) -> Mapping[str, Place]:
    """Find where the graph has undamaged parameters with these digests, whose attributes do not say otherwise."""
    found: dict[str, Place] = {}
    wanted = sorted(set(digests))
    try:
        if _surely_lacks(index, lock, wanted):
            return found
        with reading(index, lock) as con:
            nodes = Reader(con).all(Node, digest=wanted)
            index.known.learn(con, index.journal)
    except MGraphError:
        return found  # then they are written again
    for node in nodes:
        if node.digest is not None and node.tensor_key is not None and node.digest not in found:
            try:
                array = tensors.open(node.tensor_key, "float32", node.tensor_row)
                said = contradiction(array.attributes(), node.digest, node.tensor_row, layout)
                sound = said is None and has_digest(array.read(), node.digest)
            except MGraphError:
                continue
            if sound:
                found[node.digest] = (node.tensor_key, node.tensor_row)
    return found


def buffers_at(
    tensors: TensorStore, index: Index, lock: GraphLock, wanted: str, layout: Layout | None = None
) -> str | None:
    """Find the key of undamaged buffers with this digest, if the graph has any, as for parameters."""
    try:
        if _surely_lacks(index, lock, [wanted]):
            return None
        with reading(index, lock) as con:
            rows = Reader(con).all(NodeBuffers, digest=wanted)
            index.known.learn(con, index.journal)
    except MGraphError:
        return None
    for key in dict.fromkeys(row.tensor_key for row in rows):
        try:
            arrays = tensors.arrays(key)
            groups = {name: array.read() for name, array in arrays.items()}
            said = [
                contradiction(array.attributes(), digest(groups[name]), layout=layout, buffers=name)
                for name, array in arrays.items()
            ]
            if have_digest(groups, wanted) and not any(said):
                return key
        except MGraphError:
            continue
    return None


def _surely_lacks(index: Index, lock: GraphLock, wanted: Sequence[str]) -> bool:
    """Return whether the graph has none of these digests, as far as that can be said without opening the index."""
    journal, known = index.journal, index.known
    if known and not known.lack(journal.count(), wanted):
        with lock.shared():  # perhaps others have committed
            count = journal.count()
            return count is not None and known.follow(journal, count) and known.lack(count, wanted)
    return bool(known)
