"""Exporting one point: its weights, or a program of its network, with a model card, checked before it is there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from typing_extensions import override

from mgraph.alone import alone
from mgraph.data.task import Combine
from mgraph.errors import InputError
from mgraph.exporting.card import card, write_card
from mgraph.exporting.examples import Examples
from mgraph.exporting.formats import ONNX, card_of, check_format, check_normalise, is_program, require_libraries
from mgraph.exporting.onnxfile import write_onnx
from mgraph.exporting.programs import Program, Signature, normalising, signature
from mgraph.exporting.staging import staged
from mgraph.exporting.subjects import NodeSubject, PlaceSubject, Subject
from mgraph.exporting.tracing import trace, write_pt2
from mgraph.exporting.verification import Reloading, Verified, verify, verify_tensors
from mgraph.jobs.points import ExportJob
from mgraph.operations.export import new_module, write_directory_of
from mgraph.operations.places import Place
from mgraph.progress import ProgressCallback, silent
from mgraph.session.session import Session
from mgraph.session.workspace import Workspace
from mgraph_store import Node


@dataclass(frozen=True)
class Exported(os.PathLike[str]):
    """A file that was written, its model card, and how it was checked (None: it was not).

    It can be opened like a path. ``program`` says what a program takes and gives; weights have none. A directory as a
    library has it has no card.
    """

    path: Path
    card: Path | None
    verified: Verified | None
    program: Signature | None

    @override
    def __fspath__(self) -> str:
        return str(self.path)

    @override
    def __str__(self) -> str:
        """Write its path."""
        return str(self.path)


@alone
def export_node(session: Session, job: ExportJob, *, progress: ProgressCallback = silent) -> Exported:
    """Write a node as weights (.safetensors, .pt, .pth), as a program (.pt2, .onnx), or as its library's directory.

    Raises InputError for a network that the format cannot express, and where the file is not what was exported.
    """
    del progress  # it is short
    with session.store.reading() as reader:
        node = reader.get(Node, id=job.node)
    path = Path(job.path)
    if not path.suffix or path.is_dir():
        write_directory_of(session, node, path, overwrite=job.overwrite)
        return Exported(path, None, None, None)
    return _export(NodeSubject(session, node), job)


@alone
def export_place(session: Session, place: Place, job: ExportJob) -> Exported:
    """Write a place as :func:`export_node` writes a node."""
    return _export(PlaceSubject(session, place), job)


def _export(subject: Subject, job: ExportJob) -> Exported:
    path = Path(job.path)
    check_format(path)
    check_normalise(path, job.normalise)
    require_libraries(path, verify=job.verify)
    with staged([path, card_of(path)], overwrite=job.overwrite) as stage:
        file = stage / path.name
        if is_program(path):
            described, verified = _write_program(subject, file, job)
        else:
            described, verified = None, _write_weights(subject, file, job)
    return Exported(path, card_of(path), verified, described)


def _write_weights(subject: Subject, file: Path, job: ExportJob) -> Verified | None:
    facts = subject.facts()
    subject.write_weights(file, metadata(facts, subject.name, file.name))
    verified = verify_weights(subject, file) if job.verify else None
    write_card(card_of(file), facts, subject.name, file.name, verified=verified)
    return verified


def verify_weights(subject: Subject, file: Path) -> Verified | None:
    """Run a file of weights in the network, without mgraph; of one that cannot be traced compare the tensors."""
    workspace = subject.load()
    examples = Examples(workspace, normalise=False)
    try:
        how = reloading_weights(workspace, examples)
    except InputError as error:  # torch.export is not for every network, and weights need no program
        return verify_tensors(file, subject.state(), str(error).partition("; ")[0])
    return verify([file], examples.cases(examples.predicted(workspace.task.combine)), how)


def reloading_weights(workspace: Workspace, examples: Examples) -> Reloading:
    """Return how files of weights are run: in a traced network of the space, whose own tensors are left out."""
    network = workspace.new_module(seed=1)
    names = tuple(network.state_dict())
    traced = trace(program_of(workspace, [network], examples), examples.inputs)
    return Reloading(workspace.task.combine, traced=traced, names=names)


def _write_program(subject: Subject, file: Path, job: ExportJob) -> tuple[Signature, Verified | None]:
    workspace = subject.load()
    examples = Examples(workspace, normalise=job.normalise)
    predicted = examples.predicted(workspace.task.combine) if job.verify else []
    network = new_module(workspace, subject.state(), "cpu")
    described = signature(workspace.task, examples.given, normalise=job.normalise, votes=False)
    facts = subject.facts() | {"program": described.to_dict() | {"normalises": job.normalise}}
    program = program_of(workspace, [network], examples, normalise=job.normalise)
    write_program(file, program, examples, described, metadata(facts, subject.name, file.name))
    verified = None
    if job.verify:
        verified = verify([file], examples.cases(predicted), Reloading(workspace.task.combine))
    write_card(card_of(file), facts, subject.name, file.name, verified=verified)
    return described, verified


def program_of(
    workspace: Workspace,
    networks: Sequence[nn.Module],
    examples: Examples,
    *,
    vote: Combine | None = None,
    normalise: bool = False,
) -> Program:
    """Make a program of networks of a space, on the CPU."""
    return Program(
        networks,
        examples.given,
        workspace.task.outputs,
        vote=vote,
        first=normalising(examples.given, workspace.task) if normalise else (),
        copies=workspace.flat.habits.changes_input,
    )


def write_program(
    file: Path, program: Program, examples: Examples, described: Signature, about: Mapping[str, str]
) -> None:
    """Trace a program and write it by the file's ending, with its metadata; InputError for what cannot be expressed."""
    traced = trace(program, examples.inputs)
    if file.suffix == ONNX:
        write_onnx(file, traced, [one.name for one in described.takes], dict(about))
    else:
        write_pt2(file, traced, about["mgraph"], about["card"])


def metadata(facts: Mapping[str, Any], name: str, file: str) -> dict[str, str]:
    """Return what stands in the file itself: its facts as JSON, and the model card."""
    return {"format": "pt", "mgraph": json.dumps(facts, sort_keys=True), "card": card(facts, name, file)}
