"""Merging: choose a point of a swept connection on validation data, store it, and report it on test data.

Whether it is better or worse than the best corner is decided on validation data too, allowing for all the points that
were looked at (:mod:`mgraph.merge.bestof`). A point on a wall between the corners is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mgraph.alone import alone
from mgraph.errors import InputError
from mgraph.evaluate.batchnorm import BatchNormPolicy, recompute_statistics
from mgraph.evaluate.metrics import SPLITS, Measured, example_scores, measure_with_scores, outputs
from mgraph.families import Family, Floats
from mgraph.jobs.points import MergeJob
from mgraph.merge.bestof import Decision, decide
from mgraph.merge.compare import Difference, paired_difference
from mgraph.merge.soup import greedy_soup, uniform_soup
from mgraph.metric import LOSS, Metric
from mgraph.network.flat import combine
from mgraph.operations.sweptnumbers import holds, recalled
from mgraph.progress import Progress, ProgressCallback, silent
from mgraph.query.sweepdata import SweepData, finest_sweep, load_sweep
from mgraph.session.code import warn_of_other_code
from mgraph.session.members import constants_source, ends_of, label, rows_of, still_there
from mgraph.session.points import (
    buffers_of,
    evaluate_splits,
    load_buffers,
    packed_rows,
    policy_name,
)
from mgraph.session.runs import RunLog
from mgraph.session.session import Session, Workspace
from mgraph.session.storing import MeasuredPoint, check_name_is_free, require_finite, store_point
from mgraph_store import Connection, Node, NodeTerm, Run, Space
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
    rows: list[torch.Tensor]
    family: Family


@dataclass(frozen=True)
class MergeResult:
    """A merged node and how good it is.

    ``corners`` are the ends, measured under the same BatchNorm policy; ``baseline`` is the one chosen on validation,
    ``decision`` says on validation whether the point is better, and ``difference`` is the paired test difference by the
    primary metric (or else by the loss), measured once, after everything was decided; positive is better. ``oracle`` is
    the best swept test value: what selecting on test data would have shown, never the result. ``metric`` is the primary
    one, ``scored_by`` the one that the differences are in.
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
    notes: list[str] = field(default_factory=list)


def prepare(session: Session, connection: Connection) -> Prepared:
    """Load a connection's control points and constants into its workspace."""
    store = session.store
    with store.reading() as reader:
        space = reader.get(Space, id=connection.space_id)
        nodes, ends = rows_of(reader, connection), ends_of(reader, connection)
        groups = buffers_of(store, reader, constants_source(reader, connection))
    workspace = session.workspace(space)
    warn_of_other_code(store, workspace, [connection, *ends])
    if groups:
        load_buffers(workspace, groups)
    points = [np.array(session.points.read(node)) for node in nodes]
    return Prepared(
        connection, workspace, nodes, ends, points, packed_rows(workspace, points), session.family_of(connection)
    )


def choose_point(data: SweepData) -> int:
    """Choose the swept point that is best on validation by the primary metric (ties: loss); never by test data."""
    if (SELECTION_SPLIT, LOSS.name) not in data.values:
        raise InputError("It was not swept on validation data, on which merging selects; sweep it first.")
    return data.best(SELECTION_SPLIT)


@alone
def merge(
    session: Session, job: MergeJob, *, progress: ProgressCallback = silent, resumed: Run | None = None
) -> MergeResult:
    """Store a point as a ``merged`` node: the best on validation, a given parameter, or a soup.

    BatchNorm statistics are recomputed and stored with it. Raises InputError if the connection was never swept (unless
    ``at`` is given), the parameter is outside the domain, or the point is far worse on validation data than every
    corner, unless ``force`` is given. An interrupted run starts again.
    """
    at, soup = job.at, job.soup
    with session.store.reading() as reader:
        connection = still_there(reader, Connection, job.connection, resumed)
    if soup is not None and soup not in SOUPS:
        raise InputError(f"A soup is {' or '.join(SOUPS)}, not {soup!r}.")
    if at is not None and soup is not None:
        raise InputError("Give either a parameter or a soup, not both.")
    family = session.family_of(connection)
    check_name_is_free(session, job.name)
    parameter = None if at is None else family.points(list(at))[0]
    with session.store.reading() as reader:
        sweep = finest_sweep(reader, connection, split=SELECTION_SPLIT)
        found = load_sweep(reader, connection, sweep) if sweep is not None or at is None else None
        data = None if found is None else replace(found, family=family)
        swept_by = None if data is None else next(iter(reader.all(Run, id=data.sweep.run_id)), None)
    if data is not None and at is None:
        choose_point(data)
    ready = prepare(session, connection)
    policy = ready.workspace.policy(job.bn_examples)
    settings: dict[str, Any] = {"connection": connection.id, "at": at, "soup": soup, "batchnorm": str(policy)}
    with session.run(ready.workspace, "merge", settings, job=job, resumed=resumed) as run:
        choice = _choose(ready, data, parameter, soup, policy, progress)
        swept = data if data is not None and holds(data, ready.workspace, policy, swept_by) else None
        corners = {label(end): _corner(ready, end, policy, swept) for end in ready.ends}
        baseline = best_corner(corners, ready.workspace.task.primary)
        _place_end(ready, next(end for end in ready.ends if label(end) == baseline), policy)
        against, against_test = (_scores(ready.workspace, split) for split in (SELECTION_SPLIT, REPORTING_SPLIT))
        theta = combine_stored(choice.coefficients.tolist(), ready.points)
        flat = ready.workspace.flat
        flat.theta.copy_(flat.pack(torch.from_numpy(np.array(theta))))
        recompute_statistics(flat, ready.workspace.task.train, policy)
        results, by_example = _measured(ready, swept, choice)
        require_finite(results, "The merged point")
        if not job.force:
            _refuse_a_wall(results, corners, ready.workspace.task.primary)
        scores = by_example[REPORTING_SPLIT]
        chosen_by = by_example[SELECTION_SPLIT]
        decision = _decided(choice, None if chosen_by is None else chosen_by[1], against)
        node = _store(session, run, ready, choice, theta, results, policy, job)
    return MergeResult(
        node,
        choice.parameter,
        results,
        corners,
        baseline,
        decision,
        None if scores is None or against_test is None else paired_difference(scores[1], against_test),
        _oracle(data),
        ready.workspace.task.primary.name,
        None if scores is None else scores[0].name,
        _notes(data, choice.coefficients, ready),
    )


@dataclass(frozen=True)
class _Choice:
    """Coefficients of the chosen point, its parameter if it has one, and the split that chose it, if any did.

    ``looked_at`` (S, N) are the validation scores by example of everything else that was looked at to choose it.
    """

    coefficients: Floats
    parameter: tuple[float, ...] | None
    selected_on: str | None
    looked_at: NDArray[np.float32] | None = None


_Scored = tuple[Metric, NDArray[np.float64]] | None


def _measured(
    ready: Prepared, swept: SweepData | None, choice: _Choice
) -> tuple[dict[str, dict[str, Measured]], dict[str, _Scored]]:
    """Return the numbers of the present point, from the sweep where it holds them, and its scores by example."""
    workspace = ready.workspace
    known = recalled(swept, workspace.task, choice.coefficients)
    if known is not None:
        return known, {split: _scored(workspace, split) for split in (SELECTION_SPLIT, REPORTING_SPLIT)}
    found = {split: measure_with_scores(workspace.flat, workspace.task, split) for split in SPLITS}
    scores = {
        split: None if one.scores is None else (one.scores[0], one.scores[1].numpy()) for split, one in found.items()
    }
    return {split: one.measured for split, one in found.items()}, scores


def _choose(
    ready: Prepared,
    data: SweepData | None,
    parameter: Floats | None,
    soup: str | None,
    policy: BatchNormPolicy,
    progress: ProgressCallback,
) -> _Choice:
    if parameter is not None:
        coefficients = ready.family.coefficients(parameter)[0]
        return _Choice(coefficients, tuple(map(float, parameter)), None)
    assert data is not None
    if soup == "uniform":
        return _Choice(uniform_soup(data.coefficients), None, None)
    if soup == "greedy":
        chosen, looked_at = _greedy(ready, data, policy, progress)
        singles = _looked_at(ready, data.coefficients, policy, progress)
        both = None if singles is None or looked_at is None else np.concatenate([singles, looked_at])
        return _Choice(chosen, None, SELECTION_SPLIT, both)
    best = choose_point(data)
    place = tuple(map(float, data.parameters[best]))
    coefficients = data.coefficients[best]
    if np.count_nonzero(coefficients) == 1:  # a corner, so there is nothing to decide
        return _Choice(coefficients, place, SELECTION_SPLIT)
    return _Choice(coefficients, place, SELECTION_SPLIT, _looked_at(ready, data.coefficients, policy, progress))


def _store(
    session: Session,
    run: RunLog,
    ready: Prepared,
    choice: _Choice,
    theta: NDArray[np.float32],
    results: dict[str, dict[str, Measured]],
    policy: BatchNormPolicy,
    job: MergeJob,
) -> Node:
    """Store the present point with its statistics, its recipe and its numbers, and complete the run."""
    workspace, policy_text = ready.workspace, policy_name(ready.workspace, policy)
    pairs = zip(ready.nodes, choice.coefficients.tolist(), strict=True)
    terms = [(node.id, c) for node, c in pairs if c != 0]
    info = {
        "origin": "merge",
        "connection": ready.connection.id,
        "parameter": choice.parameter,
        "soup": job.soup,
        "batchnorm": policy_text,
    }
    with session.store.transaction() as tx:
        node = store_point(
            tx,
            workspace,
            run.id,
            "merged",
            MeasuredPoint(theta, results, policy_text, policy_text),
            info=info,
            name=job.name,
            selected_on=choice.selected_on,
        )
        tx.add(*[NodeTerm(node.id, i, source, c) for i, (source, c) in enumerate(terms)])
        run.complete(tx)
    return node


def _looked_at(
    ready: Prepared, coefficients: Floats, policy: BatchNormPolicy, progress: ProgressCallback
) -> NDArray[np.float32] | None:
    """Return the validation scores by example of swept points, shape (S, N); None if examples have no scores."""
    rows = []
    for done, c in enumerate(coefficients.tolist(), start=1):
        combine(c, ready.rows, ready.workspace.flat.theta)
        recompute_statistics(ready.workspace.flat, ready.workspace.task.train, policy)
        scores = _scores(ready.workspace, SELECTION_SPLIT)
        if scores is None:
            return None
        rows.append(scores.astype(np.float32))
        progress(Progress("deciding", done, len(coefficients)))
    return np.stack(rows)


def _decided(
    choice: _Choice, scores: NDArray[np.float64] | None, against: NDArray[np.float64] | None
) -> Decision | None:
    if scores is None or against is None:
        return None
    own = scores[None].astype(np.float32)
    if choice.looked_at is None:
        return decide(own, 0, against)
    # The chosen point is one of those that were looked at; it comes first, as it was stored.
    found = decide(np.concatenate([own, choice.looked_at]), 0, against)
    return replace(found, looked_at=len(choice.looked_at))


def _is_wall(metric: Metric, found: Measured, worst: float) -> bool:
    """Return whether a point is far worse than the worst corner, beyond three of its own standard errors.

    For a metric with a best value, such as accuracy, this means by a tenth of that, or by a twentieth with more than
    twice the cost; for another, such as the loss, by half of the corner's.
    """
    fall = float(metric.cost(found.value) - metric.cost(worst))
    if fall <= 3.0 * (found.standard_error or 0.0):
        return False
    if metric.best:
        scale = abs(metric.best)
        doubled = bool(metric.cost(found.value) > 2.0 * metric.cost(worst))
        return fall > 0.1 * scale or (fall > 0.05 * scale and doubled)
    return fall > 0.5 * abs(worst)


def _refuse_a_wall(
    results: dict[str, dict[str, Measured]], corners: dict[str, dict[str, dict[str, Measured]]], metric: Metric
) -> None:
    """Raise InputError for a point that is far worse on validation data than every corner."""
    found = results[SELECTION_SPLIT][metric.name]
    values = {name: measured[SELECTION_SPLIT][metric.name].value for name, measured in corners.items()}
    worst = min(values, key=lambda name: metric.sign * values[name])
    if not _is_wall(metric, found, values[worst]):
        return
    best = max(values, key=lambda name: metric.sign * values[name])
    raise InputError(
        f"The point is on a wall: its validation {metric.name} is {found.value:.4g}, and the corners have "
        f"{values[worst]:.4g} ({worst}) to {values[best]:.4g} ({best}); it was not stored. Take the best swept point "
        "(mgraph merge CONN), or a connection without a barrier; --force stores it anyway."
    )


def _greedy(
    ready: Prepared, data: SweepData, policy: BatchNormPolicy, progress: ProgressCallback
) -> tuple[Floats, NDArray[np.float32] | None]:
    """Return the soup's coefficients, and the validation scores by example of every soup that was tried."""
    metric = ready.workspace.task.primary
    if (SELECTION_SPLIT, metric.name) not in data.values:
        metric = LOSS
    done = 0
    tried: list[NDArray[np.float32]] = []

    def score(coefficients: Floats) -> float:
        nonlocal done
        combine(coefficients.tolist(), ready.rows, ready.workspace.flat.theta)
        recompute_statistics(ready.workspace.flat, ready.workspace.task.train, policy)
        done += 1
        progress(Progress("soup", done, len(data.parameters)))
        found = measure_with_scores(ready.workspace.flat, ready.workspace.task, SELECTION_SPLIT)
        if found.scores is not None:
            tried.append(found.scores[1].numpy().astype(np.float32))
        return metric.sign * found.measured[metric.name].value

    soup = greedy_soup(data.coefficients, metric.sign * data.values[SELECTION_SPLIT, metric.name], score)
    return soup, np.stack(tried) if tried else None


@torch.no_grad()
def _scores(workspace: Workspace, split: str) -> NDArray[np.float64] | None:
    """Score the present point by example, shape (N,), higher is better: by the primary metric, or else by the loss.

    None if examples have neither.
    """
    found = _scored(workspace, split)
    return None if found is None else found[1]


def _scored(workspace: Workspace, split: str) -> _Scored:
    """Return the scores together with the metric that they are in."""
    data = workspace.task.splits[split]
    found = example_scores(workspace.task, outputs(workspace.flat, data), len(data))
    return None if found is None else (found[0], found[1].numpy())


def _corner(
    ready: Prepared, end: Node, policy: BatchNormPolicy, swept: SweepData | None
) -> dict[str, dict[str, Measured]]:
    """Measure an end under the same policy as the merged point."""
    alone = np.array([float(node.id == end.id) for node in ready.nodes])
    known = recalled(swept, ready.workspace.task, alone)
    if known is None:
        _place_end(ready, end, policy)
        known = evaluate_splits(ready.workspace, SPLITS)
    return known


def _place_end(ready: Prepared, end: Node, policy: BatchNormPolicy) -> None:
    by_id = dict(zip([n.id for n in ready.nodes], ready.rows, strict=True))
    ready.workspace.flat.theta.copy_(by_id[end.id])
    recompute_statistics(ready.workspace.flat, ready.workspace.task.train, policy)


def best_corner(corners: dict[str, dict[str, dict[str, Measured]]], primary: Metric) -> str:
    """Choose the corner in the same way as points: by the primary metric on validation, ties by loss, then order."""

    def key(item: str) -> tuple[float, float]:
        valid = corners[item][SELECTION_SPLIT]
        return (-primary.sign * valid[primary.name].value, valid[LOSS.name].value)

    return min(corners, key=key)


def _oracle(data: SweepData | None) -> float | None:
    if data is None or (REPORTING_SPLIT, data.primary.name) not in data.values:
        return None
    values = data.values[REPORTING_SPLIT, data.primary.name]
    return float(values[np.argmax(data.primary.sign * values)])


def _notes(data: SweepData | None, coefficients: Floats, ready: Prepared) -> list[str]:
    alone = np.flatnonzero(coefficients == 1.0)
    if data is not None and len(alone) == 1 and np.count_nonzero(coefficients) == 1:
        node = ready.nodes[int(alone[0])]
        return [f"the chosen point is the corner {label(node)} itself: no point inside did better on validation"]
    return []
