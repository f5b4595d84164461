"""Predictions that change along a path, example by example, and between modes; nothing is stored but cached outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from mgraph.alone import alone
from mgraph.errors import InputError
from mgraph.families import Floats
from mgraph.merge.ensemble import targets_of
from mgraph.models.predicting import Predictor
from mgraph.models.sets import Member, resolve
from mgraph.progress import Progress, ProgressCallback, silent
from mgraph.session.members import label
from mgraph.session.session import Session

if TYPE_CHECKING:
    from mgraph_store import Node, Space

SPLIT = "test"


@dataclass(frozen=True, eq=False)
class Flips:
    """The class that θ(t) predicts for each test example, shape (S, N), at ``t`` (S,), and the true ones, (N,)."""

    first: str
    last: str
    t: Floats
    predicted: NDArray[np.int64]
    targets: NDArray[np.int64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which predictions are right, shape (S, N)."""
        return np.asarray(self.predicted == self.targets)

    @property
    def moving(self) -> NDArray[np.int64]:
        """The examples whose prediction changes anywhere, those that change first coming first."""
        changed = self.predicted != self.predicted[0]
        found = np.flatnonzero(changed.any(axis=0))
        order = np.lexsort((found, np.argmax(changed[:, found], axis=0)))
        return np.asarray(found[order])

    def differing(self, point: int) -> Floats:
        """Return the share of examples that θ(t) and a point of the path predict differently, shape (S,)."""
        return np.asarray((self.predicted != self.predicted[point]).mean(axis=1))


@alone
def flips(session: Session, members: str, bn_examples: int | None, progress: ProgressCallback = silent) -> Flips:
    """Predict the test data at the points of a path's grid, named like a set.

    Raises InputError for a connection that is no path, and for a task that does not sort each example into one class.
    """
    models = resolve(session, [members])
    places = [member.parameter for member in models.members]
    if any(len(place) != 1 for place in places):
        raise InputError("Predictions are followed along a path; this connection has more than one parameter.")
    predictor = Predictor(session, models.space, bn_examples)
    targets = _classes(predictor)
    rows = []
    with session.threads(predictor.workspace):
        for done, member in enumerate(models.members, start=1):
            rows.append(_predicted(predictor, member))
            progress(Progress("predicting", done, len(models)))
    first, last = label(models.ends[0]), label(models.ends[-1])
    return Flips(first, last, np.array(places)[:, 0], np.stack(rows), targets)


@alone
def disagreement(session: Session, space: Space, nodes: Sequence[Node]) -> Floats:
    """Return the share of test examples that each pair of nodes sorts into different classes, shape (n, n).

    Each is used with its own BatchNorm statistics. Raises InputError for a task without classes.
    """
    predictor = Predictor(session, space)
    _classes(predictor)
    with session.threads(predictor.workspace):
        rows = np.stack([_predicted(predictor, Member(label(node), ((node.id, 1.0),), node)) for node in nodes])
    return np.asarray((rows[:, None] != rows[None]).mean(axis=2))


def _predicted(predictor: Predictor, member: Member) -> NDArray[np.int64]:
    data = predictor.workspace.task.splits[SPLIT]
    return np.asarray(predictor.outputs(member, {SPLIT: data})[SPLIT].argmax(dim=1).numpy())


def _classes(predictor: Predictor) -> NDArray[np.int64]:
    """Return the true class of each test example."""
    task = predictor.workspace.task
    targets = targets_of(task.splits[SPLIT])
    if not isinstance(targets, torch.Tensor) or targets.ndim != 1 or targets.is_floating_point() or not task.classes:
        raise InputError(
            f"The task of space {predictor.workspace.space.name} does not sort each example into one class, so no "
            "prediction flips."
        )
    return np.asarray(targets.numpy())
