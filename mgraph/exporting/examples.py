"""The examples that an export is tried on: as a file takes them, and what the graph's own network predicts on them."""

from __future__ import annotations

import torch
from torch import Tensor

from mgraph.data.task import Combine
from mgraph.exporting.programs import raw_examples
from mgraph.exporting.verification import Case, as_predictions
from mgraph.fields import Fields, part_of, tensors_of
from mgraph.network.flat import FlatModel
from mgraph.network.layout import named_tensors
from mgraph.network.precision import computing_in
from mgraph.operations.export import new_module
from mgraph.session.workspace import Workspace

COUNT = 64
"""Test examples that predictions are compared on."""


class Examples:
    """Test examples of a bench's space, first all of them and then the first alone, where that is a batch.

    ``given`` is what the file takes: as the data hold them (``normalise``), or as the network sees them.
    """

    def __init__(self, workspace: Workspace, *, normalise: bool) -> None:
        self._workspace = workspace
        count = min(COUNT, len(workspace.task.test))
        self.seen, _ = workspace.task.test.examples(torch.arange(count))
        self.given = raw_examples(workspace.task.test, count) if normalise else self.seen
        habits = workspace.flat.habits
        self._parts = [slice(0, count)] + ([] if habits.equal_batches or count == 1 else [slice(0, 1)])

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What the file takes, all of it in order."""
        return tuple(tensors_of(self.given))

    def predicted(self, vote: Combine | None) -> list[Tensor]:
        """Return what the network predicts at its present point, on the CPU, for each batch."""
        flat = _on_cpu(self._workspace)
        flat.module.eval()
        with torch.no_grad(), computing_in("fp32", flat.device):
            return [as_predictions(flat.run(part_of(self.seen, part)), vote) for part in self._parts]

    def cases(self, predicted: list[Tensor]) -> list[Case]:
        """Put the batches together with what is predicted on them."""
        return [
            Case(tuple(x[part].contiguous() for x in self.inputs), expected)
            for part, expected in zip(self._parts, predicted, strict=True)
        ]


def form_of(workspace: Workspace) -> Fields:
    """Return a batch of the space as its network takes it."""
    return workspace.task.test.examples(torch.tensor([0]))[0]


def _on_cpu(workspace: Workspace) -> FlatModel:
    """Return the bench's network, or one on the CPU at the same point: a file is compared where it is run."""
    flat = workspace.flat
    if flat.device.type == "cpu":
        return flat
    state = {name: tensor.detach().cpu() for name, tensor in named_tensors(flat.module)}
    moved = FlatModel(new_module(workspace, state, "cpu"), outputs=flat.outputs)
    moved.respect(flat.habits)
    return moved
