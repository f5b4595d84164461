"""Exporting an ensemble: as one program that averages its members, or as a directory with a file for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mgraph.alone import alone
from mgraph.bookkeeping.ancestry import ancestry
from mgraph.data.task import Combine
from mgraph.errors import InputError
from mgraph.evaluate.batchnorm import BatchNormPolicy, recompute_statistics
from mgraph.exporting.card import write_card
from mgraph.exporting.examples import Examples
from mgraph.exporting.formats import PROGRAMS, WEIGHTS, card_of, check_normalise, is_program, require_libraries
from mgraph.exporting.programs import signature
from mgraph.exporting.staging import staged, staged_directory
from mgraph.exporting.verification import Reloading, Verified, verify
from mgraph.exporting.writing import metadata, program_of, reloading_weights, write_program
from mgraph.families import Floats
from mgraph.jobs.points import EnsembleJob, ExportEnsembleJob
from mgraph.merge.ensemble import VOTES
from mgraph.network.checkpoints import state_dict, write_safetensors
from mgraph.operations.ensembles import EnsembleResult, ensemble
from mgraph.operations.export import data_facts, new_module, new_states, recipe, tensors_alone
from mgraph.operations.merging import Prepared, prepare
from mgraph.progress import Progress, ProgressCallback, silent
from mgraph.session.members import label
from mgraph.session.points import module_buffers, policy_name
from mgraph.session.runs import versions
from mgraph.session.session import Session
from mgraph_store import Connection
from mgraph_store.tensors.kernel import combine

_MEMBER = "member-{}.safetensors"
_MANIFEST, _CARD = "manifest.json", "README.md"
_SPLITS = ("valid", "test")

State = dict[str, Tensor]


@dataclass(frozen=True)
class _Ensemble:
    """The points of a connection that vote, shape (S, coordinates), and what is measured of them together."""

    ready: Prepared
    points: Floats
    policy: BatchNormPolicy
    result: EnsembleResult

    @property
    def name(self) -> str:
        return f"Ensemble of {len(self.points)} points of {label(self.ready.connection)}"

    @property
    def vote(self) -> Combine:
        return self.ready.workspace.task.combine or "mean"

    def recipe(self, member: int) -> dict[str, Any]:
        """Describe a member as its own file does."""
        point = self.points[member]
        coefficients = self.ready.family.coefficients(point)[0]
        policy = policy_name(self.ready.workspace, self.policy)
        return recipe(self.ready.connection, point.tolist(), coefficients.tolist(), self.ready.nodes, policy)

    def members(self) -> Iterator[State]:
        """Put each member into the network in turn, with statistics of its own, and yield its state dict."""
        flat, layout = self.ready.workspace.flat, self.ready.workspace.layout
        states = new_states(self.ready.workspace)
        for coefficients in self.ready.family.coefficients(self.points).tolist():
            theta = combine(coefficients, self.ready.points)
            flat.theta.copy_(flat.pack(torch.from_numpy(np.array(theta))))
            recompute_statistics(flat, self.ready.workspace.task.train, self.policy)
            yield state_dict(layout, theta, module_buffers(flat, layout)) | states


@alone
def export_ensemble(session: Session, job: ExportEnsembleJob, *, progress: ProgressCallback = silent) -> dict[str, Any]:
    """Write the ensemble of a connection's grid: one program (.pt2, .onnx), or a directory of weights with a manifest.

    A program returns the mean of its members' votes. Returns the manifest, which is in the metadata of a program, with
    the path of the ``card`` and how the ensemble was ``verified``. Everything appears together at the end. Raises
    NameTakenError for a directory that is not empty, unless told to overwrite, which replaces earlier members and their
    manifest; InputError for members that cannot vote, a network that the format cannot express, and files that do not
    predict what the members together do.
    """
    path = Path(job.path)
    if path.suffix in WEIGHTS:
        raise InputError(
            f"{path.name} would hold one network: an ensemble is a directory, or a program, which ends in "
            f"{' or '.join(PROGRAMS)}."
        )
    check_normalise(path, job.normalise)
    require_libraries(path, verify=job.verify)
    with session.store.reading() as reader:
        connection = reader.get(Connection, id=job.connection)
    if is_program(path):
        card = card_of(path)
        with staged([path, card], overwrite=job.overwrite) as stage:
            voting = _voting(session, connection, job, progress)
            facts, verified = _write_program(session, voting, stage / path.name, job, progress)
            write_card(stage / card.name, facts, voting.name, path.name, verified=verified)
    else:
        card = path / _CARD
        ours = (_MEMBER.format("*"), _CARD)
        with staged_directory(path, ours, last=_MANIFEST, overwrite=job.overwrite) as stage:
            voting = _voting(session, connection, job, progress)
            facts, verified = _write_directory(session, voting, stage, job, progress)
            write_card(stage / _CARD, facts, voting.name, path.resolve().name, verified=verified)
    return facts | {"card": str(card), "verified": None if verified is None else asdict(verified)}


def _voting(session: Session, connection: Connection, job: ExportEnsembleJob, progress: ProgressCallback) -> _Ensemble:
    """Measure the ensemble, which tells whether its members can vote, and get ready to write them."""
    asked = EnsembleJob(connection=job.connection, grid=job.grid, bn_examples=job.bn_examples)
    result = ensemble(session, asked, progress=progress)
    ready = prepare(session, connection)
    policy = ready.workspace.policy(job.bn_examples)
    return _Ensemble(ready, ready.family.grid(result.grid).points, policy, result)


def _write_program(
    session: Session, voting: _Ensemble, file: Path, job: ExportEnsembleJob, progress: ProgressCallback
) -> tuple[dict[str, Any], Verified | None]:
    workspace = voting.ready.workspace
    examples = Examples(workspace, normalise=job.normalise)
    networks: list[torch.nn.Module] = []
    predicted = _each(
        voting, examples, job, lambda _, state: networks.append(new_module(workspace, state, "cpu")), progress
    )
    described = signature(workspace.task, examples.given, normalise=job.normalise, votes=True)
    facts = _manifest(session, voting, [{"parameter": point} for point in voting.points.tolist()])
    facts |= {"program": described.to_dict() | {"normalises": job.normalise}}
    program = program_of(workspace, networks, examples, vote=voting.vote, normalise=job.normalise)
    write_program(file, program, examples, described, metadata(facts, voting.name, file.name))
    if not job.verify:
        return facts, None
    return facts, verify([file], examples.cases(predicted), Reloading(voting.vote, votes=True))


def _write_directory(
    session: Session, voting: _Ensemble, directory: Path, job: ExportEnsembleJob, progress: ProgressCallback
) -> tuple[dict[str, Any], Verified | None]:
    workspace = voting.ready.workspace
    tensors_alone(new_states(workspace))
    members = [
        {"file": _MEMBER.format(f"{i:04d}"), "parameter": point} for i, point in enumerate(voting.points.tolist())
    ]

    def write(i: int, state: State) -> None:
        facts = json.dumps(voting.recipe(i), sort_keys=True)
        write_safetensors(directory / members[i]["file"], state, {"format": "pt", "mgraph": facts})

    examples = Examples(workspace, normalise=False)
    predicted = _each(voting, examples, job, write, progress)
    manifest = _manifest(session, voting, members)
    (directory / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    files = [directory / member["file"] for member in members]
    return manifest, verify_members(voting.ready, files, examples, predicted) if job.verify else None


def verify_members(ready: Prepared, files: list[Path], examples: Examples, predicted: list[Tensor]) -> Verified | None:
    """Run files of weights in the network, without mgraph, and compare their mean vote with the members' own."""
    return verify(files, examples.cases(predicted), reloading_weights(ready.workspace, examples))


def _each(
    voting: _Ensemble,
    examples: Examples,
    job: ExportEnsembleJob,
    keep: Callable[[int, State], object],
    progress: ProgressCallback,
) -> list[Tensor]:
    """Keep each member, and return the mean of what all predict on each batch of the examples, if they are verified."""
    total: list[Tensor] = []
    for i, state in enumerate(voting.members()):
        keep(i, state)
        if job.verify:
            predicted = examples.predicted(voting.vote)
            total = [a + b for a, b in zip(total, predicted, strict=True)] if total else predicted
        progress(Progress("export", i + 1, len(voting.points)))
    return [part / len(voting.points) for part in total]


def _manifest(session: Session, voting: _Ensemble, members: list[dict[str, Any]]) -> dict[str, Any]:
    ready, task = voting.ready, voting.ready.workspace.task
    measured = {split: voting.result.evaluate(split) for split in _SPLITS}
    return {
        "format": 1,
        "kind": "ensemble",
        "combine": VOTES[task.combine or "mean"],
        "connection": ready.connection.id,
        "arch": ready.workspace.space.arch,
        "data": data_facts(ready.workspace),
        "batchnorm": policy_name(ready.workspace, voting.policy),
        "members": [one | {"terms": voting.recipe(i)["terms"]} for i, one in enumerate(members)],
        "selected_on": None,
        "metrics": [
            {"split": split, "metric": name, "value": m.value, "standard_error": m.standard_error, "examples": m.count}
            for split, metrics in measured.items()
            for name, m in metrics.items()
        ],
        "versions": versions(),
        "ancestry": ancestry(session.store, ready.connection),
        **{split: {name: m.value for name, m in metrics.items()} for split, metrics in measured.items()},
    }
