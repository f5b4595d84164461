"""The numbers of nodes: what the methods of :class:`GraphStore` that read tensors do, documented there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mgraph_store.errors import CorruptError, InputError, NotFoundError
from mgraph_store.index.reader import Reader
from mgraph_store.recipes import (
    Computation,
    Recipe,
    is_computed,
    look_up,
    look_up_beside,
    others_near,
    sum_of_stored,
)
from mgraph_store.rows.layout import Layout
from mgraph_store.rows.records import Node, NodeBuffers, NodeTerm, Space
from mgraph_store.rows.views import TensorView
from mgraph_store.tensors.arrays import StoredArray
from mgraph_store.tensors.kernel import KERNEL_VERSION, active_terms
from mgraph_store.tensors.objects import to_the_end

if TYPE_CHECKING:
    from mgraph_store.store import GraphStore


def read_parameters(store: GraphStore, node: Node | str) -> NDArray[np.float32]:
    """Read a node's parameters, shape (D,), as a new array."""
    recipes = _looked_up(store, node)  # in this thread, where an open reading counts, never in the other one
    last = recipes[-1].node
    if not is_computed(last):
        array = _stored(store, last)
        return array.read() if array.is_raw else to_the_end(array.read)
    return to_the_end(lambda: Computation(recipes, partial(_stored, store)).run())


def computation(store: GraphStore, node: Node | str) -> Computation:
    """Open a node's parameters without reading them."""
    return Computation(_looked_up(store, node), partial(_stored, store))


def combination(store: GraphStore, coefficients: Sequence[float], nodes: Sequence[Node | str]) -> Computation:
    """Open Σ c_k P_k of stored and partial nodes."""
    with _looking(store) as index:
        found = [_node(store, node, index) for node in nodes]
    if not found or len(found) != len(coefficients):
        raise InputError(f"{len(coefficients)} coefficients for {len(found)} nodes: give one for each.")
    active_terms(coefficients)
    for node in found:
        if node.space_id != found[0].space_id:
            raise InputError(f"Nodes {found[0].id} and {node.id} are in different spaces: they have no sum.")
        if node.tensor_key is None:
            raise InputError(f"Node {node.id} is derived: a sum may only refer to stored and partial nodes.")
    total = Node(id="the sum", kind="sample", space_id=found[0].space_id, kernel=KERNEL_VERSION)
    terms = [NodeTerm(total.id, k, n.id, float(c)) for k, (c, n) in enumerate(zip(coefficients, found, strict=True))]
    if not any(is_computed(node) for node in found):
        return Computation(sum_of_stored(total, terms, found), partial(_stored, store))
    with store.reading() as reader:
        return Computation(look_up(reader, total, terms), partial(_stored, store))


def parameter_blocks(store: GraphStore, nodes: Sequence[Node]) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
    """Yield (offset, one array of each node) along the parameters of several nodes."""
    opened = [computation(store, node) for node in nodes]
    sizes = {source.size for source in opened}
    if len(sizes) > 1:
        raise InputError(f"The nodes have different numbers of parameters: {', '.join(map(str, sorted(sizes)))}.")
    size, step = sizes.pop(), max(source.chunk for source in opened)

    def block(start: int) -> list[NDArray[np.float32]]:
        return [source.read(start, min(start + step, size)) for source in opened]

    for start in range(0, size, step):
        yield start, to_the_end(partial(block, start))


def read_buffers(store: GraphStore, node: Node | str, policy: str) -> dict[str, NDArray[Any]]:
    """Read a node's buffers under a policy: dtype name → flat array."""
    with _looking(store) as index:
        node, reader = _node(store, node, index), index()
        rows = {row.policy: row for row in reader.all(NodeBuffers, node_id=node.id)}
        space = None if policy in rows else reader.get(Space, id=node.space_id)
    if space is None:
        return buffers_in(store, rows[policy])
    if not Layout.from_json(space.layout).buffers:
        return {}
    stored = ", ".join(rows) or "none"
    raise NotFoundError(
        f"Node {node.name or node.id} has no buffers under the policy {policy!r} (stored: {stored}): recompute them."
    )


def buffers_in(store: GraphStore, row: NodeBuffers) -> dict[str, NDArray[Any]]:
    """Read the buffers that a row is about: dtype name → flat array; errors as :func:`buffer_arrays`."""
    return to_the_end(lambda: {dtype: array.read() for dtype, array in buffer_arrays(store, row).items()})


def buffer_arrays(store: GraphStore, row: NodeBuffers) -> dict[str, StoredArray]:
    """Open the buffers that a row is about: dtype name → stored array; CorruptError if some are missing."""
    found = store.tensor_store.arrays(row.tensor_key)
    _check_size(row.tensor_key, sum(array.nbytes for array in found.values()), row.node_id, row.nbytes)
    return found


def tensors(store: GraphStore, node: Node | str, policy: str | None) -> Mapping[str, NDArray[Any]]:
    """Map names to tensors of a node; nothing is read before it is accessed."""
    with _looking(store) as index:  # once, also for what the first tensor needs, which is remembered
        found = _recipes(store, node, index)[-1].node
        layout = _layout(store, found.space_id, index)

    def opened() -> Computation:
        recipes = _looked_up(store, found)  # here, as in read_parameters
        return to_the_end(lambda: Computation(recipes, partial(_stored, store)))

    return TensorView(layout, opened, None if policy is None else lambda: read_buffers(store, found, policy))


_Index = Callable[[], Reader]


@contextlib.contextmanager
def _looking(store: GraphStore) -> Iterator[_Index]:
    """Return what opens the index, once, for a block in which several things are looked up that may be remembered."""
    with contextlib.ExitStack() as stack:
        yield cache(lambda: stack.enter_context(store.reading()))


def _node(store: GraphStore, node: Node | str, index: _Index) -> Node:
    if isinstance(node, Node):
        return node
    known = _known(store, node)
    return known[-1].node if known else index().find_node(node)


def _looked_up(store: GraphStore, node: Node | str) -> Sequence[Recipe]:
    """Return what a node is made of, itself last."""
    known = _known(store, node)
    if known is not None:
        return known
    with _looking(store) as index:
        return _recipes(store, node, index)


def _known(store: GraphStore, node: Node | str) -> Sequence[Recipe] | None:
    if isinstance(node, str):
        return store.remembered.recipe(node)
    if not is_computed(node):
        return [Recipe(node)]
    known = store.remembered.recipe(node.id)
    return known if known and known[-1].node == node else None


def _recipes(store: GraphStore, node: Node | str, index: _Index) -> Sequence[Recipe]:
    known = _known(store, node)
    if known is not None:
        return known
    reader = index()
    found = reader.find_node(node) if isinstance(node, str) else node
    more = others_near(reader, found) if store.remembered.knows_any() else []  # whoever reads a second one
    recipes = look_up_beside(reader, found, more)
    store.remembered.take({**recipes, node if isinstance(node, str) else node.id: recipes[found.id]})
    return recipes[found.id]


def _layout(store: GraphStore, space: str, index: _Index) -> Layout:
    known = store.remembered.layout(space)
    if known is None:
        known = Layout.from_json(index().get(Space, id=space).layout)
        store.remembered.take({}, {space: known})
    return known


def _stored(store: GraphStore, node: Node) -> StoredArray:
    if node.tensor_key is None:
        raise CorruptError(f"Node {node.id} should be stored, but has no tensors: run `mgraph check`.")
    array = store.tensor_store.open_again(node.tensor_key, "float32", node.tensor_row)
    _check_size(node.tensor_key, array.nbytes, node.id, node.nbytes)
    return array


def _check_size(key: str, found: int, node: str, wanted: int | None) -> None:
    if found != wanted:
        raise CorruptError(
            f"Tensor object {key} has {found} bytes, node {node} should have {wanted}: restore tensors.zarr/{key} from "
            "a copy of the graph."
        )
