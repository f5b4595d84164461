"""Migrations from older formats of the index to the current one: a numbered step for each version.

A step gets an open transaction on an index of its version and turns it into the next version. When a graph's owner asks
for it (``mgraph upgrade``), all necessary steps run on a copy, whose rows are then written to a new file that replaces
the index in one step, and the journal starts afresh; so a graph is entirely in one format or the other. Until then it
is read as it is (:mod:`mgraph_store.index.older`), and cannot be written. Every released format has a small graph in
``tests/data`` that must keep opening. What each version changed:

1. the first
2. edges say what chose their route (``chosen_on``) and why they must not count (``doubt``); until then the route of an
   edge over three ends or more was the best by that edge's own numbers. Spaces and sweeps say which metrics were
   measured, and which way these point (``metrics``): until then accuracy alone had a direction. Series may be a node's.
   The file has the storage version of DuckDB 1.4, small blocks, and views for people (schema ``easy``)
3. what a sweep stores is gathered into blocks (``point_blocks``, ``evaluation_blocks``), and ``node_terms``,
   ``members`` and ``evaluations`` are views
4. points of a block may be on a grid, which has their parameters and the factors of their coefficients once for all
   (``point_grids``, ``grid_terms``)

The rows of bundles go the same way as they are read, see :mod:`mgraph_store.exchange.upgrades`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb

from mgraph_store.index.instances import CONFIG, STORAGE
from mgraph_store.rows import schema
from mgraph_store.rows.metrics import metrics_of_format_1
from mgraph_store.rows.records import GridTerm, PointGrid
from mgraph_store.rows.relations import easy_statements

Step = Callable[[duckdb.DuckDBPyConnection], None]


def _routes_by_their_own_numbers(con: duckdb.DuckDBPyConnection) -> None:
    """Migrate from 1 to 2: a path has one route; of several, the train loss chose its own, the others are oracles."""
    con.execute("ALTER TABLE edges ADD COLUMN chosen_on VARCHAR DEFAULT 'path'")
    con.execute("ALTER TABLE edges ALTER COLUMN chosen_on SET NOT NULL")
    con.execute("ALTER TABLE edges ALTER COLUMN chosen_on DROP DEFAULT")
    con.execute("ALTER TABLE edges ADD COLUMN doubt VARCHAR")
    con.execute(
        """UPDATE edges SET chosen_on = if(split = 'train' AND metric = 'loss', 'train loss', 'oracle')
WHERE connection_id IN (
    SELECT connection_id FROM members WHERE role = 'end' GROUP BY connection_id HAVING count(*) > 2
)"""
    )


def _metrics_with_a_direction(con: duckdb.DuckDBPyConnection) -> None:
    """Migrate from 1 to 2: the metrics measured for modes themselves are those of the task; nothing is known about
    others."""
    for table in ("spaces", "sweeps"):
        con.execute(f"ALTER TABLE {table} ADD COLUMN metrics VARCHAR DEFAULT '[]'")
        con.execute(f"ALTER TABLE {table} ALTER COLUMN metrics SET NOT NULL")
        con.execute(f"ALTER TABLE {table} ALTER COLUMN metrics DROP DEFAULT")
    of_spaces = """SELECT n.space_id, list(DISTINCT v.metric) FROM evaluations v JOIN nodes n ON n.id = v.node_id
WHERE v.sweep_id IS NULL GROUP BY 1"""
    of_sweeps = "SELECT sweep_id, list(DISTINCT metric) FROM evaluations WHERE sweep_id IS NOT NULL GROUP BY 1"
    for table, sql in (("spaces", of_spaces), ("sweeps", of_sweeps)):
        for identifier, names in con.execute(sql).fetchall():
            con.execute(f"UPDATE {table} SET metrics = ? WHERE id = ?", [metrics_of_format_1(names), identifier])


def _series_of_nodes(con: duckdb.DuckDBPyConnection) -> None:
    """Migrate from 1 to 2: every series belonged to a connection."""
    con.execute("ALTER TABLE series ALTER COLUMN connection_id DROP NOT NULL")
    con.execute("ALTER TABLE series ADD COLUMN node_id VARCHAR")


def _to_2(con: duckdb.DuckDBPyConnection) -> None:
    _series_of_nodes(con)
    _routes_by_their_own_numbers(con)
    _metrics_with_a_direction(con)


_BLOCKS_OF_3 = (
    """CREATE TABLE point_blocks (id VARCHAR NOT NULL, node_ids VARCHAR[] NOT NULL, connection_id VARCHAR,
    positions BIGINT[], parameters DOUBLE[][])""",
    """CREATE TABLE term_blocks (block_id VARCHAR NOT NULL, "position" BIGINT NOT NULL, source_id VARCHAR NOT NULL,
    coefficients DOUBLE[] NOT NULL)""",
    """CREATE TABLE evaluation_blocks (block_id VARCHAR NOT NULL, sweep_id VARCHAR NOT NULL, run_id VARCHAR,
    split VARCHAR NOT NULL, subset VARCHAR NOT NULL, batchnorm VARCHAR NOT NULL, "precision" VARCHAR NOT NULL,
    metric VARCHAR NOT NULL, "values" DOUBLE[] NOT NULL, standard_errors DOUBLE[], count BIGINT NOT NULL)""",
)


def _to_3(con: duckdb.DuckDBPyConnection) -> None:
    """Migrate from 2 to 3: rows that may be in blocks are in tables of their own; those that there are stay rows."""
    for table, rows in schema.ROWS.items():
        con.execute(f"ALTER TABLE {table} RENAME TO {rows}")
    for statement in _BLOCKS_OF_3:
        con.execute(statement)


def _to_4(con: duckdb.DuckDBPyConnection) -> None:
    """Migrate from 3 to 4: the blocks that there are keep their lists."""
    con.execute("ALTER TABLE point_blocks ADD COLUMN grid_id VARCHAR")
    con.execute("ALTER TABLE point_blocks ADD COLUMN places BIGINT[]")
    for kind in (PointGrid, GridTerm):
        con.execute(schema.create_table(schema.TABLE_OF[kind], kind))


STEPS: dict[int, Step] = {1: _to_2, 2: _to_3, 3: _to_4}
"""Version → the step from it to the next. They leave the views as they were, or out: these are made last."""


NEW_COLUMNS = {
    2: frozenset({"edges.chosen_on", "edges.doubt", "spaces.metrics", "sweeps.metrics", "series.node_id"}),
    4: frozenset({"point_blocks.grid_id", "point_blocks.places"}),
}
"""Version → the columns that its step adds."""


FOLLOWED = 2
"""The first version whose journal the present one can read, so that an index that is behind is brought up to date."""


def new_since(version: int) -> frozenset[str]:
    """Return the columns, as table.column, that rows of an older format lack."""
    return frozenset().union(*(added for since, added in NEW_COLUMNS.items() if since > version))


def can_migrate(version: int) -> bool:
    """Return whether steps lead from a version to the current one."""
    return version <= schema.FORMAT_VERSION and all(v in STEPS for v in range(version, schema.FORMAT_VERSION))


def take_steps(con: duckdb.DuckDBPyConnection, version: int) -> None:
    """Bring an index to the current format, within an open transaction."""
    for step in range(version, schema.FORMAT_VERSION):
        STEPS[step](con)
    for statement in (*schema.create_views(), *schema.comment_statements()):
        con.execute(statement)
    con.execute("UPDATE meta SET format_version = ?", [schema.FORMAT_VERSION])


def rewrite(old: Path, new: Path, version: int, bring: Step, *, skip: int) -> None:
    """Write the rows of an index to a new file, in the current format and created like a new index.

    ``bring`` brings that up to date. As many commits as ``skip`` says are added: two, so that the record of an earlier
    commit that was never made is not mistaken for the next one; none where a log that machines share numbers them. The
    old file, a copy, is changed in the process.
    """
    with duckdb.connect(str(new), config={**CONFIG, **STORAGE}) as con:
        con.execute(f"ATTACH {schema.quoted(str(old))} AS older")
        con.execute("SET enable_external_access = false")
        name = con.execute("SELECT current_database()").fetchall()[0][0]
        con.execute("USE older")
        con.begin()
        take_steps(con, version)
        con.commit()
        con.execute(f'USE "{name}"')
        con.begin()
        for statement in (*schema.create_statements(), *easy_statements()):
            con.execute(statement)
        for table, described in schema.describe().items():
            names, place = ", ".join(f'"{column}"' for column in described), schema.stored_in(table)
            con.execute(f"INSERT INTO {place} ({names}) SELECT {names} FROM older.main.{place} ORDER BY rowid")
        bring(con)
        con.execute("UPDATE meta SET commits = commits + ?", [skip])
        con.commit()
        con.execute("DETACH older")
