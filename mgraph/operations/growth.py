"""How an ensemble depends on its members: an end with θ(t) along a path, and a growing number of members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mgraph.alone import alone
from mgraph.families import Floats
from mgraph.merge.ensemble import Tally, targets_of
from mgraph.metric import Metric
from mgraph.models.costs import independent_modes
from mgraph.models.predicting import Predictor
from mgraph.models.sets import Member, ModelSet, resolve
from mgraph.operations.voting import require_votes
from mgraph.progress import Progress, ProgressCallback, silent
from mgraph.session.members import label
from mgraph.session.session import Session

SPLIT = "test"


@dataclass(frozen=True)
class Growth:
    """The primary ``metric`` on test data of ensembles of a connection's points and of independent modes.

    ``points`` are the values for the first 1, 2, … points of the grid, ends first and then ever finer, ``modes`` those
    for the first 1, 2, … modes. Along a path, at each ``t``, ``single`` is the value of θ(t) and ``pair`` that of the
    ensemble of the first end and θ(t) ([G] fig. 4); these are empty on a surface.
    """

    metric: Metric
    first: str
    points: Floats
    modes: Floats
    t: Floats
    single: Floats
    pair: Floats


@alone
def growth(session: Session, members: str, bn_examples: int | None, progress: ProgressCallback = silent) -> Growth:
    """Measure the ensembles of the points of a connection's grid, named like a set; nothing is stored.

    Raises InputError if members cannot vote.
    """
    models = resolve(session, [members])
    predictor = Predictor(session, models.space, bn_examples)
    task = predictor.workspace.task
    require_votes(predictor)
    with session.store.reading() as reader:
        independent = independent_modes(reader, models.space)
    modes = [Member(label(node), ((node.id, 1.0),), node) for node in independent]
    path = _along(models)
    with session.threads(predictor.workspace):
        order = sorted(_ends_first(len(models)), key=lambda i: models.members[i].corner is None)
        total = 2 * len(models) + len(modes)
        along = _pairs(predictor, models, progress, total) if path is not None else (np.zeros(0), np.zeros(0))
        points = _growing(predictor, [models.members[i] for i in order], progress, (len(models), total))
        grown = _growing(predictor, modes, progress, (2 * len(models), total))
    first = label(models.ends[0])
    return Growth(task.primary, first, points, grown, np.zeros(0) if path is None else path, *along)


def _along(models: ModelSet) -> Floats | None:
    """Return the parameters of the points, shape (S,), if they lie on a path."""
    places = [member.parameter for member in models.members]
    return np.array(places)[:, 0] if all(len(place) == 1 for place in places) else None


def _pairs(predictor: Predictor, models: ModelSet, progress: ProgressCallback, total: int) -> tuple[Floats, Floats]:
    """Return the metric of θ(t), and of its ensemble with the first end, for each point, shape (S,) each."""
    task = predictor.workspace.task
    data, name = task.splits[SPLIT], task.primary.name
    end = predictor.outputs(models.members[0], {SPLIT: data})[SPLIT]
    rows = []
    for i, member in enumerate(models.members):
        out = predictor.outputs(member, {SPLIT: data})[SPLIT]
        tally = Tally(task, targets_of(data), 2)
        tally.add(0, out)
        tally.add(1, end)
        tally.add(1, out)
        rows.append([tally.prediction(r).measured()[name].value for r in (0, 1)])
        progress(Progress("voting", i + 1, total))
    single, pair = np.array(rows).T
    return single, pair


def _growing(
    predictor: Predictor, members: Sequence[Member], progress: ProgressCallback, place: tuple[int, int]
) -> Floats:
    """Return the metric of the ensembles of the first 1, 2, … members."""
    task = predictor.workspace.task
    data, name = task.splits[SPLIT], task.primary.name
    tally = Tally(task, targets_of(data), 1)
    values = []
    for i, member in enumerate(members):
        tally.add(0, predictor.outputs(member, {SPLIT: data})[SPLIT])
        values.append(tally.prediction(0).measured()[name].value)
        progress(Progress("voting", place[0] + i + 1, place[1]))
    return np.array(values)


def _ends_first(count: int) -> list[int]:
    """Return an order of ``count`` positions: the first, the last, and then repeatedly one halfway between two."""
    chosen = [0, count - 1] if count > 1 else [0]
    gaps = [(0, count - 1)]
    while gaps:
        low, high = gaps.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            chosen.append(middle)
            gaps += [(low, middle), (middle, high)]
    return chosen
