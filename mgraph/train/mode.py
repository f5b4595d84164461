"""Training of one mode: the path engine on a family with a single point, or on the simplex of several vertices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from typing_extensions import override

from mgraph.data.task import Task
from mgraph.families import Family, Floats
from mgraph.network.flat import FlatModel
from mgraph.network.precision import check_precision
from mgraph.progress import ProgressCallback, silent
from mgraph.train.batches import batches_per_pass
from mgraph.train.engine import PathOptions, Trained, check_schedules, least_examples, train_phases
from mgraph.train.losses import check_objective, training_loss
from mgraph.train.objective import Objective
from mgraph.train.optimisers import check_optimiser
from mgraph.train.parallel import present
from mgraph.train.phases import Curve, Phase
from mgraph.train.plan import Plan
from mgraph.train.settings import TrainSettings
from mgraph.train.state import Checkpointer
from mgraph.train.updates import UpdateRule
from mgraph.train.watch import EqualAverage, History, Observed, RunningAverage


@dataclass(frozen=True)
class TrainedMode(Trained):
    """How the training of a mode went, its history, and what else it produced, each of shape (size,).

    ``average`` is the running average of the weights, ``mean`` the average of stochastic weight averaging over
    ``taken`` points, ``vertices`` are those of a simplex, whose middle is the mode.
    """

    history: tuple[Observed, ...] = ()
    average: Tensor | None = None
    mean: Tensor | None = None
    taken: int = 0
    vertices: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class _Point(Family):
    """One control point with coefficient 1: on it, the engine's step is a plain optimiser step."""

    name: ClassVar[str] = "point"
    dimension: ClassVar[int] = 1
    size: ClassVar[int] = 1
    ends: ClassVar[tuple[int, ...]] = ()

    @override
    def coefficients(self, t: ArrayLike) -> Floats:
        return np.ones((len(self.points(t)), 1))

    @override
    def derivatives(self, t: ArrayLike) -> Floats:
        return np.zeros((len(self.points(t)), 1, 1))

    @override
    def initial(self) -> Floats:
        return np.ones((1, 0))


@dataclass(frozen=True)
class _Between(Family):
    """The simplex of n vertices, all of them free, with parameters in the cube [0, 1]^(n-1).

    Coefficients are the gaps between the sorted coordinates; they are uniform on the simplex if these are on the cube.
    """

    name: ClassVar[str] = "vertices"
    ends: ClassVar[tuple[int, ...]] = ()
    vertices: int = 2

    @property
    @override
    def dimension(self) -> int:
        return self.vertices - 1

    @property
    @override
    def size(self) -> int:
        return self.vertices

    @override
    def coefficients(self, t: ArrayLike) -> Floats:
        return np.diff(np.sort(self.points(t), axis=1), axis=1, prepend=0.0, append=1.0)

    @override
    def derivatives(self, t: ArrayLike) -> Floats:
        raise NotImplementedError("only measures ask for them, and a simplex in training has none")

    @override
    def initial(self) -> Floats:
        return np.ones((self.vertices, 0))


def _phases(settings: TrainSettings, steps: int | None = None) -> tuple[Phase, ...]:
    """Return the single phase of a training.

    With n vertices, each receives a fraction of the gradient, and the middle the mean of these, 1/n of the gradient;
    the weight of n makes the middle move as a mode does at the same learning rate.
    """
    n = settings.simplex or 1
    family = _Point() if n == 1 else _Between(n)
    return (Phase("train", settings.epochs, (Curve.whole(family, float(n)),), tuple(range(n)), steps=steps),)


def plan_of(flat: FlatModel, task: Task, settings: TrainSettings) -> Plan:
    """Lay out a training on a task; raise InputError if it is too short for its schedule."""
    least = max(2, least_examples(flat, present()))
    return Plan.of(settings, batches_per_pass(len(task.train), settings.batch_size, least))


def check_training(flat: FlatModel, task: Task, settings: TrainSettings) -> None:
    """Raise InputError early for settings that do not suit the network or the task."""
    check_precision(settings.precision, flat.device)
    flat.check_batch(settings.batch_size)
    check_optimiser(UpdateRule.of(settings), [tensor.shape for tensor in flat.views(flat.theta).values()])
    check_objective(flat, task, settings)
    check_schedules(flat, task.train, _phases(settings), settings)
    plan_of(flat, task, settings)


def train_mode(
    flat: FlatModel,
    task: Task,
    settings: TrainSettings,
    *,
    others: Sequence[Tensor] = (),
    collect: Callable[[int], None] | None = None,
    progress: ProgressCallback = silent,
    checkpointer: Checkpointer | None = None,
) -> TrainedMode:
    """Train the network in place on the task's training split.

    ``collect`` is called with the number of each step after which the :class:`Plan` has a copy, with the network at the
    point reached. A simplex starts from the network and ``others``, the weights of all other vertices, each of shape
    (size,); the network ends in the middle of it. If ``checkpointer`` has a state of this training, begun with networks
    of the same seeds, training continues from it. Raises NonFiniteError, naming the step, when the loss is not finite
    at every learning rate tried.
    """
    P = torch.stack([flat.theta, *others])
    how = settings if settings.order_seed is None else replace(settings, seed=settings.order_seed)
    plan = plan_of(flat, task, settings)
    alone = len(P) == 1
    history = History(P[0] if alone else lambda: P.mean(dim=0), P.mean(dim=0), plan.steps, plan.span.epoch)
    average = None if settings.ema is None else RunningAverage(P[0], settings.ema)
    mean = EqualAverage(P[0], plan.averaged) if plan.averaged else None

    def after_step(done: int) -> None:
        if collect is not None and done in plan.copies:
            collect(done)

    trained = train_phases(
        Objective(flat, history.watching(training_loss(task, settings), task), task.train),
        P,
        _phases(settings, plan.steps),
        how,
        PathOptions(
            update="eager" if alone else "auto",
            watches=[watch for watch in (history, average, mean) if watch is not None],
            sam=settings.sam,
        ),
        after_step=after_step,
        progress=progress,
        checkpointer=checkpointer,
    )
    flat.theta.copy_(P[0] if alone else P.mean(dim=0))
    return TrainedMode(
        trained.update,
        trained.notes,
        trained.stopped,
        history.series(),
        average=None if average is None else average.mean,
        mean=mean.mean if mean is not None and mean.taken else None,
        taken=0 if mean is None else mean.taken,
        vertices=() if alone else tuple(P),
    )
