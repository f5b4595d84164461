"""How the members of an ensemble vote when the user has not said: what labels, targets and loss suggest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from mgraph.data.splits import Split

_SIGMOID = ("binary_cross_entropy_with_logits", "BCEWithLogitsLoss", "MultiLabelSoftMarginLoss")
_MEAN = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss")
_LOOKED_AT = 256

Voting = Literal["softmax", "sigmoid", "mean"]


def voting_of(train: Split, loss: Callable[..., Any], *, labelled: bool) -> tuple[Voting | None, list[str]]:
    """Return how members vote, or None if that cannot be inferred, and notes for the user.

    Integer labels are classes, so softmax; a torch loss shows whether outputs are logits of labels or the answer
    itself. With any other loss, targets that are not all 0 or 1 are quantities, so mean.
    """
    if labelled:
        return "softmax", []
    name = str(getattr(loss, "__name__", type(loss).__name__))
    if name in _SIGMOID:
        return "sigmoid", []
    if name in _MEAN:
        return "mean", []
    _, targets = train.examples(torch.arange(min(_LOOKED_AT, len(train))))
    if not isinstance(targets, Tensor):
        return None, []
    if targets.is_floating_point() and not bool(((targets == 0) | (targets == 1)).all()):
        return "mean", [
            "Members of an ensemble will vote by the mean of their outputs, as targets are quantities; "
            'combine="softmax", "sigmoid" or "none" says otherwise.'
        ]
    return None, []
