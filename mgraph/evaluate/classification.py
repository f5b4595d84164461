"""Metrics of class probabilities: outputs are logits, shape (N, C, …), targets are labels, shape (N, …).

If one example has several labels (pixels), its value is the mean over those that count; labels in ``void`` do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mgraph.data.labels import counting, inside, per_example

_BINS = 15


def top_k(k: int) -> Callable[..., Tensor]:
    """Return the metric that is 1.0 where the label is among the k largest logits, shape (N,)."""

    def hit(outputs: Tensor, targets: Tensor, void: Sequence[int] = ()) -> Tensor:
        found = outputs.topk(k, dim=1).indices == targets.unsqueeze(1)
        return per_example(found.any(dim=1).double(), targets, void)

    return hit


def nll(outputs: Tensor, targets: Tensor, void: Sequence[int] = ()) -> Tensor:
    """Return the negative log-likelihood of the label under the softmax, shape (N,)."""
    each = F.cross_entropy(outputs.double(), inside(targets, void), reduction="none")
    return per_example(each, targets, void)


def brier(outputs: Tensor, targets: Tensor, void: Sequence[int] = ()) -> Tensor:
    """Return Σ_c (p_c - 1[c = label])² of the softmax, 0 to 2, shape (N,) [Brier 1950]."""
    p = outputs.double().softmax(dim=1)
    chosen = p.gather(1, inside(targets, void).long().unsqueeze(1)).squeeze(1)
    return per_example(p.square().sum(dim=1) + 1.0 - 2.0 * chosen, targets, void)


def expected_calibration_error(outputs: Tensor, targets: Tensor, void: Sequence[int] = ()) -> Tensor:
    """Return Σ_b |B_b|/N · |accuracy(B_b) - confidence(B_b)| of a whole split, one number.

    B_b are 15 bins of equal width, open below, of the largest softmax probability: Guo, Pleiss, Sun, Weinberger,
    On calibration of modern neural networks (ICML 2017), eq. 3.
    """
    return calibration_error_of(*calibration_gaps(outputs, targets, void))


def calibration_gaps(outputs: Tensor, targets: Tensor, void: Sequence[int] = ()) -> tuple[Tensor, int]:
    """Return the running sums for that error: for each bin the sum of (right - confidence), and the label count."""
    confidence, label = outputs.double().softmax(dim=1).max(dim=1)
    gap = (label == targets).double() - confidence
    if void:
        counts = counting(targets, void)
        gap, confidence = gap[counts], confidence[counts]
    bins = (confidence * _BINS).ceil().long().clamp(1, _BINS).flatten() - 1
    sums = torch.zeros(_BINS, dtype=torch.float64, device=gap.device).index_add_(0, bins, gap.flatten())
    return sums, gap.numel()


def calibration_error_of(sums: Tensor, count: int | Tensor) -> Tensor:
    """Return the expected calibration error given by the running sums."""
    return sums.abs().sum() / count
