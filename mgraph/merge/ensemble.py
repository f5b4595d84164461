"""Ensembles: the weighted mean of what their members predict [S §4.3], summed one member at a time.

The task defines how members vote (``Task.combine``): by their class probabilities (softmax), by the probabilities of
their labels (sigmoid), or by their outputs. The mean is turned back into outputs, on which the task's loss and metrics
are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mgraph.data.splits import Split
from mgraph.data.task import Combine, Task
from mgraph.errors import InputError
from mgraph.evaluate.metrics import Measured, example_scores, judge
from mgraph.fields import Fields, are_labels, examples_in, over
from mgraph.merge.compare import Difference, paired_difference
from mgraph.metric import Metric

VOTES: Mapping[Combine, str] = {
    "softmax": "mean of softmax outputs",
    "sigmoid": "mean of sigmoid outputs",
    "mean": "mean of outputs",
}
"""What each way of combining does, in words."""


def _log(p: Tensor) -> Tensor:
    return p.clamp_min(torch.finfo(p.dtype).tiny).log()


_VOTE: Mapping[Combine, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "softmax": (lambda out: out.softmax(dim=1), _log),
    "sigmoid": (torch.sigmoid, lambda p: _log(p) - _log(1.0 - p)),
    "mean": (lambda out: out, lambda mean: mean),
}
"""Convert a member's outputs to its vote, and the mean of votes back to outputs."""


@dataclass(frozen=True)
class Prediction:
    """The votes on a split, shape (N, …) in float64, with the targets of these examples, shape (N, …)."""

    task: Task
    votes: Tensor
    targets: Fields

    @property
    def outputs(self) -> Tensor:
        """The votes as outputs of a network."""
        return _VOTE[_way(self.task)][1](self.votes)

    def measured(self, metrics: Sequence[Metric] = ()) -> dict[str, Measured]:
        """The task's loss and metrics, and further ones."""
        return judge(self.task, [(self.outputs, self.targets)], examples_in(self.targets), metrics=metrics)

    def better_than(self, other: Prediction) -> Difference | None:
        """Compare by example, by the primary metric or else by the loss; None if examples have neither."""
        mine, theirs = (example_scores(p.task, [(p.outputs, p.targets)], examples_in(p.targets)) for p in (self, other))
        return None if mine is None or theirs is None else paired_difference(mine[1], theirs[1])


def said(task: Task, outputs: Tensor, temperature: float = 1.0) -> Tensor:
    """Return a member's vote in float64, from its outputs, shape (N, …), divided by its temperature.

    Raises InputError if the task does not define how to vote.
    """
    return _VOTE[_way(task)][0](outputs.double() / temperature)


def targets_of(split: Split) -> Fields:
    """Return all targets of a split in stored order, floats in float64, on the CPU."""
    return over(lambda t: (t.double() if t.is_floating_point() else t).cpu(), split.targets)


class Tally:
    """Running weighted sums of votes, one for each of several ensembles: memory does not grow with their members."""

    def __init__(self, task: Task, targets: Fields, ensembles: int) -> None:
        """``targets`` are those of the split, in stored order."""
        self._task, self._targets = task, targets
        self._sums: list[Tensor | None] = [None] * ensembles
        self._totals = [0.0] * ensembles

    def add(self, ensemble: int, outputs: Tensor, weight: float = 1.0, temperature: float = 1.0) -> None:
        """Add a member's vote to one of the ensembles; ``weight`` is relative to those of its other members.

        Raises InputError for outputs without classes if class probabilities are averaged.
        """
        if _way(self._task) == "softmax" and (outputs.ndim < 2 or not are_labels(self._targets)):
            raise InputError("Ensembles average class probabilities: outputs (N, classes, …), targets integers.")
        vote = said(self._task, outputs, temperature).mul_(weight)
        total = self._sums[ensemble]
        self._sums[ensemble] = vote if total is None else total.add_(vote)
        self._totals[ensemble] += weight

    def prediction(self, ensemble: int) -> Prediction:
        """Return what an ensemble with at least one member predicts, leaving out examples whose labels are all void."""
        total = self._sums[ensemble]
        assert total is not None, "an ensemble without members"
        votes, targets = self._task.without_void(total / self._totals[ensemble], self._targets)
        return Prediction(self._task, votes, targets)


def _way(task: Task) -> Combine:
    if task.combine is None:
        raise InputError("The task does not say how members of an ensemble vote.")
    return task.combine
