"""Ordinary training of one mode: the path engine on a family of a single point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
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
from mgraph.train.settings import TrainSettings
from mgraph.train.state import Checkpointer
from mgraph.train.updates import UpdateRule
from mgraph.train.watch import History, Observed, RunningAverage


@dataclass(frozen=True)
class TrainedMode(Trained):
    """How the training of a mode went, the history of it, and the running average of its weights, shape (size,)."""

    history: tuple[Observed, ...] = ()
    average: Tensor | None = None


@dataclass(frozen=True)
class _Point(Family):
    """One control point with coefficient 1: the engine's step on it is a plain optimiser step."""

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


def _phases(settings: TrainSettings) -> tuple[Phase, ...]:
    return (Phase("train", settings.epochs, (Curve.whole(_Point()),), free=(0,)),)


def check_training(flat: FlatModel, task: Task, settings: TrainSettings) -> None:
    """Raise InputError now for settings that do not suit the network or the task."""
    check_precision(settings.precision, flat.device)
    flat.check_batch(settings.batch_size)
    check_optimiser(UpdateRule.of(settings), [tensor.shape for tensor in flat.views(flat.theta).values()])
    check_objective(flat, task, settings)
    check_schedules(flat, task.train, _phases(settings), settings)


def train_mode(
    flat: FlatModel,
    task: Task,
    settings: TrainSettings,
    *,
    at_epoch: Callable[[int], None] | None = None,
    progress: ProgressCallback = silent,
    checkpointer: Checkpointer | None = None,
) -> TrainedMode:
    """Train the network in place on the task's training split.

    ``at_epoch`` is called after each of the epochs to keep, with the network at the point reached. Where
    ``checkpointer`` has a state of this training, begun with a network of the same seed, it goes on from there. Raises
    NonFiniteError, naming the step, when the loss leaves the finite numbers at every learning rate tried. The weights'
    running average, if the settings ask for one, is the result's ``average``.
    """
    P = flat.theta.clone()[None]
    how = settings if settings.order_seed is None else replace(settings, seed=settings.order_seed)
    least = max(2, least_examples(flat, present()))
    epoch = batches_per_pass(len(task.train), settings.batch_size, least)
    history = History(P[0], flat.theta.clone(), settings.epochs * epoch, epoch)
    average = None if settings.ema is None else RunningAverage(P[0], settings.ema)

    def after_epoch(epoch: int) -> None:
        if at_epoch is not None and epoch in settings.keep:
            at_epoch(epoch)

    trained = train_phases(
        Objective(flat, history.watching(training_loss(task, settings), task), task.train),
        P,
        _phases(settings),
        how,
        PathOptions(update="eager", watches=(history,) if average is None else (history, average)),
        after_epoch=after_epoch,
        progress=progress,
        checkpointer=checkpointer,
    )
    flat.theta.copy_(P[0])
    mean = None if average is None else average.mean
    return TrainedMode(trained.update, trained.notes, trained.stopped, history.series(), mean)
