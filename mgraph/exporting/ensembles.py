"""Exporting an ensemble: as one program that averages its members, or as a directory with a file for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mgraph.alone import alone
from mgraph.bookkeeping.ancestry import ancestry
from mgraph.data.task import Combine
from mgraph.errors import InputError
from mgraph.exporting.card import write_card
from mgraph.exporting.examples import Examples
from mgraph.exporting.formats import PROGRAMS, WEIGHTS, card_of, check_normalise, is_program, require_libraries
from mgraph.exporting.programs import signature
from mgraph.exporting.staging import staged, staged_directory
from mgraph.exporting.verification import Reloading, Verified, verify
from mgraph.exporting.writing import metadata, program_of, reloading_weights, write_program
from mgraph.jobs.points import EnsembleJob, ExportEnsembleJob
from mgraph.merge.ensemble import VOTES
from mgraph.models.predicting import Predictor
from mgraph.models.sets import Member, ModelSet, resolve
from mgraph.network.checkpoints import state_dict, write_safetensors
from mgraph.operations.export import data_facts, new_module, new_states, recipe, tensors_alone
from mgraph.operations.voted import EnsembleResult
from mgraph.operations.voting import ensemble
from mgraph.progress import Progress, ProgressCallback, silent
from mgraph.session.members import label
from mgraph.session.points import module_buffers
from mgraph.session.runs import versions
from mgraph.session.session import Session
from mgraph.session.workspace import Workspace
from mgraph_store import Connection, Node

_MEMBER = "member-{}.safetensors"
_MANIFEST, _CARD = "manifest.json", "README.md"
_SPLITS = ("valid", "test")

State = dict[str, Tensor]


@dataclass(frozen=True)
class _Ensemble:
    """The models that vote, ready to be loaded one after the other, and what is measured of them together."""

    predictor: Predictor
    models: ModelSet
    nodes: Mapping[str, Node]
    result: EnsembleResult

    @property
    def workspace(self) -> Workspace:
        return self.predictor.workspace

    @property
    def name(self) -> str:
        of = ", ".join(label(connection) for connection in self.models.connections)
        where = f" points of {of}" if of and all(m.connection for m in self.models.members) else " models"
        return f"Ensemble of {len(self.models)}{where}"

    @property
    def vote(self) -> Combine:
        return self.workspace.task.combine or "mean"

    def recipe(self, member: Member) -> dict[str, Any]:
        """Describe a member as its own file does."""
        nodes = [self.nodes[identifier] for identifier, _ in member.terms]
        coefficients = [c for _, c in member.terms]
        policy = self.predictor.policy_of(member)
        if member.connection is not None:
            return recipe(member.connection, member.parameter, coefficients, nodes, policy)
        terms = [{"node": node.id, "name": label(node), "c": c} for node, c in zip(nodes, coefficients, strict=True)]
        return {"format": 1, "kind": nodes[0].kind, "terms": terms, "batchnorm": policy, "versions": versions()}

    def entry(self, member: Member) -> dict[str, Any]:
        """Name a member in the manifest: where it lies on a connection, and what it is a sum of."""
        where = {"parameter": list(member.parameter)} if member.connection is not None else {}
        return {"name": member.label} | where | {"terms": self.recipe(member)["terms"]}

    def states(self) -> Iterator[State]:
        """Put each member into the network in turn, and yield its state dict."""
        flat, layout = self.workspace.flat, self.workspace.layout
        states = new_states(self.workspace)
        for member in self.models.members:
            self.predictor.place(member)
            theta = self.predictor.theta(member.terms)
            yield state_dict(layout, theta, module_buffers(flat, layout)) | states


@alone
def export_ensemble(session: Session, job: ExportEnsembleJob, *, progress: ProgressCallback = silent) -> dict[str, Any]:
    """Write the ensemble of a set of models: one program (.pt2, .onnx), or a directory of weights with a manifest.

    A program returns the mean of its members' votes. Returns the manifest, which is in the metadata of a program, with
    the path of the ``card`` and how the ensemble was ``verified``. Everything appears together at the end. Raises
    NameTakenError for a directory that is not empty, unless told to overwrite, which replaces earlier members and their
    manifest; InputError for a set that does not exist, members that cannot vote, a network that the format cannot
    express, and files that do not predict what the members together do.
    """
    path = Path(job.path)
    if path.suffix in WEIGHTS:
        raise InputError(
            f"{path.name} would hold one network: an ensemble is a directory, or a program, which ends in "
            f"{' or '.join(PROGRAMS)}."
        )
    check_normalise(path, job.normalise)
    require_libraries(path, verify=job.verify)
    if is_program(path):
        card = card_of(path)
        with staged([path, card], overwrite=job.overwrite) as stage:
            voting = _voting(session, job, progress)
            facts, verified = _write_program(session, voting, stage / path.name, job, progress)
            write_card(stage / card.name, facts, voting.name, path.name, verified=verified)
    else:
        card = path / _CARD
        ours = (_MEMBER.format("*"), _CARD)
        with staged_directory(path, ours, last=_MANIFEST, overwrite=job.overwrite) as stage:
            voting = _voting(session, job, progress)
            facts, verified = _write_directory(session, voting, stage, job, progress)
            write_card(stage / _CARD, facts, voting.name, path.resolve().name, verified=verified)
    return facts | {"card": str(card), "verified": None if verified is None else asdict(verified)}


def _voting(session: Session, job: ExportEnsembleJob, progress: ProgressCallback) -> _Ensemble:
    """Measure the ensemble, which tells whether its members can vote, and get ready to write them."""
    models = resolve(session, job.members)
    result = ensemble(session, EnsembleJob(members=job.members, bn_examples=job.bn_examples), progress=progress)
    used = sorted({identifier for member in models.members for identifier, _ in member.terms})
    with session.store.reading() as reader:
        nodes = {node.id: node for node in reader.all(Node, id=used)}
    return _Ensemble(Predictor(session, models.space, job.bn_examples), models, nodes, result)


def _write_program(
    session: Session, voting: _Ensemble, file: Path, job: ExportEnsembleJob, progress: ProgressCallback
) -> tuple[dict[str, Any], Verified | None]:
    workspace = voting.workspace
    examples = Examples(workspace, normalise=job.normalise)
    networks: list[torch.nn.Module] = []
    predicted = _each(
        voting, examples, job, lambda _, state: networks.append(new_module(workspace, state, "cpu")), progress
    )
    described = signature(workspace.task, examples.given, normalise=job.normalise, votes=True)
    facts = _manifest(session, voting, [voting.entry(member) for member in voting.models.members])
    facts |= {"program": described.to_dict() | {"normalises": job.normalise}}
    program = program_of(workspace, networks, examples, vote=voting.vote, normalise=job.normalise)
    write_program(file, program, examples, described, metadata(facts, voting.name, file.name))
    if not job.verify:
        return facts, None
    return facts, verify([file], examples.cases(predicted), Reloading(voting.vote, votes=True))


def _write_directory(
    session: Session, voting: _Ensemble, directory: Path, job: ExportEnsembleJob, progress: ProgressCallback
) -> tuple[dict[str, Any], Verified | None]:
    workspace = voting.workspace
    tensors_alone(new_states(workspace))
    members = [
        {"file": _MEMBER.format(f"{i:04d}")} | voting.entry(member) for i, member in enumerate(voting.models.members)
    ]

    def write(i: int, state: State) -> None:
        facts = json.dumps(voting.recipe(voting.models.members[i]), sort_keys=True)
        write_safetensors(directory / members[i]["file"], state, {"format": "pt", "mgraph": facts})

    examples = Examples(workspace, normalise=False)
    predicted = _each(voting, examples, job, write, progress)
    manifest = _manifest(session, voting, members)
    (directory / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    files = [directory / member["file"] for member in members]
    return manifest, verify_members(workspace, files, examples, predicted) if job.verify else None


def verify_members(
    workspace: Workspace, files: list[Path], examples: Examples, predicted: list[Tensor]
) -> Verified | None:
    """Run files of weights in the network, without mgraph, and compare their mean vote with the members' own."""
    return verify(files, examples.cases(predicted), reloading_weights(workspace, examples))


def _each(
    voting: _Ensemble,
    examples: Examples,
    job: ExportEnsembleJob,
    keep: Callable[[int, State], object],
    progress: ProgressCallback,
) -> list[Tensor]:
    """Keep each member, and return the mean of what all predict on each batch of the examples, if they are verified."""
    total: list[Tensor] = []
    for i, state in enumerate(voting.states()):
        keep(i, state)
        if job.verify:
            predicted = examples.predicted(voting.vote)
            total = [a + b for a, b in zip(total, predicted, strict=True)] if total else predicted
        progress(Progress("export", i + 1, len(voting.models)))
    return [part / len(voting.models) for part in total]


def _manifest(session: Session, voting: _Ensemble, members: list[dict[str, Any]]) -> dict[str, Any]:
    task, models = voting.workspace.task, voting.models
    measured = {split: voting.result.evaluate(split) for split in _SPLITS}
    policies = {voting.predictor.policy_of(member): None for member in models.members}
    sources: list[Connection | Node] = [*models.connections]
    sources += [member.node for member in models.members if member.node is not None]
    return {
        "format": 1,
        "kind": "ensemble",
        "combine": VOTES[task.combine or "mean"],
        "connection": models.connections[0].id if len(models.connections) == 1 else None,
        "connections": [connection.id for connection in models.connections],
        "arch": voting.workspace.space.arch,
        "data": data_facts(voting.workspace),
        "batchnorm": ", ".join(policies),
        "members": members,
        "selected_on": None,
        "metrics": [
            {"split": split, "metric": name, "value": m.value, "standard_error": m.standard_error, "examples": m.count}
            for split, metrics in measured.items()
            for name, m in metrics.items()
        ],
        "versions": versions(),
        "ancestry": [ancestry(session.store, source) for source in sources],
        **{split: {name: m.value for name, m in metrics.items()} for split, metrics in measured.items()},
    }
