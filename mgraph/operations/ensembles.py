"""Ensembles of a connection's points: the corners against the whole grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mgraph.alone import alone
from mgraph.errors import InputError
from mgraph.evaluate.metrics import Measured
from mgraph.evaluate.running import WHOLE_BYTES
from mgraph.families import Family
from mgraph.fields import are_labels
from mgraph.jobs.points import EnsembleJob
from mgraph.merge.compare import Difference
from mgraph.merge.ensemble import ensemble_predictions
from mgraph.metric import LOSS
from mgraph.operations.merging import SELECTION_SPLIT, Prepared, best_corner, prepare
from mgraph.progress import ProgressCallback, silent
from mgraph.query.sweepdata import grid_counts
from mgraph.session.members import label, still_there
from mgraph.session.session import Session
from mgraph_store import Connection, Run, Summary

_SPLITS = ("valid", "test")


@dataclass(frozen=True)
class EnsembleResult:
    """What voting gains: the best single corner, the corners' ensemble, and the whole grid's.

    ``single`` is the corner chosen on validation. The differences are paired, on test data, by the primary metric of
    the task or else by the loss; positive is better (None if single examples have neither): ``corners_gain`` = corners'
    ensemble minus ``single``, ``grid_gain`` = grid's ensemble minus the corners'.
    """

    grid: tuple[int, ...]
    members: int
    single_name: str
    single: dict[str, dict[str, Measured]]
    corners: dict[str, dict[str, Measured]]
    whole: dict[str, dict[str, Measured]]
    corners_gain: Difference | None
    grid_gain: Difference | None
    metric: str = LOSS.name

    def evaluate(self, split: str) -> dict[str, Measured]:
        """Return loss and metrics of the whole grid's ensemble on a split (valid or test)."""
        if split not in self.whole:
            raise InputError(f"An ensemble is evaluated on {' and '.join(self.whole)}, not {split!r}.")
        return self.whole[split]


@alone
def ensemble(
    session: Session, job: EnsembleJob, *, progress: ProgressCallback = silent, resumed: Run | None = None
) -> EnsembleResult:
    """Evaluate the ensembles of a connection's corners and of its whole grid.

    By default the members are 0.1 apart [S §4.3], farther on a simplex of many modes.

    Members vote as the task says (``combine``). Raises InputError if it does not say, and for outputs too large to
    keep. An interrupted run starts again.
    """
    with session.store.reading() as reader:
        connection = still_there(reader, Connection, job.connection, resumed)
    family = session.family_of(connection)
    counts = grid_counts(family, job.grid, _default_members(family))
    ready = prepare(session, connection)
    policy = ready.workspace.policy(job.bn_examples)
    _require_votes(ready)
    members = family.grid(counts)
    coefficients, at_ends = family.coefficients(members.points), members.ends
    settings = {"connection": connection.id, "grid": counts, "batchnorm": str(policy)}
    with session.run(ready.workspace, "ensemble", settings, job=job, resumed=resumed) as run:
        whole, kept = ensemble_predictions(
            ready.workspace.flat,
            ready.workspace.task,
            ready.rows,
            coefficients,
            policy=policy,
            splits=_SPLITS,
            keep=at_ends,
            progress=progress,
        )
        corners, _ = ensemble_predictions(
            ready.workspace.flat, ready.workspace.task, ready.rows, _end_rows(family), policy=policy, splits=_SPLITS
        )
        singles = {label(end): {s: kept[at][s] for s in _SPLITS} for end, at in zip(ready.ends, at_ends, strict=True)}
        alone = {name: {SELECTION_SPLIT: p[SELECTION_SPLIT].measured()} for name, p in singles.items()}
        single_name = best_corner(alone, ready.workspace.task.primary)
        single = singles[single_name]
        result = EnsembleResult(
            counts,
            len(coefficients),
            single_name,
            {s: single[s].measured() for s in _SPLITS},
            {s: corners[s].measured() for s in _SPLITS},
            {s: whole[s].measured() for s in _SPLITS},
            corners["test"].better_than(single["test"]),
            whole["test"].better_than(corners["test"]),
            ready.workspace.task.primary.name,
        )
        with session.store.transaction() as tx:
            for statistic, measured in (
                ("ensemble_corners", result.corners),
                ("ensemble_grid", result.whole),
            ):
                for split, metrics in measured.items():
                    for metric, m in metrics.items():
                        tx.add(
                            Summary(
                                connection.id,
                                None,
                                run.id,
                                split,
                                metric,
                                statistic,
                                m.value,
                                m.standard_error,
                            )
                        )
            run.complete(tx)
    return result


def _default_members(family: Family) -> tuple[int, ...]:
    """Return the grid of an ensemble's members: step 0.1 along a path, otherwise what a sweep takes."""
    return (11,) if family.dimension == 1 else family.default_grid


def _require_votes(ready: Prepared) -> None:
    """Raise InputError before the work starts if members cannot vote, or their votes take too much memory."""
    flat, task, name = ready.workspace.flat, ready.workspace.task, ready.workspace.space.name
    if task.combine is None:
        raise InputError(
            f"The task of space {name} does not say how members of an ensemble vote: add combine= to it, "
            '"softmax" (outputs are logits of classes), "sigmoid" (logits of labels) or "mean" (outputs themselves).'
        )
    count = min(len(task.test), flat.least_batch)
    x, y = task.test.examples(torch.arange(count), device=flat.device)
    with torch.no_grad():
        flat.module.eval()
        out = flat.run(x)
    if task.combine == "softmax" and (not isinstance(out, torch.Tensor) or out.ndim < 2 or not are_labels(y)):
        raise InputError(
            f"An ensemble averages class probabilities, and the task of space {name} is not a classification: outputs "
            'must be (N, classes, …) and targets integers; combine="mean" in the task averages the outputs.'
        )
    needed = 8 * out.numel() / count * max(len(task.splits[split]) for split in _SPLITS)
    if needed > WHOLE_BYTES:
        raise InputError(
            f"The votes of one member are {needed / 2**30:.1f} GiB, more than {WHOLE_BYTES / 2**30:g}: an ensemble "
            "keeps the mean of all of them; take fewer examples for valid and test."
        )


def _end_rows(family: Family) -> Any:
    return np.eye(family.size)[list(family.ends)]
