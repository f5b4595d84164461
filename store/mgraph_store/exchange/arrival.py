"""Adding a bundle to a graph: what is already there is recognised, what is new is verified, then added all at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mgraph_store.errors import CorruptError, InputError
from mgraph_store.exchange.bundle import Bundle
from mgraph_store.exchange.closure import owners
from mgraph_store.index.reader import Reader
from mgraph_store.rows.blocks import gathered
from mgraph_store.rows.columns import from_json
from mgraph_store.rows.ids import validate_name
from mgraph_store.rows.layout import Layout
from mgraph_store.rows.records import Connection, Edge, Node, NodeBuffers, NodeTerm, Note, Run, Space, Sweep
from mgraph_store.rows.schema import TABLES
from mgraph_store.tensors.digests import has_digest, have_digest
from mgraph_store.tensors.objects import CHUNK_BYTES, SEGMENT_BYTES

if TYPE_CHECKING:
    from mgraph_store.exchange.closure import Rows
    from mgraph_store.store import GraphStore
    from mgraph_store.transaction import TensorRef, Transaction

_NAME_LENGTH = 64

# What must agree for two rows with one id to be the same thing. Names and statuses may change over time.
_SAME: Mapping[type[Any], Sequence[str]] = {
    Space: ("layout_hash", "data_hash", "loss"),
    Node: ("kind", "space_id", "digest", "nbytes", "columns", "kernel"),
    Connection: ("kind", "space_id", "family"),
    Sweep: ("connection_id", "grid", "batchnorm", "precision", "axes"),
    Run: ("command", "settings", "seed"),
}


@dataclass(frozen=True)
class Unpacked:
    """The result of adding a bundle: ids of new nodes, connections and spaces, those already there, and new names."""

    nodes: list[str]
    connections: list[str]
    spaces: list[str]
    present: list[str]
    renamed: dict[str, str]


def unpack(
    store: GraphStore, path: Path, *, prefix: str = "", check: Callable[[Connection], object] | None = None
) -> Unpacked:
    """Add everything in a bundle to a graph, in one transaction.

    ``check`` is called with each connection first, and raises if it cannot be one.

    A space with the same architecture, layout, data and loss as one of the graph becomes that one. Rows that are
    already there, by id and content, stay as they are. A name that is taken gets a number; a ``prefix`` is first put
    before the names of all new nodes and connections.

    Raises
    ------
    InputError
        If the file is not a bundle or holds what a bundle cannot have, or an id is something else in this graph.
    CorruptError
        If tensors are missing, damaged, or do not match their rows.
    """
    if prefix:
        validate_name(prefix + "x")
    with Bundle(path) as bundle:
        if check is not None:
            for connection in bundle.rows[Connection]:
                check(connection)
        with store.reading() as reader:
            plan = _plan(reader, bundle.rows, prefix)
        with store.transaction() as tx:
            _write(tx, bundle, plan)
    return plan.result


@dataclass(frozen=True)
class _Plan:
    rows: Rows
    codecs: dict[str, str]  # by id of space
    layouts: dict[str, Layout]  # likewise
    result: Unpacked


def _plan(reader: Reader, rows: Rows, prefix: str) -> _Plan:
    spaces, codecs = _match_spaces(reader, rows[Space])
    layouts = {spaces[s.id]: Layout.from_json(s.layout) for s in rows[Space]}
    moved = {
        kind: [replace(r, space_id=_resolve(spaces, r)) if hasattr(r, "space_id") else r for r in records]
        for kind, records in rows.items()
    }
    new: Rows = {}
    present: list[str] = []
    there: dict[type[Any], set[str]] = {}
    for kind in _SAME:
        known = {r.id: r for r in reader.all(kind, id=[r.id for r in moved[kind]])} if moved[kind] else {}
        if kind is Space:
            known = {s: known.get(s) for s, to in spaces.items() if to != s or s in known}
        else:
            _check_same(kind, moved[kind], known)
            present += [r.id for r in moved[kind] if r.id in known and kind in (Node, Connection)]
        there[kind] = set(known)
        new[kind] = [r for r in moved[kind] if r.id not in known]
    for kind, records in moved.items():
        if kind not in _SAME:
            new[kind] = _not_there(reader, kind, records, there)
    renamed = _rename(reader, new, prefix)
    result = Unpacked(
        [r.id for r in new[Node]], [r.id for r in new[Connection]], [r.id for r in new[Space]], present, renamed
    )
    return _Plan(new, codecs, layouts, result)


def _match_spaces(reader: Reader, spaces: Sequence[Space]) -> tuple[dict[str, str], dict[str, str]]:
    """Map the bundle's spaces to the graph's, or to themselves if they are new, and all spaces to their codecs."""
    known = reader.all(Space)
    codecs = {s.id: s.codec for s in (*spaces, *known)}
    found: dict[str, str] = {}
    for space in spaces:
        same = [s for s in known if _identity(s) == _identity(space)]
        clash = next((s for s in known if s.id == space.id and s not in same), None)
        if clash is not None:
            raise InputError(f"The id {space.id} is another space in this graph: the bundle is refused.")
        found[space.id] = min(same, key=lambda s: s.id != space.id).id if same else space.id
    return found, codecs


def _identity(space: Space) -> tuple[Any, ...]:
    # For code only the hash counts, because two people keep the same file in different places.
    code = json.loads(space.factories)
    entries = [code.get(spec) if isinstance(code, dict) else None for spec in (space.arch, space.loss)]
    hashes = [entry.get("hash") if isinstance(entry, dict) else None for entry in entries]
    arch, loss = (hash or spec for hash, spec in zip(hashes, (space.arch, space.loss), strict=True))
    return space.layout_hash, space.data_hash, loss, arch


def _resolve(spaces: Mapping[str, str], record: Any) -> str:
    if record.space_id not in spaces:
        raise InputError(f"The bundle lacks space {record.space_id}: it is refused.")
    return spaces[record.space_id]


def _check_same(kind: type[Any], records: Sequence[Any], known: Mapping[str, Any]) -> None:
    for record in records:
        other = known.get(record.id)
        different = other and [f for f in _SAME[kind] if getattr(record, f) != getattr(other, f)]
        if different:
            raise InputError(
                f"{record.id} of the bundle has another {different[0]} than {record.id} of this graph: "
                "they are different things with one id, so the bundle is refused."
            )


def _not_there(
    reader: Reader, kind: type[Any], records: Sequence[Any], there: Mapping[type[Any], set[str]]
) -> list[Any]:
    """Leave out rows that the graph already has: what defines a node it has, and whatever is exactly equal."""
    if kind is NodeTerm:  # given with their node
        return [r for r in records if r.node_id not in there[Node]]
    known: list[Any] = []
    for column, owner in owners(kind):
        equals: dict[str, Any] = {column: sorted({getattr(r, column) for r in records} & there[owner])}
        known += reader.all(kind, **equals) if equals[column] else []
    if kind is Note:  # what stands here stays
        said = {(n.node_id, n.connection_id, n.key) for n in known}
        return [n for n in records if (n.node_id, n.connection_id, n.key) not in said]
    if kind is NodeBuffers:
        policies = {(b.node_id, b.policy): b.digest for b in known}
        for b in records:
            if policies.get((b.node_id, b.policy), b.digest) != b.digest:
                raise InputError(
                    f"Node {b.node_id} has different {b.policy} buffers in this graph: the bundle is refused."
                )
        return [b for b in records if (b.node_id, b.policy) not in policies]
    if kind is Edge:  # this graph decides whether one is doubtful
        doubted = {_key(replace(e, doubt=None)) for e in known}
        return [e for e in records if _key(replace(e, doubt=None)) not in doubted]
    keys = {_key(r) for r in known}
    return [r for r in records if _key(r) not in keys]


def _key(record: Any) -> tuple[Any, ...]:
    # repr, so that a NaN equals itself
    return tuple(
        repr(tuple(v) if isinstance(v, list) else v) for v in (getattr(record, f.name) for f in fields(record))
    )


def _rename(reader: Reader, new: Rows, prefix: str) -> dict[str, str]:
    """Give new things free names; return old name → new name where they differ."""
    renamed: dict[str, str] = {}
    taken = {row[0] for row in reader.query("SELECT name FROM nodes UNION SELECT name FROM connections")[1]}
    for kinds, used, start in (
        ((Node, Connection), taken, prefix),
        ((Space,), {s.name for s in reader.all(Space)}, ""),
    ):
        for kind in kinds:
            for i, record in enumerate(new[kind]):
                if record.name is not None:
                    validate_name(record.name)
                    name = _free(start + record.name, used)
                    used.add(name)
                    new[kind][i] = replace(record, name=name)
                    if name != record.name:
                        renamed[record.name] = name
    return renamed


def _free(name: str, taken: set[str]) -> str:
    number, suffix = 2, ""
    while (found := name[: _NAME_LENGTH - len(suffix)] + suffix) in taken:
        suffix = f"-{number}"
        number += 1
    return found


def _write(tx: Transaction, bundle: Bundle, plan: _Plan) -> None:
    nodes = [n for n in plan.rows[Node] if n.tensor_key is not None]
    refs = _write_parameters(tx, bundle, nodes, plan.codecs, plan.layouts)
    placed = [_place(n, refs.get(n.digest)) if n.tensor_key is not None else n for n in plan.rows[Node]]
    spaces = {n.id: n.space_id for n in plan.rows[Node]}
    stored: dict[str, TensorRef] = {}
    buffers = []
    for b in plan.rows[NodeBuffers]:
        if b.digest not in stored:
            groups = bundle.buffers(b.digest)
            if not have_digest(groups, b.digest) or sum(a.nbytes for a in groups.values()) != b.nbytes:
                raise CorruptError(f"The buffers of node {b.node_id} in {bundle.path} are damaged: get it again.")
            space = spaces.get(b.node_id, "")
            stored[b.digest] = tx.write_buffers(
                groups, codec=plan.codecs.get(space, "none"), layout=plan.layouts.get(space)
            )
        buffers.append(replace(b, tensor_key=stored[b.digest].key))
    replaced: Rows = plan.rows | {Node: placed, NodeBuffers: buffers}
    tx.add(*gathered(record for kind in TABLES.values() for record in replaced.get(kind, ())))


def _place(node: Node, ref: TensorRef | None) -> Node:
    assert ref is not None
    return replace(node, tensor_key=ref.key, tensor_row=ref.row)


def _write_parameters(
    tx: Transaction, bundle: Bundle, nodes: Sequence[Node], codecs: Mapping[str, str], layouts: Mapping[str, Layout]
) -> dict[str | None, TensorRef]:
    refs: dict[str | None, TensorRef] = {}
    for batch in _batches(nodes):
        rows = [_verified(bundle, node) for node in batch]
        space = batch[0].space_id
        ranges = [None if node.columns is None else from_json(node.columns) for node in batch]
        written = tx.write_parameters(rows, codec=codecs[space], layout=layouts.get(space), ranges=ranges)
        refs |= {node.digest: ref for node, ref in zip(batch, written, strict=True)}
    return refs


def _verified(bundle: Bundle, node: Node) -> NDArray[np.float32]:
    assert node.digest is not None
    row = bundle.parameters(node.digest, node.nbytes)
    if not has_digest(row, node.digest):
        raise CorruptError(f"The parameters of node {node.id} in {bundle.path} are damaged: get it again.")
    return row


def _batches(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    """Group what shares a segment; a large node is alone, so that only one of them is in memory at a time."""
    seen: set[str | None] = set()
    groups: dict[tuple[str, int], list[Node]] = {}
    for node in nodes:
        if node.digest in seen:
            continue
        seen.add(node.digest)
        group = groups.setdefault((node.space_id, node.nbytes), [])
        group.append(node)
        if node.nbytes > CHUNK_BYTES or node.nbytes * (len(group) + 1) > SEGMENT_BYTES:
            yield groups.pop((node.space_id, node.nbytes))
    yield from groups.values()
