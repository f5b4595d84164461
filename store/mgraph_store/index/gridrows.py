"""What grids say about the points of blocks, as the lists that blocks without a grid have.

To multiply here takes less time than to pass each coefficient from DuckDB to Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mgraph_store.errors import CorruptError
from mgraph_store.rows.blocks import GRID_TERMS
from mgraph_store.rows.records import GridTerm
from mgraph_store.rows.schema import is_one_of
from mgraph_store.rows.selecting import conditions

Row = tuple[Any, ...]
Fetch = Callable[[str, Sequence[Any]], list[Row]]
"""Runs SQL with parameters and returns all rows."""
Placed = tuple[str, str, Sequence[int]]
"""A block, its grid, and where its points are there."""


def terms_on_grids(fetch: Fetch, same: Mapping[str, Any], blocks: Sequence[str] | None) -> tuple[list[Row], list[Row]]:
    """Read the terms that grids say of some blocks, or of all: those with the same position or source as given.

    Returns the rowid of each term, its block, position, source, and its coefficients; and the rowids, ids and nodes of
    all these blocks.

    Raises
    ------
    CorruptError
        If a grid is missing, or does not have two factors of every point, or has too many terms.
    """
    condition, values = ("true", []) if blocks is None else is_one_of("id", "VARCHAR", list(blocks))
    sql = f"""SELECT rowid, id, node_ids, grid_id, places FROM point_blocks
WHERE grid_id IS NOT NULL AND {condition}"""
    found = fetch(sql, values)
    grids = {grid for *_, grid, _ in found}
    if not grids:
        return [], []
    sizes = _sizes(fetch, grids)
    factors, terms = _factors(fetch, same, sizes, grids), list[Row]()
    for _, block, _, grid, places in found:
        i, j = _split(places, grid, sizes)
        for rowid, position, source, along_u, along_v in factors.get(grid, ()):
            products = [along_u[a] * along_v[b] for a, b in zip(i, j, strict=True)]
            terms.append((rowid, block, position, source, products))
    return terms, [(rowid, block, nodes) for rowid, block, nodes, *_ in found]


def _factors(
    fetch: Fetch, same: Mapping[str, Any], sizes: Mapping[str, tuple[int, int]], grids: Iterable[str]
) -> dict[str, list[Row]]:
    """Read the terms of grids: rowid, position, source, and the factors along either parameter."""
    parts, values = conditions(GridTerm, same)
    condition, given = is_one_of("grid_id", "VARCHAR", list(grids))
    sql = f"""SELECT grid_id, rowid, "position", source_id, along_u, along_v FROM grid_terms
WHERE {" AND ".join([condition, *parts])}"""
    found: dict[str, list[Row]] = {}
    for grid, *term in fetch(sql, [*given, *values]):
        some = found.setdefault(grid, [])
        some.append(tuple(term))
        if tuple(map(len, term[-2:])) != sizes.get(grid) or len(some) > GRID_TERMS:
            raise _corrupt(grid)
    return found


def parameters_on_grids(fetch: Fetch, placed: Sequence[Placed]) -> dict[str, list[list[float]]]:
    """Read the parameters of the points of some blocks; errors as :func:`terms_on_grids`."""
    wanted = {grid for _, grid, _ in placed}
    condition, values = is_one_of("id", "VARCHAR", list(wanted))
    grids = {i: (u, v) for i, u, v in fetch(f"SELECT id, u, v FROM point_grids WHERE {condition}", values)}
    sizes = {i: (len(u), len(v)) for i, (u, v) in grids.items()}
    found = {}
    for block, grid, places in placed:
        at_u, at_v = _split(places, grid, sizes)
        u, v = grids[grid]
        found[block] = [[u[i], v[j]] for i, j in zip(at_u, at_v, strict=True)]
    return found


def _sizes(fetch: Fetch, grids: Iterable[str]) -> dict[str, tuple[int, int]]:
    condition, values = is_one_of("id", "VARCHAR", list(grids))
    return {i: (u, v) for i, u, v in fetch(f"SELECT id, len(u), len(v) FROM point_grids WHERE {condition}", values)}


def _split(
    places: Sequence[int] | None, grid: str, sizes: Mapping[str, tuple[int, int]]
) -> tuple[Sequence[int], Sequence[int]]:
    """Split places on a grid into those along u and along v."""
    height, width = sizes.get(grid, (0, 0))
    if not places or min(places) < 0 or max(places) >= height * width:
        raise _corrupt(grid)
    return [k // width for k in places], [k % width for k in places]


def _corrupt(grid: str) -> CorruptError:
    return CorruptError(f"Grid {grid} does not say where each of its points is, and what of: run `mgraph check`.")
