"""Ensembles of points of a path or surface: the mean of the members' votes [S §4.3].

How members vote is the task's word (``Task.combine``): by their class probabilities (softmax), by the probabilities of
their labels (sigmoid), or by their outputs. The mean is turned back into outputs, on which loss and metrics are those
of the task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mgraph.data.task import Combine, Task
from mgraph.errors import InputError
from mgraph.evaluate.batchnorm import BatchNormPolicy, recompute_statistics
from mgraph.evaluate.metrics import Measured, example_scores, judge, outputs
from mgraph.families import Floats
from mgraph.fields import Fields, are_labels, examples_in, joined, over
from mgraph.merge.compare import Difference, paired_difference
from mgraph.network.flat import FlatModel, combine
from mgraph.progress import Progress, ProgressCallback, silent

VOTES: Mapping[Combine, str] = {
    "softmax": "mean of softmax outputs",
    "sigmoid": "mean of sigmoid outputs",
    "mean": "mean of outputs",
}
"""What each way to combine does, in words."""


def _log(p: Tensor) -> Tensor:
    return p.clamp_min(torch.finfo(p.dtype).tiny).log()


_VOTE: Mapping[Combine, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "softmax": (lambda out: out.softmax(dim=1), _log),
    "sigmoid": (torch.sigmoid, lambda p: _log(p) - _log(1.0 - p)),
    "mean": (lambda out: out, lambda mean: mean),
}
"""What a member says, from its outputs; and outputs again, from the mean of what they say."""


@dataclass(frozen=True)
class Prediction:
    """What was voted on a split, shape (N, …) in float64, with the targets of these examples, shape (N, …)."""

    task: Task
    votes: Tensor
    targets: Fields

    @property
    def outputs(self) -> Tensor:
        """The votes as outputs of a network."""
        return _VOTE[_way(self.task)][1](self.votes)

    def measured(self) -> dict[str, Measured]:
        """Loss and metrics of the task."""
        return judge(self.task, [(self.outputs, self.targets)], examples_in(self.targets))

    def better_than(self, other: Prediction) -> Difference | None:
        """Compare by example, by the primary metric, else by the loss; None where examples have neither."""
        mine, theirs = (example_scores(p.task, [(p.outputs, p.targets)], examples_in(p.targets)) for p in (self, other))
        return None if mine is None or theirs is None else paired_difference(mine[1], theirs[1])


def predict(flat: FlatModel, task: Task, split: str) -> Prediction:
    """Return the present point's vote; InputError if the task does not say how to vote, or outputs have no classes."""
    way, parts, targets = _way(task), [], []
    for out, y in outputs(flat, getattr(task, split)):
        if way == "softmax" and (out.ndim < 2 or not are_labels(y)):
            raise InputError("Ensembles average class probabilities: outputs (N, classes, …), targets integers.")
        out, y = task.without_void(out, y)
        parts.append(_VOTE[way][0](out.double()).cpu())
        targets.append(over(lambda t: (t.double() if t.is_floating_point() else t).cpu(), y))
    return Prediction(task, torch.cat(parts), joined(targets))


def ensemble_predictions(
    flat: FlatModel,
    task: Task,
    rows: Sequence[Tensor],
    coefficients: Floats,
    *,
    policy: BatchNormPolicy,
    splits: Sequence[str],
    keep: Sequence[int] = (),
    progress: ProgressCallback = silent,
) -> tuple[dict[str, Prediction], dict[int, dict[str, Prediction]]]:
    """Average the votes of S points, coefficients of shape (S, K); also return the kept members'.

    One pass over the points, one running mean per split: memory does not grow with S.
    """
    mean: dict[str, Prediction] = {}
    kept: dict[int, dict[str, Prediction]] = {}
    for i, c in enumerate(coefficients.tolist()):
        combine(c, rows, flat.theta)
        recompute_statistics(flat, task.train, policy)
        for split in splits:
            one = predict(flat, task, split)
            if i in keep:
                kept.setdefault(i, {})[split] = one
            if split not in mean:
                mean[split] = Prediction(task, one.votes.clone(), one.targets)
            else:
                mean[split].votes.add_(one.votes)
        progress(Progress("ensemble", i + 1, len(coefficients)))
    for prediction in mean.values():
        prediction.votes.div_(len(coefficients))
    return mean, kept


def _way(task: Task) -> Combine:
    if task.combine is None:
        raise InputError("The task does not say how members of an ensemble vote.")
    return task.combine
