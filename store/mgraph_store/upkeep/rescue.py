"""Finding or recomputing the numbers of a damaged tensor object, proven by their digest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mgraph_store.errors import InputError, StoreError
from mgraph_store.rows.records import Node, NodeBuffers, NodeTerm
from mgraph_store.tensors.digests import has_digest, have_digest
from mgraph_store.tensors.kernel import active_terms, combine

if TYPE_CHECKING:
    from mgraph_store.store import GraphStore


def parameters(store: GraphStore, node: Node) -> NDArray[np.float32] | None:
    """Find the array that a stored or partial node should have; None if nothing in the graph yields it.

    Only the description of its own array may be wrong, another node may hold the same numbers, or a merged node's
    recipe may still give them.
    """
    own = _read(store, node)
    if own is not None and has_digest(own, node.digest):
        return own
    with store.reading() as reader:
        others = reader.all(Node, digest=node.digest, where="id <> ?", parameters=[node.id])
        terms = reader.all(NodeTerm, node_id=node.id) if node.columns is None else []
        sources = {n.id: n for n in reader.all(Node, id=[t.source_id for t in terms])} if terms else {}
    for other in others:
        found = _read(store, other)
        if found is not None and has_digest(found, node.digest):
            return found
    if not terms or len(sources) < len({t.source_id for t in terms}):
        return None
    try:
        active = active_terms([t.coefficient for t in terms])
        rows = [store.read_parameters(sources[terms[k].source_id]) for k, _ in active]
        found = combine([float(c) for _, c in active], rows)
    except (StoreError, InputError):
        return None
    return found if has_digest(found, node.digest) else None


def buffers(store: GraphStore, row: NodeBuffers) -> dict[str, NDArray[Any]] | None:
    """Find the buffers that a row should have, here or under another node or policy; None if there are none."""
    with store.reading() as reader:
        others = reader.all(NodeBuffers, digest=row.digest, where="tensor_key <> ?", parameters=[row.tensor_key])
    for other in (row, *others):
        try:
            groups = store.tensor_store.groups(other.tensor_key)
        except StoreError:
            continue
        if have_digest(groups, row.digest):
            return groups
    return None


def _read(store: GraphStore, node: Node) -> NDArray[np.float32] | None:
    try:
        return store.tensor_store.read(node.tensor_key or "", "float32", node.tensor_row)
    except StoreError:
        return None
