"""Sweeping connections: measure the points of a grid, and store points, numbers, summaries and edges."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from mgraph.alone import alone
from mgraph.errors import InputError, MGraphWarning, NonFiniteError
from mgraph.evaluate.metric_names import resolve_metrics
from mgraph.evaluate.metrics import LOSS, Measured, Subset, check_splits
from mgraph.evaluate.refine import Refinement, interpolation_error, refined
from mgraph.evaluate.sweep import Measuring, PointMetrics, sweep
from mgraph.families import Family, Floats, Grid
from mgraph.families.gram import gram
from mgraph.jobs.connections import Following, SweepJob
from mgraph.metric import Metric, to_json
from mgraph.network.precision import check_precision
from mgraph.operations.endcheck import EndsDifferWarning, doubted, doubts, said
from mgraph.operations.sweepcost import Cost, examples_of_policy, seconds_each
from mgraph.operations.sweeplog import METRICS, Conditions, SweepLog, adoptable, own_sweep
from mgraph.operations.sweeprows import Numbers, edges, summaries
from mgraph.operations.sweepverdict import judged
from mgraph.progress import Progress, ProgressCallback, silent
from mgraph.query.sweepdata import PARTIAL, SweepData, axes_of, load_sweep, parameter_key
from mgraph.session.code import of_space, warn_of_other_code
from mgraph.session.constants import Groups
from mgraph.session.members import constants_source, label, rows_and_ends, still_there
from mgraph.session.points import buffers_of, load_buffers, packed_rows, policy_name
from mgraph.session.policies import augments_behind, policy_after, why_plain
from mgraph.session.session import Session
from mgraph.session.workspace import Workspace
from mgraph_store import Connection, GraphStore, Node, Reader, Record, Run, Space, Summary, Sweep, new_id


class SweepWarning(MGraphWarning):
    """A number of a sweep is not finite, or the connection's status changed because of such a number."""


@alone
def sweep_connection(
    session: Session, job: SweepJob, *, progress: ProgressCallback = silent, resumed: Run | None = None
) -> SweepData:
    """Measure a connection on a grid and store the result.

    Numbers are stored while the sweep runs, and when it is interrupted; an interrupted sweep with the same settings is
    continued, unless the job says not to reuse numbers. If an interrupted run of this job is ``resumed``, that run's
    sweep is continued.

    Raises InputError for a bad grid, split, precision or metric, and NonFiniteError, after storing the results, if a
    train loss (or that of the first split measured) is NaN or infinite: in full precision, the connection is then
    marked failed. Any other number that is not finite gives a warning, and only what is computed from it is NaN.
    """
    with session.store.reading() as reader:
        connection = still_there(reader, Connection, job.connection, resumed)
        read = _Read.of(session.store, reader, connection)
    work, refine = _prepare(session, connection, read, job), job.refine
    if resumed is not None:
        _check_resumed(resumed, work)
    job = job.on(work.grid)  # even if a later version has another default
    with session.run(work.workspace, "sweep", work.settings, job=job, resumed=resumed) as run:
        log = SweepLog(session.store, run, connection, work.nodes)
        with session.store.reading() as reader:
            partial = None if resumed is None else own_sweep(reader, resumed)
            if partial is None and job.reuse:
                partial = adoptable(session.store, reader, connection, work.settings, work.conditions)
            record = partial or work.new_record(connection)
            log.begin(reader, record, work.conditions, adopted=partial is not None, reuse=job.reuse)
            cost = _cost(reader, session, work)
        if cost is not None:
            progress(Progress("sweep", 0, len(work.grid), note=f"Sweep: {cost}"))
        with _kept(log):
            log.claim()
            swept = _measure(work, log, refine, progress)
            G = gram(work.points)
            record = replace(log.record, grid=swept.grid.counts, axes=axes_of(swept.grid), metrics=work.metrics)
            numbers = swept.numbers(work)
            rows: list[Record] = [*summaries(record, numbers, G), *swept.reached(record, refine)]
            rows += edges(record, numbers, G, swept.ids, work.ends, swept.examples, job.route_on)
            bad = numbers.bad()
            ruined = bad.pop(numbers.deciding, None)
            with session.store.reading() as reader:
                reasons = _doubts(reader, work, swept)
                verdict = judged(reader, connection, record, numbers.deciding, ruined, swept.ids)
            record = log.finish(record, list(doubted(rows, reasons)), verdict)
    if reasons:
        warnings.warn(said(reasons), EndsDifferWarning, stacklevel=3)
    if ruined:
        raise NonFiniteError(f"{label(connection)}: {ruined}; {verdict.said}")
    others = [f"{', '.join(bad.values())}; only what is computed from it is NaN."] if bad else []
    for text in (*verdict.notes, *others):
        warnings.warn(f"{label(connection)}: {text}", SweepWarning, stacklevel=3)
    with session.store.reading() as reader:
        return replace(
            load_sweep(reader, connection, record), family=work.family, notes=(*log.notes, *swept.notes(work, refine))
        )


def _check_resumed(resumed: Run, work: _Work) -> None:
    """Raise InputError unless a run measured as is measured now: one sweep holds numbers of one kind."""
    then, now = json.loads(resumed.settings), work.settings
    if then.get(METRICS) != now[METRICS]:
        raise InputError(f"Run {resumed.id} cannot be resumed: a metric's code has changed; give the command again.")
    if then.get("batchnorm") != now["batchnorm"]:
        raise InputError(
            f"Run {resumed.id} cannot be resumed: its BatchNorm statistics were by {then.get('batchnorm')}, and now "
            f"they would be by {now['batchnorm']}; give the command again."
        )


def check_sweep(workspace: Workspace, job: SweepJob | Following) -> tuple[Metric, ...]:
    """Return the metrics to be measured; InputError for splits, examples or metrics that there are not."""
    check_splits(job.splits)
    if job.examples is not None and job.examples < 1:
        raise InputError(f"A sweep needs at least 1 example per split, not {job.examples}.")
    workspace.policy(job.bn_examples)
    return resolve_metrics(job.metrics, workspace.task)


def _cost(reader: Reader, session: Session, work: _Work) -> str | None:
    """Say how long the sweep will take, if that is long."""
    task, subsets = work.workspace.task, work.conditions.subsets
    each = sum(len(task.splits[s]) if u.order is None else len(u.order) for s, u in subsets.items())
    statistics = work.workspace.flat.statistics
    cost = Cost(len(work.grid), each, examples_of_policy(work.conditions.batchnorm) if statistics else 0)
    return cost.said(seconds_each(reader, work.workspace.space.id, session.device))


@dataclass(frozen=True)
class _Work:
    """Everything that a sweep needs, checked."""

    workspace: Workspace
    family: Family
    grid: Grid
    nodes: list[Node]
    ends: list[Node]
    points: list[Any]
    rows: list[Tensor]
    conditions: Conditions
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()

    def new_record(self, connection: Connection) -> Sweep:
        """Begin a sweep's row; the log supplies its run."""
        c, axes = self.conditions, axes_of(self.grid)
        found = Sweep(new_id("w"), connection.id, None, self.grid.counts, c.batchnorm, c.precision, axes, PARTIAL)
        return replace(found, metrics=self.metrics)

    @property
    def metrics(self) -> str:
        """What is stored about the metrics that are measured."""
        return to_json(self.conditions.measured)


@dataclass(frozen=True)
class _Read:
    """What the graph says of a connection: its points, its constants by dtype, and the augmentations behind it."""

    space: Space
    nodes: list[Node]
    ends: list[Node]
    constants: Groups
    augments: frozenset[str]

    @classmethod
    def of(cls, store: GraphStore, reader: Reader, connection: Connection) -> _Read:
        nodes, ends = rows_and_ends(reader, connection)
        constants = buffers_of(store, reader, constants_source(reader, connection, ends))
        space = reader.get(Space, id=connection.space_id)
        return cls(space, nodes, ends, constants, augments_behind(reader, [connection]))


def _prepare(session: Session, connection: Connection, read: _Read, job: SweepJob) -> _Work:
    space, nodes, ends = read.space, read.nodes, read.ends
    family = session.family_of(connection)
    grid = job.grid_of(family)
    family.points(grid.points)
    check_splits(job.splits)
    splits = list(dict.fromkeys(job.splits))
    _check_route_on(job.route_on, splits)
    examples, refine = job.examples, job.refine
    workspace = session.workspace(space)
    warn_of_other_code(session.store, workspace, [connection, *ends])
    check_precision(job.precision, workspace.flat.device)
    chosen = check_sweep(workspace, job)
    measured = (*workspace.task.metrics, *chosen)
    names = (LOSS, *(m.name for m in measured))
    if refine is not None:
        refine.check(splits, names, len(grid))
    policy, plain = policy_after(workspace, read.augments, job.bn_examples), why_plain(workspace, read.augments)
    if read.constants:
        load_buffers(workspace, read.constants)
    points = [session.points.read(node) for node in nodes]
    subsets = {s: Subset.random(len(workspace.task.splits[s]), examples) for s in splits}
    conditions = Conditions(
        policy,
        policy_name(workspace, policy),
        job.precision,
        subsets,
        chosen,
        measured,
        space,
        of_space(workspace.code),
    )
    settings = {
        "connection": connection.id,
        "grid": grid.counts,
        "axes": axes_of(grid),
        "splits": splits,
        "examples": examples,
        "batchnorm": str(policy),
        "precision": job.precision,
        METRICS: conditions.identities,
        "refine": None if refine is None else asdict(refine),
        "route_on": job.route_on,
    }
    rows, notes = packed_rows(workspace, points), () if plain is None else (plain,)
    return _Work(workspace, family, grid, nodes, ends, points, rows, conditions, settings, notes)


def _check_route_on(route_on: str, splits: Sequence[str]) -> None:
    if route_on not in ("train", "valid"):
        raise InputError(
            f"A route is chosen on train or valid, not on {route_on!r}: the split that chooses it must not report it."
        )
    if route_on == "valid" and "valid" not in splits:
        raise InputError("Choosing routes on valid needs that split: add it to --splits.")


@contextmanager
def _kept(log: SweepLog) -> Iterator[None]:
    """Store what was measured, whatever stops the block."""
    try:
        yield
    except BaseException as stopped:
        log.keep(stopped)
        raise


@dataclass(frozen=True)
class _Swept:
    """The last grid, and for each of its points the node and the numbers; how many of them were measured before."""

    grid: Grid
    ids: list[str]
    points: list[PointMetrics]
    reused: int
    error: float | None

    @property
    def examples(self) -> dict[str, int]:
        """Examples per point, by split."""
        return {split: metrics[LOSS].count for split, metrics in self.points[0].items()}

    def numbers(self, work: _Work) -> Numbers:
        """Return the numbers as arrays."""
        keys = [(s, m) for s in work.conditions.subsets for m in work.conditions.names]
        values = {(s, m): np.array([point[s][m].value for point in self.points]) for s, m in keys}
        errors = {(s, m): np.array([_error(point[s][m]) for point in self.points]) for s, m in keys}
        return Numbers(work.family, self.grid, values, errors, work.conditions.measured)

    def reached(self, record: Sweep, refine: Refinement | None) -> list[Summary]:
        """Summarise how well the grid interpolates the metric it was refined on."""
        if refine is None or self.error is None:
            return []
        of = (record.connection_id, record.id, record.run_id, refine.split, refine.metric)
        return [Summary(*of, "interpolation_error", self.error)]

    def notes(self, work: _Work, refine: Refinement | None) -> tuple[str, ...]:
        """Return what the user should know about how the numbers came about."""
        said = list(work.notes)
        if len(work.ends) > 2 and not {"train", "valid"} & set(work.conditions.subsets):
            said.append(
                "routes between the ends are chosen on train or validation data, and neither was measured: the edges "
                "are oracles, chosen on test data, and do not count."
            )
        undirected = [m.name for m in work.conditions.metrics if m.better is None]
        if undirected:
            one = undirected[0]
            said.append(
                f"it is not known whether higher or lower {', '.join(undirected)} is better, so it makes no edges; "
                f"say so: ?better=lower after its name, or mgraph.Metric('{one}', …, better='lower')."
            )
        if self.reused:
            said.append(f"{self.reused} of {len(self.points)} points were measured before and are reused.")
        if refine is not None and self.error is not None:
            what = f"interpolation error of the {refine.split} {refine.metric} is about {self.error:.2g}"
            size = f"{len(self.points)} points, {len(self.points) - len(work.grid)} of them by refinement"
            if self.error <= refine.bound:
                said.append(f"{size}: the {what}, within the bound {refine.bound:g}.")
            else:
                said.append(
                    f"{size}: the {what}, still above the bound {refine.bound:g}; a finer grid would have more than "
                    f"--max-points {refine.max_points}."
                )
        return tuple(said)


def _measure(work: _Work, log: SweepLog, refine: Refinement | None, progress: ProgressCallback) -> _Swept:
    """Measure the grid, and finer ones as long as the refinement requires them."""
    done: dict[tuple[float, ...], tuple[str, PointMetrics]] = {}
    grid, rounds, reused = work.grid, 0, 0
    while True:
        phase = "sweep" if rounds == 0 else f"refinement {rounds}"
        reused += _measure_grid(work, log, grid, done, phase, progress)
        found = [done[parameter_key(p)] for p in grid.points]
        ids, points = [node_id for node_id, _ in found], [metrics for _, metrics in found]
        if refine is None:
            return _Swept(grid, ids, points, reused, None)
        values = np.array([point[refine.split][refine.metric].value for point in points])
        finer = refined(grid, values, refine.bound, refine.max_points)
        if finer is grid:
            return _Swept(grid, ids, points, reused, interpolation_error(grid, values))
        grid, rounds = finer, rounds + 1


def _measure_grid(
    work: _Work,
    log: SweepLog,
    grid: Grid,
    done: dict[tuple[float, ...], tuple[str, PointMetrics]],
    phase: str,
    progress: ProgressCallback,
) -> int:
    """Add to ``done`` every missing point of the grid; return how many did not need measuring."""
    coefficients = work.family.coefficients(grid.points)
    log.begin_grid(work.family, grid, coefficients)
    todo: list[tuple[list[float], Floats, PointMetrics]] = []
    reused = 0
    for parameter, c in zip(grid.points.tolist(), coefficients, strict=True):
        if parameter_key(parameter) in done:
            continue
        known = log.recall(parameter, c)
        if len(known) == len(work.conditions.subsets):
            done[parameter_key(parameter)] = (log.add(parameter, c, known, {}), known)
            reused += 1
        else:
            todo.append((parameter, c, known))
    missing: list[Mapping[str, Subset]] = [
        {split: subset for split, subset in work.conditions.subsets.items() if split not in known} for *_, known in todo
    ]
    results = sweep(
        work.workspace.flat,
        work.workspace.task,
        work.rows,
        np.array([c for _, c, _ in todo]),
        how=Measuring(work.conditions.policy, work.conditions.metrics, work.conditions.precision),
        subsets=missing,
        phase=phase,
        progress=progress,
    )
    for (parameter, c, known), new in zip(todo, results, strict=True):
        node_id = log.add(parameter, c, known, new)
        done[parameter_key(parameter)] = (node_id, known | new)
        log.flush()
    return reused


def _doubts(reader: Reader, work: _Work, swept: _Swept) -> dict[str, str]:
    places = dict(enumerate(swept.grid.ends))
    ends = {i: end for i, end in enumerate(work.ends) if i in places}
    points = {i: swept.points[places[i]] for i in ends}
    rows = {i: work.rows[work.family.ends[i]] for i in ends}
    return doubts(reader, work.workspace, work.conditions, ends, points, rows)


def _error(m: Measured) -> float:
    return float("nan") if m.standard_error is None else m.standard_error
