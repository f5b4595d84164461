"""Measure points that are already stored: a mode after its training, or any mode or merged node again.

What was trained is stored before anything is measured, so a failing metric costs only its number.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from mgraph.alone import alone
from mgraph.errors import InputError, MGraphError, MGraphWarning, NonFiniteError
from mgraph.evaluate.batchnorm import OWN
from mgraph.evaluate.metric_names import resolve_metrics
from mgraph.evaluate.metrics import LOSS, Measured, Subset, check_splits, measure
from mgraph.evaluate.stale import compare_statistics
from mgraph.jobs.points import EvaluateJob
from mgraph.metric import Metric
from mgraph.operations.places import Place, load_place
from mgraph.progress import ProgressCallback, silent
from mgraph.session.members import label
from mgraph.session.points import evaluation_rows, load_node, own_policy
from mgraph.session.policies import policy_for
from mgraph.session.runs import RunLog
from mgraph.session.session import Session
from mgraph.session.workspace import Workspace
from mgraph_store import Evaluation, Node, NodeBuffers


class OwnStatisticsWarning(MGraphWarning):
    """A mode's own BatchNorm statistics do not match its weights."""


class StoredNumberWarning(MGraphWarning):
    """A new measurement differs from the stored number."""


Results = dict[str, dict[str, Measured]]


@contextmanager
def still_stored(node: Node) -> Iterator[None]:
    """On any error that leaves the block, say that the node stays in the graph, and how to measure it."""
    said = f"{label(node)} is stored; measure it with: mgraph evaluate {label(node)}"
    try:
        yield
    except NonFiniteError:
        raise
    except Exception as error:
        why = str(error).rstrip(".") if isinstance(error, MGraphError) else f"{type(error).__name__}: {error}"
        raise InputError(f"It could not be measured: {why}. {said}") from error
    except BaseException as stopped:
        stopped.add_note(f"{said}.")
        raise


def measure_stored(session: Session, workspace: Workspace, run: RunLog, node: Node) -> Results:
    """Measure the current point, which is the node's, on all splits and store the numbers with the node.

    Raises NonFiniteError, after storing them, if a loss is not finite.
    """
    looking = _Looking.at(workspace, EvaluateJob(node=node.id))
    results = looking.measure(workspace)
    _store(session, workspace, run, node, results, looking)
    return results


@dataclass(frozen=True)
class _Looking:
    """What to measure: the subset of each split, and the metrics besides the task's own."""

    subsets: Mapping[str, Subset]
    metrics: tuple[Metric, ...]

    @classmethod
    def at(cls, workspace: Workspace, job: EvaluateJob) -> _Looking:
        """Take it from a job; raise InputError for splits, examples or metrics that do not exist."""
        splits = list(dict.fromkeys(job.splits))
        check_splits(splits)
        if job.examples is not None and job.examples < 1:
            raise InputError(f"A split needs at least 1 example to be measured, not {job.examples}.")
        sizes = {split: len(workspace.task.splits[split]) for split in splits}
        subsets = {split: Subset.random(size, job.examples) for split, size in sizes.items()}
        return cls(subsets, resolve_metrics(job.metrics, workspace.task))

    def measure(self, workspace: Workspace) -> Results:
        """Measure the current point."""
        return {
            split: measure(workspace.flat, workspace.task, split, subset, metrics=self.metrics)
            for split, subset in self.subsets.items()
        }


def _store(
    session: Session, workspace: Workspace, run: RunLog, node: Node, results: Results, looking: _Looking
) -> None:
    """Store the numbers that a node does not have yet; warn if it has a different one, which stays."""
    with session.store.reading() as reader:
        rows = reader.all(Evaluation, node_id=node.id, sweep_id=None)
        policies = _policies(session, node)
    there = {(e.split, e.metric, e.subset): e.value for e in rows}
    policy = policies[0] if policies and workspace.flat.statistics else own_policy(workspace)
    subsets = {split: subset.name for split, subset in looking.subsets.items()}
    new = evaluation_rows(node.id, run.id, results, batchnorm=policy, subsets=subsets)
    with session.store.transaction() as tx:
        tx.add(*[row for row in new if (row.split, row.metric, row.subset) not in there])
    for row in new:
        stored = there.get((row.split, row.metric, row.subset), row.value)
        if not math.isclose(stored, row.value, rel_tol=_ALIKE, abs_tol=_ALIKE) and math.isfinite(stored):
            warnings.warn(
                f"{label(node)} has a stored {row.split} {row.metric} of {stored:.6g}, which stays, and now "
                f"{row.value:.6g} was measured: have the metric's code, the data or the device changed?",
                StoredNumberWarning,
                stacklevel=2,
            )
    for split, metrics in results.items():
        if not np.isfinite(metrics[LOSS].value):
            raise NonFiniteError(f"{label(node)} is stored, but it has a {split} loss of {metrics[LOSS].value}.")


_ALIKE = 1e-3  # relative difference allowed when the same number is measured on another device

_WILD = 10.0  # times the loss; after short training, averages over the last batches may well be off by a factor of 1.5


def warn_of_own_statistics(session: Session, workspace: Workspace, node: Node) -> None:
    """Warn if the current point, the node's, does far worse with its own BatchNorm statistics than recomputed.

    The network then holds the recomputed ones.
    """
    found = compare_statistics(workspace.flat, workspace.task, policy_for(session, workspace, [node]))
    if found is None or not found.stale or found.own.value <= _WILD * abs(found.recomputed.value):
        return
    warnings.warn(
        f"{label(node)} has a train loss of {found.own.value:.4g} with its own BatchNorm statistics, and of "
        f"{found.recomputed.value:.4g} with recomputed ones, which sweeps use: its own do not fit its weights.",
        OwnStatisticsWarning,
        stacklevel=2,
    )


@alone
def evaluate(session: Session, job: EvaluateJob, *, progress: ProgressCallback = silent) -> Results:
    """Measure a node now, with its own BatchNorm statistics, or recomputed ones if it has none.

    With ``save``, numbers that it does not have yet are stored with it, and existing ones stay as they are. Raises
    InputError for splits, examples or metrics that do not exist, if the node has no numbers of its own to save to, or
    if it cannot be measured; NonFiniteError, after storing, for a loss that is not finite.
    """
    del progress  # it is short
    with session.store.reading() as reader:
        node = reader.get(Node, id=job.node)
    if job.save and node.kind not in ("mode", "merged"):
        raise InputError(f"{label(node)} is a {node.kind}; only modes and merged nodes have their own numbers.")
    workspace = load_node(session, node)
    looking = _Looking.at(workspace, job)
    if not job.save:
        return looking.measure(workspace)
    stated = {
        "node": node.id,
        "splits": list(looking.subsets),
        "examples": job.examples,
        "metrics": [metric.stored() for metric in looking.metrics],
    }
    with session.run(workspace, "evaluate", stated, job=job) as run, still_stored(node):
        results = looking.measure(workspace)
        _store(session, workspace, run, node, results, looking)
        if any(b == OWN for b in _policies(session, node)):
            warn_of_own_statistics(session, workspace, node)
        return results


@alone
def evaluate_place(session: Session, place: Place, job: EvaluateJob) -> Results:
    """Measure a point of a connection that is not stored; the job's ``node`` is ignored."""
    workspace, _ = load_place(session, place)
    return _Looking.at(workspace, job).measure(workspace)


def _policies(session: Session, node: Node) -> list[str]:
    with session.store.reading() as reader:
        return [b.policy for b in reader.all(NodeBuffers, node_id=node.id)]
