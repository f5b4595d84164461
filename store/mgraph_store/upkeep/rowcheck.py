"""Checking that the rows of an index agree: references, ids, names, recipes, ends of connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mgraph_store.index.reader import Reader
from mgraph_store.rows.constraints import PARTIAL_TERMS, circle, misfit
from mgraph_store.rows.layout import Layout
from mgraph_store.rows.records import Node, Space
from mgraph_store.rows.schema import REFERENCES, TABLE_OF, TABLES, columns

if TYPE_CHECKING:
    import duckdb


def filled_tables(con: duckdb.DuckDBPyConnection) -> list[str]:
    """List the tables that have rows: looking for something in one that has none takes as long as in a short one."""
    parts = " UNION ALL ".join(f"(SELECT '{table}' FROM {table} LIMIT 1)" for table in TABLES)
    found = {table for (table,) in con.execute(parts).fetchall()}
    return [table for table in TABLES if table in found]


def row_problems(reader: Reader) -> list[tuple[str, str]]:
    """For every row that contradicts another one, say what is wrong, with the id or name it is about."""
    found = []
    filled = filled_tables(reader.connection)
    for table in filled:
        record = TABLES[table]
        for column in columns(record):
            target = REFERENCES.get(column.name)
            if target is not None:
                sql = (
                    f"SELECT DISTINCT {column.name} FROM {table} WHERE {column.name} IS NOT NULL "
                    f"AND {column.name} NOT IN (SELECT id FROM {TABLE_OF[target]}) ORDER BY 1"
                )
                found += [
                    (f"{table}.{column.name} {value} is not in {TABLE_OF[target]}.", value)
                    for (value,) in reader.query(sql)[1]
                ]
        if columns(record)[0].name == "id":
            sql = f"SELECT id FROM {table} GROUP BY id HAVING count(*) > 1 ORDER BY id"
            found += [(f"{table} has several rows with the id {value}.", value) for (value,) in reader.query(sql)[1]]
    for tables in ("nodes UNION ALL SELECT name FROM connections", "spaces"):
        sql = (
            f"SELECT name FROM (SELECT name FROM {tables}) WHERE name IS NOT NULL "
            "GROUP BY name HAVING count(*) > 1 ORDER BY name"
        )
        found += [(f"The name {value!r} is used more than once.", value) for (value,) in reader.query(sql)[1]]
    sql = (
        "SELECT id FROM nodes WHERE CASE WHEN columns IS NULL THEN (tensor_key IS NULL) = (kernel IS NULL) "
        "ELSE tensor_key IS NULL OR kernel IS NULL END ORDER BY id"
    )
    found += [
        (f"Node {value} is not exactly one of stored, derived and partial.", value) for (value,) in reader.query(sql)[1]
    ]
    sql = (
        "SELECT if(columns IS NULL, 'Derived', 'Partial'), id FROM nodes "
        "WHERE kernel IS NOT NULL AND id NOT IN (SELECT node_id FROM node_terms) ORDER BY id"
    )
    found += [(f"{kind} node {value} has no recipe.", value) for kind, value in reader.query(sql)[1]]
    sql = (
        "SELECT id FROM nodes WHERE tensor_key IS NULL "
        "AND id IN (SELECT DISTINCT source_id FROM node_terms) ORDER BY id"
    )
    found += [(f"Node {value} is the source of a sum, but has no tensors.", value) for (value,) in reader.query(sql)[1]]
    if "connections" in filled:
        found += _ends(reader)
    if "edges" in filled:
        found += _edges(reader)
    return found + _partial(reader)


def _partial(reader: Reader) -> list[tuple[str, str]]:
    nodes = reader.all(Node, where="columns IS NOT NULL", order="id")
    if not nodes:
        return []
    spaces = reader.all(Space, id=list({n.space_id for n in nodes}))
    sizes = {s.id: Layout.from_json(s.layout).size for s in spaces}
    wrong = {n.id: misfit(n, sizes.get(n.space_id)) for n in nodes}
    found = [(f"Node {node}: {what}.", node) for node, what in wrong.items() if what]
    around = circle(reader.query(PARTIAL_TERMS)[1])
    if around:
        found.append((f"The partial nodes {', '.join(around)} refer to each other in a circle.", around[0]))
    return found


def _ends(reader: Reader) -> list[tuple[str, str]]:
    sql = (
        "SELECT c.id, count(DISTINCT m.node_id) FROM connections c "
        "LEFT JOIN members m ON m.connection_id = c.id AND m.role = 'end' "
        "GROUP BY c.id HAVING count(DISTINCT m.node_id) < 2 ORDER BY c.id"
    )
    return [(f"Connection {value} has {ends} ends, not at least two.", value) for value, ends in reader.query(sql)[1]]


def _edges(reader: Reader) -> list[tuple[str, str]]:
    ends = "SELECT node_id FROM members m WHERE m.connection_id = e.connection_id AND m.role = 'end'"
    sql = (
        "SELECT DISTINCT connection_id FROM edges e "
        f"WHERE source_id NOT IN ({ends}) OR target_id NOT IN ({ends}) ORDER BY 1"
    )
    return [
        (f"Connection {value} has edges between nodes that are not its ends.", value)
        for (value,) in reader.query(sql)[1]
    ]
