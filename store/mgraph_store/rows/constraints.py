"""What must hold between rows, checked inside the transaction that adds them.

DuckDB's keys and indexes are not used, because they are kept in memory, slow every insert, and make an update of an
indexed row fail. Ids, references and names, which every commit has, are looked up in one query, because a query costs
about a millisecond however little it finds.
"""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import duckdb

from mgraph_store.errors import InputError, NameTakenError
from mgraph_store.rows import blocks, limits
from mgraph_store.rows.columns import count, from_json
from mgraph_store.rows.ids import validate_name
from mgraph_store.rows.layout import Layout
from mgraph_store.rows.lists import filled
from mgraph_store.rows.records import (
    Connection,
    EvaluationBlock,
    GridTerm,
    Node,
    NodeBuffers,
    NodeTerm,
    PointBlock,
    PointGrid,
    Record,
    Space,
    TermBlock,
)
from mgraph_store.rows.schema import BLOCK_KINDS, BLOCKS, REFERENCES, TABLE_OF, columns, is_one_of, tables_with
from mgraph_store.rows.statements import run


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
    owned = {kind: _values(records, "id") for kind, records in added.items() if columns(kind)[0].name == "id"}
    referred = _referred(changed)
    named = [
        (tables, group)
        for tables, kinds in NAMED
        if (group := [r for kind in kinds for r in changed.get(kind, ()) if getattr(r, "name", None) is not None])
    ]
    ids: dict[str, dict[Any, None]] = {}
    for kind, values in (*owned.items(), *((target, values) for _, _, target, values in referred)):
        ids.setdefault(TABLE_OF[kind], {}).update(dict.fromkeys(values))
    names = {table: _values(group, "name") for tables, group in named for table in tables}
    found, holders = _look_up(con, {table: list(values) for table, values in ids.items()}, names)
    _check_ids(owned, found)
    _check_references(referred, found)
    for tables, group in named:
        _check_names(group, [holder for table in tables for holder in holders[table]])
    _check_places(con, added)
    terms = [*added.get(NodeTerm, ()), *added.get(TermBlock, ()), *added.get(GridTerm, ())]
    if terms:
        _check_terms(con, _values(terms, "source_id"))
    _check_partial(con, [r for r in changed.get(Node, ()) if isinstance(r, Node) and r.columns is not None])
    if NodeBuffers in added:
        _check_buffers(con, _values(added[NodeBuffers], "node_id"))
    for table, name, gone in removed:
        if name == "id":
            _check_removed(con, table, gone, [(other, column) for other, column, values in removed if values == gone])


def check_record(record: Record) -> None:
    """Check one row by itself; ``InputError`` says what is wrong with it."""
    if type(record) not in TABLE_OF:
        raise InputError(f"{type(record).__name__} is not a record of a graph.")
    name = getattr(record, "name", None)
    if name is not None:
        validate_name(name)
    wrong = limits.fault(record) or (blocks.fault(record) if type(record) in BLOCK_KINDS else None)
    if wrong:
        raise InputError(f"{type(record).__name__} {getattr(record, 'id', '')} cannot be stored: {wrong}.")
    if isinstance(record, Node):
        _check_kind(record)


def check_blocks(added: Mapping[type[Any], Sequence[Record]]) -> None:
    """Check that lists in blocks are about each point of a block that is added with them, and those of grids about each
    coordinate; else ``InputError``."""
    sizes = {b.id: len(b.node_ids) for b in added.get(PointBlock, ()) if isinstance(b, PointBlock)}
    for listed in (*added.get(TermBlock, ()), *added.get(EvaluationBlock, ())):
        assert isinstance(listed, TermBlock | EvaluationBlock)
        points, values = (
            sizes.get(listed.block_id),
            listed.coefficients if isinstance(listed, TermBlock) else listed.values,
        )
        if points is None:
            raise InputError(f"A list belongs to block {listed.block_id}, which is not added with it.")
        if len(values) != points:
            raise InputError(f"Block {listed.block_id} has {points} points, but a list of {len(values)}.")
    _check_grids(added)


def _check_grids(added: Mapping[type[Any], Sequence[Record]]) -> None:
    blocks = [b for b in added.get(PointBlock, ()) if isinstance(b, PointBlock) and b.grid_id is not None]
    grids = {g.id: g for g in added.get(PointGrid, ()) if isinstance(g, PointGrid)}
    unused = next(iter(grids.keys() - {b.grid_id for b in blocks}), None)
    if unused is not None:
        raise InputError(f"Grid {unused} has no points: add some with it.")
    there: set[tuple[str, int]] = set()
    for term in added.get(GridTerm, ()):
        assert isinstance(term, GridTerm)
        grid = grids.get(term.grid_id)
        if grid is None:
            raise InputError(f"A term belongs to grid {term.grid_id}, which is not added with it.")
        if (len(term.along_u), len(term.along_v)) != (len(grid.u), len(grid.v)):
            raise InputError(
                f"Grid {grid.id} has {len(grid.u)} by {len(grid.v)} points, but a term with {len(term.along_u)} and "
                f"{len(term.along_v)} factors."
            )
        if (grid.id, term.position) in there:
            raise InputError(f"Grid {grid.id} has two terms at position {term.position}.")
        there.add((grid.id, term.position))
    _check_inside(blocks, {g.id: len(g.u) * len(g.v) for g in grids.values()})


def _check_inside(blocks: Iterable[PointBlock], sizes: Mapping[str, int]) -> None:
    """Check that points are on those grids whose sizes are known."""
    for block in blocks:
        size = sizes.get(block.grid_id or "")
        if size is not None and max(block.places or (), default=0) >= size:
            raise InputError(f"Block {block.id} has a point at place {max(block.places or ())} of a grid of {size}.")


def _check_places(con: duckdb.DuckDBPyConnection, added: Mapping[type[Any], Sequence[Record]]) -> None:
    """Check that points are on grids that were there already; of new ones, :func:`check_blocks` has."""
    known = {None, *_values(added.get(PointGrid, ()), "id")}
    blocks = [b for b in added.get(PointBlock, ()) if isinstance(b, PointBlock) and b.grid_id not in known]
    if blocks:
        condition, values = is_one_of("id", "VARCHAR", _values(blocks, "grid_id"))
        sizes = run(con, f"SELECT id, len(u) * len(v) FROM point_grids WHERE {condition}", values).fetchall()
        _check_inside(blocks, dict(sizes))


def _check_kind(node: Node) -> None:
    given = (node.tensor_key is not None, node.kernel is not None, node.columns is not None)
    if given not in ((True, False, False), (False, True, False), (True, True, True)):
        raise InputError(
            f"Node {node.id} must be either stored (tensor_key), derived (kernel) or partial "
            "(tensor_key, kernel and columns)."
        )
    wrong = misfit(node) if node.columns is not None else None
    if wrong:
        raise InputError(f"Node {node.id}: {wrong}.")


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


NAMED: tuple[tuple[tuple[str, ...], tuple[type[Any], ...]], ...] = (
    (("nodes", "connections"), (Node, Connection)),
    (("spaces",), (Space,)),
)
"""Tables that share one set of names, and what is in them."""


def _referred(changed: Mapping[type[Any], Sequence[Record]]) -> list[tuple[type[Any], str, type[Any], list[Any]]]:
    """List what rows refer to: kind of row, column, kind that it refers to, ids."""
    return [
        (kind, column.name, target, values)
        for kind, records in changed.items()
        for column in columns(kind)
        if (target := REFERENCES.get(column.name)) and (values := _values(records, column.name))
    ]


def _look_up(
    con: duckdb.DuckDBPyConnection, ids: Mapping[str, list[Any]], names: Mapping[str, list[Any]]
) -> tuple[dict[str, Counter[str]], dict[str, list[tuple[str, str]]]]:
    """Count how often each id is in its table, and list (id, name) of those that have one of the names, by table."""
    parts, values = [], []
    for what, column, wanted in (("i", "id", ids), ("n", "name", names)):
        for table, some in wanted.items():
            if some:
                condition, given = is_one_of(column, "VARCHAR", some)
                parts.append(f"SELECT '{what}{table}', id, {column} FROM {table} WHERE {condition}")
                values += given
    found: dict[str, Counter[str]] = {table: Counter() for table in ids}
    holders: dict[str, list[tuple[str, str]]] = {table: [] for table in names}
    for place, identifier, name in run(con, " UNION ALL ".join(parts), values).fetchall() if parts else ():
        if place[0] == "i":
            found[place[1:]][identifier] += 1
        else:
            holders[place[1:]].append((identifier, name))
    return found, holders


def _check_ids(owned: Mapping[type[Any], list[Any]], found: Mapping[str, Counter[str]]) -> None:
    for kind, values in owned.items():
        table = TABLE_OF[kind]
        twice = next((value for value in values if found[table][value] > 1), None)
        if twice is not None:
            raise InputError(f"The id {twice} is already used in {table}: make a new one.")


def _check_references(
    referred: Sequence[tuple[type[Any], str, type[Any], list[Any]]], found: Mapping[str, Counter[str]]
) -> None:
    for kind, column, target, values in referred:
        table = TABLE_OF[target]
        missing = next((value for value in values if value not in found[table]), None)
        if missing is not None:
            raise InputError(f"A row of {TABLE_OF[kind]} has {column} {missing}, which is not in {table}.")


def _check_names(records: Sequence[Any], holders: Sequence[tuple[str, str]]) -> None:
    ids: dict[str, list[str]] = {}
    for identifier, name in holders:
        ids.setdefault(name, []).append(identifier)
    twice = min((name for name, found in ids.items() if len(found) > 1), default=None)
    if twice is not None:
        ours = {r.id for r in records if r.name == twice}
        others = [i for i in ids[twice] if i not in ours]
        whose = f"belongs to {others[0]}" if others else "was given twice"
        raise NameTakenError(f"The name {twice!r} {whose}: choose another one.")


def _check_terms(con: duckdb.DuckDBPyConnection, sources: list[Any]) -> None:
    condition, values = is_one_of("id", "VARCHAR", sources)
    sql = f"SELECT id, tensor_key IS NULL FROM nodes WHERE {condition} AND (tensor_key IS NULL OR columns IS NOT NULL)"
    found = run(con, sql, values).fetchall()
    derived = next((node for node, is_derived in found if is_derived), None)
    if derived:
        raise InputError(f"Node {derived} is derived: a sum may only refer to stored and partial nodes.")
    # A derived node cannot be a source, so only partial nodes can form a circle.
    if found and (nodes := circle(con.execute(PARTIAL_TERMS).fetchall())):
        raise InputError(f"The partial nodes {', '.join(nodes)} would refer to each other in a circle.")


def _check_partial(con: duckdb.DuckDBPyConnection, nodes: Sequence[Node]) -> None:
    if not nodes:
        return
    alone = _first(
        con,
        "SELECT v FROM (SELECT unnest(?::VARCHAR[]) v) WHERE v NOT IN (SELECT node_id FROM term_rows)",
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


def _check_removed(
    con: duckdb.DuckDBPyConnection, table: str, ids: Sequence[str], cleared: Sequence[tuple[str, str]]
) -> None:
    # Tables and columns from which the same ids were removed refer to none of them.
    with filled(con, mgraph_removed=ids):
        for column, target in REFERENCES.items():
            for other in tables_with(column) if TABLE_OF[target] == table else ():
                if (other, column) in cleared or other in BLOCKS:  # what is in blocks is in views
                    continue
                kept = con.execute(
                    f"SELECT {column} FROM {other} WHERE {column} IN (SELECT value FROM mgraph_removed) LIMIT 1"
                ).fetchone()
                if kept:
                    raise InputError(f"A row of {other} still refers to {kept[0]} of {table}: remove it, too.")


def _values(records: Sequence[Record], name: str) -> list[Any]:
    given = (v for r in records if (v := getattr(r, name)) is not None)
    return list(dict.fromkeys(value for v in given for value in ((v,) if isinstance(v, str) else v)))


def _first(con: duckdb.DuckDBPyConnection, sql: str, values: list[Any]) -> Any:
    row = run(con, sql, [values]).fetchone() if values else None
    return row[0] if row else None
