"""Sharpness-aware minimisation (Foret et al. 2021): the gradient at the worst nearby point, to first order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_TINY = 1e-12  # so that a gradient of 0 gives no displacement


@contextmanager
def uphill(theta: Tensor, grad: Tensor, radius: float, statistics: Iterable[Any]) -> Iterator[None]:
    """Move a point θ to θ + radius·g/‖g‖ for a second pass, and set the gradient to 0; afterwards θ is restored.

    Both have shape (T,). Meanwhile, modules with running ``statistics`` do not update them: they are those of θ.
    """
    here = theta.clone()
    theta.add_(grad * (radius / (torch.linalg.vector_norm(grad) + _TINY)))
    grad.zero_()
    tracking = [m for m in statistics if m.track_running_stats]
    for m in tracking:
        m.track_running_stats = False
    try:
        yield
    finally:
        for m in tracking:
            m.track_running_stats = True
        theta.copy_(here)
