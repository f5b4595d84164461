"""Checking that the tensors of every row are there, and right."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mgraph_store.errors import CorruptError, StoreError
from mgraph_store.rows.layout import Layout
from mgraph_store.rows.records import Connection, Member, Node, NodeBuffers, Run, Space
from mgraph_store.tensors.attributes import contradiction
from mgraph_store.tensors.digests import digest_of_digests, has_digest, have_digest, same_algorithm
from mgraph_store.upkeep import rescue
from mgraph_store.upkeep.problems import LOST, REMAKE, REPAIRABLE, Problem, listed

if TYPE_CHECKING:
    from mgraph_store.index.reader import Reader
    from mgraph_store.store import GraphStore


@dataclass(frozen=True)
class Stored:
    """The rows that name tensors, and the spaces whose layouts say what these are."""

    nodes: Sequence[Node]
    buffers: Sequence[NodeBuffers]
    spaces: Sequence[Space]
    space_of: Mapping[str, str]
    """Node with buffers → its space."""

    @classmethod
    def read(cls, reader: Reader) -> Stored:
        """Read them all."""
        buffers = reader.all(NodeBuffers)
        sql = "SELECT id, space_id FROM nodes WHERE id IN (SELECT node_id FROM node_buffers)"
        space_of = dict(reader.query(sql)[1]) if buffers else {}
        return cls(reader.all(Node, where="tensor_key IS NOT NULL"), buffers, reader.all(Space), space_of)

    def layouts(self) -> dict[str, Layout]:
        """Map spaces to their layouts, as far as these can be read."""
        found = {}
        for space in self.spaces:
            with contextlib.suppress(CorruptError):
                found[space.id] = Layout.from_json(space.layout)
        return found


def tensor_problems(store: GraphStore, stored: Stored, deep: bool, *, behind: bool) -> list[Problem]:
    """List the tensors that are missing or not what their rows say; ``deep`` reads them all."""
    damaged: dict[str, Node] = {}
    found = []
    layouts = stored.layouts()
    for node in stored.nodes:
        what = parameters_problem(store, node, deep, layouts.get(node.space_id))
        if what is not None:
            saved = not behind and rescue.parameters(store, node) is not None
            damaged |= {} if saved else {node.id: node}
            found.append(_tensor_problem(store, what, node, saved, behind))
    for row in stored.buffers:
        what = buffers_problem(store, row, deep, layouts.get(stored.space_of.get(row.node_id, "")))
        if what is not None:
            saved = not behind and rescue.buffers(store, row) is not None
            outcome = REPAIRABLE if saved else LOST if row.policy == "own" else REMAKE
            remedy = (
                "the digest proves the same buffers, here or elsewhere: mgraph check --repair"
                if saved
                else _restore(row.tensor_key)
            )
            found.append(Problem(what, row.node_id, outcome, remedy))
    return found + ([] if behind else _dependents(store, damaged))


def parameters_problem(store: GraphStore, node: Node, deep: bool, layout: Layout | None = None) -> str | None:
    """Say what is wrong with the tensors of a stored or partial node; None if nothing is.

    ``layout`` is that of its space, to compare it with what the array's attributes say.
    """
    assert node.tensor_key is not None
    try:
        array = store.tensor_store.open(node.tensor_key, "float32", node.tensor_row)
        if array.nbytes != node.nbytes:
            return f"Node {_label(node)}: {array.nbytes} bytes are stored instead of {node.nbytes}."
        said = contradiction(array.attributes(), node.digest, node.tensor_row, layout)
        if said is not None:
            return f"Node {_label(node)}: tensor object {node.tensor_key} contradicts the index: {said}."
        if deep and not has_digest(array.read(), node.digest):
            return f"Node {_label(node)}: the digest of its parameters is not {node.digest}."
    except StoreError as error:
        return f"Node {_label(node)}: {error}"
    return None


def buffers_problem(store: GraphStore, row: NodeBuffers, deep: bool, layout: Layout | None = None) -> str | None:
    """Say what is wrong with the buffers of a node; None if nothing is. ``layout`` as for parameters."""
    what = f"Buffers {row.policy} of node {row.node_id}"
    try:
        arrays = store.tensor_store.arrays(row.tensor_key)
        size = sum(a.nbytes for a in arrays.values())
        if size != row.nbytes:
            return f"{what}: {size} bytes are stored instead of {row.nbytes}."
        said = {name: array.attributes() for name, array in arrays.items()}
        odd = [odd for name in said if (odd := contradiction(said[name], None, layout=layout, buffers=name))]
        if all("digest" in one for one in said.values()):
            together = digest_of_digests({name: str(one["digest"]) for name, one in said.items()})
            if together != row.digest and same_algorithm(together, row.digest):
                odd.append("its attributes give other digests")
        if odd:
            return f"{what}: tensor object {row.tensor_key} contradicts the index: {odd[0]}."
        if deep and not have_digest({name: array.read() for name, array in arrays.items()}, row.digest):
            return f"{what}: their digest is not {row.digest}."
    except StoreError as error:
        return f"{what}: {error}"
    return None


def _tensor_problem(store: GraphStore, what: str, node: Node, saved: bool, behind: bool) -> Problem:
    if behind:
        return Problem(what, node.id, LOST, "look again when the index is repaired")
    if saved:
        return Problem(what, node.id, REPAIRABLE, "its digest proves numbers that are there: mgraph check --repair")
    with store.reading() as reader:
        runs = reader.all(Run, id=node.run_id) if node.run_id else []
    remedy = _restore(node.tensor_key or "")
    if node.kind == "mode" and runs and runs[0].command == "train":
        return Problem(
            what, node.id, REMAKE, f"{remedy}, or train it again as run {runs[0].id} did (seed {runs[0].seed})"
        )
    return Problem(what, node.id, LOST, remedy)


def _restore(key: str) -> str:
    return f"restore tensors.zarr/{key} from a copy of the graph"


def _dependents(store: GraphStore, damaged: dict[str, Node]) -> list[Problem]:
    # Sums of damaged nodes, reported together; a surface has thousands of such samples.
    if not damaged:
        return []
    with store.reading() as reader:
        sql = (
            "SELECT n.id, t.source_id, max(m.connection_id) FROM nodes n JOIN node_terms t ON t.node_id = n.id "
            "LEFT JOIN members m ON m.node_id = n.id AND m.role <> 'end' WHERE n.kernel IS NOT NULL AND "
            "t.source_id IN (SELECT unnest(?::VARCHAR[])) GROUP BY ALL ORDER BY 3, 2, 1"
        )
        rows = reader.query(sql, [list(damaged)])[1]
        names = {c.id: c.name or c.id for c in reader.all(Connection)}
        ends = reader.all(Member, node_id=list(damaged))
    found = []
    for (connection, source), group in itertools.groupby(rows, key=lambda row: (row[2], row[1])):
        ids = [row[0] for row in group]
        where = f" of connection {names.get(connection, connection)}" if connection else ""
        found.append(
            Problem(
                f"{len(ids)} computed nodes{where} need node {_label(damaged[source])} ({listed(ids)}).",
                connection or ids[0],
                LOST,
                f"they come back with node {source}",
            )
        )
    for connection in dict.fromkeys(m.connection_id for m in ends):
        nodes = [_label(damaged[m.node_id]) for m in ends if m.connection_id == connection]
        found.append(
            Problem(
                f"Connection {names.get(connection, connection)} has lost {listed(nodes)} of its nodes.",
                connection,
                LOST,
                f"connect its ends again, or remove it: mgraph rm {names.get(connection, connection)}",
            )
        )
    return found


def _label(node: Node) -> str:
    return f"{node.id} ({node.name})" if node.name else node.id
