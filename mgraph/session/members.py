"""The nodes of a connection: its ends and its control points (no torch)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, TypeVar

from mgraph.errors import InputError
from mgraph.query.damaged import contradiction
from mgraph_store import Connection, Member, Node, Reader, Run, Space

if TYPE_CHECKING:
    from mgraph.families import Family

R = TypeVar("R", Space, Node, Connection)

BUFFERS_FROM = "buffers_from"  # key in a connection's settings: id of the node whose buffers it uses


def rows_of(reader: Reader, connection: Connection) -> list[Node]:
    """Return the K nodes of a connection's control-point matrix, in row order."""
    return rows_and_ends(reader, connection)[0]


def rows_and_ends(reader: Reader, connection: Connection) -> tuple[list[Node], list[Node]]:
    """Return the K nodes of a connection's control-point matrix, in row order, and its ends in the order given."""
    from mgraph.query.sweepdata import family_of

    members = reader.all(Member, connection_id=connection.id, role=["end", "control"])
    rows = sorted(members, key=lambda m: m.row if m.row is not None else -1)
    size = family_of(connection).size
    if [m.row for m in rows] != list(range(size)):
        raise contradiction(label(connection), f"it has {len(rows)} nodes in {size} rows")
    nodes = _nodes_of(reader, connection, rows)
    ends = [(m.position, node) for m, node in zip(rows, nodes, strict=True) if m.role == "end"]
    return nodes, [node for _, node in sorted(ends, key=itemgetter(0))]


def ends_of(reader: Reader, connection: Connection) -> list[Node]:
    """Return a connection's ends in the order in which they were given."""
    members = reader.all(Member, connection_id=connection.id, role="end")
    if not members:
        raise contradiction(label(connection), f"it has {len(members)} ends")
    return _nodes_of(reader, connection, sorted(members, key=lambda m: m.position))


def _nodes_of(reader: Reader, connection: Connection, members: Sequence[Member]) -> list[Node]:
    nodes = {n.id: n for n in reader.all(Node, id=[m.node_id for m in members])}
    missing = next((m.node_id for m in members if m.node_id not in nodes), None)
    if missing is not None:
        raise contradiction(label(connection), f"its node {missing} does not exist")
    return [nodes[m.node_id] for m in members]


def constants_source(reader: Reader, connection: Connection, ends: Sequence[Node] = ()) -> Node:
    """Return the node whose buffers hold along a connection: its first end, unless it was made with another's.

    Its ``ends`` are read if they are not given.
    """
    chosen = json.loads(connection.settings).get(BUFFERS_FROM)
    return reader.get(Node, id=chosen) if chosen else (ends or ends_of(reader, connection))[0]


def still_there(reader: Reader, kind: type[R], identifier: str, resumed: Run | None) -> R:
    """Return what a job names by its id; InputError if it is gone and the run to be ``resumed`` needs it."""
    found = reader.all(kind, id=identifier)
    if found:
        return found[0]
    if resumed is None:
        return reader.get(kind, id=identifier)  # which says so
    what = kind.__name__.lower()
    raise InputError(f"Run {resumed.id} cannot be resumed: the {what} {identifier} is gone from the graph.")


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
