"""What must hold between rows, checked inside the transaction that adds them.

Not by keys and indexes of DuckDB: those are kept in memory, slow every insert, and make an update of an
indexed row fail. One query per kind of rule over the new rows costs a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from mgraph_store.errors import InputError, NameTakenError
from mgraph_store.records import NodeBuffers, NodeTerm, Record, Space
from mgraph_store.schema import REFERENCES, TABLE_OF, columns


def verify(
    con: duckdb.DuckDBPyConnection, added: Mapping[type[Any], Sequence[Record]], updated: Sequence[Record]
) -> None:
    """Check the rows just written but not committed.

    Raises
    ------
    NameTakenError
        If a name is used twice (nodes and connections share one set of names, spaces have their own).
    InputError
        If an id is used twice, a row refers to something that is not there, or a sum to a derived node.
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
    if NodeBuffers in added:
        _check_buffers(con, _values(added[NodeBuffers], "node_id"))


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
        raise InputError(f"Node {derived} is derived: a sum may only refer to stored nodes.")


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


def _values(records: Sequence[Record], name: str) -> list[Any]:
    return list({v: None for r in records if (v := getattr(r, name)) is not None})


def _first(con: duckdb.DuckDBPyConnection, sql: str, values: list[Any]) -> Any:
    row = con.execute(sql, [values]).fetchone() if values else None
    return row[0] if row else None
