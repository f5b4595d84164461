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


def run_epochs(
    split: Split,
    step: Callable[[Tensor, Tensor, float], Tensor],
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    order: torch.Generator,
    device: torch.device,
    phase: str = "train",
    report: Report = silent,
) -> None:
    """Call ``step(x, y, lr)`` for every shuffled batch of every epoch; it returns the batch's loss.

    A last batch of a single example is left out, since batch statistics need two. Raises NonFiniteError at
    the first loss that is NaN or infinite, naming the step.
    """
    count = len(split)
    per_epoch = -(-count // batch_size) - (1 if count % batch_size == 1 and count > 1 else 0)
    total = epochs * per_epoch
    every = 1 if device.type == "cpu" else _CHECK_EVERY_ON_DEVICE
    pending: list[Tensor] = []
    done = 0
    for _ in range(epochs):
        permutation = torch.randperm(count, generator=order)
        for x, y in split.batches(batch_size, order=permutation, device=device):
            if len(x) == 1 < batch_size and count > 1:
                continue
            pending.append(step(x, y, lr * curve_schedule(done / total)))
            done += 1
            if len(pending) >= every or done == total:
                losses = torch.stack(pending).tolist() if len(pending) > 1 else [pending[0].item()]
                for back, loss in enumerate(losses):
                    if not math.isfinite(loss):
                        raise NonFiniteError(
                            f"The loss became {loss} at step {done - len(losses) + back + 1} of {total} "
                            f"({phase}); lower the learning rate (it was {lr:g}) or look at the data."
                        )
                pending.clear()
                report(Progress(phase, done, total, losses[-1]))
