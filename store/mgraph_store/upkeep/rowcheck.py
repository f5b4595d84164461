"""Checking that the rows of an index agree: references, ids, names, recipes, ends of connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mgraph_store.index.reader import Reader
from mgraph_store.rows.blocks import GRID_TERMS
from mgraph_store.rows.constraints import PARTIAL_TERMS, circle, misfit
from mgraph_store.rows.layout import Layout
from mgraph_store.rows.records import Node, Space
from mgraph_store.rows.schema import BLOCKS, REFERENCES, STORED, TABLE_OF, columns, stored_in
from mgraph_store.rows.statements import run

if TYPE_CHECKING:
    import duckdb


def filled_tables(con: duckdb.DuckDBPyConnection) -> list[str]:
    """List the tables that have rows: looking for something in one that has none takes as long as in a short one."""
    parts = " UNION ALL ".join(f"(SELECT '{table}' FROM {stored_in(table)} LIMIT 1)" for table in STORED)
    found = {table for (table,) in run(con, parts).fetchall()}
    return [table for table in STORED if table in found]


def row_problems(reader: Reader) -> list[tuple[str, str]]:
    """For every row that contradicts another one, say what is wrong, with the id or name it is about."""
    found = []
    filled = filled_tables(reader.connection)
    for table in filled:
        record = STORED[table]
        for column in columns(record):
            target = REFERENCES.get(column.name)
            if target is not None:
                each = f"unnest({column.name})" if column.type.endswith("[]") else column.name
                sql = (
                    f"SELECT DISTINCT id FROM (SELECT {each} AS id FROM {stored_in(table)}) WHERE id IS NOT NULL "
                    f"AND id NOT IN (SELECT id FROM {TABLE_OF[target]}) ORDER BY 1"
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
        "WHERE kernel IS NOT NULL AND id NOT IN (SELECT node_id FROM term_rows UNION ALL "
        "SELECT unnest(node_ids) FROM point_blocks WHERE id IN (SELECT block_id FROM term_blocks) "
        "OR grid_id IN (SELECT grid_id FROM grid_terms)) ORDER BY id"
    )
    found += [(f"{kind} node {value} has no recipe.", value) for kind, value in reader.query(sql)[1]]
    sql = (
        "SELECT id FROM nodes WHERE tensor_key IS NULL "
        "AND id IN (SELECT DISTINCT source_id FROM term_rows UNION SELECT source_id FROM term_blocks "
        "UNION SELECT source_id FROM grid_terms) ORDER BY id"
    )
    found += [(f"Node {value} is the source of a sum, but has no tensors.", value) for (value,) in reader.query(sql)[1]]
    if not BLOCKS.keys().isdisjoint(filled):
        found += _blocks(reader)
    if "point_grids" in filled or "grid_terms" in filled:
        found += _grids(reader)
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


def _blocks(reader: Reader) -> list[tuple[str, str]]:
    """Find blocks whose lists do not have one entry for each point."""
    sql = (
        "SELECT id FROM point_blocks WHERE len(node_ids) = 0 OR len(positions) <> len(node_ids) "
        "OR len(parameters) <> len(node_ids) OR (connection_id IS NULL) <> (positions IS NULL) "
        "OR (connection_id IS NULL OR grid_id IS NOT NULL) <> (parameters IS NULL) "
        "OR len(places) <> len(node_ids) OR (grid_id IS NULL) <> (places IS NULL) "
        "UNION SELECT e.block_id FROM term_blocks e JOIN point_blocks p ON p.id = e.block_id "
        "WHERE len(e.coefficients) <> len(p.node_ids) "
        "UNION SELECT e.block_id FROM evaluation_blocks e JOIN point_blocks p ON p.id = e.block_id "
        'WHERE len(e."values") <> len(p.node_ids) OR len(e.standard_errors) <> len(p.node_ids) ORDER BY 1'
    )
    return [
        (f"Block {value} does not say the same about each of its points.", value) for (value,) in reader.query(sql)[1]
    ]


def _grids(reader: Reader) -> list[tuple[str, str]]:
    """Find grids that do not have both factors for each term of every point, or lack a place where a point is."""
    sql = (
        "SELECT g.id FROM point_grids g WHERE len(g.u) = 0 OR len(g.v) = 0 UNION "
        "SELECT g.id FROM point_grids g JOIN grid_terms e ON e.grid_id = g.id WHERE len(e.along_u) <> len(g.u) OR "
        f'len(e.along_v) <> len(g.v) OR e."position" NOT BETWEEN 0 AND {GRID_TERMS - 1} UNION '
        "SELECT g.id FROM point_grids g JOIN point_blocks p ON p.grid_id = g.id WHERE "
        "NOT coalesce(list_min(p.places) >= 0 AND list_max(p.places) < len(g.u) * len(g.v), false) UNION "
        'SELECT grid_id FROM grid_terms GROUP BY grid_id, "position" HAVING count(*) > 1 ORDER BY 1'
    )
    return [
        (f"Grid {value} does not say where each of its points is, and what of.", value)
        for (value,) in reader.query(sql)[1]
    ]


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
