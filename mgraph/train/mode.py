"""Ordinary training of one mode."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mgraph.data.task import Task
from mgraph.errors import NonFiniteError
from mgraph.network.flat import FlatModel
from mgraph.progress import Report, silent
from mgraph.train.loop import Streams, run_epochs
from mgraph.train.settings import TrainSettings


def train_mode(flat: FlatModel, task: Task, settings: TrainSettings, *, report: Report = silent) -> None:
    """Train the network in place by SGD with momentum on the task's training split.

    Raises NonFiniteError, naming the step, when the loss leaves the finite numbers, and when a weight ends there.
    """
    flat.check_batch(settings.batch_size)
    streams = Streams.of(settings.seed)
    point = nn.Parameter(flat.theta)
    point.grad = flat.grad
    optimiser = torch.optim.SGD(
        [point], lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay, fused=True
    )
    loss_of = task.loss

    def step(x: Tensor, y: Tensor, lr: float) -> Tensor:
        flat.grad.zero_()
        loss: Tensor = loss_of(flat.module(flat.inputs(x)), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.param_groups[0]["lr"] = lr
        optimiser.step()
        return loss.detach()

    flat.module.train()
    with torch.random.fork_rng(devices=[] if flat.device.type == "cpu" else [flat.device]):
        torch.manual_seed(streams.network)
        run_epochs(
            task.train,
            step,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            lr=settings.lr,
            order=streams.order,
            device=flat.device,
            report=report,
        )
    if not bool(torch.isfinite(flat.theta).all()):
        raise NonFiniteError("A weight became NaN or infinite in training; lower the learning rate.")
