"""Measuring points that are already stored: a mode after its training, or any mode or merged node again.

What was trained is stored before anything is measured, so a failing metric costs only its number.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from mgraph.errors import InputError, MGraphError, MGraphWarning, NonFiniteError
from mgraph.evaluate.batchnorm import OWN
from mgraph.evaluate.metrics import LOSS, Measured
from mgraph.evaluate.stale import compare_statistics
from mgraph.session.members import label
from mgraph.session.points import evaluate_splits, evaluation_rows, load_node, own_policy
from mgraph.session.runs import RunLog
from mgraph.session.session import Session, Workspace
from mgraph_store import Evaluation, Node, NodeBuffers


class OwnStatisticsWarning(MGraphWarning):
    """A mode's own BatchNorm statistics do not fit its weights."""


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
    """Measure the present point, which is the node's, on all splits and store the numbers with the node.

    Raises NonFiniteError, after storing them, if a loss is not finite.
    """
    results = evaluate_splits(workspace)
    with session.store.reading() as reader:
        there = {(e.split, e.metric) for e in reader.all(Evaluation, node_id=node.id, sweep_id=None)}
    policies = _policies(session, node)
    policy = policies[0] if policies and workspace.flat.statistics else own_policy(workspace)
    rows = [
        row
        for row in evaluation_rows(node.id, run.id, results, batchnorm=policy)
        if (row.split, row.metric) not in there
    ]
    with session.store.transaction() as tx:
        tx.add(*rows)
    for split, metrics in results.items():
        if not np.isfinite(metrics[LOSS].value):
            raise NonFiniteError(f"{label(node)} is stored, but it has a {split} loss of {metrics[LOSS].value}.")
    return results


_WILD = 10.0  # times the loss: after a short training, averages over the last batches may well be 1.5 times off


def warn_of_own_statistics(workspace: Workspace, node: Node) -> None:
    """Warn if the present point, which is the node's, does far worse with its own BatchNorm statistics than recomputed.

    The network then holds the recomputed ones.
    """
    found = compare_statistics(workspace.flat, workspace.task, workspace.policy())
    if found is None or not found.stale or found.own.value <= _WILD * abs(found.recomputed.value):
        return
    warnings.warn(
        f"{label(node)} has a train loss of {found.own.value:.4g} with its own BatchNorm statistics, and of "
        f"{found.recomputed.value:.4g} with recomputed ones, which sweeps use: its own do not fit its weights.",
        OwnStatisticsWarning,
        stacklevel=2,
    )


def evaluate_again(session: Session, node: Node) -> Results:
    """Measure a mode or merged node on all splits, and store the numbers that are missing.

    Existing numbers stay as they are. Raises InputError for another kind of node, or if it cannot be measured.
    """
    if node.kind not in ("mode", "merged"):
        raise InputError(f"{label(node)} is a {node.kind}; only modes and merged nodes have their own numbers.")
    workspace = load_node(session, node)
    with session.run(workspace, "evaluate", {"node": node.id}) as run, still_stored(node):
        results = measure_stored(session, workspace, run, node)
        if any(b == OWN for b in _policies(session, node)):
            warn_of_own_statistics(workspace, node)
        return results


def _policies(session: Session, node: Node) -> list[str]:
    with session.store.reading() as reader:
        return [b.policy for b in reader.all(NodeBuffers, node_id=node.id)]
