"""The path-training engine: trains the control points of any family on any network.

Per sample: θ = c(t)ᵀP goes into the network's flat buffer, one plain forward and backward fills the flat
gradient g, and the gradient of control point k is c_k g: rank one, never autograd through the control points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mgraph.data.splits import Split
from mgraph.errors import NonFiniteError
from mgraph.families import Floats
from mgraph.network.flat import FlatModel
from mgraph.progress import Report, silent
from mgraph.train.loop import Streams, run_epochs
from mgraph.train.updates import EagerUpdate, choose_update

Loss = Callable[[Tensor, Tensor], Tensor]

# Steps drawn at once: a draw's many small NumPy calls would cost a small network 5 % of every step.
_AHEAD = 256


@dataclass(frozen=True)
class Curve:
    """One map that a phase samples: the dimension of its parameter, and its coefficients on all K rows."""

    dimension: int
    coefficients: Callable[[Floats], Floats]


@dataclass(frozen=True)
class Phase:
    """A stretch of training: which curves are sampled and which rows move.

    Every batch draws ``samples`` values on each curve; losses are summed over curves and averaged over samples.
    """

    name: str
    epochs: int
    curves: tuple[Curve, ...]
    free: tuple[int, ...]


def draws(phase: Phase, samples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Yield the coefficients of step after step, shape (samples · curves, K), at uniform parameters.

    Sources: [G] eq. 3, [S] eq. 9. The samples of the first curve come first, then those of the next.
    """
    while True:
        parts = [
            curve.coefficients(rng.random((_AHEAD * samples, curve.dimension))).reshape(_AHEAD, samples, -1)
            for curve in phase.curves
        ]
        yield from np.concatenate(parts, axis=1)


class PathTrainer:
    """Moves the free rows of P, shape (K, size), by SGD with momentum, one or more samples per batch."""

    def __init__(
        self,
        flat: FlatModel,
        loss: Loss,
        P: Tensor,
        free: Sequence[int],
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        update: str = "auto",
    ) -> None:
        """Start with zero momentum; ``update`` is auto, eager or compiled."""
        self._flat, self._loss, self._momentum = flat, loss, momentum
        kind = choose_update(P, update)
        self.update: EagerUpdate = kind(P, free, flat.theta, flat.grad, weight_decay=weight_decay)

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """Fill the flat gradient at the present θ; return the loss, still on the device."""
        flat = self._flat
        flat.grad.zero_()
        loss = self._loss(flat.module(flat.inputs(x)), y)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def begin(self, coefficients: Sequence[float]) -> None:
        """Write the first θ; every later one is written by the step before it."""
        self.update.point(coefficients)

    def step(
        self, x: Tensor, y: Tensor, lr: float, draws: Floats, weights: Floats, following: Sequence[float]
    ) -> Tensor:
        """Do one optimiser step on samples of coefficients ``draws``, shape (n, K), and their weights (n,).

        θ must be at ``draws[0]``; afterwards it is at ``following``. Returns the mean loss of the samples.
        """
        keep, total = self._momentum, None
        last = len(draws) - 1
        for i, (c, w) in enumerate(zip(draws.tolist(), weights.tolist(), strict=True)):
            loss = self.gradient(x, y)
            total = loss if total is None else total + loss
            scaled = c if w == 1.0 else [w * value for value in c]
            if i < last:
                self.update.accumulate(scaled, keep)
                self.update.point(draws[i + 1].tolist())
                keep = 1.0
            else:
                self.update.apply(scaled, keep, lr, following)
        assert total is not None
        return total / len(draws) if last else total


def train_phases(
    flat: FlatModel,
    loss: Loss,
    split: Split,
    P: Tensor,
    phases: Sequence[Phase],
    *,
    lr: float,
    batch_size: int,
    samples: int,
    momentum: float,
    weight_decay: float,
    seed: int,
    update: str = "auto",
    report: Report = silent,
) -> str:
    """Train P, shape (K, size), in place through all phases; return the update used (eager or compiled).

    Each phase runs its own learning-rate schedule from zero momentum. Raises NonFiniteError, naming the step,
    at a non-finite loss, and when a control point ends non-finite.
    """
    flat.check_batch(batch_size)
    streams = Streams.of(seed)
    used = "eager"
    flat.module.train()
    with torch.random.fork_rng(devices=[] if flat.device.type == "cpu" else [flat.device]):
        torch.manual_seed(streams.network)
        for phase in phases:
            if phase.epochs == 0 or not phase.free:
                continue
            trainer = PathTrainer(
                flat, loss, P, phase.free, momentum=momentum, weight_decay=weight_decay, update=update
            )
            used = trainer.update.name
            run_epochs(
                split,
                _stepper(trainer, phase, samples, streams.draws),
                epochs=phase.epochs,
                batch_size=batch_size,
                lr=lr,
                order=streams.order,
                device=flat.device,
                phase=phase.name,
                report=report,
            )
    if not bool(torch.isfinite(P).all()):
        raise NonFiniteError("A weight became NaN or infinite in training; lower the learning rate.")
    return used


def _stepper(
    trainer: PathTrainer, phase: Phase, samples: int, rng: np.random.Generator
) -> Callable[[Tensor, Tensor, float], Tensor]:
    """Return a step that knows the next one's draws, so that each update can write the next θ."""
    weights = np.full(samples * len(phase.curves), 1.0 / samples)
    coming = draws(phase, samples, rng)
    upcoming = next(coming)
    trainer.begin(upcoming[0].tolist())

    def step(x: Tensor, y: Tensor, lr: float) -> Tensor:
        nonlocal upcoming
        current, upcoming = upcoming, next(coming)
        return trainer.step(x, y, lr, current, weights, upcoming[0].tolist())

    return step
