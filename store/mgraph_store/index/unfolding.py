"""Rows of views, read from where they are stored: their own table, and blocks, which are unfolded here.

To plan the query of a view takes DuckDB several milliseconds, and to pass each number to Python together with the words
that say what it is takes longer than to pass lists of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from operator import itemgetter
from typing import Any, NamedTuple

from mgraph_store.errors import CorruptError
from mgraph_store.index.gridrows import Fetch, Row, parameters_on_grids, terms_on_grids
from mgraph_store.rows.records import EvaluationBlock, PointBlock, TermBlock
from mgraph_store.rows.schema import ROWS, TABLE_OF, columns, is_one_of
from mgraph_store.rows.selecting import conditions


class _Form(NamedTuple):
    """How rows of a view are in a table of blocks: which of their columns are lists there, under which names, and which
    are not there, because they are the same for all rows in blocks. The others are the same for a whole block."""

    block: type[Any]
    lists: Mapping[str, str]
    fixed: Mapping[str, Any]


_FORMS: Mapping[str, _Form] = {
    "node_terms": _Form(TermBlock, {"coefficient": "coefficients"}, {}),
    "members": _Form(PointBlock, {"position": "positions", "parameter": "parameters"}, {"role": "sample", "row": None}),
    "evaluations": _Form(EvaluationBlock, {"value": "values", "standard_error": "standard_errors"}, {}),
}


class _Points(NamedTuple):
    """Points of a block: where the block is in its table, how many it has, and which of them are wanted."""

    rowid: int
    size: int
    nodes: Sequence[str]
    places: Sequence[int] | None  # in the block; None: all
    on_grid: bool = False


def can_unfold(record: type[Any], equals: Mapping[str, Any]) -> bool:
    """Return whether rows of this kind may be in blocks, and those with these values can be read here: that they have
    them must be true of whole blocks, or of nodes."""
    form = _FORMS.get(TABLE_OF[record])
    return form is not None and form.lists.keys().isdisjoint(equals) and equals.get("node_id", "") is not None


def unfolded(fetch: Fetch, record: type[Any], equals: Mapping[str, Any]) -> list[Row]:
    """Read the rows of a view with these values (as in :meth:`Reader.all`), in the order in which they were written.

    Raises
    ------
    CorruptError
        If a block does not say the same about each of its points, or a grid does not say it of all that are there.
    InputError
        If there is no such column, or a value does not fit it.
    """
    table, names = TABLE_OF[record], [c.name for c in columns(record)]
    parts, values = conditions(record, equals)
    listed = ", ".join(f'"{name}"' for name in (*names, "rowid"))
    own = fetch(f"SELECT {listed} FROM {ROWS[table]}{_where(parts)}", values)
    own.sort(key=itemgetter(-1))
    return [*(row[:-1] for row in own), *_in_blocks(fetch, table, names, equals)]


def _in_blocks(fetch: Fetch, table: str, names: Sequence[str], equals: Mapping[str, Any]) -> Iterable[Row]:
    form = _FORMS[table]
    required = {c.name for c in columns(form.block) if not c.nullable}
    for name, value in equals.items():
        if (name in form.fixed and not _includes(value, form.fixed[name])) or (name in required and value is None):
            return ()
    points = _with_nodes(fetch, equals["node_id"]) if "node_id" in equals else None
    if points is not None and not points:
        return ()
    blocks = _blocks(fetch, form, names, equals, points)
    on_grids: list[Row] = []
    if form.block is TermBlock:
        same = {name: value for name, value in equals.items() if name != "node_id"}
        wanted = None if points is None else [block for block, p in points.items() if p.on_grid]
        terms, on_grids = terms_on_grids(fetch, same, wanted) if wanted != [] else ([], [])
        blocks += [(rowid, block, None, *told) for rowid, block, *told in terms]
    elif form.block is PointBlock:
        blocks = _with_parameters(fetch, blocks)
    if points is None:
        points = _whole(fetch, blocks, on_grids)
    said: dict[str, list[Iterable[Row]]] = {}
    for _, block, _, *values in sorted(blocks, key=itemgetter(0)):
        if block in points:
            said.setdefault(block, []).append(_rows(form, names, points[block], values))
    # All that is said about a point comes before what is said about the next one.
    return chain.from_iterable(
        chain.from_iterable(zip(*said[block], strict=True)) for block in sorted(said, key=lambda b: points[b].rowid)
    )


def _blocks(
    fetch: Fetch, form: _Form, names: Sequence[str], equals: Mapping[str, Any], points: Mapping[str, _Points] | None
) -> list[Row]:
    """Read rows of a table of blocks: rowid, id of the block, its nodes or NULL if they are not there, what it says."""
    whole = form.block is PointBlock
    owner, nodes = ("id", "node_ids") if whole else ("block_id", "NULL")
    same = {name: value for name, value in equals.items() if name != "node_id" and name not in form.fixed}
    parts, values = conditions(form.block, same)
    if whole:
        parts.append("connection_id IS NOT NULL")
    if points is not None:
        condition, given = is_one_of(owner, "VARCHAR", list(points))
        parts.append(condition)
        values += given
    told = [f'"{form.lists.get(name, name)}"' for name in names if name != "node_id" and name not in form.fixed]
    if whole:
        told += ["grid_id", "places"]
    return fetch(
        f"SELECT rowid, {owner}, {nodes}, {', '.join(told)} FROM {TABLE_OF[form.block]}{_where(parts)}", values
    )


def _with_parameters(fetch: Fetch, blocks: Sequence[Row]) -> list[Row]:
    """Put the parameters of points on a grid in place of the last three columns: none, the grid, and the places."""
    placed = [(block, grid, places) for _, block, *_, grid, places in blocks if grid is not None]
    found = parameters_on_grids(fetch, placed) if placed else {}
    return [(*told, found.get(told[1], parameters)) for *told, parameters, _, _ in blocks]


def _whole(fetch: Fetch, blocks: Sequence[Row], known: Sequence[Row]) -> dict[str, _Points]:
    """Find all points of some blocks, of which some are known: rowid, id and nodes."""
    found = [*known, *((rowid, block, nodes) for rowid, block, nodes, *_ in blocks if nodes is not None)]
    rest = list({block for _, block, *_ in blocks} - {block for _, block, _ in found})
    if rest:
        condition, values = is_one_of("id", "VARCHAR", rest)
        found += fetch(f"SELECT rowid, id, node_ids FROM point_blocks WHERE {condition}", values)
    return {block: _Points(rowid, len(nodes), nodes, None) for rowid, block, nodes in found}


def _with_nodes(fetch: Fetch, nodes: Any) -> dict[str, _Points]:
    """Find points by their nodes, one or several."""
    condition, values = is_one_of("node", "VARCHAR", [nodes] if isinstance(nodes, str) else list(nodes))
    sql = f"""SELECT * FROM (
    SELECT rowid, id, len(node_ids), grid_id IS NOT NULL, unnest(node_ids) AS node,
        generate_subscripts(node_ids, 1) - 1 AS place
    FROM point_blocks
) WHERE {condition}"""
    found: dict[str, tuple[int, int, list[str], list[int], bool]] = {}
    for rowid, block, size, on_grid, node, place in sorted(fetch(sql, values), key=itemgetter(5)):
        _, _, those, places, _ = found.setdefault(block, (rowid, size, [], [], on_grid))
        those.append(node)
        places.append(place)
    return {block: _Points(*points) for block, points in found.items()}


def _rows(form: _Form, names: Sequence[str], points: _Points, values: Sequence[Any]) -> Iterable[Row]:
    """Unfold one row of a table of blocks."""
    told, many = iter(values), len(points.nodes)
    parts: list[Iterable[Any]] = []
    for name in names:
        if name == "node_id":
            parts.append(points.nodes)
        elif name in form.fixed:
            parts.append(repeat(form.fixed[name], many))
        elif (value := next(told)) is None or name not in form.lists:
            parts.append(repeat(value, many))
        elif len(value) != points.size:
            raise CorruptError("A block does not say the same about each of its points: run `mgraph check`.")
        else:
            parts.append(value if points.places is None else [value[i] for i in points.places])
    return zip(*parts, strict=True)


def _includes(wanted: Any, value: Any) -> bool:
    if isinstance(wanted, (list, tuple, set, frozenset)):
        return value is not None and value in wanted
    return bool(wanted == value)


def _where(parts: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(parts)}" if parts else ""
