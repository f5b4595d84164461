"""Temperatures: a classifier's logits divided by one number, fitted on validation data.

Guo, Pleiss, Sun, Weinberger, On calibration of modern neural networks (ICML 2017), §4.2. The likelihood of an
overconfident network says more about its confidence than about what it knows; with this one parameter, models become
comparable by their likelihood.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mgraph.data.labels import counting, per_example
from mgraph.data.splits import Split
from mgraph.data.task import Task, is_cross_entropy
from mgraph.errors import InputError
from mgraph.fields import are_labels

COLDEST, HOTTEST = 0.02, 50.0
_CLOSE, _STEPS = 1e-3, 60  # tolerance on log T


def classifies(task: Task) -> bool:
    """Whether outputs are logits of classes and targets are labels, so that a temperature is meaningful."""
    return task.combine == "softmax" and task.classes is not None and are_labels(task.valid.targets)


def guessed_classes(task: Task) -> int | None:
    """Return the number of classes of which somebody without knowledge guesses one, at a loss of its logarithm.

    None where outputs are no logits of classes, or the loss is not their cross-entropy.
    """
    return task.classes if classifies(task) and is_cross_entropy(task.loss) else None


def require_classes(task: Task, what: str) -> None:
    """Raise InputError, naming ``what`` needs class labels, unless a task has them."""
    if not classifies(task):
        raise InputError(f"{what} needs class probabilities, and this task is not a classification; leave it out.")


def require_validation(task: Task, what: str) -> None:
    """Raise InputError, naming ``what`` needs them, unless there are separate validation examples."""
    if len(task.valid) < 2:
        raise InputError(f"{what} is fitted on validation data, and this task has {len(task.valid)} example of these.")
    for name, other in (("train", task.train), ("test", task.test)):
        if other is task.valid or _sample(other) == _sample(task.valid):
            raise InputError(
                f"{what} is fitted on validation data, and this task has none of its own: its valid split is its "
                f"{name} split. Give the task a validation split, or leave it out."
            )


def _sample(split: Split) -> str:
    hasher = hashlib.blake2b(digest_size=16)
    split.feed_sample(hasher)
    return hasher.hexdigest()


def log_likelihoods(outputs: Tensor, targets: Tensor, void: Sequence[int] = (), temperature: float = 1.0) -> Tensor:
    """Return the log-likelihood of each label, of the targets' shape, in float64; 0 where a label does not count."""
    counts = counting(targets, void)
    labels = targets.where(counts, 0).long() if void else targets.long()
    logp = torch.log_softmax(outputs.double() / temperature, dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)
    return logp.where(counts, 0.0) if void else logp


def example_nll(outputs: Tensor, targets: Tensor, void: Sequence[int] = (), temperature: float = 1.0) -> Tensor:
    """Return the negative log-likelihood of each example under a temperature, shape (N,), in float64."""
    return per_example(-log_likelihoods(outputs, targets, void, temperature), targets, void)


def fit_temperature(outputs: Tensor, targets: Tensor, void: Sequence[int] = ()) -> float:
    """Return the T > 0 that minimises the mean negative log-likelihood of logits / T, shapes (N, C, …) and (N, …).

    It lies between 1/50 and 50, even if all examples are right, or wrong, so that no finite T is best. Raises
    InputError without examples.
    """
    if not len(outputs):
        raise InputError("A temperature is fitted on validation data, and there are no examples.")
    logits, shares = _relative_logits(outputs.double(), targets, void)
    low, high, cold = 1.0 / HOTTEST, 1.0 / COLDEST, 1.0
    for _ in range(_STEPS):  # in 1 / T the cost is convex: Newton's method between two bounds
        p = torch.softmax(logits * cold, dim=1)
        mean = (p * logits).sum(1)
        slope, bend = float(shares @ mean), float(shares @ ((p * logits.square()).sum(1) - mean.square()))
        low, high = (low, cold) if slope > 0 else (cold, high)
        colder = cold - slope / bend if bend > 0 else 0.0
        if not low < colder < high:
            colder = math.sqrt(low * high)
        if abs(math.log(colder / cold)) < _CLOSE:
            break
        cold = colder
    return 1.0 / cold


def _relative_logits(outputs: Tensor, targets: Tensor, void: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the logits of all L labels that count, minus that of the label itself, (L, C), and the labels' weights.

    The weights, shape (L,), make every example count alike, as in :func:`example_nll`.
    """
    counts = counting(targets, void)
    each = counts.flatten(1).sum(1) if counts.ndim > 1 else counts.long()
    shares = (1.0 / (each.clamp_min(1) * len(targets))).double().reshape(-1, *[1] * (targets.ndim - 1))
    logits = outputs.movedim(1, -1)[counts]
    logits = logits - logits.gather(1, targets[counts].long().unsqueeze(1))
    return logits, shares.expand(targets.shape)[counts]
