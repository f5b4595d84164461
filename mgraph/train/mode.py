"""Ordinary training of one mode: the path engine on a family of a single point."""

from __future__ import annotations

import numpy as np

from mgraph.data.task import Task
from mgraph.families import Floats
from mgraph.network.flat import FlatModel
from mgraph.progress import Report, silent
from mgraph.train.engine import Curve, Phase, train_phases
from mgraph.train.settings import TrainSettings


def train_mode(flat: FlatModel, task: Task, settings: TrainSettings, *, report: Report = silent) -> None:
    """Train the network in place by SGD with momentum on the task's training split.

    The one control point is the network itself: with coefficient 1 the engine's step is a plain SGD step. Raises
    NonFiniteError, naming the step, when the loss leaves the finite numbers, and when a weight ends there.
    """
    P = flat.theta.clone()[None]
    train_phases(
        flat,
        task.loss,
        task.train,
        P,
        (Phase("train", settings.epochs, (Curve(1, _always_one),), free=(0,)),),
        lr=settings.lr,
        batch_size=settings.batch_size,
        samples=1,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        seed=settings.seed,
        update="eager",
        report=report,
    )
    flat.theta.copy_(P[0])


def _always_one(t: Floats) -> Floats:
    return np.ones((len(t), 1))
