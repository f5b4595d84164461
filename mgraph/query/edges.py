"""Which edges count, and how they are compared: one SQL query that leaves one edge per connection and pair, as arrays.

A query names a quantity of a metric on a split (the `peak` of the train loss, say). For every connection and pair, the
edge of the finest sweep counts, because a coarse sweep can miss a barrier that a finer one found. Of equally fine ones,
the one on more examples counts, then the one in full precision, then the newest. An edge that is not finite does not
count, nor does one of a failed connection. Three kinds of edges are left out beforehand, so that they do not hide
others: oracles, whose route was chosen by their own numbers; those with a doubt; and those that are not finite in lower
precision. :mod:`mgraph.query.remarks` says what else a reader should know about the edges in an answer.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mgraph.errors import InputError
from mgraph.query.criterion import COARSE, FEW, FULL_PRECISION, NODE_KINDS, ORACLE, QUANTITIES, Criterion
from mgraph.query.metrics import metric_of_cost, metrics_of
from mgraph_store import Connection, Edge, GraphStore, Reader, Space

if TYPE_CHECKING:
    from mgraph.query.arrays import EdgeArrays


_SHOWN = ("source", "target", "connection", "method", "peak", "barrier", "drop", "length", "resolution")


class ChangedMeanwhileError(InputError):
    """Rows that one answer needs were removed or replaced between two readings of the graph."""


class Vertex(NamedTuple):
    """A mode, or a merged node that is connected to something."""

    id: str
    name: str | None
    kind: str

    @property
    def label(self) -> str:
        """Its name for people."""
        return self.name or self.id


@dataclass(frozen=True)
class Link:
    """An edge in an answer: two vertices, the connection between them, and how well it was measured.

    ``route`` are the ids of the swept nodes along it, from source to target, and ``chosen_on`` is what chose it.
    """

    source: Vertex
    target: Vertex
    connection_id: str
    connection: str
    method: str
    split: str
    metric: str
    peak: float
    barrier: float
    drop: float
    length: float
    resolution: int
    examples: int
    batchnorm: str
    precision: str
    chosen_on: str
    uncertain: bool
    route: tuple[str, ...]

    def turned(self) -> Link:
        """Return the edge in the other direction."""
        return replace(self, source=self.target, target=self.source, route=self.route[::-1])

    def row(self) -> dict[str, Any]:
        """Return it as plain data, vertices by their labels."""
        names = {"source": self.source.label, "target": self.target.label, "connection": self.connection}
        names |= {"source_id": self.source.id, "target_id": self.target.id}
        return names | {name: getattr(self, name) for name in _LINK_FIELDS}


def rows_of(links: Sequence[Link]) -> list[dict[str, Any]]:
    """Return edges as rows with the columns that people compare them by."""
    return [{name: value for name, value in link.row().items() if name in _SHOWN} for link in links]


_NUMBERS = ("peak", "barrier", "drop", "length", "resolution", "examples")
_CONDITIONS = ("batchnorm", "precision", "chosen_on")
_LINK_FIELDS = ("connection_id", "method", "split", "metric", *_NUMBERS, *_CONDITIONS, "uncertain")


@dataclass(frozen=True, eq=False)
class CountingEdges:
    """The edges that count, E of them, over n vertices in order of creation.

    ``arrays`` are for :mod:`mgraph.query.arrays`; their values are the criterion's quantity. ``uncertain`` marks edges
    of a coarse sweep or on few examples, ``numbers`` has peak, barrier and drop, ``line`` the place in the table.
    ``doubted`` are the places there of edges that would count if they had no doubt.
    """

    criterion: Criterion
    ids: NDArray[np.object_]
    names: NDArray[np.object_]
    merged: NDArray[np.bool_]
    arrays: EdgeArrays
    uncertain: NDArray[np.bool_]
    numbers: dict[str, NDArray[Any]]
    line: NDArray[np.int64]
    doubted: NDArray[np.int64]

    @property
    def size(self) -> int:
        """n, the number of vertices."""
        return len(self.ids)

    def vertex(self, place: int) -> Vertex:
        """Return the vertex with this number."""
        return Vertex(self.ids[place], self.names[place] or None, "merged" if self.merged[place] else "mode")

    def index(self, node_id: str) -> int:
        """Return the number of a vertex; InputError if the node is not a vertex."""
        if node_id not in self._places:
            raise InputError(f"{node_id} is neither a mode of this space nor connected to one.")
        return self._places[node_id]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {identifier: i for i, identifier in enumerate(self.ids.tolist())}

    def within(self, limit: float) -> NDArray[np.int64]:
        """Return the edges with a value of at most ``limit``."""
        return np.flatnonzero(self.arrays.value <= limit)

    def links(self, reader: Reader, chosen: Sequence[int] | NDArray[np.int64]) -> list[Link]:
        """Read some of the edges in full, in the order given.

        Raises ChangedMeanwhileError if one of them has been removed or replaced meanwhile.
        """
        records = self._records(reader, chosen)
        found = {c.id: c for c in reader.all(Connection, id=list({r.connection_id: None for r in records}))}
        return [
            Link(
                self.vertex(int(self.arrays.source[place])),
                self.vertex(int(self.arrays.target[place])),
                record.connection_id,
                found[record.connection_id].name or record.connection_id,
                found[record.connection_id].kind,
                record.split,
                record.metric,
                uncertain=bool(self.uncertain[place]),
                route=tuple(record.route),
                **{name: getattr(record, name) for name in (*_NUMBERS, *_CONDITIONS)},
            )
            for place, record in zip(chosen, records, strict=True)
        ]

    def _records(self, reader: Reader, chosen: Sequence[int] | NDArray[np.int64]) -> list[Edge]:
        a, places = self.arrays, np.asarray(chosen, dtype=np.int64)
        lines, back = np.unique(self.line[places], return_inverse=True)
        sql = "rowid IN (SELECT unnest(?::BIGINT[]))"
        found = reader.all(Edge, where=sql, parameters=[lines.tolist()], order="rowid")
        if len(found) == len(lines):
            edges = [found[i] for i in back.tolist()]
            known = zip(a.source[places].tolist(), a.target[places].tolist(), a.value[places].tolist(), strict=True)
            now = [(e.source_id, e.target_id, getattr(e, self.criterion.quantity)) for e in edges]
            if now == [(self.ids[source], self.ids[target], value) for source, target, value in known]:
                return edges
        raise ChangedMeanwhileError("The graph was changed while it was read; try again.")


def load_edges(
    store: GraphStore, criterion: Criterion, space: Space | None = None, *, may_lack: bool = False
) -> CountingEdges:
    """Read the edges that count, of one space or of all; about a second for a million.

    From other spaces, only what --same-layout connected to this one is a vertex. Raises InputError if no edge was ever
    measured in this way, saying what to sweep, and for a BatchNorm policy that no edge has, unless edges ``may_lack``.
    """
    from mgraph.query.arrays import EdgeArrays

    relation, inside = _vertices(criterion, space)
    with store.reading() as reader:
        vertices = reader.fetch(f"WITH {relation} SELECT id, name, merged, inside FROM vertices ORDER BY place", inside)
        rows = reader.fetch(*_counting(criterion, space))
        if not len(rows["line"]) and not may_lack:
            raise InputError(_why_none(reader, criterion, space))
        if not np.all(
            rows["line"][1:] > rows["line"][:-1]
        ):  # in the order written, so that nothing depends on DuckDB's plan
            rows = _take(rows, np.argsort(rows["line"]))
        doubts = rows["doubted"].astype(bool)
        doubted = rows["line"][doubts]
        rows = _finest_of(reader, _take(rows, np.flatnonzero(~doubts)))
    kept = vertices["inside"] & ~vertices["merged"]
    kept[rows["source"]] = kept[rows["target"]] = True
    place = np.cumsum(kept) - 1
    counts = np.isfinite(rows[criterion.quantity]) & np.isfinite(rows["length"]) & ~rows["failed"].astype(bool)
    if criterion.limit is not None:
        counts &= rows[criterion.quantity] <= criterion.limit
    rows = _take(rows, np.flatnonzero(counts))
    source, target = place[rows["source"]], place[rows["target"]]
    return CountingEdges(
        criterion=criterion,
        ids=vertices["id"][kept],
        names=vertices["name"][kept],
        merged=vertices["merged"][kept],
        arrays=EdgeArrays(int(kept.sum()), source, target, rows[criterion.quantity], rows["length"]),
        uncertain=rows["uncertain"],
        numbers={name: rows[name] for name in QUANTITIES},
        line=rows["line"],
        doubted=doubted,
    )


def _take(rows: dict[str, NDArray[Any]], chosen: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return some of the rows, by their places."""
    return {name: column[chosen] for name, column in rows.items()}


def _finest_of(reader: Reader, rows: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the rows, which are in the table's order, that no finer one of the same connection replaces.

    Most connections were swept once, so only edges that may be one of several are compared, which halves the time.
    """
    pair = (rows["source"].astype(np.uint64) << np.uint64(32)) | rows["target"].astype(np.uint64)
    key = rows["joined_by"] ^ (pair * np.uint64(0x9E3779B97F4A7C15))  # equal for equal ones, hardly ever for others
    ordered = np.sort(key)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(repeated):
        return rows
    several = np.isin(key, repeated)
    sql = _finest("e.rowid IN (SELECT unnest(?::BIGINT[]))")
    finest = reader.fetch(sql, [rows["line"][several].tolist()])["line"]
    counts = ~several
    counts[np.searchsorted(rows["line"], finest)] = True
    return _take(rows, np.flatnonzero(counts))


def current_edges(
    store: GraphStore,
    space: Space | None = None,
    *,
    metric: str | None = None,
    split: str | None = None,
    connections: Sequence[str] | None = None,
) -> list[Edge]:
    """Return the edges of the finest sweep of every connection and pair, in full, including failed connections.

    Oracles and edges with a doubt are not included.
    """
    where, parameters = _belonging(space, connections)
    where += ["e.doubt IS NULL", _NOT_HIDDEN]
    for column, value in (("metric", metric), ("split", split)):
        if value is not None:
            where.append(f"e.{column} = ?")
            parameters.append(value)
    sql = f"rowid IN ({_finest(' AND '.join(where))})"
    with store.reading() as reader:
        return reader.all(Edge, where=sql, parameters=parameters)


_FULL = f"""e."precision" IN ({", ".join(f"'{p}'" for p in FULL_PRECISION)})"""
_NOT_HIDDEN = f"e.chosen_on <> '{ORACLE}' AND (isfinite(e.peak) OR {_FULL})"


def _belonging(space: Space | None, connections: Sequence[str] | None) -> tuple[list[str], list[Any]]:
    """Return SQL conditions on an edge ``e``, and their parameters."""
    where, parameters = ["TRUE"], list[Any]()
    if space is not None:
        where.append("e.connection_id IN (SELECT id FROM connections WHERE space_id = ?)")
        parameters.append(space.id)
    if connections is not None:
        where.append("e.connection_id IN (SELECT unnest(?::VARCHAR[]))")
        parameters.append(list(connections))
    return where, parameters


def _finest(where: str) -> str:
    """Return SQL for ``line``: the rowids of the edges ``e`` that count among those that meet a condition."""
    return f"""SELECT max_by(
    e.rowid, row(list_product(w.grid), e.examples, {_FULL}, w.created, e.rowid)
) AS line FROM edges e JOIN sweeps w ON w.id = e.sweep_id WHERE {where}
GROUP BY e.connection_id, e.source_id, e.target_id, e.split, e.metric"""


def _vertices(criterion: Criterion, space: Space | None) -> tuple[str, list[Any]]:
    """Return SQL for the relation ``vertices``, and its parameters.

    Modes are measured on all of every split when they are made, which gives the number of its examples, and so how many
    are ``enough``.
    """
    inside = "TRUE" if space is None else "n.space_id = ?"
    sql = f"""whole AS (
    SELECT n.space_id, max(v.count) AS examples FROM evaluations v JOIN (
        SELECT space_id, min_by(id, created) AS id FROM nodes WHERE kind = 'mode' GROUP BY space_id
    ) n ON n.id = v.node_id
    WHERE v.sweep_id IS NULL AND v.split = '{criterion.split}' GROUP BY n.space_id
),
vertices AS (
    SELECT n.id, coalesce(n.name, '') AS name, n.kind = 'merged' AS merged, {inside} AS inside,
        (row_number() OVER (ORDER BY n.created, n.rowid) - 1)::INTEGER AS place,
        least({FEW}, coalesce(whole.examples, {FEW})) AS enough
    FROM nodes n LEFT JOIN whole ON whole.space_id = n.space_id
    WHERE n.kind IN ({", ".join(f"'{kind}'" for kind in NODE_KINDS)})
)"""
    return sql, [] if space is None else [space.id]


def _counting(criterion: Criterion, space: Space | None) -> tuple[str, list[Any]]:
    """Return SQL for the edges by a criterion, from all sweeps and with any values, and its parameters."""
    where, parameters = _belonging(space, None)
    where += [f"e.split = '{criterion.split}'", "e.metric = ?", _NOT_HIDDEN]
    parameters.append(criterion.metric)
    if criterion.certified:
        examples = "a.enough" if criterion.min_examples is None else int(criterion.min_examples)
        where += [f"e.resolution >= {int(criterion.min_resolution or COARSE)}", f"e.examples >= {examples}", _FULL]
    if criterion.batchnorm is not None:
        where.append("e.batchnorm = ?")
        parameters.append(criterion.batchnorm)
    vertices, inside = _vertices(criterion, space)
    sql = f"""WITH {vertices}
SELECT e.rowid AS line, a.place AS source, b.place AS target, e.peak, e.barrier, e."drop", e.length,
    e.resolution < {COARSE} OR e.examples < a.enough AS uncertain, hash(e.connection_id) AS joined_by,
    e.connection_id IN (SELECT id FROM connections WHERE status = 'failed') AS failed, e.doubt IS NOT NULL AS doubted
FROM edges e JOIN vertices a ON a.id = e.source_id JOIN vertices b ON b.id = e.target_id
WHERE {" AND ".join(where)}"""
    return sql, [*inside, *parameters]


def _why_none(reader: Reader, criterion: Criterion, space: Space | None) -> str:
    """Say why no edge counts, and what to do."""
    what = f"{criterion.split} {criterion.metric}"
    where = "The graph" if space is None else f"Space {space.name}"
    plain, parameters = _counting(Criterion(criterion.quantity, None, criterion.metric, criterion.split), space)
    sql = f"SELECT DISTINCT e.batchnorm FROM edges e WHERE rowid IN (SELECT line FROM ({plain})) ORDER BY 1"
    policies = [row[0] for row in reader.query(sql, parameters)[1]]
    if not policies:
        return _why_not_measured(reader, criterion, space)
    if criterion.batchnorm is not None and criterion.batchnorm not in policies:
        return (
            f"No edge with a {what} has the BatchNorm policy {criterion.batchnorm!r}; there are: {', '.join(policies)}."
        )
    resolution = criterion.min_resolution or COARSE
    return (
        f"{where} has no edge with a {what} in full precision, on a route of {resolution} points or more and on "
        f"{criterion.min_examples or 'enough'} examples; sweep finer: mgraph sweep CONN --grid N"
    )


def _why_not_measured(reader: Reader, criterion: Criterion, space: Space | None) -> str:
    """Say why there is no edge at all with this metric on this split."""
    what = f"{criterion.split} {criterion.metric}"
    where = "The graph" if space is None else f"Space {space.name}"
    belonging, parameters = _belonging(space, None)
    sql = f"SELECT DISTINCT e.split, e.metric, e.chosen_on = '{ORACLE}' FROM edges e WHERE {' AND '.join(belonging)}"
    there = reader.query(f"{sql} ORDER BY ALL", parameters)[1]
    if any((split, metric) == (criterion.split, criterion.metric) for split, metric, _ in there):
        why = (
            f"the routes of its edges with a {what} were chosen by that {what} itself"
            if (criterion.split, criterion.metric, True) in [tuple(row) for row in there]
            else f"its edges with a {what} are not finite, in lower precision"
        )
        return f"{where} has no edge with a {what} that counts: {why}; sweep again: mgraph sweep CONN"
    measured = ", ".join(sorted({f"{split} {metric}" for split, metric, oracle in there if not oracle}))
    unswept = _unswept(reader, space)
    known = metrics_of(reader, space)
    if metric_of_cost(known.values(), criterion.metric) is None:
        costs = sorted({metric for _, metric, _ in there} | {m.cost_name for m in known.values() if m.better})
        close = difflib.get_close_matches(criterion.metric, costs, n=1)
        hint = f" did you mean {close[0]!r}?" if close else ""
        return (
            f"{where} knows no metric {criterion.metric!r};{hint} edges are measured by {', '.join(costs)}. Other "
            f"metrics that a sweep measures make edges too: mgraph sweep {unswept or 'CONN'} --metric NAME"
        )
    if measured:
        return (
            f"{where} has no edge with a {what}; its edges were measured by {measured}. "
            f"Sweep a connection on it: mgraph sweep {unswept or 'CONN'}"
        )
    if unswept:
        return f"{where} has no edge with a {what}; sweep a connection first: mgraph sweep {unswept}"
    return f"{where} has no edge with a {what}; connect modes first: mgraph connect A B --linear"


def _unswept(reader: Reader, space: Space | None) -> str | None:
    """Return the newest connection that could be swept."""
    found = reader.all(
        Connection,
        where="status <> 'failed'",
        order="created DESC, rowid DESC",
        limit=1,
        **({} if space is None else {"space_id": space.id}),
    )
    return (found[0].name or found[0].id) if found else None
