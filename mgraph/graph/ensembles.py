"""Ensembles of a connection's points: corners only against the whole grid, and as files for plain PyTorch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mgraph.errors import InputError, NameTakenError
from mgraph.evaluate.batchnorm import recompute_statistics
from mgraph.evaluate.metrics import Measured
from mgraph.explore.sweepdata import family_of
from mgraph.families import Family
from mgraph.graph.export import data_facts, recipe
from mgraph.graph.members import label
from mgraph.graph.merging import SELECTION_SPLIT, Prepared, prepare
from mgraph.graph.points import module_buffers, policy_name
from mgraph.graph.session import Session
from mgraph.merge.compare import Difference, paired_difference
from mgraph.merge.ensemble import ensemble_predictions
from mgraph.network.checkpoints import state_dict, write_safetensors
from mgraph.progress import Progress, Report, silent
from mgraph_store import Connection, Summary
from mgraph_store.kernel import combine as combine_stored

_SPLITS = ("valid", "test")


@dataclass(frozen=True)
class EnsembleReport:
    """What voting is worth: the best single corner, the corners' ensemble, and the whole grid's.

    ``single`` is the corner chosen on validation. The differences are paired, on test data:
    ``corners_gain`` = corners' ensemble minus ``single``, ``grid_gain`` = grid's ensemble minus the corners'.
    """

    grid: tuple[int, ...]
    members: int
    single_name: str
    single: dict[str, dict[str, Measured]]
    corners: dict[str, dict[str, Measured]]
    whole: dict[str, dict[str, Measured]]
    corners_gain: Difference
    grid_gain: Difference

    def evaluate(self, split: str) -> dict[str, Measured]:
        """Return loss and accuracy of the whole grid's ensemble on a split (valid or test)."""
        if split not in self.whole:
            raise InputError(f"An ensemble is evaluated on {' and '.join(self.whole)}, not {split!r}.")
        return self.whole[split]


def ensemble(
    session: Session,
    connection: Connection,
    *,
    grid: Sequence[int] | None = None,
    bn_examples: int | None = None,
    report: Report = silent,
) -> EnsembleReport:
    """Evaluate the ensembles of a connection's corners and of its whole grid (default step 0.1 [S §4.3])."""
    family = family_of(connection)
    counts = _counts(family, grid)
    ready = prepare(session, connection)
    policy = ready.bench.policy(bn_examples)
    coefficients = family.coefficients(family.grid(counts))
    at_ends = [int(np.flatnonzero((coefficients == row).all(axis=1))[0]) for row in _end_rows(family)]
    settings = {"connection": connection.id, "grid": counts, "batchnorm": str(policy)}
    with session.run("ensemble", settings) as run:
        whole, kept = ensemble_predictions(
            ready.bench.flat,
            ready.bench.task,
            ready.rows,
            coefficients,
            policy=policy,
            splits=_SPLITS,
            keep=at_ends,
            report=report,
        )
        corners, _ = ensemble_predictions(
            ready.bench.flat, ready.bench.task, ready.rows, _end_rows(family), policy=policy, splits=_SPLITS
        )
        singles = {label(end): {s: kept[at][s] for s in _SPLITS} for end, at in zip(ready.ends, at_ends, strict=True)}
        accuracy = {
            name: (
                -p[SELECTION_SPLIT].measured()["accuracy"].value,
                p[SELECTION_SPLIT].measured()["loss"].value,
            )
            for name, p in singles.items()
        }
        single_name = min(accuracy, key=lambda name: accuracy[name])
        single = singles[single_name]
        result = EnsembleReport(
            counts,
            len(coefficients),
            single_name,
            {s: single[s].measured() for s in _SPLITS},
            {s: corners[s].measured() for s in _SPLITS},
            {s: whole[s].measured() for s in _SPLITS},
            paired_difference(corners["test"].correct, single["test"].correct),
            paired_difference(whole["test"].correct, corners["test"].correct),
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


def export_ensemble(
    session: Session,
    connection: Connection,
    directory: Path,
    *,
    grid: Sequence[int] | None = None,
    bn_examples: int | None = None,
    overwrite: bool = False,
    report: Report = silent,
) -> dict[str, Any]:
    """Write every member of a grid as a .safetensors file with its own BatchNorm statistics, and a manifest.

    Return the manifest. Each file loads into the plain architecture; the ensemble is the mean of the members'
    softmax outputs. Raises NameTakenError for a directory that is not empty, unless told to overwrite.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())) and not overwrite:
        raise NameTakenError(f"{directory} exists and is not empty; choose another directory or add --overwrite.")
    family = family_of(connection)
    counts = _counts(family, grid)
    result = ensemble(session, connection, grid=counts, bn_examples=bn_examples, report=report)
    ready = prepare(session, connection)
    policy = ready.bench.policy(bn_examples)
    parameters = family.grid(counts)
    coefficients = family.coefficients(parameters)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{directory} cannot be created: {error.strerror}.") from None
    members = []
    for i, c in enumerate(coefficients):
        file = f"member-{i:04d}.safetensors"
        state = _member_state(ready, c.tolist(), policy)
        facts = recipe(session, ready.connection, parameters[i].tolist(), c.tolist(), ready.nodes, str(policy))
        write_safetensors(directory / file, state, {"mgraph": json.dumps(facts)}, overwrite=overwrite)
        members.append({"file": file, "parameter": parameters[i].tolist()})
        report(Progress("export", i + 1, len(coefficients)))
    manifest = {
        "format": 1,
        "kind": "ensemble",
        "combine": "mean of softmax outputs",
        "connection": connection.id,
        "arch": ready.bench.space.arch,
        "data": data_facts(ready.bench),
        "batchnorm": policy_name(ready.bench, policy),
        "members": members,
        "test": {name: m.value for name, m in result.whole["test"].items()},
        "valid": {name: m.value for name, m in result.whole["valid"].items()},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _member_state(ready: Prepared, coefficients: list[float], policy: Any) -> dict[str, Any]:
    import torch

    flat, layout = ready.bench.flat, ready.bench.layout
    theta = combine_stored(coefficients, ready.points)
    flat.theta.copy_(flat.pack(torch.from_numpy(np.array(theta))))
    recompute_statistics(flat, ready.bench.task.train, policy)
    return state_dict(layout, theta, module_buffers(flat, layout))


def _counts(family: Family, grid: Sequence[int] | None) -> tuple[int, ...]:
    counts = tuple(grid) if grid is not None else (11,) * family.dimension
    if len(counts) == 1:
        counts *= family.dimension
    family.grid(counts)
    return counts


def _end_rows(family: Family) -> Any:
    return np.eye(family.size)[list(family.ends)]
