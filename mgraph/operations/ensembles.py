"""The ensemble of a connection's points as files for plain PyTorch."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mgraph.alone import alone
from mgraph.errors import InputError, NameTakenError
from mgraph.evaluate.batchnorm import BatchNormPolicy, recompute_statistics
from mgraph.jobs.points import EnsembleJob, ExportEnsembleJob
from mgraph.merge.ensemble import VOTES
from mgraph.models.sets import few_points
from mgraph.network.checkpoints import state_dict, write_safetensors
from mgraph.operations.export import data_facts, new_states, recipe, tensors_alone
from mgraph.operations.merging import Prepared, prepare
from mgraph.operations.voted import EnsembleResult
from mgraph.operations.voting import ensemble
from mgraph.progress import Progress, ProgressCallback, silent
from mgraph.query.sweepdata import grid_counts
from mgraph.session.points import module_buffers, policy_name
from mgraph.session.session import Session
from mgraph_store import Connection
from mgraph_store.tensors.kernel import combine as combine_stored

_MEMBER = "member-{}.safetensors"
_MANIFEST = "manifest.json"


@alone
def export_ensemble(session: Session, job: ExportEnsembleJob, *, progress: ProgressCallback = silent) -> dict[str, Any]:
    """Write every member of a grid as a .safetensors file with its own BatchNorm statistics, and a manifest.

    Returns the manifest. Each file loads into the plain architecture; the ensemble is the mean of the members' votes,
    whose kind the manifest names. Raises NameTakenError for a directory that is not empty, unless told to overwrite,
    which replaces earlier members and their manifest. The files appear together at the end.
    """
    with session.store.reading() as reader:
        connection = reader.get(Connection, id=job.connection)
    directory = Path(job.path).resolve()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())) and not job.overwrite:
        raise NameTakenError(f"{directory} exists and is not empty; choose another directory or add --overwrite.")
    family = session.family_of(connection)
    counts = grid_counts(family, job.grid, few_points(family))
    with _new_directory(directory) as building:
        members = f"{job.connection}@{','.join(map(str, counts))}"
        voting = EnsembleJob(members=(members,), bn_examples=job.bn_examples)
        result = ensemble(session, voting, progress=progress)
        ready = prepare(session, connection)
        return _write_members(ready, building, counts, result, ready.workspace.policy(job.bn_examples), progress)


@contextmanager
def _new_directory(directory: Path) -> Iterator[Path]:
    """Yield a temporary directory whose files move to ``directory`` at the end, or nowhere after an error."""
    building, fresh = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}.tmp"), not directory.exists()
    try:
        building.mkdir(parents=True)
        directory.mkdir(exist_ok=True)  # raise the plain error before hours of work
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)
        raise InputError(f"{directory} cannot be written: {error.strerror}.") from None
    try:
        yield building
        for old in directory.glob(_MEMBER.format("*")):
            old.unlink()
        for file in sorted(building.iterdir(), key=lambda f: f.name == _MANIFEST):
            file.replace(directory / file.name)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        if fresh:
            with suppress(OSError):  # it stays unless it is still empty
                directory.rmdir()


def _write_members(
    ready: Prepared,
    directory: Path,
    counts: tuple[int, ...],
    result: EnsembleResult,
    policy: BatchNormPolicy,
    progress: ProgressCallback,
) -> dict[str, Any]:
    family = ready.family
    parameters = family.grid(counts).points
    coefficients = family.coefficients(parameters)
    name = policy_name(ready.workspace, policy)
    members = []
    for i, c in enumerate(coefficients):
        file = _MEMBER.format(f"{i:04d}")
        state = _member_state(ready, c.tolist(), policy)
        facts = recipe(ready.connection, parameters[i].tolist(), c.tolist(), ready.nodes, name)
        write_safetensors(directory / file, state, {"format": "pt", "mgraph": json.dumps(facts, sort_keys=True)})
        members.append({"file": file, "parameter": parameters[i].tolist()})
        progress(Progress("export", i + 1, len(coefficients)))
    manifest = {
        "format": 1,
        "kind": "ensemble",
        "combine": VOTES[ready.workspace.task.combine or "mean"],
        "connection": ready.connection.id,
        "arch": ready.workspace.space.arch,
        "data": data_facts(ready.workspace),
        "batchnorm": name,
        "members": members,
        "test": {name: m.value for name, m in result.evaluate("test").items()},
        "valid": {name: m.value for name, m in result.evaluate("valid").items()},
    }
    (directory / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _member_state(ready: Prepared, coefficients: list[float], policy: BatchNormPolicy) -> dict[str, Any]:
    flat, layout = ready.workspace.flat, ready.workspace.layout
    theta = combine_stored(coefficients, ready.points)
    flat.theta.copy_(flat.pack(torch.from_numpy(np.array(theta))))
    recompute_statistics(flat, ready.workspace.task.train, policy)
    return state_dict(layout, theta, module_buffers(flat, layout)) | tensors_alone(new_states(ready.workspace))
