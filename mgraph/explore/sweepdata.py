"""Reading sweeps back from the graph (NumPy; no torch)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mgraph.errors import InputError
from mgraph.families import Family, Floats, family_from
from mgraph_store import Connection, Evaluation, Member, Reader, Sweep

Key = tuple[str, str]  # split, metric


@dataclass(frozen=True)
class SweepData:
    """One sweep as arrays over its S points, in grid order."""

    sweep: Sweep
    family: Family
    node_ids: list[str]
    parameters: Floats
    values: dict[Key, Floats]
    errors: dict[Key, Floats]
    counts: dict[Key, int]

    @property
    def coefficients(self) -> Floats:
        """Coefficients of the points, shape (S, K)."""
        return self.family.coefficients(self.parameters)

    def best(self, split: str, *, selected: NDArray[np.bool_] | None = None) -> int:
        """Return the point of highest accuracy on a split (ties: lowest loss, then grid order).

        Where the task has no accuracy, the lowest loss decides. ``selected`` restricts the candidates.
        """
        losses = self.values[split, "loss"]
        first = -self.values[split, "accuracy"] if (split, "accuracy") in self.values else losses
        order = np.lexsort((losses, first))
        return int(next(i for i in order if selected is None or selected[i]))

    def index_of(self, parameter: Floats) -> int | None:
        """Return the swept point at a parameter, if there is one."""
        found = np.flatnonzero((self.parameters == parameter).all(axis=1))
        return int(found[0]) if len(found) else None


def grid_counts(family: Family, grid: Sequence[int] | None, default: Sequence[int]) -> tuple[int, ...]:
    """Return points along each parameter; one number stands for all. InputError for a bad grid."""
    counts = tuple(default if grid is None else grid)
    if len(counts) == 1:
        counts *= family.dimension
    family.grid(counts)
    return counts


def family_of(connection: Connection) -> Family:
    """Rebuild the family of a connection."""
    return family_from(json.loads(connection.family))


def latest_sweep(reader: Reader, connection: Connection) -> Sweep | None:
    """Return the newest sweep of a connection, or None."""
    sweeps = reader.all(Sweep, connection_id=connection.id)
    return max(sweeps, key=lambda s: s.created) if sweeps else None


def load_sweep(reader: Reader, connection: Connection, sweep: Sweep | None = None) -> SweepData:
    """Read a sweep of a connection, by default the newest; InputError if it was never swept."""
    sweep = sweep or latest_sweep(reader, connection)
    if sweep is None:
        name = connection.name or connection.id
        raise InputError(f"{name} has not been swept yet; run: mgraph sweep {name}")
    rows = reader.all(Evaluation, sweep_id=sweep.id)
    family = family_of(connection)
    grid = family.grid(tuple(sweep.grid))
    place = {tuple(point): i for i, point in enumerate(grid.tolist())}
    index: dict[str, int] = {}
    for member in reader.all(Member, connection_id=connection.id, role="sample"):
        at = place.get(tuple(member.parameter or ()))
        if at is not None:
            index[member.node_id] = at
    node_ids = [""] * len(grid)
    for node_id, at in index.items():
        node_ids[at] = node_id
    values: dict[Key, Floats] = {}
    errors: dict[Key, Floats] = {}
    counts: dict[Key, int] = {}
    for row in rows:
        key = (row.split, row.metric)
        if key not in values:
            values[key], errors[key] = np.full(len(grid), np.nan), np.full(len(grid), np.nan)
        at = index[row.node_id]
        values[key][at] = row.value
        errors[key][at] = np.nan if row.standard_error is None else row.standard_error
        counts[key] = row.count
    return SweepData(sweep, family, node_ids, grid, values, errors, counts)
