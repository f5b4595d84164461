"""Reading sweeps back from the graph (NumPy; no torch). Only complete ones are visible here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import override

from mgraph.errors import CorruptError, InputError
from mgraph.families import Family, Floats, Grid, PolygonalChainFamily, TensorGrid, family_from
from mgraph.metric import LOSS, Metric, from_json, primary_of
from mgraph.notebook import InNotebook
from mgraph.query.criterion import FULL_PRECISION
from mgraph.query.damaged import contradiction
from mgraph_store import Connection, Evaluation, Member, Reader, Sweep

Key = tuple[str, str]  # split, metric

COMPLETE, PARTIAL = "complete", "partial"
_FULL = ", ".join(f"'{precision}'" for precision in FULL_PRECISION)
_SMALL = 10_000  # points that cost nothing
_DIGITS = 12  # decimals of a parameter: 20 · 1/60 and 1/3 are the same point


@dataclass(frozen=True)
class SweepData(InNotebook):
    """One sweep as arrays over its S points, in grid order.

    ``values`` and their standard errors ``errors`` (NaN if unknown) are by (split, metric), ``counts`` are the examples
    behind each number, ``subsets`` names those of a split ('all', or a hash). ``notes`` are remarks on the sweep that
    was just made.
    """

    sweep: Sweep
    family: Family
    grid: Grid
    node_ids: list[str]
    values: dict[Key, Floats]
    errors: dict[Key, Floats]
    counts: dict[Key, int]
    subsets: dict[str, str]
    notes: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()

    @override
    def _shown(self) -> dict[str, Any]:
        rows = [
            {"split": split, "metric": name, "min": v.min(), "max": v.max(), "mean": v.mean(), "examples": count}
            for (split, name), v in self.values.items()
            for count in [self.counts[split, name]]
        ]
        facts = {"sweep": self.sweep.id, "points": len(self.node_ids), "grid": list(self.sweep.grid)}
        return facts | {"precision": self.sweep.precision, "notes": self.notes, "numbers": rows}

    @property
    def primary(self) -> Metric:
        """The metric by which points are compared: the first one with a direction, or else the loss."""
        return primary_of(m for m in self.metrics if any(m.name == name for _, name in self.values))

    @property
    def shown(self) -> tuple[Metric, ...]:
        """What pictures and tables show: the loss, and the primary metric if it is a different one."""
        return (LOSS,) if self.primary.name == LOSS.name else (LOSS, self.primary)

    @property
    def parameters(self) -> Floats:
        """The points of the grid, shape (S, coordinates)."""
        return self.grid.points

    @property
    def coefficients(self) -> Floats:
        """Coefficients of the points, shape (S, K)."""
        return self.family.coefficients(self.parameters)

    def best(self, split: str, *, selected: NDArray[np.bool_] | None = None) -> int:
        """Return the point that is best on a split by the primary metric (ties: lowest loss, then grid order).

        If the task has no metric with a direction, the lowest loss decides. ``selected`` restricts the candidates.
        """
        losses = self.values[split, LOSS.name]
        first = -self.primary.sign * self.values[split, self.primary.name]
        order = np.lexsort((losses, first))
        return int(next(i for i in order if selected is None or selected[i]))

    def index_of(self, parameter: Floats) -> int | None:
        """Return the swept point at a parameter, if there is one."""
        wanted = parameter_key(parameter)
        return next((i for i, point in enumerate(self.parameters) if parameter_key(point) == wanted), None)


def parameter_key(parameter: ArrayLike) -> tuple[float, ...]:
    """Return what identifies a point of a domain: its coordinates without the last bits."""
    return tuple((np.round(np.asarray(parameter, dtype=np.float64), _DIGITS) + 0.0).tolist())


def parameter_keys(points: Floats) -> list[tuple[float, ...]]:
    """Return :func:`parameter_key` of each of some points, shape (S, coordinates), in a tenth of the time."""
    return list(map(tuple, (np.round(points, _DIGITS) + 0.0).tolist()))


def grid_counts(family: Family, grid: Sequence[int] | None, default: Sequence[int]) -> tuple[int, ...]:
    """Return points along each direction of a grid; one number applies to all. InputError for a bad grid."""
    return tuple(int(n) for n in family.grid(tuple(default if grid is None else grid)).counts)


def inner_grid(family: Family, grid: object, inner: int) -> Grid:
    """Return the grid of a chain's control points and ``inner`` points on every piece between them.

    Raises InputError for a family without pieces, a negative number, and a ``grid`` given as well.
    """
    if grid is not None:
        raise InputError("A sweep takes either a grid or the number of inner points of every piece, not both.")
    if not isinstance(family, PolygonalChainFamily):
        raise InputError(f"A {family.name} has no pieces with points inside; give a grid.")
    return family.pieces_grid(inner)


def grid_of(family: Family, sweep: Sweep) -> Grid:
    """Rebuild the grid of a sweep: from its axes if they are uneven, otherwise from its counts."""
    if sweep.axes is None:
        return family.grid(tuple(sweep.grid))
    return family.grid_on([np.array(axis, dtype=np.float64) for axis in json.loads(sweep.axes)])


def axes_of(grid: Grid) -> str | None:
    """Return the axes of an uneven grid as they are stored; None for a grid that its counts describe."""
    if not isinstance(grid, TensorGrid) or grid.is_even:
        return None
    return json.dumps([axis.tolist() for axis in grid.axes])


def family_of(connection: Connection) -> Family:
    """Rebuild the family of a connection; a user's own has no coefficients, because no code is run.

    Code that computes uses :meth:`mgraph.session.session.Session.family_of`.
    """
    return family_from(json.loads(connection.family))


def finest_sweep(reader: Reader, connection: Connection, *, split: str | None = None) -> Sweep | None:
    """Return the complete sweep of a connection that counts, or None; only of those that measured ``split``, if given.

    This is the finest one, as for edges: the most points; of equally fine ones, the one on more examples, then in full
    precision, then the newest. Those whose train loss makes no edge (not measured, not finite, or with a doubt) come
    last. A connection with a single end, a plane around a node, has no edges: there, any sweep counts.
    """
    found = _finest(reader, "connection_id = ?", [connection.id], split)
    return reader.get(Sweep, id=found[connection.id]) if found else None


def finest_sweeps(reader: Reader) -> dict[str, str]:
    """Map every connection that was swept to the id of its finest sweep, as :func:`finest_sweep` finds it."""
    return _finest(reader, "TRUE", [], None)


def _finest(reader: Reader, where: str, parameters: list[str], split: str | None) -> dict[str, str]:
    """Map those of the connections whose edges meet a condition to the sweeps that count."""
    sql = f"""SELECT w.connection_id, w.id FROM sweeps w JOIN (
    SELECT sweep_id, max(examples) AS examples,
        bool_or(split = 'train' AND metric = 'loss' AND isfinite(peak) AND doubt IS NULL) AS counts
    FROM edges WHERE {where} {"" if split is None else "AND split = ?"} GROUP BY sweep_id
) e ON e.sweep_id = w.id
WHERE w.status = '{COMPLETE}'
QUALIFY row_number() OVER (PARTITION BY w.connection_id ORDER BY
    e.counts DESC, list_product(w.grid) DESC, e.examples DESC, (w."precision" IN ({_FULL})) DESC,
    w.created DESC, w.rowid DESC) = 1"""
    chosen = [] if split is None else [split]
    return _of_one_end(reader, where, parameters, chosen) | dict(reader.query(sql, [*parameters, *chosen])[1])


def _of_one_end(reader: Reader, where: str, parameters: list[str], split: list[str]) -> dict[str, str]:
    """Map connections with a single end, which have no edges, to their finest sweeps."""
    measured = "EXISTS (SELECT 1 FROM evaluations v WHERE v.sweep_id = w.id AND v.split = ?)" if split else "TRUE"
    sql = f"""SELECT w.connection_id, w.id FROM sweeps w JOIN (
    SELECT connection_id FROM members WHERE {where} AND role = 'end' GROUP BY connection_id HAVING count(*) = 1
) USING (connection_id)
WHERE w.status = '{COMPLETE}' AND {measured}
QUALIFY row_number() OVER (PARTITION BY w.connection_id ORDER BY
    list_product(w.grid) DESC, w.created DESC, w.rowid DESC) = 1"""
    return dict(reader.query(sql, [*parameters, *split])[1])


def load_sweep(reader: Reader, connection: Connection, sweep: Sweep | None = None) -> SweepData:
    """Read a sweep of a connection, by default the finest; InputError if it was never swept."""
    sweep = sweep or finest_sweep(reader, connection)
    if sweep is None:
        name = connection.name or connection.id
        raise InputError(f"{name} has not been swept yet; run: mgraph sweep {name}")
    family = family_of(connection)
    evaluations = reader.all(Evaluation, sweep_id=sweep.id)
    points, measured = prod(sweep.grid), len({row.node_id for row in evaluations})
    if points > _SMALL and points > 2 * measured:  # before arrays are made for them
        raise CorruptError(f"Sweep {sweep.id} says that it has {points} points, but has {measured}: run it again.")
    grid = grid_of(family, sweep)
    place = {parameter_key(point): i for i, point in enumerate(grid.points)}
    node_ids = [""] * len(grid)
    index: dict[str, int] = {}
    for member in reader.all(Member, connection_id=connection.id, role="sample"):
        at = place.get(parameter_key(member.parameter or ()))
        if at is not None:
            index[member.node_id] = at
            node_ids[at] = member.node_id
    values: dict[Key, Floats] = {}
    errors: dict[Key, Floats] = {}
    counts: dict[Key, int] = {}
    subsets: dict[str, str] = {}
    for row in evaluations:
        key = (row.split, row.metric)
        if key not in values:
            values[key], errors[key] = np.full(len(grid), np.nan), np.full(len(grid), np.nan)
        at = index.get(row.node_id)
        if at is None:
            raise contradiction(connection.name or connection.id, f"{row.node_id} was swept but is not a point of it")
        values[key][at] = row.value
        errors[key][at] = np.nan if row.standard_error is None else row.standard_error
        counts[key], subsets[row.split] = row.count, row.subset
    return SweepData(sweep, family, grid, node_ids, values, errors, counts, subsets, metrics=from_json(sweep.metrics))
