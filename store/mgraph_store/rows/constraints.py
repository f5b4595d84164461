"""What must hold between rows, checked inside the transaction that adds them.

DuckDB's keys and indexes are not used, because they are kept in memory, slow every insert, and make an update of an
indexed row fail. One query per kind of rule over the new rows costs a few milliseconds.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import duckdb

from mgraph_store.errors import InputError, NameTakenError
from mgraph_store.rows.columns import count, from_json
from mgraph_store.rows.layout import Layout
from mgraph_store.rows.records import Node, NodeBuffers, NodeTerm, Record, Space
from mgraph_store.rows.schema import REFERENCES, TABLE_OF, columns, tables_with


def verify(
    con: duckdb.DuckDBPyConnection,
    added: Mapping[type[Any], Sequence[Record]],
    updated: Sequence[Record],
    removed: Sequence[tuple[str, str, Sequence[str]]] = (),
) -> None:
    """Check the rows just written but not yet committed.

    Raises
    ------
    NameTakenError
        If a name is used twice (nodes and connections share one set of names, spaces have their own).
    InputError
        If an id is used twice, a row refers to something that does not exist, a sum refers to a derived node or in a
        circle, a partial node has no terms or has columns outside its space, or something that was removed (table,
        column, values) is still referred to.
    """
    changed: dict[type[Any], list[Record]] = {kind: list(records) for kind, records in added.items()}
    for record in updated:
        changed.setdefault(type(record), []).append(record)
    for kind, records in added.items():
        _check_ids(con, kind, records)
    for kind, records in changed.items():
        _check_references(con, kind, records)
    everything = [r for records in changed.values() for r in records]
    _check_names(con, ("nodes", "connections"), [r for r in everything if not isinstance(r, Space)])
    _check_names(con, ("spaces",), [r for r in everything if isinstance(r, Space)])
    if NodeTerm in added:
        _check_terms(con, _values(added[NodeTerm], "source_id"))
    _check_partial(con, [r for r in changed.get(Node, ()) if isinstance(r, Node) and r.columns is not None])
    if NodeBuffers in added:
        _check_buffers(con, _values(added[NodeBuffers], "node_id"))
    for table, name, values in removed:
        if name == "id":
            _check_removed(con, table, values)


PARTIAL_TERMS = (
    "SELECT t.node_id, t.source_id FROM node_terms t "
    "JOIN nodes n ON n.id = t.node_id JOIN nodes s ON s.id = t.source_id "
    "WHERE n.columns IS NOT NULL AND s.columns IS NOT NULL"
)
"""SQL for (node_id, source_id) of all terms through which partial nodes refer to partial nodes."""


def misfit(node: Node, size: int | None = None) -> str | None:
    """Say what is wrong with the columns of a partial node, or None; ``size`` is D of its space, if known."""
    try:
        ranges = from_json(node.columns or "")
    except InputError as error:
        return str(error).rstrip(".")
    if node.nbytes != 4 * count(ranges):
        return f"its columns are {count(ranges)} numbers of 4 bytes, but nbytes is {node.nbytes}"
    if size is not None and ranges[-1][1] > size:
        return f"its columns go up to {ranges[-1][1]}, but its space has only {size}"
    return None


def circle(terms: Iterable[tuple[str, str]]) -> list[str]:
    """Find nodes that refer to each other in a circle, with the first one again at the end; empty if there are none."""
    sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
    for node, source in terms:
        sorter.add(node, source)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def _check_ids(con: duckdb.DuckDBPyConnection, kind: type[Any], records: Sequence[Record]) -> None:
    if columns(kind)[0].name != "id":
        return
    twice = _first(
        con,
        f"SELECT id FROM {TABLE_OF[kind]} WHERE id IN (SELECT unnest(?::VARCHAR[])) GROUP BY id HAVING count(*) > 1",
        _values(records, "id"),
    )
    if twice:
        raise InputError(f"The id {twice} is already used in {TABLE_OF[kind]}: make a new one.")


def _check_references(con: duckdb.DuckDBPyConnection, kind: type[Any], records: Sequence[Record]) -> None:
    for column in columns(kind):
        target = REFERENCES.get(column.name)
        if target is None:
            continue
        missing = _first(
            con,
            "SELECT v FROM (SELECT DISTINCT unnest(?::VARCHAR[]) v) "
            f"WHERE v NOT IN (SELECT id FROM {TABLE_OF[target]})",
            _values(records, column.name),
        )
        if missing:
            raise InputError(
                f"A row of {TABLE_OF[kind]} has {column.name} {missing}, which is not in {TABLE_OF[target]}."
            )


def _check_names(con: duckdb.DuckDBPyConnection, tables: Sequence[str], records: Sequence[Record]) -> None:
    owners = {name: r for r in records if (name := getattr(r, "name", None)) is not None}
    if not owners:
        return
    union = " UNION ALL ".join(f"SELECT id, name FROM {table}" for table in tables)
    rows = con.execute(
        f"SELECT name, list(id) FROM ({union}) WHERE name IN (SELECT unnest(?::VARCHAR[])) "
        "GROUP BY name HAVING count(*) > 1 ORDER BY name",
        [list(owners)],
    ).fetchall()
    for name, ids in rows:
        ours = {getattr(r, "id", None) for r in records if getattr(r, "name", None) == name}
        others = [i for i in ids if i not in ours]
        whose = f"belongs to {others[0]}" if others else "was given twice"
        raise NameTakenError(f"The name {name!r} {whose}: choose another one.")


def _check_terms(con: duckdb.DuckDBPyConnection, sources: list[Any]) -> None:
    derived = _first(
        con,
        "SELECT id FROM nodes WHERE tensor_key IS NULL AND id IN (SELECT unnest(?::VARCHAR[]))",
        sources,
    )
    if derived:
        raise InputError(f"Node {derived} is derived: a sum may only refer to stored and partial nodes.")
    # A derived node cannot be a source, so only partial nodes can form a circle.
    partial = "SELECT id FROM nodes WHERE columns IS NOT NULL AND id IN (SELECT unnest(?::VARCHAR[]))"
    if _first(con, partial, sources) and (nodes := circle(con.execute(PARTIAL_TERMS).fetchall())):
        raise InputError(f"The partial nodes {', '.join(nodes)} would refer to each other in a circle.")


def _check_partial(con: duckdb.DuckDBPyConnection, nodes: Sequence[Node]) -> None:
    if not nodes:
        return
    alone = _first(
        con,
        "SELECT v FROM (SELECT unnest(?::VARCHAR[]) v) WHERE v NOT IN (SELECT node_id FROM node_terms)",
        [n.id for n in nodes],
    )
    if alone:
        raise InputError(f"Partial node {alone} has no terms: add those that its other columns come from.")
    layouts = con.execute(
        "SELECT id, layout FROM spaces WHERE id IN (SELECT unnest(?::VARCHAR[]))", [_values(nodes, "space_id")]
    ).fetchall()
    sizes = {space: Layout.from_json(layout).size for space, layout in layouts}
    for node in nodes:
        wrong = misfit(node, sizes[node.space_id])
        if wrong:
            raise InputError(f"Node {node.id}: {wrong}.")


def _check_buffers(con: duckdb.DuckDBPyConnection, nodes: list[Any]) -> None:
    twice = _first(
        con,
        "SELECT node_id || ' (' || policy || ')' FROM node_buffers "
        "WHERE node_id IN (SELECT unnest(?::VARCHAR[])) "
        "GROUP BY node_id, policy HAVING count(*) > 1",
        nodes,
    )
    if twice:
        raise InputError(f"The buffers of node {twice} are already stored.")


def _check_removed(con: duckdb.DuckDBPyConnection, table: str, ids: Sequence[str]) -> None:
    for column, target in REFERENCES.items():
        for other in tables_with(column) if TABLE_OF[target] == table else ():
            kept = _first(con, f"SELECT {column} FROM {other} WHERE {column} IN (SELECT unnest(?::VARCHAR[]))", [*ids])
            if kept:
                raise InputError(f"A row of {other} still refers to {kept} of {table}: remove it, too.")


def _values(records: Sequence[Record], name: str) -> list[Any]:
    return list({v: None for r in records if (v := getattr(r, name)) is not None})


def _first(con: duckdb.DuckDBPyConnection, sql: str, values: list[Any]) -> Any:
    row = con.execute(sql, [values]).fetchone() if values else None
    return row[0] if row else None
