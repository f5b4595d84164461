"""The nodes of a connection: its ends and its control points (no torch)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mgraph_store import Connection, Member, Node, Reader

if TYPE_CHECKING:
    from mgraph.families import Family

BUFFERS_FROM = "buffers_from"  # among a connection's settings: id of the node whose buffers it uses


def rows_of(reader: Reader, connection: Connection) -> list[Node]:
    """Return the K nodes of a connection's control-point matrix, in row order."""
    members = reader.all(Member, connection_id=connection.id, role=["end", "control"])
    nodes = {n.id: n for n in reader.all(Node, id=[m.node_id for m in members])}
    return [nodes[m.node_id] for m in sorted(members, key=lambda m: m.row if m.row is not None else -1)]


def ends_of(reader: Reader, connection: Connection) -> list[Node]:
    """Return a connection's ends in the order in which they were given."""
    members = reader.all(Member, connection_id=connection.id, role="end")
    nodes = {n.id: n for n in reader.all(Node, id=[m.node_id for m in members])}
    return [nodes[m.node_id] for m in sorted(members, key=lambda m: m.position)]


def constants_source(reader: Reader, connection: Connection) -> Node:
    """Return the node whose buffers hold along a connection: its first end, unless it was made with another's."""
    chosen = json.loads(connection.settings).get(BUFFERS_FROM)
    return reader.get(Node, id=chosen) if chosen else ends_of(reader, connection)[0]


def label(node: Node | Connection) -> str:
    """Return the name by which people know it."""
    return node.name or node.id


def member_rows(connection_id: str, family: Family, nodes: Mapping[int, str]) -> list[Member]:
    """Return the rows that say which node, by the number of its control point in the family, has which role."""
    return [
        Member(connection_id, nodes[row], role, position, row)
        for role, rows in (("end", family.ends), ("control", family.free))
        for position, row in enumerate(rows)
    ]
