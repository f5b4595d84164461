"""How candidates are compared on validation data: by the likelihood of the labels, each under its own temperature.

With a few hundred examples, accuracy distinguishes models only if they differ by whole per cents; the likelihood uses
every example, and the temperature keeps it from measuring confidence. Tasks without class labels are compared by their
primary metric, or else by their loss.

The *best* corner, ingredient or single model is something else, and the same one everywhere: that with the best primary
metric (:func:`rank`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mgraph.data.task import Task
from mgraph.evaluate.metrics import Measured, example_scores, judge, measure_with_scores, outputs
from mgraph.merge.bestof import halves
from mgraph.merge.calibration import classifies, example_nll, fit_temperature
from mgraph.merge.ensemble import targets_of
from mgraph.metric import LOSS, Metric
from mgraph.models.predicting import Predictor
from mgraph.models.sets import Member

SPLIT = "valid"
BY_LIKELIHOOD = "temperature-scaled log-likelihood"

Scores = NDArray[np.float64]
Rank = tuple[float, float]


def rank(found: Mapping[str, Measured], primary: Metric) -> Rank:
    """Return how good a single model is by its numbers on validation data; lower is better.

    It is ranked by the primary metric, and if tied by the loss, as `ls` shows it; what is not a number comes last.
    """
    values = -primary.sign * found[primary.name].value, found[LOSS.name].value
    first, second = (np.inf if np.isnan(value) else float(value) for value in values)
    return first, second


@dataclass(frozen=True)
class Looked:
    """What one pass over the validation data says of a model: its rank, and the scores of single examples, if any."""

    rank: Rank
    scores: Scores | None


class Comparison:
    """Scores members on validation data, by example; higher is better.

    With ``halved``, temperatures are fitted only on the first of the two halves of the scored examples
    (:func:`mgraph.merge.bestof.halves`), so that the second half plays no part in the choice.
    """

    def __init__(self, predictor: Predictor, *, halved: bool = False) -> None:
        self._predictor, self._halved = predictor, halved
        task = predictor.workspace.task
        self._likelihood = classifies(task)
        self._targets = targets_of(task.valid) if self._likelihood else None
        self.scored_by = BY_LIKELIHOOD if self._likelihood else task.primary.name

    def scores(self, member: Member) -> Scores | None:
        """Return the score of each example, shape (N,); None if examples have none."""
        task = self._predictor.workspace.task
        if not self._likelihood:
            self._predictor.place(member)
            return self.of_network()
        out = self._predictor.outputs(member, {SPLIT: task.valid})[SPLIT]
        return self._of_outputs(task, out)

    def of_network(self) -> Scores | None:
        """Return the scores of the network in its current state."""
        here = self._predictor.workspace
        batches = outputs(here.flat, here.task.valid)
        if self._likelihood:
            return self._of_outputs(here.task, torch.cat([out.cpu() for out, _ in batches]))
        found = example_scores(here.task, batches, len(here.task.valid))
        return None if found is None else found[1].numpy()

    def look(self) -> Looked:
        """Rank and score the network in its current state."""
        here = self._predictor.workspace
        if not self._likelihood:
            found = measure_with_scores(here.flat, here.task, SPLIT)
            scores = None if found.scores is None else found.scores[1].numpy()
            return Looked(rank(found.measured, here.task.primary), scores)
        batches = list(outputs(here.flat, here.task.valid))
        measured = judge(here.task, batches, len(here.task.valid))
        scores = self._of_outputs(here.task, torch.cat([out.cpu() for out, _ in batches]))
        return Looked(rank(measured, here.task.primary), scores)

    def _of_outputs(self, task: Task, out: torch.Tensor) -> Scores:
        assert isinstance(self._targets, torch.Tensor)
        out, targets = task.without_void(out, self._targets)
        fitted = torch.from_numpy(halves(len(out))[0]) if self._halved else torch.arange(len(out))
        temperature = fit_temperature(out[fitted], targets[fitted], task.void) if len(fitted) else 1.0
        return -example_nll(out, targets, task.void, temperature).numpy()


def best_of(scores: Sequence[Scores] | NDArray[np.float64], among: NDArray[np.int64] | None = None) -> int:
    """Return which of S models has the best mean score on the examples with these indices; the first one if tied.

    Scores that are not finite are worse than any finite ones.
    """
    table = np.stack([np.asarray(row, np.float64) for row in scores])
    means = (table if among is None else table[:, among]).mean(axis=1)
    return int(np.argmax(np.where(np.isfinite(means), means, -np.inf)))
