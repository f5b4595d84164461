"""torch.export: a module becomes a program of tensor operations, for batches of any size."""

from __future__ import annotations

import contextlib
import io
import logging
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mgraph.errors import InputError
from mgraph.exporting.programs import Program, require_tensor
from mgraph.network.checkpoints.writing import save_by

if TYPE_CHECKING:
    from torch.export import ExportedProgram

FACTS, CARD = "mgraph.json", "card.md"
"""The further files in a ``.pt2``: where it comes from, and its model card."""

_FEW = 3
_WEIGHTS = "export the weights instead (.safetensors, .pt)"
_OWN = Path(__file__).resolve().parents[1]
_LIBRARY = Path(torch.__file__).resolve().parent


def trace(program: Program, inputs: Sequence[Tensor]) -> ExportedProgram:
    """Trace a program on a few examples, at least one; the number of examples stays open.

    Raises InputError, in one sentence, for what torch.export cannot trace.
    """
    from torch.export import Dim, export

    inputs = [x[:_FEW] for x in inputs]
    if len(inputs[0]) < 2:  # a single one would be taken for a constant
        inputs = [torch.cat([x, x]) for x in inputs]
    examples = len(inputs[0])
    with torch.no_grad(), quietly():
        require_tensor(program(*inputs), examples)
        try:
            traced = export(program, tuple(inputs), dynamic_shapes={"inputs": tuple({0: Dim("batch")} for _ in inputs)})
        except Exception as error:  # the user's code, run with stand-ins for tensors
            raise _refused(error, examples) from None
    for node in traced.graph.nodes:
        node.meta.pop("stack_trace", None)  # the paths of this machine
    return traced


def write_pt2(path: Path, traced: ExportedProgram, facts: str, card: str) -> None:
    """Write a traced program as ``.pt2``; OSError if that fails."""
    further = {FACTS: facts, CARD: card}
    with quietly():
        save_by(path, lambda file: torch.export.save(traced, file, extra_files=further))


def _refused(error: Exception, examples: int) -> InputError:
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    where = _place(error)
    if isinstance(error, GuardOnDataDependentSymNode):
        return InputError(
            f"torch.export cannot trace the network: what its forward does depends on values of its inputs{where}, and "
            f"a program does the same for all of them; use torch.where or torch.cond there, or {_WEIGHTS}."
        )
    text = str(error)
    if "Constraints violated" in text or "specialized it to be a constant" in text:
        return InputError(
            f"torch.export cannot leave the number of examples open: the network's forward takes it for the constant "
            f"{examples}{where}; use x.shape[0], or -1 in a reshape, or {_WEIGHTS}."
        )
    lines = [line.strip().rstrip(".") for line in text.splitlines() if line.strip()]
    why = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return InputError(f"torch.export cannot trace the network{where}: {why}; {_WEIGHTS}.")


def _place(error: BaseException) -> str:
    """Name the line of the network's own code where it happened, if there is one: " (net.py, line 12)"."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        file = Path(frame.filename)
        if file.is_file() and not any(file.is_relative_to(parent) for parent in (_OWN, _LIBRARY)):
            if "site-packages" in file.parts or file.is_relative_to(Path(traceback.__file__).parent):
                continue
            return f" ({file.name}, line {frame.lineno})"
    return ""


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep what torch.export says on the way to itself: tracebacks in prose, and warnings of its own parts."""
    told = logging.getLogger("torch")
    before = told.level
    told.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        told.setLevel(before)
