"""A running average of the weights while they are trained."""

from __future__ import annotations

import torch
from torch import Tensor


class RunningAverage:
    """Keeps ``mean ← d·mean + (1-d)·row`` of a row that is trained in place, shape (T,), step by step.

    In the beginning d is (1 + n) / (10 + n) after n steps, until that is more than the decay: the average then soon
    forgets where the row began.
    """

    def __init__(self, row: Tensor, decay: float) -> None:
        self._row, self._decay = row, decay
        self.begin()

    def begin(self) -> None:
        """Begin anew from the row as it is."""
        self.mean, self.steps = self._row.clone(), 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the row after a step."""
        decay = min(self._decay, (1.0 + self.steps) / (10.0 + self.steps))
        self.mean.lerp_(self._row, 1.0 - decay)
        self.steps += 1

    def load(self, mean: Tensor, steps: int) -> None:
        """Take back what it was after so many steps."""
        self.mean, self.steps = mean.to(self._row), steps
