"""The SQL of ``node_terms``, ``members`` and ``evaluations``: views of rows of their own, and of those in blocks.

What blocks are, see :mod:`mgraph_store.rows.blocks`. The views are stored in the index, which DuckDB 1.4 reads, too: so
they have nothing that only DuckDB 2 knows, such as ``if`` as a function.
"""

from __future__ import annotations

_OWN = {
    "node_terms": 'SELECT node_id, "position", source_id, coefficient{own} FROM {db}term_rows',
    "members": 'SELECT connection_id, node_id, role, "position", "row", parameter{own} FROM {db}member_rows',
    "evaluations": """SELECT node_id, sweep_id, run_id, split, subset, batchnorm, "precision", metric, value,
    standard_error, count{own} FROM {db}evaluation_rows""",
}
ON_GRID = """list_transform({places}, lambda k: CASE WHEN k >= 0 AND k // len(g.v) < len(g.u)
    THEN [g.u[k // len(g.v) + 1], g.v[k % len(g.v) + 1]] END)"""
"""The parameters of points at some places of a grid g; NULL for a place that it has not."""
_PRODUCT = "CASE WHEN k >= 0 THEN e.along_u[k // g.width + 1] * e.along_v[k % g.width + 1] END"  # of no place: NULL
_LISTED = {
    "node_terms": (
        """SELECT unnest(p.node_ids) AS node_id, e."position", e.source_id,
    unnest(e.coefficients) AS coefficient{numbers}
FROM {db}term_blocks e JOIN {db}point_blocks p ON p.id = e.block_id""",
        f"""SELECT unnest(p.node_ids) AS node_id, e."position", e.source_id,
    unnest(list_transform(p.places, lambda k: {_PRODUCT})) AS coefficient{{numbers}}
FROM {{db}}grid_terms e JOIN {{db}}point_blocks p ON p.grid_id = e.grid_id
JOIN (SELECT id, len(v) AS width FROM {{db}}point_grids) g ON g.id = e.grid_id""",
    ),
    "members": (
        f"""SELECT p.connection_id, unnest(p.node_ids) AS node_id, 'sample' AS role,
    unnest(p.positions) AS "position", NULL::BIGINT AS "row",
    unnest(coalesce(p.parameters, {ON_GRID.format(places="p.places")})) AS parameter{{points}}
FROM {{db}}point_blocks p LEFT JOIN {{db}}point_grids g ON g.id = p.grid_id WHERE p.connection_id IS NOT NULL""",
    ),
    "evaluations": (
        """SELECT unnest(p.node_ids) AS node_id, e.sweep_id, e.run_id, e.split, e.subset, e.batchnorm,
    e."precision", e.metric, unnest(e."values") AS value, unnest(e.standard_errors) AS standard_error, e.count{numbers}
FROM {db}evaluation_blocks e JOIN {db}point_blocks p ON p.id = e.block_id""",
    ),
}
_PLAIN = dict.fromkeys(("own", "points", "numbers"), "")
# A list, by which rows are sorted in the order in which they were written: first those that are in no block.
_PLACED = {
    "own": ", [-1, rowid, 0] AS rowid",
    "points": ", [p.rowid, generate_subscripts(p.node_ids, 1), 0] AS rowid",
    "numbers": ", [p.rowid, generate_subscripts(p.node_ids, 1), e.rowid] AS rowid",
}


def view(table: str, db: str = "main.") -> str:
    """Return the SELECT of a view; ``db`` goes before the names of tables."""
    return "\nUNION ALL ".join(part.format(db=db, **_PLAIN) for part in (_OWN[table], *_LISTED[table]))


def in_blocks(table: str, condition: str) -> str:
    """Return the SELECT of those rows of a view that are in blocks of points that meet a condition, in order."""
    listed = "\nUNION ALL ".join(part.format(db="", **_PLACED) for part in _LISTED[table])
    chosen = listed.replace("point_blocks p", f"(SELECT *, rowid FROM point_blocks WHERE {condition}) p")
    return f"SELECT * EXCLUDE (rowid) FROM ({chosen}) ORDER BY rowid"


def source(table: str) -> str:
    """Return what to read a table or view from, with a column ``rowid`` that says in which order rows were written."""
    if table not in _OWN:
        return table
    placed = " UNION ALL ".join(part.format(db="", **_PLACED) for part in (_OWN[table], *_LISTED[table]))
    return f"({placed}) AS {table}"
