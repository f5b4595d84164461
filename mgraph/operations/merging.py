"""Merging: choose a point of a swept connection on validation data, store it, and report it on test data.

By default the best corner is kept, unless the best swept point is better than it on validation data, allowing for all
the points that were tried (:mod:`mgraph.merge.bestof`). A point on a wall between the corners is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from mgraph.alone import alone
from mgraph.errors import InputError
from mgraph.evaluate.batchnorm import BatchNormPolicy, recompute_statistics
from mgraph.evaluate.metrics import SPLITS, Measured, example_scores, measure_with_scores, outputs
from mgraph.families import Floats
from mgraph.jobs.points import MergeJob
from mgraph.merge.bestof import Decision
from mgraph.merge.compare import Difference, paired_difference
from mgraph.metric import Metric
from mgraph.models.predicting import Predictor
from mgraph.models.sets import Member
from mgraph.notebook import InNotebook
from mgraph.operations.advising import Advice, advise
from mgraph.operations.choosing import Choice, Choosing, choose_point
from mgraph.operations.deciding import rank
from mgraph.operations.sweptnumbers import holds, own_numbers, recalled
from mgraph.operations.voted import flat_numbers
from mgraph.operations.walls import refuse_a_wall
from mgraph.progress import ProgressCallback, silent
from mgraph.query.sweepdata import SweepData, finest_sweep, load_sweep
from mgraph.session.code import warn_of_other_code
from mgraph.session.members import constants_source, label, rows_and_ends, still_there
from mgraph.session.points import (
    buffers_of,
    evaluate_splits,
    load_buffers,
    policy_name,
)
from mgraph.session.runs import RunLog
from mgraph.session.session import Session
from mgraph.session.storing import MeasuredPoint, check_name_is_free, require_finite, store_point
from mgraph.session.workspace import Workspace
from mgraph_store import Connection, Node, NodeTerm, Reader, Run, Space
from mgraph_store.tensors.kernel import combine as combine_stored

SELECTION_SPLIT, REPORTING_SPLIT = "valid", "test"
SOUPS = ("uniform", "greedy")


@dataclass(frozen=True)
class Prepared:
    """A connection with its control points loaded and ready to be evaluated anywhere."""

    connection: Connection
    workspace: Workspace
    nodes: list[Node]
    ends: list[Node]
    points: list[NDArray[np.float32]]
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)

    def place(self, coefficients: Floats, policy: BatchNormPolicy) -> NDArray[np.float32]:
        """Load a point into the network, with the connection's constants and recomputed statistics; return θ."""
        flat = self.workspace.flat
        if self.constants:
            load_buffers(self.workspace, self.constants)
        theta = np.array(combine_stored(coefficients.tolist(), self.points))
        flat.theta.copy_(flat.pack(torch.from_numpy(theta)))
        recompute_statistics(flat, self.workspace.task.train, policy)
        return theta


@dataclass(frozen=True)
class MergeResult(InNotebook):
    """A merged node and how good it is.

    ``corners`` are the ends as they are, with their own BatchNorm statistics (unless ``bn_examples`` was given, which
    recomputes those of all); ``baseline`` is the best one, by the primary metric on validation data (ties: loss).
    Compared with it, ``decision`` says on validation data whether the point is better, and ``difference`` is the paired
    test difference by the primary metric (or else by the loss), measured once, after everything was decided; positive
    is better. Where the rule keeps the corner because another one is likelier, ``decision`` is against that. ``oracle``
    is the best swept test value: what selecting on test data would have shown, never the result. ``metric`` is the
    primary one, ``scored_by`` the metric of the test difference, ``decided_by`` that of the decision. ``advice`` says
    what the connection cost, and what that much training would buy instead.
    """

    node: Node
    parameter: tuple[float, ...] | None
    results: dict[str, dict[str, Measured]]
    corners: dict[str, dict[str, dict[str, Measured]]]
    baseline: str
    decision: Decision | None
    difference: Difference | None
    oracle: float | None
    metric: str
    scored_by: str | None
    decided_by: str
    advice: Advice
    notes: list[str] = field(default_factory=list)

    @override
    def _shown(self) -> dict[str, Any]:
        return self.to_dict()

    def table(self) -> list[dict[str, Any]]:
        """Return the merged point and the corners as rows: what it is, and every number, as SPLIT_METRIC."""
        named = {label(self.node): self.results} | {f"corner {name}": found for name, found in self.corners.items()}
        return [{"what": name} | flat_numbers(found, self.metric) for name, found in named.items()]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        facts: dict[str, Any] = {
            "id": self.node.id,
            "name": self.node.name,
            "parameter": None if self.parameter is None else list(self.parameter),
            "selected_on": self.node.selected_on,
            "against": f"corner {self.baseline}",
            "oracle": self.oracle,
        }
        if self.decision is not None:
            d = self.decision
            facts |= {
                "points_looked_at": d.looked_at,
                "decided_by": self.decided_by,
                "valid_difference": d.value,
                "standard_errors": d.errors,
                "standard_errors_needed": d.threshold,
                "by_luck": d.p,
                "verdict": d.verdict,
            }
        if self.difference is not None:
            facts |= self.difference.to_dict(f"test_{self.scored_by}_difference")
        return facts | self.advice.to_dict() | {"notes": list(self.notes), "models": self.table()}


def prepare(session: Session, connection: Connection) -> Prepared:
    """Load a connection's control points and constants into its workspace."""
    store = session.store
    with store.reading() as reader:
        space = reader.get(Space, id=connection.space_id)
        nodes, ends = rows_and_ends(reader, connection)
        groups = buffers_of(store, reader, constants_source(reader, connection, ends))
    workspace = session.workspace(space)
    warn_of_other_code(store, workspace, [connection, *ends])
    if groups:
        load_buffers(workspace, groups)
    points = [np.array(session.points.read(node)) for node in nodes]
    return Prepared(connection, workspace, nodes, ends, points, groups)


@alone
def merge(
    session: Session, job: MergeJob, *, progress: ProgressCallback = silent, resumed: Run | None = None
) -> MergeResult:
    """Store a point as a ``merged`` node: what the rule chooses, the best on validation, a given parameter, or a soup.

    BatchNorm statistics are recomputed and stored with it; a corner that is kept keeps its own. Raises InputError if
    the connection was never swept (unless ``at`` is given), the parameter is outside the domain, or the point is far
    worse on validation data than every corner, unless ``force`` is given. An interrupted run starts again.
    """
    with session.store.reading() as reader:
        connection = still_there(reader, Connection, job.connection, resumed)
        check_name_is_free(session, job.name)
    _check(job)
    family = session.family_of(connection)  # which may run a user's code, so no lock is held
    parameter = None if job.at is None else family.points(list(job.at))[0]
    with session.store.reading() as reader:
        sweep = finest_sweep(reader, connection, split=SELECTION_SPLIT)
        found = load_sweep(reader, connection, sweep) if sweep is not None or job.at is None else None
        data = None if found is None else replace(found, family=family)
        swept_by = None if data is None else next(iter(reader.all(Run, id=data.sweep.run_id)), None)
    if data is not None and job.at is None:
        choose_point(data)
    ready = prepare(session, connection)
    predictor = Predictor(session, ready.workspace.space, job.bn_examples)
    policy = predictor.policy_between(connection)
    settings: dict[str, Any] = {"connection": connection.id, "at": job.at, "soup": job.soup, "batchnorm": str(policy)}
    settings |= {"best": job.best, "refine": job.refine}
    with session.run(ready.workspace, "merge", settings, job=job, resumed=resumed) as run:
        swept = data if data is not None and holds(data, ready.workspace, policy, swept_by) else None
        own = [Member(label(end), ((end.id, 1.0),), end) for end in ready.ends]
        with session.store.reading() as reader:  # once for all
            predictor.look_up(own)
            known = [_known(reader, ready, predictor, member, policy, swept) for member in own]
        corners = {
            m.label: _as_it_is(predictor, m) if found is None else found for m, found in zip(own, known, strict=True)
        }
        ranks = [rank(corners[member.label][SELECTION_SPLIT], ready.workspace.task.primary) for member in own]
        best = ranks.index(min(ranks))
        choosing = Choosing(predictor, connection, ready.ends, ready.nodes, data, best, progress)
        choice = choosing.choose(job, parameter)
        baseline = own[best]
        predictor.place(baseline)
        against = _scored(ready.workspace, REPORTING_SPLIT)
        if choice.kept:
            theta, results, scores = np.array(predictor.theta(baseline.terms)), corners[baseline.label], against
            used = predictor.policy_of(baseline)
        else:
            theta, used = ready.place(choice.coefficients, policy), policy_name(ready.workspace, policy)
            results, scores = _measured(ready, swept, choice)
        require_finite(results, "The merged point")
        if not job.force:
            refuse_a_wall(results, corners, ready.workspace.task.primary, SELECTION_SPLIT)
        node = _store(session, run, ready, choice, MeasuredPoint(theta, results, used, used), job)
    return MergeResult(
        node,
        choice.parameter,
        results,
        corners,
        baseline.label,
        choice.decision,
        None if scores is None or against is None else paired_difference(scores[1], against[1]),
        _oracle(data),
        ready.workspace.task.primary.name,
        None if scores is None else scores[0].name,
        choosing.scored_by,
        advise(session, ready.workspace.space, [connection], ready.ends),
        [*choice.notes, *_notes(choice, ready)],
    )


def _check(job: MergeJob) -> None:
    """Raise InputError for more than one way to choose, or an unknown one."""
    if job.soup is not None and job.soup not in SOUPS:
        raise InputError(f"A soup is {' or '.join(SOUPS)}, not {job.soup!r}.")
    ways = {"at": job.at is not None, "soup": job.soup is not None, "best": job.best, "refine": job.refine is not None}
    given = [name for name, there in ways.items() if there]
    if len(given) > 1:
        raise InputError(f"Give only one way to choose the point, not {' and '.join(given)}.")


_Scored = tuple[Metric, NDArray[np.float64]] | None


def _measured(
    ready: Prepared, swept: SweepData | None, choice: Choice
) -> tuple[dict[str, dict[str, Measured]], _Scored]:
    """Return the numbers of the current point, from the sweep if it has them, and its test scores by example."""
    workspace = ready.workspace
    known = recalled(swept, workspace.task, choice.coefficients)
    if known is not None:
        return known, _scored(workspace, REPORTING_SPLIT)
    found = {split: measure_with_scores(workspace.flat, workspace.task, split) for split in SPLITS}
    scores = found[REPORTING_SPLIT].scores
    return {split: one.measured for split, one in found.items()}, (
        None if scores is None else (scores[0], scores[1].numpy())
    )


def _store(
    session: Session,
    run: RunLog,
    ready: Prepared,
    choice: Choice,
    point: MeasuredPoint,
    job: MergeJob,
) -> Node:
    """Store the current point with its statistics, its recipe and its numbers, and complete the run."""
    pairs = zip(ready.nodes, choice.coefficients.tolist(), strict=True)
    terms = [(node.id, c) for node, c in pairs if c != 0]
    info = {
        "origin": "merge",
        "connection": ready.connection.id,
        "parameter": choice.parameter,
        "soup": job.soup,
        "batchnorm": point.buffers,
    }
    with session.store.transaction() as tx:
        node = store_point(
            tx,
            ready.workspace,
            run.id,
            "merged",
            point,
            info=info,
            name=job.name,
            selected_on=choice.selected_on,
        )
        tx.add(*[NodeTerm(node.id, i, source, c) for i, (source, c) in enumerate(terms)])
        run.complete(tx)
    return node


def _scored(workspace: Workspace, split: str) -> _Scored:
    """Score the current point by example, shape (N,), higher is better: by the primary metric, or else by the loss.

    None if examples have neither.
    """
    data = workspace.task.splits[split]
    found = example_scores(workspace.task, outputs(workspace.flat, data), len(data))
    return None if found is None else (found[0], found[1].numpy())


def _known(
    reader: Reader, ready: Prepared, predictor: Predictor, end: Member, policy: BatchNormPolicy, swept: SweepData | None
) -> dict[str, dict[str, Measured]] | None:
    """Return what is stored about an end as :func:`_as_it_is` would measure it; None unless all of it is."""
    assert end.node is not None, "an end is a node"
    used = predictor.policy_of(end)
    alone = np.array([float(node.id == end.node.id) for node in ready.nodes])
    known = recalled(swept, ready.workspace.task, alone) if used == policy_name(ready.workspace, policy) else None
    return own_numbers(reader, end.node, ready.workspace, used) if known is None else known


def _as_it_is(predictor: Predictor, end: Member) -> dict[str, dict[str, Measured]]:
    """Measure an end with its own BatchNorm statistics, unless those of all are to be recomputed."""
    predictor.place(end)
    return evaluate_splits(predictor.workspace, SPLITS)


def _oracle(data: SweepData | None) -> float | None:
    if data is None or (REPORTING_SPLIT, data.primary.name) not in data.values:
        return None
    values = data.values[REPORTING_SPLIT, data.primary.name]
    return float(values[np.argmax(data.primary.sign * values)])


def _notes(choice: Choice, ready: Prepared) -> list[str]:
    alone = np.flatnonzero(choice.coefficients == 1.0)
    if choice.notes or len(alone) != 1 or np.count_nonzero(choice.coefficients) != 1:
        return []
    but = ", with its BatchNorm statistics recomputed" if ready.workspace.flat.recomputes else " itself"
    return [f"the chosen point is the corner {label(ready.nodes[int(alone[0])])}{but}"]
