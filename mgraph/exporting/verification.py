"""Is a file what was exported? Reloaded in a fresh process that cannot import mgraph, it must predict the same."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from mgraph.data.task import Combine
from mgraph.errors import InputError
from mgraph.exporting.programs import MEMBERS, VOTES
from mgraph.exporting.reload import digest
from mgraph.exporting.tracing import write_pt2

TOLERANCE = 1e-5
"""By how much predictions may differ: probabilities as they are, other outputs in units of the largest, if above 1."""

_SCRIPT = Path(__file__).with_name("reload.py")


@dataclass(frozen=True)
class Verified:
    """How a reloaded file predicts: the largest difference to what the graph's network predicts on so many examples.

    ``instead`` says why only the tensors were compared, bit by bit, and on no examples.
    """

    examples: int
    difference: float
    instead: str | None = None

    @override
    def __str__(self) -> str:
        if self.instead is not None:
            return f"its tensors are those of the graph, bit by bit; its predictions were not compared: {self.instead}"
        return (
            f"its predictions on {self.examples} test examples differ by at most {self.difference:.1e} from the graph's"
        )


@dataclass(frozen=True)
class Case:
    """A batch as the file takes it, and the predictions of the graph's networks on it, shape (N, …), in float64."""

    inputs: tuple[Tensor, ...]
    expected: Tensor


@dataclass(frozen=True)
class Reloading:
    """How files are run: a program by itself, or weights in a traced network, each of whose files votes.

    ``vote`` is what makes predictions of outputs; ``votes``: the program does that itself. ``traced`` is the network's
    program, whatever its tensors are, and ``names`` are those that a file must have.
    """

    vote: Combine | None
    votes: bool = False
    traced: Any = None
    names: tuple[str, ...] = field(default=())


def verify(files: Sequence[Path], cases: Sequence[Case], how: Reloading) -> Verified:
    """Run the files on the cases; InputError, naming the first, if predictions differ, or the process fails."""
    with tempfile.TemporaryDirectory(prefix="mgraph-export-") as name:
        directory = Path(name)
        kind = "weights" if how.traced is not None else files[0].suffix.removeprefix(".")
        request: dict[str, Any] = {
            "kind": kind,
            "files": [str(file.resolve()) for file in files],
            "batches": [len(case.inputs) for case in cases],
            "threads": torch.get_num_threads(),
        }
        if how.traced is not None:
            program = directory / "network.pt2"
            _write_emptied(program, how.traced)
            request |= {"program": str(program), "prefix": f"{MEMBERS}.0.", "names": list(how.names)}
            request["vote"] = how.vote if len(files) > 1 else None
        (directory / "request.json").write_text(json.dumps(request))
        arrays = {f"{i}_{j}": x.numpy() for i, case in enumerate(cases) for j, x in enumerate(case.inputs)}
        np.savez(directory / "inputs.npz", **arrays)  # type: ignore[arg-type]
        run_alone(directory, files[0].name)
        with np.load(directory / "outputs.npz") as found:
            outputs = [torch.from_numpy(found[str(i)]) for i in range(len(cases))]
    predicted = how.votes or how.vote is None or (how.traced is not None and len(files) > 1)
    vote = (lambda out: out) if predicted or how.vote is None else VOTES[how.vote]
    worst = max(_difference(vote(out), case.expected) for out, case in zip(outputs, cases, strict=True))
    if not worst <= TOLERANCE:
        raise InputError(
            f"{files[0].name} was not written: run without mgraph, its predictions differ by up to {worst:.2g} from "
            f"those of the graph ({TOLERANCE:g} is allowed); export to another format, or without the check "
            "(--no-verify)."
        )
    return Verified(max(len(case.expected) for case in cases), worst)


def verify_tensors(file: Path, state: Mapping[str, Any], why: str) -> Verified:
    """Compare the tensors of a file, read in a fresh process, with those of the graph; InputError if one differs."""
    with tempfile.TemporaryDirectory(prefix="mgraph-export-") as name:
        directory = Path(name)
        (directory / "request.json").write_text(json.dumps({"kind": "tensors", "files": [str(file.resolve())]}))
        run_alone(directory, file.name)
        found = json.loads((directory / "digests.json").read_text())
    expected = {name: digest(value) for name, value in state.items()}
    odd = sorted(key for key in {*found, *expected} if found.get(key, "") != expected.get(key, ""))
    if odd:
        raise InputError(
            f"{file.name} was not written: {odd[0]} is another tensor in it than in the graph; export to another "
            "format, or without the check (--no-verify)."
        )
    return Verified(0, 0.0, why)


def run_alone(directory: Path, name: str) -> None:
    """Answer the request in a directory in a fresh process; InputError if that fails."""
    if not sys.executable:
        raise InputError(f"{name} cannot be checked: Python does not know its executable; export with --no-verify.")
    command = [sys.executable, "-I", str(_SCRIPT), str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        told = directory / "error.txt"
        lines = done.stderr.strip().splitlines()
        why = told.read_text() if told.exists() else (lines[-1] if lines else f"exit code {done.returncode}")
        raise InputError(
            f"{name} was not written, for it does not run without mgraph ({why.rstrip('.')}); export to another "
            "format, or without the check (--no-verify)."
        )


def _difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    scale = max(1.0, expected.abs().max().item())
    return float((found - expected).abs().max().item()) / scale


def _write_emptied(path: Path, traced: Any) -> None:
    """Write a traced network with zeros for its tensors, so that only a file's own can give its predictions."""

    def empty(tensor: Tensor) -> Tensor:
        zeros = torch.zeros_like(tensor)
        return nn.Parameter(zeros, requires_grad=False) if isinstance(tensor, nn.Parameter) else zeros

    traced._state_dict = {name: empty(tensor) for name, tensor in traced.state_dict.items()}
    write_pt2(path, traced, "{}", "")


def as_predictions(outputs: Tensor, vote: Combine | None) -> Tensor:
    """Return what outputs predict, in float64: probabilities, or the outputs themselves."""
    wide = outputs.double().cpu()
    return wide if vote is None else VOTES[vote](wide)
