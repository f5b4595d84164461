"""What a part of a graph needs: all rows that belong to some nodes and connections, or that those refer to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from mgraph_store.errors import InputError, NotFoundError
from mgraph_store.index.reader import Reader
from mgraph_store.rows.records import Connection, Evaluation, Member, Node, Run, Space, Sweep
from mgraph_store.rows.schema import REFERENCES, TABLES, columns

Rows = dict[type[Any], list[Any]]

STANDALONE = ("mode", "merged")
"""Kinds of nodes that are complete by themselves; the others come with the connection that they are members of."""

_NAMED = (Space, Run, Node, Connection, Sweep)


def closure(reader: Reader, things: Sequence[str]) -> Rows:
    """Read all rows that belong to the nodes and connections with these ids, or that those refer to.

    Raises
    ------
    InputError
        If no id is given.
    NotFoundError
        If one of them does not exist.
    """
    if not things:
        raise InputError("There is nothing to pack: name nodes or connections.")
    found: dict[type[Any], dict[str, Any]] = {kind: {} for kind in _NAMED}
    wanted: dict[type[Any], set[str]] = {Node: set(things), Connection: set(things)}
    rows: Rows = {}
    while any(wanted.values()):
        for kind, ids in wanted.items():
            found[kind] |= {r.id: r for r in reader.all(kind, id=sorted(ids))} if ids else {}
        if not rows and (missing := [t for t in things if t not in found[Node] and t not in found[Connection]]):
            raise NotFoundError(f"There is no node or connection {missing[0]}.")
        _add_connections(reader, found)
        rows = _owned(reader, found)
        wanted = _references(rows, found)
    return {kind: rows.get(kind, list(found.get(kind, {}).values())) for kind in TABLES.values()}


def _add_connections(reader: Reader, found: dict[type[Any], dict[str, Any]]) -> None:
    members = [n.id for n in found[Node].values() if n.kind not in STANDALONE]
    if members:
        ids = {m.connection_id for m in reader.all(Member, node_id=members)} - found[Connection].keys()
        found[Connection] |= {c.id: c for c in reader.all(Connection, id=sorted(ids))} if ids else {}
    if found[Connection]:
        sweeps = reader.all(Sweep, connection_id=list(found[Connection]))
        found[Sweep] |= {s.id: s for s in sweeps}


def owners(kind: type[Any]) -> list[tuple[str, type[Any]]]:
    """Say what the rows of a table belong to: column and kind; two if it is one or the other, as for notes."""
    nullable = {c.name: c.nullable for c in columns(kind)}
    found = [(c, k) for c, k in (("connection_id", Connection), ("node_id", Node)) if c in nullable]
    return found if all(nullable[c] for c, _ in found) else found[:1]


def _owned(reader: Reader, found: dict[type[Any], dict[str, Any]]) -> Rows:
    """Read the rows that belong to something: to a connection, or else to a node."""
    rows: Rows = {}
    for kind in TABLES.values():
        if kind in _NAMED:
            continue
        records: list[Any] = []
        for column, owner in owners(kind):
            equals: dict[str, Any] = {column: list(found[owner])}
            records += reader.all(kind, **equals) if found[owner] else []
        if kind is Evaluation:  # from a sweep of another connection that the node is part of
            records = [r for r in records if r.sweep_id is None or r.sweep_id in found[Sweep]]
        rows[kind] = records
    return rows


def _references(rows: Rows, found: dict[type[Any], dict[str, Any]]) -> dict[type[Any], set[str]]:
    """Collect the ids that rows refer to and that are not there yet."""
    everything: Iterable[tuple[type[Any], Iterable[Any]]] = [
        *rows.items(),
        *((kind, records.values()) for kind, records in found.items()),
    ]
    wanted: dict[type[Any], set[str]] = {kind: set() for kind in _NAMED}
    for kind, records in everything:
        named = [(c.name, REFERENCES[c.name]) for c in columns(kind) if c.name in REFERENCES]
        for record in records:
            for name, target in named:
                value = getattr(record, name)
                if value is not None and value not in found[target]:
                    wanted[target].add(value)
    for connection in found[Connection].values():
        lender = json.loads(connection.settings).get("buffers_from")
        if lender and lender not in found[Node]:
            wanted[Node].add(lender)
    return wanted
