"""Ensembles of points of a path or surface: the mean of the members' softmax outputs [S §4.3]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mgraph.data.task import Task
from mgraph.errors import InputError
from mgraph.evaluate.batchnorm import BatchNormPolicy, recompute_statistics
from mgraph.evaluate.metrics import Measured, outputs
from mgraph.families import Floats
from mgraph.network.flat import FlatModel, combine
from mgraph.progress import Progress, Report, silent


@dataclass(frozen=True)
class Prediction:
    """Class probabilities of a split, shape (N, classes), with the targets, shape (N,)."""

    probabilities: Tensor
    targets: Tensor

    @property
    def correct(self) -> Tensor:
        """Whether each example is classified correctly, shape (N,), as 0 and 1."""
        return (self.probabilities.argmax(dim=1) == self.targets).double()

    def measured(self) -> dict[str, Measured]:
        """Accuracy, and loss as the mean negative log of the averaged probability."""
        chosen = self.probabilities.gather(1, self.targets[:, None].long())[:, 0]
        loss = -chosen.clamp_min(torch.finfo(chosen.dtype).tiny).log()
        return {"loss": Measured.of(loss), "accuracy": Measured.of(self.correct)}


def predict(flat: FlatModel, task: Task, split: str) -> Prediction:
    """Return the present point's probabilities in float64; InputError if it is no classifier."""
    parts, targets = [], []
    for out, y in outputs(flat, getattr(task, split)):
        if out.ndim != 2 or y.ndim != 1:
            raise InputError("Ensembles average class probabilities: outputs (N, classes), targets (N,).")
        out, y = task.without_void(out, y)
        parts.append(out.double().softmax(dim=1).cpu())
        targets.append(y.cpu())
    return Prediction(torch.cat(parts), torch.cat(targets))


def ensemble_predictions(
    flat: FlatModel,
    task: Task,
    rows: Sequence[Tensor],
    coefficients: Floats,
    *,
    policy: BatchNormPolicy,
    splits: Sequence[str],
    keep: Sequence[int] = (),
    report: Report = silent,
) -> tuple[dict[str, Prediction], dict[int, dict[str, Prediction]]]:
    """Average the softmax outputs of S points, coefficients of shape (S, K); also return the kept members'.

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
                mean[split] = Prediction(one.probabilities.clone(), one.targets)
            else:
                mean[split].probabilities.add_(one.probabilities)
        report(Progress("ensemble", i + 1, len(coefficients)))
    for prediction in mean.values():
        prediction.probabilities.div_(len(coefficients))
    return mean, kept
