"""What users list, filter and query: tables already joined with names and numbers.

:data:`NODES` and :data:`CONNECTIONS` are for listings; :data:`VIEWS` are the views for a user's SQL (``mgraph sql``). A
view with the name of a table has all its columns and more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mgraph_store.rows.metrics import DEFAULT
from mgraph_store.rows.schema import TABLES, columns, quoted

_SPLITS = ("train", "valid", "test")


class Field(NamedTuple):
    """A column: its name, its type for filters (number, text, texts, time, yes/no), meaning, unit."""

    name: str
    type: str
    meaning: str
    unit: str = ""


@dataclass(frozen=True)
class Relation:
    """A SELECT over the tables, with ``{db}`` before each of them, and a description of its columns."""

    meaning: str
    sql: str
    fields: tuple[Field, ...]

    @property
    def by_name(self) -> dict[str, Field]:
        """The columns by their names."""
        return {f.name: f for f in self.fields}

    def select(self, database: str = "main") -> str:
        """Return the SELECT."""
        return self.sql.format(db=database)


def _pivot(metrics: Sequence[str]) -> str:
    return ", ".join(
        f"max(value) FILTER (split = '{split}' AND metric = '{metric}') AS \"{split}_{metric}\""
        for split in _SPLITS
        for metric in metrics
    )


def _numbers(metrics: Sequence[str], more: str = "") -> tuple[Field, ...]:
    own = ", with the node's own statistics" if more else ""
    return tuple(
        Field(f"{split}_{metric}", "number", f"{metric} on the {more}{split} split{own}")
        for split in _SPLITS
        for metric in metrics
    )


def _names(metrics: Sequence[str]) -> str:
    return ", ".join(f'v."{f.name}"' for f in _numbers(metrics))


def _labels(column: str) -> str:
    return f"""(
    SELECT {column} AS subject, list(key ORDER BY key) FILTER (value IS NULL) AS tags,
        map_from_entries(list(row(key, value) ORDER BY key) FILTER (value IS NOT NULL)) AS notes
    FROM {{db}}.notes WHERE {column} IS NOT NULL GROUP BY {column}
)"""


_LABELS = (
    Field("tags", "texts", "its tags"),
    Field("notes", "notes", "its notes, values by key"),
)


# What the node's info says, found without DuckDB's JSON, which stops at what is not JSON.
_CYCLE = """TRY_CAST(regexp_extract(n.info, '"cycle": ([0-9]+)', 1) AS INTEGER)"""


def nodes(metrics: Sequence[str] = DEFAULT) -> Relation:
    """Return every node with its own numbers for these metrics (see :func:`mgraph_store.rows.metrics.names_in`)."""
    return Relation(
        "every node, with the numbers measured for itself (not in a sweep)",
        f"""SELECT n.id, n.name, n.kind, s.name AS space, {_names(metrics)}, r.seed, {_CYCLE} AS cycle,
    n.tensor_key IS NOT NULL AS stored, n.nbytes, n.created, n.run_id,
    coalesce(t.tags, []) AS tags, coalesce(t.notes, MAP {{{{}}}}) AS notes
FROM {{db}}.nodes n JOIN {{db}}.spaces s ON s.id = n.space_id LEFT JOIN {{db}}.runs r ON r.id = n.run_id
LEFT JOIN (
    SELECT node_id, {_pivot(metrics)} FROM {{db}}.evaluation_rows WHERE sweep_id IS NULL AND subset = 'all'
    GROUP BY node_id
) v ON v.node_id = n.id
LEFT JOIN {_labels("node_id")} t ON t.subject = n.id""",
        (
            Field("id", "text", "its id"),
            Field("name", "text", "its name"),
            Field("kind", "text", "mode, merged, control, pivot or sample"),
            Field("space", "text", "name of its space"),
            *_numbers(metrics, "whole "),
            Field("seed", "number", "seed of the run that made it"),
            Field("cycle", "number", "of a member of a fast ensemble: its cycle in the run that made it"),
            Field("stored", "yes/no", "whether it has tensors of its own"),
            Field("nbytes", "number", "size of these", "bytes"),
            Field("created", "time", "when it was made, UTC"),
            Field("run_id", "text", "the run that made it"),
            *_LABELS,
        ),
    )


NODES = nodes()

# An edge ``x`` that counts, before finer ones replace it: not an oracle, without a doubt, and not an overflow.
_COUNTS = """x.chosen_on <> 'oracle' AND x.doubt IS NULL
    AND (isfinite(x.peak) OR x."precision" IN ('fp32', 'fp64'))"""

CONNECTIONS = Relation(
    "every connection, with the worst of its pairs of ends (train loss, finest sweep)",
    """SELECT c.id, c.name, c.kind, s.name AS space, e.ends, c.status, c.reason, q.peak, q.barrier, q."drop", q.length,
    q.resolution, q.examples, c.created, c.run_id, coalesce(t.tags, []) AS tags, coalesce(t.notes, MAP {{}}) AS notes
FROM {db}.connections c JOIN {db}.spaces s ON s.id = c.space_id
LEFT JOIN (
    SELECT m.connection_id, list(coalesce(n.name, n.id) ORDER BY m.position) AS ends
    FROM {db}.members m JOIN {db}.nodes n ON n.id = m.node_id WHERE m.role = 'end' GROUP BY m.connection_id
) e ON e.connection_id = c.id
LEFT JOIN (
    SELECT x.connection_id, max(x.peak) AS peak, max(x.barrier) AS barrier, max(x."drop") AS "drop",
        max(x.length) AS length, min(x.resolution) AS resolution, min(x.examples) AS examples
    FROM {db}.edges x JOIN (
        SELECT connection_id, max_by(
            w.id, row(list_product(w.grid), g.examples, g.full_precision, w.created, w.id)
        ) AS sweep_id
        FROM {db}.sweeps w JOIN (
            SELECT sweep_id, max(examples) AS examples, bool_or("precision" IN ('fp32', 'fp64')) AS full_precision
            FROM {db}.edges x WHERE split = 'train' AND metric = 'loss' AND """
    + _COUNTS
    + """ GROUP BY sweep_id
        ) g ON g.sweep_id = w.id
        GROUP BY connection_id
    ) f USING (connection_id, sweep_id)
    WHERE x.split = 'train' AND x.metric = 'loss' AND """
    + _COUNTS
    + """ GROUP BY x.connection_id
) q ON q.connection_id = c.id
LEFT JOIN """
    + _labels("connection_id")
    + " t ON t.subject = c.id",
    (
        Field("id", "text", "its id"),
        Field("name", "text", "its name"),
        Field("kind", "text", "the method: linear, curve, surface, …"),
        Field("space", "text", "name of its space"),
        Field("ends", "texts", "the modes that it connects"),
        Field("status", "text", "complete, interrupted or failed"),
        Field("reason", "text", "why it ended as it did"),
        Field("peak", "number", "largest train loss on the way between its worst pair of ends"),
        Field("barrier", "number", "largest excess of it over the chord of the ends"),
        Field("drop", "number", "largest excess of it over the mean of the ends"),
        Field("length", "number", "of the longest way between two ends", "L2"),
        Field("resolution", "number", "points of the shortest way", "points"),
        Field("examples", "number", "examples per point"),
        Field("created", "time", "when it was made, UTC"),
        Field("run_id", "text", "the run that made it"),
        *_LABELS,
    ),
)


def _samples(metrics: Sequence[str]) -> Relation:
    return Relation(
        "every swept point of a connection, with its parameter and what the sweep measured",
        f"""SELECT c.id AS connection_id, coalesce(c.name, c.id) AS connection, v.sweep_id, v.node_id, m.parameter,
    {_names(metrics)}, w.batchnorm, w."precision", w.created
FROM (
    SELECT sweep_id, node_id, {_pivot(metrics)} FROM {{db}}.evaluations WHERE sweep_id IS NOT NULL
    GROUP BY sweep_id, node_id
) v JOIN {{db}}.sweeps w ON w.id = v.sweep_id JOIN {{db}}.connections c ON c.id = w.connection_id
JOIN {{db}}.members m ON m.connection_id = c.id AND m.node_id = v.node_id AND m.role = 'sample'""",
        (
            Field("connection_id", "text", "the connection"),
            Field("connection", "text", "its name, or its id"),
            Field("sweep_id", "text", "the sweep"),
            Field("node_id", "text", "the point"),
            Field("parameter", "numbers", "where it is: t, (u, v), or barycentric coordinates"),
            *_numbers(metrics),
            Field("batchnorm", "text", "BatchNorm policy"),
            Field("precision", "text", "fp32, fp64, …"),
            Field("created", "time", "when the sweep was completed, UTC"),
        ),
    )


def _with_table(table: str, meaning: str, more: tuple[Field, ...], sql: str) -> Relation:
    """Return a relation that has a table's columns first."""
    own = tuple(Field(c.name, c.type.lower(), c.meaning, c.unit) for c in columns(TABLES[table]))
    return Relation(meaning, sql, (*own, *more))


_IS_MODE = "kind IN ('mode', 'merged')"

VIEWS: Mapping[str, Relation] = {
    "modes": Relation(
        "modes and merged nodes, with the numbers measured for themselves",
        f"SELECT * FROM ({NODES.sql}) WHERE {_IS_MODE}",
        NODES.fields,
    ),
    "edges": _with_table(
        "edges",
        "how well a pair of ends is connected, by sweep, split and metric: the table, with names",
        (
            Field("source", "text", "name of one end, or its id"),
            Field("target", "text", "name of the other end, or its id"),
            Field("connection", "text", "name of the connection, or its id"),
            Field("method", "text", "its kind: linear, curve, surface, …"),
            Field("status", "text", "its status"),
            Field("current", "yes/no", "whether it counts: of the finest sweep, no oracle, and without a doubt"),
        ),
        f"""SELECT e.*, coalesce(a.name, a.id) AS source, coalesce(b.name, b.id) AS target,
    coalesce(c.name, c.id) AS connection, c.kind AS method, c.status,
    {_COUNTS.replace("x.", "e.")} AND row_number() OVER (
        PARTITION BY e.connection_id, e.source_id, e.target_id, e.split, e.metric, {_COUNTS.replace("x.", "e.")}
        ORDER BY list_product(w.grid) DESC, e.examples DESC, (e."precision" IN ('fp32', 'fp64')) DESC,
            w.created DESC, e.rowid DESC
    ) = 1 AS current
FROM {{db}}.edges e JOIN {{db}}.connections c ON c.id = e.connection_id JOIN {{db}}.sweeps w ON w.id = e.sweep_id
JOIN {{db}}.nodes a ON a.id = e.source_id JOIN {{db}}.nodes b ON b.id = e.target_id""",
    ),
    "samples": _samples(DEFAULT),
    "evaluations": _with_table(
        "evaluations",
        "every number measured at a node: the table, with names",
        (
            Field("node", "text", "name of the node, or its id"),
            Field("kind", "text", "its kind"),
            Field("connection", "text", "of a sweep: name of the connection, or its id"),
        ),
        """SELECT v.*, coalesce(n.name, n.id) AS node, n.kind, coalesce(c.name, c.id) AS connection
FROM {db}.evaluations v JOIN {db}.nodes n ON n.id = v.node_id LEFT JOIN {db}.sweeps w ON w.id = v.sweep_id
LEFT JOIN {db}.connections c ON c.id = w.connection_id""",
    ),
    "connections": _with_table(
        "connections",
        "every connection: the table, with its ends and the worst of their pairs",
        tuple(f for f in CONNECTIONS.fields if f.name not in {c.name for c in columns(TABLES["connections"])}),
        f"""SELECT c.*, x.* EXCLUDE (id, kind, run_id, name, status, reason, created)
FROM {{db}}.connections c JOIN ({CONNECTIONS.sql}) x ON x.id = c.id""",
    ),
}
"""Views by name, available to a user's SQL besides the tables."""


def views(metrics: Sequence[str] = DEFAULT) -> Mapping[str, Relation]:
    """Return the views of a graph with these metrics."""
    of_nodes = nodes(metrics)
    modes = Relation(VIEWS["modes"].meaning, f"SELECT * FROM ({of_nodes.sql}) WHERE {_IS_MODE}", of_nodes.fields)
    return {**VIEWS, "modes": modes, "samples": _samples(metrics)}


_RUNS = Relation(
    "every run, with its duration and the names of what it made",
    """SELECT r.id, r.command, r.status, r.reason, r.seed, r.device, r.host, r.started, r.ended,
    epoch(r.ended - r.started) AS seconds, coalesce(m.made, []) AS made
FROM {db}.runs r LEFT JOIN (
    SELECT run_id, list(coalesce(name, id) ORDER BY created, id) AS made FROM (
        SELECT run_id, id, name, created FROM {db}.nodes WHERE kind IN ('mode', 'merged')
        UNION ALL SELECT run_id, id, name, created FROM {db}.connections
    ) GROUP BY run_id
) m ON m.run_id = r.id""",
    (),
)

EASY = "easy"
"""Schema of the views stored in the index, for people who open it with a program other than mgraph."""


def easy_statements() -> Iterator[str]:
    """Yield the SQL that stores the views in an index; mgraph itself never reads them."""
    yield f"CREATE SCHEMA {EASY}"
    for name, relation in {**VIEWS, "runs": _RUNS}.items():
        yield f"CREATE VIEW {EASY}.{name} AS {relation.select()}"
        yield f"COMMENT ON VIEW {EASY}.{name} IS {quoted(relation.meaning)}"


def view_statements(database: str, metrics: Sequence[str] = DEFAULT) -> Iterator[str]:
    """Yield the SQL that makes the views for one connection, on the tables of an attached database, hiding some of
    these."""
    tables = f'"{database}".main'
    for name, relation in views(metrics).items():
        yield f"CREATE TEMP VIEW {name} AS {relation.select(tables)}"
