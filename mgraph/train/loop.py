"""The one training loop: epochs of shuffled batches, a schedule, progress, and a stop at the first NaN."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mgraph.data.splits import Split
from mgraph.errors import NonFiniteError
from mgraph.progress import Progress, Report, silent
from mgraph.train.schedules import curve_schedule

# On an accelerator reading the loss waits for the device, so it is read in batches of steps.
_CHECK_EVERY_ON_DEVICE = 50


# A loss so many times the first one is as good as infinite.
_BLOWN_UP = 1e4


class DivergedError(NonFiniteError):
    """Training left the finite numbers after some ``steps``, of which none may have gone well."""

    def __init__(self, message: str, steps: int) -> None:
        super().__init__(message)
        self.steps = steps


@dataclass(frozen=True)
class Streams:
    """Independent random streams of one run, all from one seed."""

    order: torch.Generator
    draws: np.random.Generator
    network: int

    @classmethod
    def of(cls, seed: int) -> Streams:
        """Derive the order of examples, the draws of the parameter, and the network's own randomness."""
        order, draws, network = np.random.SeedSequence(seed).spawn(3)
        return cls(
            torch.Generator().manual_seed(int(order.generate_state(1, np.uint64)[0] >> np.uint64(1))),
            np.random.default_rng(draws),
            int(network.generate_state(1, np.uint32)[0]),
        )


@dataclass(frozen=True)
class Position:
    """Where the epochs stand between two steps: the one under way (from 1), and its batches done.

    ``order`` is the state of the generator that shuffled this epoch, ``first`` the first loss of all, ``pending``
    are the losses not looked at yet.
    """

    epoch: int
    batch: int
    first: float | None
    order: Tensor
    pending: tuple[Tensor, ...] = ()
    done: int = 0
    total: int = 0


def _never() -> bool:
    return False


def _nowhere(position: Position) -> None:
    del position


def run_epochs(
    split: Split,
    step: Callable[[Tensor, Tensor, float], Tensor],
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    order: torch.Generator,
    device: torch.device,
    schedule: Callable[[float], float] = curve_schedule,
    least: int = 2,
    phase: str = "train",
    after_epoch: Callable[[int], None] | None = None,
    report: Report = silent,
    at: Position | None = None,
    due: Callable[[], bool] = _never,
    save: Callable[[Position], None] = _nowhere,
) -> None:
    """Call ``step(x, y, lr)`` for every shuffled batch of every epoch; it returns the batch's loss.

    A last batch of fewer than ``least`` examples is left out (batch statistics need two), unless it is the only
    one. ``after_epoch`` is called with the number of epochs done. Whenever it is ``due`` after a step, ``save`` gets
    the position, and a call that is given it as ``at`` goes on there. Raises DivergedError, naming the step,
    at the first loss that is NaN, infinite, or ten thousand times the first one.
    """
    count = len(split)
    rest = count % batch_size
    left_out = 0 < rest < least and rest < count
    per_epoch = -(-count // batch_size) - left_out
    total = epochs * per_epoch
    every = 1 if device.type == "cpu" else _CHECK_EVERY_ON_DEVICE
    pending: list[Tensor] = [] if at is None else list(at.pending)
    first: float | None = None if at is None else at.first
    begun = 1 if at is None else at.epoch
    done = 0 if at is None else (at.epoch - 1) * per_epoch + at.batch
    if at is not None:
        order.set_state(at.order)
    for epoch in range(begun, epochs + 1):
        shuffled_from = order.get_state()
        permutation = torch.randperm(count, generator=order)
        if at is not None and epoch == at.epoch:
            permutation = permutation[at.batch * batch_size :]
        for x, y in split.batches(batch_size, order=permutation, device=device):
            if left_out and len(x) == rest:
                continue
            pending.append(step(x, y, lr * schedule(done / total)))
            done += 1
            if len(pending) >= every or done == total:
                losses = torch.stack(pending).tolist() if len(pending) > 1 else [pending[0].item()]
                first = losses[0] if first is None else first
                for back, loss in enumerate(losses):
                    if not (math.isfinite(loss) and loss < _BLOWN_UP * (1.0 + abs(first))):
                        at_step = done - len(losses) + back + 1
                        raise DivergedError(
                            f"The loss became {loss:g} at step {at_step} of {total} ({phase}); "
                            f"lower the learning rate (it was {lr:g}) or look at the data.",
                            at_step,
                        )
                pending.clear()
                report(Progress(phase, done, total, losses[-1]))
            if due():
                batch = done - (epoch - 1) * per_epoch
                save(Position(epoch, batch, first, shuffled_from, tuple(pending), done, total))
        if after_epoch is not None:
            after_epoch(epoch)
