"""Numbers that a sweep already holds, for operations that would measure the same again."""

from __future__ import annotations

import numpy as np

from mgraph.data.task import Task
from mgraph.evaluate.batchnorm import BatchNormPolicy
from mgraph.evaluate.metrics import SPLITS, Measured
from mgraph.families import Floats
from mgraph.metric import LOSS
from mgraph.query.sweepdata import SweepData
from mgraph.session.code import code_of, of_space, same_code
from mgraph.session.points import policy_name
from mgraph.session.session import Workspace
from mgraph_store import Run


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


def _measured(data: SweepData, point: int, key: tuple[str, str]) -> Measured:
    error = float(data.errors[key][point])
    return Measured(float(data.values[key][point]), None if np.isnan(error) else error, data.counts[key])
