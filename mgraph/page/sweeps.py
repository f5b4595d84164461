"""What the page shows of a connection: its edges and statistics, and the points of its finest sweep."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mgraph.errors import InputError, MGraphError
from mgraph.families import CompositePath, Family, PlaneFamily, SimplexGrid
from mgraph.metric import LOSS, from_json
from mgraph.page.plain import number, numbers, plain
from mgraph.query.basins import basins_of
from mgraph.query.edges import current_edges
from mgraph.query.sweepdata import COMPLETE, SweepData, family_of, finest_sweeps, load_sweep
from mgraph_store import Connection, Edge, GraphStore, Member, Reader, Summary, Sweep

Row = dict[str, Any]

EDGE: tuple[str, ...] = (
    *("source", "target", "split", "metric", "peak", "barrier", "drop", "length", "resolution", "examples"),
    *("chosen_on", "doubt"),
)
"""The columns of a connection's edges; a source or target is the place among its ends."""


_BASINS = 30
"""Most basins of one heat map or curve that are marked: the deepest."""

_HELD = 0.05  # seconds that one reading lasts at most: whoever wants to write waits for it


@dataclass
class SweepCache:
    """Points of sweeps, by id: a complete sweep never changes, and a page may be written again and again."""

    found: dict[str, tuple[Row, int] | str] = field(default_factory=dict)

    def load(self, store: GraphStore, finest: Mapping[str, str]) -> None:
        """Read the points of those sweeps, by connection, that are not known yet."""
        waiting = [(c, s) for c, s in finest.items() if s not in self.found]
        while waiting:
            with store.reading() as reader:
                until = time.monotonic() + _HELD
                while waiting and time.monotonic() < until:
                    connection, sweep = waiting.pop()
                    self.found[sweep] = _read(reader, connection, sweep)

    def points(self, sweep: str) -> tuple[Row, int] | str:
        """Return the points of a sweep and how many bytes they take on the page, or why they cannot be read."""
        return self.found.get(sweep, "it was removed while the page was made")


def _read(reader: Reader, connection: str, sweep: str) -> tuple[Row, int] | str:
    try:
        data = load_sweep(reader, reader.get(Connection, id=connection), reader.get(Sweep, id=sweep))
        row = _points(data)
    except MGraphError as error:  # a damaged graph is shown as far as it can be read
        return str(error)
    return row, len(json.dumps(row, separators=(",", ":")))


def connection_rows(store: GraphStore, cache: SweepCache, budget: int) -> tuple[dict[str, Row], list[str]]:
    """Return what the page shows of every connection, by id, and the connections whose points did not fit.

    Points are taken in order as long as they fit into ``budget`` bytes. A connection that cannot be read says why.
    """
    edges: dict[str, list[Edge]] = defaultdict(list)
    summaries: dict[str, list[Summary]] = defaultdict(list)
    sweeps: dict[str, list[Sweep]] = defaultdict(list)
    members: dict[str, list[Member]] = defaultdict(list)
    for edge in current_edges(store):
        edges[edge.connection_id].append(edge)
    with store.reading() as reader:
        connections = reader.all(Connection, order="created, rowid")
        for sweep in reader.all(Sweep, status=COMPLETE):
            sweeps[sweep.connection_id].append(sweep)
        for summary in reader.all(Summary):
            summaries[summary.connection_id].append(summary)
        for member in reader.all(Member, role=["end", "control"]):
            members[member.connection_id].append(member)
        finest = finest_sweeps(reader)
    cache.load(store, finest)
    rows: dict[str, Row] = {}
    left_out = []
    for c in connections:
        row = _facts(c, sorted(members[c.id], key=lambda m: (m.role != "end", m.position)))
        row["sweeps"] = [plain({k: getattr(s, k) for k in _SWEEP}) for s in sweeps[c.id]]
        row["edges"] = [_edge(e, row["ends"]) for e in edges[c.id]]
        rows[c.id] = row
        if c.id not in finest:
            continue
        found = cache.points(finest[c.id])
        if isinstance(found, str):
            row["damaged"] = plain(found)
            continue
        points, size = found
        row["summary"] = _statistics(summaries[c.id], points["id"])
        if size <= budget:
            budget -= size
            row["points"] = points
        else:
            left_out.append(c.id)
            row["left_out"] = True
    return rows, left_out


_SHAPES = {1: "path", 2: "surface"}
_SWEEP = ("id", "grid", "batchnorm", "precision", "created")


def _facts(connection: Connection, members: Sequence[Member]) -> Row:
    row: Row = {
        "ends": [m.node_id for m in members if m.role == "end"],
        "control_points": len(members),
        "settings": None if connection.run_id else plain(json.loads(connection.settings)),
        "run": connection.run_id,
        "reason": plain(connection.reason),
    }
    try:
        row["family"] = plain({k: v for k, v in family_of(connection).describe().items() if k not in _LONG})
    except MGraphError as error:
        row["damaged"] = plain(str(error))
    return row


_LONG = ("at", "pieces", "origin", "across", "up", "rows", "x", "y")  # of a family: numbers that say little


def _edge(edge: Edge, ends: Sequence[str]) -> list[Any]:
    places = [ends.index(end) if end in ends else plain(end) for end in (edge.source_id, edge.target_id)]
    return [*places, *(plain(getattr(edge, name)) for name in EDGE[2:])]


def _statistics(summaries: Sequence[Summary], sweep: str) -> list[Row]:
    """Make one row for each split and metric of the sweep, and of ensembles, with its statistics by name."""
    rows: dict[tuple[str, str], Row] = {}
    for s in summaries:
        if s.sweep_id in (sweep, None):
            row = rows.setdefault((s.split, s.metric), {"split": plain(s.split), "metric": plain(s.metric)})
            row[plain(s.statistic)] = number(s.value)
    return list(rows.values())


def _points(data: SweepData) -> Row:
    """Return a sweep as parallel lists over its points, in grid order; the page computes the points of an even grid."""
    metrics = {LOSS.name: LOSS} | {m.name: m for m in (*from_json(data.sweep.metrics), *data.metrics)}
    named = list(dict.fromkeys(name for _, name in data.values))
    simplex = isinstance(data.grid, SimplexGrid)
    axes = [] if simplex else [np.unique(column) for column in data.parameters.T]
    best = None
    if ("valid", LOSS.name) in data.values and ("valid", data.primary.name) in data.values:
        best = data.best("valid")
    return {
        "id": data.sweep.id,
        "shape": "simplex" if simplex else _SHAPES.get(len(data.grid.counts), "other"),
        "batchnorm": plain(data.sweep.batchnorm),
        "precision": plain(data.sweep.precision),
        "axes": [[number(float(x), 12) for x in axis] for axis in axes],
        "parameters": [[number(float(x), 12) for x in point] for point in data.parameters] if simplex else None,
        "nodes": data.node_ids,
        "best": best,
        "primary": data.primary.name,
        "ends": [[number(float(x), 12) for x in np.atleast_1d(end)] for end in data.family.end_parameters()],
        "page": _page(data.family),
        "marks": [number(float(x), 6) for x in _marks(data.family)],
        "metrics": [
            {"name": name, "better": metrics[name].better, "unit": plain(metrics[name].unit)}
            for name in named
            if name in metrics
        ],
        "values": {f"{split} {name}": numbers(values) for (split, name), values in data.values.items()},
        "examples": {split: data.counts[split, name] for split, name in data.counts},
        "basins": _basins(data),
    }


def _basins(data: SweepData) -> Row:
    """Return the basins of everything measured, deepest first, as numbers of points: where each lies, its saddle, and
    the lowest point of the basin that it joins there (-1 if none), with its depth as a cost.
    """
    rows: Row = {}
    for split, name in data.values:
        try:
            found = basins_of(data, (), split=split, metric=name)
        except InputError:  # nothing finite, or no direction
            continue
        ends = {merge.basin: merge for merge in found.merges}
        told: list[list[Any]] = []
        for point in found.points[:_BASINS]:
            end = ends.get(point)
            if end is None:
                told.append([point, -1, -1, None])
            else:
                told.append([point, end.saddle, end.into, number(float(found.costs[end.saddle] - found.costs[point]))])
        left = len(found.points) - len(told) + found.shallow
        rows[f"{split} {name}"] = {"rows": told, "left": left}
    return rows


def _page(family: Family) -> Row | None:
    """Return where a plane lies on the page, as its picture has it: u to the right, v upwards; None for others."""
    if not isinstance(family, PlaneFamily):
        return None
    distances = len(family.ends) > 1 or family.size > 3
    unit = "distance in weight space (L2)" if distances else "times a random direction"
    return {"x": [number(x) for x in family.x], "y": [number(y) for y in family.y], "unit": unit}


def _marks(family: Family) -> Sequence[float]:
    """Return where a path bends, or where its pieces are joined."""
    if family.dimension != 1:
        return ()
    found = family.joint_parameters if isinstance(family, CompositePath) else family.knots[1:-1]
    return [float(x) for x in np.ravel(found)]
