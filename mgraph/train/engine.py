"""The path-training engine: trains the control points of any family on any network.

Per sample: θ = c(t)ᵀP goes into the network's flat buffer, one plain forward and backward fills the flat
gradient g, and the gradient of control point k is c_k g: rank one, never autograd through the control points.
A step draws k parameter values on each curve of its phase; each of them sees the whole batch, or the batch is
split between them, which costs one pass instead of k.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mgraph.data.splits import Split
from mgraph.errors import MGraphWarning, NonFiniteError
from mgraph.families import Floats
from mgraph.network.flat import FlatModel
from mgraph.network.precision import computing_in
from mgraph.progress import Report, silent
from mgraph.train.controlpoints import Held, Measure
from mgraph.train.loop import DivergedError, Streams, run_epochs
from mgraph.train.losses import Loss
from mgraph.train.parallel import Workers, present
from mgraph.train.phases import Phase
from mgraph.train.sampling import Sampling, cover
from mgraph.train.schedules import SCHEDULES
from mgraph.train.settings import Optimisation
from mgraph.train.updates import EagerUpdate, Rule, choose_update

# Steps drawn at once: a draw's many small NumPy calls would cost a small network 5 % of every step.
_AHEAD = 256

_MOST_LANES = 8  # points in memory at once; more samples than these go in groups

_HALVINGS = 6  # of the learning rate, before a diverging phase is given up
_BLOWN_UP = 1e6  # times what the weights were: as good as infinite


class LearningRateWarning(MGraphWarning):
    """A phase diverged and was begun again with half the learning rate."""


@dataclass(frozen=True)
class Draw:
    """The samples of one step on the device: coefficients C (n, K), weighted ones of the free rows (F, n).

    ``held`` are coefficients of the rows that held columns are sums of, shape (n, R).
    """

    coefficients: Tensor
    pull: Tensor
    held: Tensor | None


def draws(
    phase: Phase, sampling: Sampling, rng: np.random.Generator, measure: Measure | None = None
) -> Iterator[tuple[Floats, Floats]]:
    """Yield block after block of steps: coefficients (steps, n, K) and weights (steps, n), n = samples · curves.

    Parameters are uniform in the domain ([G] eq. 3, [S] eq. 9); under another measure the weight of each is
    its density over the mean density ([G] eq. 1, [S] eq. 7, the density held constant), else 1. The samples of
    the first curve come first, then those of the next.
    """
    k = sampling.samples
    while True:
        steps = _AHEAD if measure is None else min(_AHEAD, sampling.gram_every)
        G = None if measure is None else measure.gram()
        coefficients, weights = [], []
        for curve in phase.curves:
            t = cover(steps, k, curve.family.dimension, sampling.draw, rng).reshape(steps * k, -1)
            coefficients.append(curve.coefficients(t).reshape(steps, k, -1))
            weights.append(np.ones((steps, k)) if G is None else curve.relative_density(G, t).reshape(steps, k))
        yield np.concatenate(coefficients, axis=1), np.concatenate(weights, axis=1)


class PathTrainer:
    """Moves the free rows of P, shape (K, trained columns), by steps of one or more samples per batch."""

    def __init__(
        self,
        flat: FlatModel,
        loss: Loss,
        P: Tensor,
        phase: Phase,
        *,
        rule: Rule | None = None,
        sampling: Sampling | None = None,
        held: Held | None = None,
        update: str = "auto",
        module: Callable[[Tensor], Tensor] | None = None,
        workers: Workers | None = None,
    ) -> None:
        """Start without momentum; ``update`` is auto, eager or compiled, ``module`` a compiled network."""
        self._flat, self._loss, self._held = flat, loss, held
        self._sampling = sampling or Sampling()
        self._curves = len(phase.curves)
        self._module = module or flat.module
        self._workers = workers or Workers()
        samples = self._sampling.samples * self._curves
        self.lanes = flat.lanes(min(samples, _MOST_LANES))
        kind = choose_update(P, update, rule or Rule())
        trained = self.lanes.theta[:, : flat.trained]
        self.update: EagerUpdate = kind(P, phase.free, trained, self.lanes.grad, rule or Rule())
        self._least = least_examples(flat, self._workers)
        self._shares: dict[int, tuple[list[int], Tensor]] = {}

    def begin(self, draw: Draw) -> None:
        """Write the first points; all later ones are written by the steps before them."""
        first = self._group(draw, 0)
        self.update.points(first.coefficients)
        self._write_held(first)

    def step(self, x: Tensor, y: Tensor, lr: float, draw: Draw, following: Draw) -> Tensor:
        """Do one optimiser step on the samples of ``draw``; the lanes are at its first points.

        Afterwards they are at those of ``following``. Returns the mean loss of the samples, on the device.
        """
        sizes, shares = self._division(len(x))
        parts = [(x, y)]
        if self._sampling.split:
            parts = list(zip(torch.split(x, sizes), torch.split(y, sizes), strict=True))
        samples, lanes = self._sampling.samples, len(self.lanes)
        total = len(draw.coefficients)
        pull = draw.pull * shares
        losses: list[Tensor] = []
        for start in range(0, total, lanes):
            stop = min(start + lanes, total)
            self.lanes.grad[: stop - start].zero_()
            for i in range(start, stop):
                part = parts[i % samples] if self._sampling.split else parts[0]
                losses.append(self._gradient(i - start, *part))
            self._workers.add_up([self.lanes.grad[: stop - start]])
            last = stop == total
            coming = self._group(following, 0) if last else self._group(draw, stop)
            if last:
                self.update.apply(pull[:, start:stop], start == 0, lr, coming.coefficients)
            else:
                self.update.accumulate(pull[:, start:stop], start == 0)
                self.update.points(coming.coefficients)
            self._write_held(coming)
        # No product of matrices: autocast would round the loss to bf16.
        mean = losses[0] if total == 1 else (torch.stack(losses) * shares).sum() / self._curves
        self._workers.add_up([mean])
        return mean

    def finish(self) -> None:
        """Give the network its own buffer back."""
        self.lanes.leave()

    def _gradient(self, lane: int, x: Tensor, y: Tensor) -> Tensor:
        """Add the gradient at a lane's point to the lane's; return this process's part of the loss."""
        x, y, fraction = self._workers.share(x, y)
        if len(x) == 0:
            return self.lanes.grad.new_zeros(())
        self.lanes.enter(lane)
        loss = self._loss(self._module(self._flat.inputs(x)), y)
        if fraction != 1.0:
            loss = loss * fraction
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach().to(self.lanes.grad.dtype)

    def _division(self, count: int) -> tuple[list[int], Tensor]:
        """Return the examples of every sample of a curve, and all samples' shares of the batch, shape (n,)."""
        if count not in self._shares:
            k = self._sampling.samples
            if self._sampling.split:
                used = max(1, min(k, count // self._least))
                sizes = [count // used + (i < count % used) for i in range(used)] + [0] * (k - used)
                shares = [size / count for size in sizes]
            else:
                sizes, shares = [], [1.0 / k] * k
            self._shares[count] = (sizes, self.lanes.grad.new_tensor(shares * self._curves))
        return self._shares[count]

    def _group(self, draw: Draw, start: int) -> Draw:
        if len(draw.coefficients) <= len(self.lanes):
            return draw
        part = slice(start, start + len(self.lanes))
        return Draw(draw.coefficients[part], draw.pull[:, part], None if draw.held is None else draw.held[part])

    def _write_held(self, draw: Draw) -> None:
        if self._held is not None and draw.held is not None:
            torch.mm(draw.held, self._held.rows, out=self.lanes.theta[: len(draw.held), self._flat.trained :])


def least_examples(flat: FlatModel, workers: Workers) -> int:
    """Return how many examples a sample must see: batch statistics need two in every process."""
    return (2 if flat.statistics else 1) * workers.size


@dataclass(frozen=True)
class Trained:
    """How a training went: the update used (eager or compiled) and what the user should know."""

    update: str
    notes: tuple[str, ...] = ()


def train_phases(
    flat: FlatModel,
    loss: Loss,
    split: Split,
    P: Tensor,
    phases: Sequence[Phase],
    how: Optimisation,
    *,
    sampling: Sampling | None = None,
    decay: str = "point",
    held: Held | None = None,
    update: str = "auto",
    after_epoch: Callable[[int], None] | None = None,
    report: Report = silent,
) -> Trained:
    """Train P, shape (K, trained columns), in place through all phases.

    Each phase runs its own learning-rate schedule from zero momentum. A phase that leaves the finite numbers
    begins again with half the learning rate, with a LearningRateWarning. Raises NonFiniteError, naming the step,
    if that does not help, or the loss is not finite at the very start.
    """
    workers = present()
    streams = Streams.of(how.seed)
    module = torch.compile(flat.module) if how.compile else flat.module
    run = _Run(
        flat,
        loss,
        split,
        P,
        how,
        sampling or Sampling(),
        decay,
        held,
        update,
        after_epoch,
        report,
        workers,
        streams,
        module,
    )
    gpus = [] if flat.device.type == "cpu" else [flat.device]
    flat.module.train()
    with torch.random.fork_rng(devices=gpus), computing_in(how.precision, flat.device):
        torch.manual_seed(streams.network + workers.rank)
        used = [run.until_finite(phase) for phase in phases if phase.epochs and phase.free]
    return Trained(used[-1] if used else "eager", tuple(run.notes))


@dataclass(frozen=True)
class _Run:
    """What the phases of one training have in common."""

    flat: FlatModel
    loss: Loss
    split: Split
    P: Tensor
    how: Optimisation
    sampling: Sampling
    decay: str
    held: Held | None
    update: str
    after_epoch: Callable[[int], None] | None
    report: Report
    workers: Workers
    streams: Streams
    module: Callable[[Tensor], Tensor]
    notes: list[str] = field(default_factory=list)

    def until_finite(self, phase: Phase) -> str:
        """Train a phase, anew with half the learning rate as often as it diverges; return the update used."""
        lr = self.how.lr if phase.lr is None else phase.lr
        free = list(phase.free)
        before = self.P[free].clone()
        buffers = [(buffer, buffer.clone()) for buffer in self.flat.module.buffers()]
        for attempt in range(_HALVINGS + 1):
            try:
                used = self.once(phase, lr)
                largest = float(self.P.abs().max())  # NaN if any is
                if not largest < _BLOWN_UP * max(1.0, float(before.abs().max())):
                    became = f"grew to {largest:.3g}" if math.isfinite(largest) else "became NaN or infinite"
                    raise DivergedError(f"A weight {became} in training; lower the learning rate.", 2)
                return used
            except DivergedError as error:
                if error.steps <= 1 or attempt == _HALVINGS:
                    raise NonFiniteError(str(error)) from None
                lr /= 2
                self._say(str(error), phase, lr)
                self.P[free] = before
                for buffer, value in buffers:  # a diverging run leaves NaN in running statistics
                    buffer.copy_(value)
        raise AssertionError("the last attempt returns or raises")

    def once(self, phase: Phase, lr: float) -> str:
        """Train a phase through its epochs; DivergedError when it leaves the finite numbers."""
        rule = Rule.of(self.how, self.decay)
        trainer = PathTrainer(
            self.flat,
            self.loss,
            self.P,
            phase,
            rule=rule,
            sampling=self.sampling,
            held=self.held,
            update=self.update,
            module=self.module,
            workers=self.workers,
        )
        measure = None if self.sampling.measure == "uniform" else Measure(self.P, self.held)
        blocks = draws(phase, self.sampling, self.streams.draws, measure)
        try:
            run_epochs(
                self.split,
                _stepper(trainer, phase, self.P, blocks, self.held),
                epochs=phase.epochs,
                batch_size=self.how.batch_size,
                lr=lr,
                order=self.streams.order,
                device=self.flat.device,
                schedule=SCHEDULES[self.how.schedule],
                least=max(2, least_examples(self.flat, self.workers)),
                phase=phase.name,
                after_epoch=self.after_epoch,
                report=self.report,
            )
        finally:
            trainer.finish()
        return trainer.update.name

    def _say(self, error: str, phase: Phase, lr: float) -> None:
        self.notes.append(f"phase {phase.name} diverged and began again at learning rate {lr:g}")
        if self.workers.rank == 0:
            said = error.partition(";")[0]
            warnings.warn(
                f"{said}: the phase begins again with half the learning rate, {lr:g}.",
                LearningRateWarning,
                stacklevel=4,
            )


def _stepper(
    trainer: PathTrainer,
    phase: Phase,
    P: Tensor,
    blocks: Iterator[tuple[Floats, Floats]],
    held: Held | None,
) -> Callable[[Tensor, Tensor, float], Tensor]:
    """Return a step that knows the next one's draws, so that each update can write the next points."""
    coming = on_device(blocks, phase.free, P, held)
    upcoming = next(coming)
    trainer.begin(upcoming)

    def step(x: Tensor, y: Tensor, lr: float) -> Tensor:
        nonlocal upcoming
        current, upcoming = upcoming, next(coming)
        return trainer.step(x, y, lr, current, upcoming)

    return step


def on_device(
    blocks: Iterator[tuple[Floats, Floats]], free: Sequence[int], P: Tensor, held: Held | None = None
) -> Iterator[Draw]:
    """Turn blocks of draws into the tensors of one step after another, in P's type and on its device."""
    for coefficients, weights in blocks:
        pulls = np.swapaxes(coefficients[:, :, list(free)] * weights[:, :, None], 1, 2)
        arrays = [coefficients, pulls] + ([coefficients @ held.matrix] if held is not None else [])
        tensors = [torch.from_numpy(np.ascontiguousarray(a)).to(P.device, P.dtype) for a in arrays]
        for step in range(len(coefficients)):
            yield Draw(tensors[0][step], tensors[1][step], tensors[2][step] if held is not None else None)
