"""The memory of sweeps: numbers measured before, and those measured now, stored in batches while the sweep runs.

A sweep is *partial* from its first batch until its last transaction, which adds summaries and edges and makes it
complete; a short one is a single transaction. What an interrupted sweep has stored is never lost: the same command
adopts it, and any other sweep reuses its numbers if the conditions are the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mgraph.errors import MGraphError
from mgraph.evaluate.metrics import Measured
from mgraph.metric import LOSS
from mgraph.operations.sweepgrid import FactoredGrid
from mgraph.query.sweepdata import COMPLETE, PARTIAL, parameter_key
from mgraph.session.code import code_of, same_code
from mgraph.session.runs import is_running
from mgraph_store import (
    KERNEL_VERSION,
    Connection,
    Evaluation,
    Member,
    Node,
    Record,
    Run,
    Space,
    Sweep,
    new_id,
)
from mgraph_store.rows.blocks import Gathering, Number
from mgraph_store.rows.records import PointGrid, like, now

if TYPE_CHECKING:
    from mgraph.evaluate.batchnorm import BatchNormPolicy
    from mgraph.evaluate.metrics import Subset
    from mgraph.evaluate.sweep import PointMetrics
    from mgraph.families import Family, Floats, Grid
    from mgraph.metric import Metric
    from mgraph.operations.sweepverdict import Verdict
    from mgraph.session.runs import RunLog
    from mgraph_store import GraphStore, Reader

FLUSH_SECONDS = 5.0  # at least this long between two batches
METRICS = "metrics"  # key in a run's settings: metrics beside the task's own, each with its identity


@dataclass(frozen=True)
class Conditions:
    """What a number depends on, besides its point; ``metrics`` are those beside the task's own, ``measured`` all.

    ``code`` has the hashes of the space's present user code, by role.
    """

    policy: BatchNormPolicy
    batchnorm: str
    precision: str
    subsets: Mapping[str, Subset]
    metrics: tuple[Metric, ...]
    measured: tuple[Metric, ...]
    space: Space
    code: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """What is measured, by name, the loss first."""
        return (LOSS.name, *(m.name for m in self.measured))

    @property
    def identities(self) -> dict[str, str | None]:
        """What distinguishes each further metric from another of the same name."""
        return {m.name: m.identity for m in self.metrics}


def own_sweep(reader: Reader, run: Run) -> Sweep | None:
    """Find the sweep that a resumed run had begun."""
    found = reader.all(Sweep, run_id=run.id, status=PARTIAL)
    return found[-1] if found else None


def adoptable(
    store: GraphStore, reader: Reader, connection: Connection, settings: Mapping[str, Any], conditions: Conditions
) -> Sweep | None:
    """Find the newest partial sweep with exactly these settings and this code that is no longer running."""
    if None in settings[METRICS].values():
        return None
    wanted = json.loads(json.dumps(dict(settings), default=str))
    for sweep in reversed(reader.all(Sweep, connection_id=connection.id, status=PARTIAL)):
        run = reader.get(Run, id=sweep.run_id)
        same = json.loads(run.settings) == wanted and same_code(code_of(run, conditions.space), conditions.code)
        if same and not is_running(store, run):
            return sweep
    return None


class SweepLog:
    """Nodes and numbers of one sweep: knows existing ones, collects new ones, and commits them."""

    def __init__(self, store: GraphStore, run: RunLog, connection: Connection, rows: Sequence[Node]) -> None:
        """Collect for a connection with these control-point nodes, in row order."""
        self._store, self._run, self._connection, self._rows = store, run, connection, rows
        self._samples: dict[tuple[float, ...], str] = {}
        self._earlier: dict[tuple[str, str], dict[str, Evaluation]] = {}
        self._pending: list[Record] = []
        self._sample: Node | None = None  # as all that are stored together are, at one moment
        self._numbers: dict[tuple[str, str, int], Number] = {}
        self._points = Gathering()
        self._grid: FactoredGrid | None = None
        self._used: dict[str, FactoredGrid] = {}  # grids of the points that were collected
        self._stored_grids: set[str] = set()
        self._former: Run | None = None
        self._last_flush = time.monotonic()
        self._finishing = False
        self.notes: tuple[str, ...] = ()
        self.kept = self.waiting = 0  # points stored and points to be stored by this run

    def begin(self, reader: Reader, record: Sweep, conditions: Conditions, *, adopted: bool, reuse: bool) -> None:
        """Start a new sweep, or continue an adopted one; look up what is already there."""
        self.record, self._conditions, self._stored = replace(record, run_id=self._run.id), conditions, adopted
        self._begun = record
        if adopted and record.run_id != self._run.id:
            self._former = reader.get(Run, id=record.run_id)
        for member in reader.all(Member, connection_id=self._connection.id, role="sample"):
            self._samples[parameter_key(member.parameter or ())] = member.node_id
        self._positions = len(self._samples)
        self._can_go_on = reuse and None not in conditions.identities.values()
        if reuse or adopted:
            self._look_up(reader, only=None if reuse else record)

    def _look_up(self, reader: Reader, only: Sweep | None) -> None:
        c = self._conditions
        same: dict[str, Any] = {"batchnorm": c.batchnorm, "precision": c.precision}
        sweeps = [s.id for s in reader.all(Sweep, connection_id=self._connection.id, **same)]
        if only is not None:
            sweeps = [only.id]
        rows = reader.all(Evaluation, sweep_id=sweeps, **same) if sweeps else []
        found = reader.all(Run, id=sorted({r.run_id for r in rows if r.run_id})) if rows else []
        runs = {run.id: run for run in found}
        identities_then = {run.id: json.loads(run.settings).get(METRICS, {}) for run in found}
        valid = {i: same_code(code_of(runs.get(i or ""), c.space), c.code) for i in {r.run_id for r in rows}}
        outdated: set[str] = set()
        identities = c.identities
        rows.sort(key=lambda r: r.sweep_id == self.record.id)  # its own rows come first, since they need no copy
        for row in rows:
            if row.split not in c.subsets or c.subsets[row.split].name != row.subset or row.metric not in c.names:
                continue
            if not valid[row.run_id]:
                outdated.add(row.node_id)
                continue
            if row.metric in identities:
                then = identities_then[row.run_id or ""].get(row.metric)
                if then is None or then != identities[row.metric]:
                    continue
            self._earlier.setdefault((row.node_id, row.split), {})[row.metric] = row
        outdated -= {node_id for node_id, _ in self._earlier}
        if outdated:
            self.notes = (f"{len(outdated)} points were measured before with other code and are not reused.",)

    def begin_grid(self, family: Family, grid: Grid, coefficients: Floats) -> None:
        """Say on which grid the points are that will be added, and which coefficients they have, shape (S, K)."""
        self._grid = FactoredGrid.of(family, grid, coefficients, self._rows, self._samples)

    def recall(self, parameter: Sequence[float], coefficients: Floats) -> PointMetrics:
        """Return what is known about a point: the splits for which all numbers exist under these conditions."""
        node_id = self._samples.get(parameter_key(parameter)) or self._control_at(coefficients)
        if node_id is None:
            return {}
        found = {split: self._earlier.get((node_id, split), {}) for split in self._conditions.subsets}
        return {
            split: {name: _measured(rows[name]) for name in self._conditions.names}
            for split, rows in found.items()
            if len(rows) == len(self._conditions.names)
        }

    def add(self, parameter: Sequence[float], coefficients: Floats, known: PointMetrics, new: PointMetrics) -> str:
        """Add a point with its recalled and its measured numbers; return its node."""
        sweep = self.record.id
        key = parameter_key(parameter)
        node_id, sample_of, terms, place = self._samples.get(key), None, [], None
        if node_id is None:
            node_id, sample_of = self._control_at(coefficients), self._connection.id
            if node_id is None:
                node_id = new_id("s")
                place = self._place(key)
                if place is None:
                    terms = [(self._rows[k].id, float(c)) for k, c in enumerate(coefficients) if c != 0]
                self._pending.append(self._new_sample(node_id))
        numbers = {
            Number(sweep, r.run_id, r.split, r.subset, r.batchnorm, r.precision, r.metric, r.count): (
                r.value,
                r.standard_error,
            )
            for split in known
            for r in self._earlier[node_id, split].values()
            if r.sweep_id != sweep
        }
        for split, metrics in new.items():
            for metric, m in metrics.items():
                numbers[self._number(split, metric, m.count)] = (m.value, m.standard_error)
        if sample_of is not None or numbers:
            self._points.add(
                node_id,
                sample_of=sample_of,
                position=self._positions,
                parameter=list(parameter) if place is None else (),
                terms=terms,
                numbers=numbers.items(),
                grid_id=None if place is None or self._grid is None else self._grid.grid.id,
                place=place or 0,
            )
        if sample_of is not None:
            self._samples[key], self._positions = node_id, self._positions + 1
        self.waiting += bool(new)
        return node_id

    def _new_sample(self, node_id: str) -> Node:
        if self._sample is None:
            space = self._connection.space_id
            self._sample = Node(node_id, "sample", space, self._run.id, kernel=KERNEL_VERSION)
        return like(self._sample, id=node_id)

    def _number(self, split: str, metric: str, count: int) -> Number:
        """Return what is measured of one split, the same object each time, which is found sooner."""
        found = self._numbers.get((split, metric, count))
        if found is None:
            c = self._conditions
            conditions = (self._run.id, split, c.subsets[split].name, c.batchnorm, c.precision, metric, count)
            found = self._numbers[split, metric, count] = Number(self.record.id, *conditions)
        return found

    def _place(self, key: tuple[float, ...]) -> int | None:
        """Return the place of a new point on the grid; None if it has a list of its own coefficients."""
        place = None if self._grid is None else self._grid.places.get(key)
        if self._grid is not None and place is not None:
            self._used[self._grid.grid.id] = self._grid
        return place

    def _grids(self) -> list[Record]:
        """Return what is to be stored of the grids on which points were collected.

        One that was stored is stored again if it is gone, because somebody has removed points meanwhile that were alone
        there.
        """
        there: set[str] = set()
        if known := list(self._used.keys() & self._stored_grids):
            with self._store.reading() as reader:
                there = {grid.id for grid in reader.all(PointGrid, id=known)}
        missing = [used for i, used in self._used.items() if i not in there]
        return [*(m.grid for m in missing), *(term for m in missing for term in m.terms)]

    def _control_at(self, coefficients: Floats) -> str | None:
        """Return the control point if the coefficients are a single 1."""
        terms = [k for k, c in enumerate(coefficients) if c != 0]
        return self._rows[terms[0]].id if len(terms) == 1 and coefficients[terms[0]] == 1.0 else None

    def claim(self) -> None:
        """Record that an adopted sweep now belongs to this run; the run that began it has nothing left to resume.

        Raises ConflictError if another process has adopted it meanwhile.
        """
        if self._stored:
            with self._store.transaction() as tx:
                tx.update(self.record, since=self._begun)
                if self._former is not None:
                    reason = f"run {self._run.id} continued its sweep"
                    tx.expect(self._former)
                    tx.update(replace(self._former, status="interrupted", reason=reason, plan=None))

    def flush(self, *, at_once: bool = False) -> None:
        """Commit what was collected, at once or if the last batch is old enough."""
        due = at_once or time.monotonic() - self._last_flush >= FLUSH_SECONDS
        if not due or not (self._pending or self._points):
            return
        grids = self._grids()
        with self._store.transaction() as tx:
            if self._stored:
                tx.update(self.record, since=self.record)  # nothing changes, but it must still be there
            else:
                tx.add(self.record)
            tx.add(*self._pending, *grids, *self._points.records())
        self._taken()
        self._last_flush = time.monotonic()

    def keep(self, stopped: BaseException) -> None:
        """After an interruption or an error, commit what was measured, and note on the exception what is kept."""
        with suppress(MGraphError):  # the first error matters, not a failure to store the rest
            if not (self._finishing and self._is_complete()):
                self.flush(at_once=True)
        if self.kept:
            points = "1 point is" if self.kept == 1 else f"{self.kept} points are"
            how = "; the same sweep continues from there" if self._can_go_on else ""
            stopped.add_note(f"{points} measured and stored{how}.")

    def finish(self, record: Sweep, results: Sequence[Record], verdict: Verdict) -> Sweep:
        """Commit the last points with the results, complete the sweep and the run, all in one transaction."""
        self._finishing = True
        # The newest sweep is the one completed last, whenever it began.
        record, grids = replace(record, status=COMPLETE, created=now()), self._grids()
        with self._store.transaction() as tx:
            if self._stored:
                tx.update(record, since=self.record)
            else:
                tx.add(record)
            tx.add(*self._pending, *grids, *self._points.records(), *results)
            if verdict.changed is not None:
                tx.update(verdict.changed, since=verdict.since)
            self._run.complete(tx)
        self._taken()
        return record

    def _taken(self) -> None:
        self._pending.clear()
        self._sample = None
        self._stored_grids |= self._used.keys()
        self._used.clear()
        self._points = Gathering()
        self._stored = True
        self.kept, self.waiting = self.kept + self.waiting, 0

    def _is_complete(self) -> bool:
        with self._store.reading() as reader:
            found = reader.all(Sweep, id=self.record.id)
        return bool(found) and found[0].status == COMPLETE


def _measured(row: Evaluation) -> Measured:
    return Measured(row.value, row.standard_error, row.count)
