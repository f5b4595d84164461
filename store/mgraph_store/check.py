"""The invariants of a graph, verified: every row's tensors are there and right, every reference resolves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mgraph_store.constraints import PARTIAL_TERMS, circle, misfit
from mgraph_store.errors import CorruptError
from mgraph_store.layout import Layout
from mgraph_store.records import Node, NodeBuffers, Space
from mgraph_store.schema import REFERENCES, TABLE_OF, TABLES, columns
from mgraph_store.tensors import digest, digest_groups

if TYPE_CHECKING:
    from mgraph_store.reader import Reader
    from mgraph_store.store import GraphStore


def problems(store: GraphStore, deep: bool = False) -> list[str]:
    """List what is wrong with a graph, one sentence each; empty if nothing is.

    Checks rows against rows, and for every stored and partial node that its tensors exist in full size. ``deep``
    also reads all tensors and compares their digests.

    Raises
    ------
    StoreError
        If the index itself cannot be read.
    """
    with store.reading() as reader:
        found = _rows(reader)
        nodes = reader.all(Node, where="tensor_key IS NOT NULL")
        buffers = reader.all(NodeBuffers)
    for node in nodes:
        found += _parameters(store, node, deep)
    for row in buffers:
        found += _buffers(store, row, deep)
    return found


def assert_consistent(store: GraphStore, deep: bool = True) -> None:
    """Raise ``CorruptError`` naming the problems, if there are any."""
    found = problems(store, deep)
    if found:
        raise CorruptError(f"Graph {store.path} has {len(found)} problems: {' '.join(found)}")


def garbage(store: GraphStore) -> list[str]:
    """List keys of tensor objects that no row refers to: left by a crash, or about to be committed."""
    keys = store.tensor_store.keys()  # before the rows, so that an object committed meanwhile is not listed
    with store.reading() as reader:
        _, rows = reader.query("SELECT tensor_key FROM nodes UNION SELECT tensor_key FROM node_buffers")
    return sorted(keys - {row[0] for row in rows})


def _parameters(store: GraphStore, node: Node, deep: bool) -> list[str]:
    assert node.tensor_key is not None
    try:
        array = store.tensor_store.open(node.tensor_key, "float32", node.tensor_row)
        if array.nbytes != node.nbytes:
            return [f"Node {node.id}: {array.nbytes} bytes are stored instead of {node.nbytes}."]
        if deep and digest(array.read()) != node.digest:
            return [f"Node {node.id}: the digest of its parameters is not {node.digest}."]
    except CorruptError as error:
        return [f"Node {node.id}: {error}"]
    return []


def _buffers(store: GraphStore, row: NodeBuffers, deep: bool) -> list[str]:
    what = f"Buffers {row.policy} of node {row.node_id}"
    try:
        size = sum(a.nbytes for a in store.tensor_store.arrays(row.tensor_key).values())
        if size != row.nbytes:
            return [f"{what}: {size} bytes are stored instead of {row.nbytes}."]
        if deep and digest_groups(store.tensor_store.groups(row.tensor_key)) != row.digest:
            return [f"{what}: their digest is not {row.digest}."]
    except CorruptError as error:
        return [f"{what}: {error}"]
    return []


def _rows(reader: Reader) -> list[str]:
    found = []
    for table, record in TABLES.items():
        for column in columns(record):
            target = REFERENCES.get(column.name)
            if target is not None:
                sql = (
                    f"SELECT DISTINCT {column.name} FROM {table} WHERE {column.name} IS NOT NULL "
                    f"AND {column.name} NOT IN (SELECT id FROM {TABLE_OF[target]}) ORDER BY 1"
                )
                found += [
                    f"{table}.{column.name} {value} is not in {TABLE_OF[target]}." for (value,) in reader.query(sql)[1]
                ]
        if columns(record)[0].name == "id":
            sql = f"SELECT id FROM {table} GROUP BY id HAVING count(*) > 1 ORDER BY id"
            found += [f"{table} has several rows with the id {value}." for (value,) in reader.query(sql)[1]]
    for tables in ("nodes UNION ALL SELECT name FROM connections", "spaces"):
        sql = (
            f"SELECT name FROM (SELECT name FROM {tables}) WHERE name IS NOT NULL "
            "GROUP BY name HAVING count(*) > 1 ORDER BY name"
        )
        found += [f"The name {value!r} is used more than once." for (value,) in reader.query(sql)[1]]
    sql = (
        "SELECT id FROM nodes WHERE CASE WHEN columns IS NULL THEN (tensor_key IS NULL) = (kernel IS NULL) "
        "ELSE tensor_key IS NULL OR kernel IS NULL END ORDER BY id"
    )
    found += [f"Node {value} is not exactly one of stored, derived and partial." for (value,) in reader.query(sql)[1]]
    sql = (
        "SELECT if(columns IS NULL, 'Derived', 'Partial'), id FROM nodes "
        "WHERE kernel IS NOT NULL AND id NOT IN (SELECT node_id FROM node_terms) ORDER BY id"
    )
    found += [f"{kind} node {value} has no recipe." for kind, value in reader.query(sql)[1]]
    sql = (
        "SELECT id FROM nodes WHERE tensor_key IS NULL "
        "AND id IN (SELECT DISTINCT source_id FROM node_terms) ORDER BY id"
    )
    found += [f"Node {value} is the source of a sum, but has no tensors." for (value,) in reader.query(sql)[1]]
    return found + _partial(reader)


def _partial(reader: Reader) -> list[str]:
    nodes = reader.all(Node, where="columns IS NOT NULL", order="id")
    if not nodes:
        return []
    spaces = reader.all(Space, id=list({n.space_id for n in nodes}))
    sizes = {s.id: Layout.from_json(s.layout).size for s in spaces}
    wrong = {n.id: misfit(n, sizes.get(n.space_id)) for n in nodes}
    found = [f"Node {node}: {what}." for node, what in wrong.items() if what]
    around = circle(reader.query(PARTIAL_TERMS)[1])
    return found + ([f"The partial nodes {', '.join(around)} refer to each other in a circle."] if around else [])
