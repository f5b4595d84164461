"""Numbers that a sweep or a node already has, for operations that would measure the same again."""

from __future__ import annotations

from typing import Any

import numpy as np

from mgraph.data.task import Task
from mgraph.evaluate.batchnorm import BatchNormPolicy
from mgraph.evaluate.metrics import SPLITS, Measured
from mgraph.families import Floats
from mgraph.metric import LOSS
from mgraph.query.sweepdata import SweepData
from mgraph.session.code import code_of, of_space, same_code
from mgraph.session.points import policy_name
from mgraph.session.workspace import Workspace
from mgraph_store import Evaluation, Node, Reader, Run


def holds(data: SweepData, workspace: Workspace, policy: BatchNormPolicy, swept_by: Run | None) -> bool:
    """Return whether a sweep measured under the same conditions, so that measuring again would give the same
    numbers."""
    sweep = data.sweep
    names = [LOSS.name, *(m.name for m in workspace.task.metrics)]
    if any((split, name) not in data.values for split in SPLITS for name in names):
        return False
    if any(data.subsets[split] != "all" for split in SPLITS):
        return False
    same = (sweep.batchnorm, sweep.precision) == (policy_name(workspace, policy), "fp32")
    return same and same_code(code_of(swept_by, workspace.space), of_space(workspace.code))


def recalled(swept: SweepData | None, task: Task, coefficients: Floats) -> dict[str, dict[str, Measured]] | None:
    """Return the numbers of a point that was swept; None if it was not."""
    if swept is None:
        return None
    at = np.flatnonzero((swept.coefficients == coefficients).all(axis=1))
    if not len(at):
        return None
    names = [LOSS.name, *(m.name for m in task.metrics)]
    return {split: {name: _measured(swept, int(at[0]), (split, name)) for name in names} for split in SPLITS}


def own_numbers(reader: Reader, node: Node, workspace: Workspace, policy: str) -> dict[str, dict[str, Measured]] | None:
    """Return the numbers stored with a node; None unless all were measured as they would be now."""
    same: dict[str, Any] = {"sweep_id": None, "subset": "all", "batchnorm": policy, "precision": "fp32"}
    rows = {(e.split, e.metric): e for e in reader.all(Evaluation, node_id=node.id, **same)}
    names = [LOSS.name, *(m.name for m in workspace.task.metrics)]
    if any((split, name) not in rows for split in SPLITS for name in names):
        return None
    measured_by = reader.all(Run, id=sorted({e.run_id for e in rows.values() if e.run_id is not None}))
    now = of_space(workspace.code)
    if not measured_by or not all(same_code(code_of(run, workspace.space), now) for run in measured_by):
        return None
    found = {key: Measured(e.value, e.standard_error, e.count) for key, e in rows.items()}
    return {split: {name: found[split, name] for name in names} for split in SPLITS}


def _measured(data: SweepData, point: int, key: tuple[str, str]) -> Measured:
    error = float(data.errors[key][point])
    return Measured(float(data.values[key][point]), None if np.isnan(error) else error, data.counts[key])
