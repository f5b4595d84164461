"""The path-training engine: trains the control points of any family on any network.

For each sample, θ = c(t)ᵀP is written into the network's flat buffer, one plain forward and backward pass fills the
flat gradient g, and the gradient of control point k is c_k g: a rank-one update, without autograd through the control
points. A step draws k parameter values on each curve of its phase. Either each value sees the whole batch, or the batch
is split between them, which costs one pass instead of k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from mgraph.fields import Fields, divided, examples_in
from mgraph.network.flat import FlatModel
from mgraph.progress import ProgressCallback, silent
from mgraph.train.batches import Batches, batches_per_pass
from mgraph.train.controlpoints import Held
from mgraph.train.draws import Draw, DrawStream
from mgraph.train.driver import Driver
from mgraph.train.losses import Loss
from mgraph.train.objective import Objective
from mgraph.train.parallel import Workers, present
from mgraph.train.phases import Phase
from mgraph.train.sam import uphill
from mgraph.train.sampling import Sampling
from mgraph.train.schedules import Span, beginning_of, schedule_of
from mgraph.train.settings import Optimisation
from mgraph.train.snapshots import named, to_array, to_tensor, with_prefix
from mgraph.train.state import Arrays, Checkpointer
from mgraph.train.stepper import DivergedError, Stepper, TrainingSegment
from mgraph.train.updates import EagerUpdate, UpdateRule, choose_update
from mgraph.train.watch import Watch

_MEMORY = 0.98  # decay per step of the running mean loss along a path

_MOST_LANES = 8  # points in memory at once; more samples are processed in groups

_BLOWN_UP = 1e6  # times the initial weights: anything above counts as infinite


@dataclass(frozen=True)
class PathOptions:
    """What the engine needs to know besides the settings.

    ``sampling`` is how parameters of the path are drawn, ``decay`` what weight decay acts on (see UpdateRule), ``held``
    the untrained columns, ``update`` one of auto, eager and compiled; ``watches`` observe the training. With ``sam``,
    the gradient of every sample is taken at this distance uphill.
    """

    sampling: Sampling = Sampling()
    decay: str = "point"
    held: Held | None = None
    update: str = "auto"
    watches: Sequence[Watch] = ()
    sam: float | None = None


class PathTrainer:
    """Moves the free rows of P, shape (K, trained columns), by steps with one or more samples per batch."""

    def __init__(
        self,
        flat: FlatModel,
        loss: Loss,
        P: Tensor,
        phase: Phase,
        *,
        rule: UpdateRule | None = None,
        options: PathOptions = PathOptions(),
        module: Callable[[Tensor], Tensor] | None = None,
        workers: Workers | None = None,
    ) -> None:
        """Start without momentum; weights decay as ``rule`` says. ``module`` is a compiled network, if any."""
        self._flat, self._loss, self._held = flat, loss, options.held
        self._sampling, self._sam = options.sampling, options.sam
        self._curves = len(phase.curves)
        self._module = module or flat.module
        self._workers = workers or Workers()
        samples = self._sampling.samples * self._curves
        self.lanes = flat.lanes(min(samples, _MOST_LANES))
        choice = "eager" if self._sampling.exact else options.update
        kind = choose_update(P, choice, rule or UpdateRule(), free=len(phase.free), samples=len(self.lanes))
        trained = self.lanes.theta[:, : flat.trained]
        self.update: EagerUpdate = kind(P, phase.free, trained, self.lanes.grad, rule or UpdateRule(), flat.views)
        self._least = least_examples(flat, self._workers)
        self._shares: dict[int, tuple[list[int], Tensor]] = {}
        self._free = list(phase.free)
        self._level: Tensor | None = None  # running mean of the loss under the measure

    def begin(self, draw: Draw) -> None:
        """Write the first points; every step writes the points of the next one."""
        first = self._group(draw, 0)
        self.update.points(first.coefficients)
        self._write_held(first)

    def step(self, x: Fields, y: Fields, lr: float, draw: Draw, following: Draw) -> Tensor:
        """Do one optimiser step on the samples of ``draw``; the lanes are at its first points.

        Afterwards they are at those of ``following``. Returns the mean loss of the samples, on the device.
        """
        sizes, shares = self._division(examples_in(x))
        parts = [(x, y)]
        if self._sampling.split:
            parts = list(zip(divided(x, sizes), divided(y, sizes), strict=True))
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
                if self._sam is not None:
                    self._sharpen(i - start, *part, self._sam)
            self._workers.add_up([self.lanes.grad[: stop - start]])
            last = stop == total
            coming = self._group(following, 0) if last else self._group(draw, stop)
            if last:
                stretch = None if draw.slopes is None else self._stretch(draw, torch.stack(losses), shares)
                self.update.apply(pull[:, start:stop], start == 0, lr, coming.coefficients, stretch)
            else:
                self.update.accumulate(pull[:, start:stop], start == 0)
                self.update.points(coming.coefficients)
            self._write_held(coming)
        # Not a matrix product: autocast would round the loss to bf16.
        mean = losses[0] if total == 1 else (torch.stack(losses) * shares).sum() / self._curves
        self._workers.add_up([mean])
        return mean

    def state(self) -> dict[str, Tensor]:
        """Return, between two steps, what the next one depends on besides P and the network."""
        return self.update.state() | ({} if self._level is None else {"level": self._level})

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state, after P and the points."""
        kept = dict(state)
        level = kept.pop("level", None)
        self._level = None if level is None else level.to(self.lanes.grad)
        self.update.restore(kept)

    def finish(self) -> None:
        """Give the network its own buffer back."""
        self.lanes.leave()

    def _gradient(self, lane: int, x: Fields, y: Fields) -> Tensor:
        """Add the gradient at a lane's point to the lane's gradient; return this process's part of the loss."""
        x, y, fraction = self._workers.share(x, y)
        if examples_in(x) == 0:
            return self.lanes.grad.new_zeros(())
        self.lanes.enter(lane)
        loss = self._loss(self._flat.run(x, self._module), y)
        if fraction != 1.0:
            loss = loss * fraction
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach().to(self.lanes.grad.dtype)

    def _sharpen(self, lane: int, x: Fields, y: Fields, radius: float) -> None:
        """Replace the gradient at a lane's point by the one a step uphill."""
        grad, theta = self.lanes.grad[lane], self.lanes.theta[lane, : self._flat.trained]
        self._workers.add_up([grad])
        with uphill(theta, grad, radius, self._flat.statistics):
            self._gradient(lane, x, y)

    def _stretch(self, draw: Draw, losses: Tensor, shares: Tensor) -> Tensor:
        """Return the measure's part of the free rows' gradient, as combinations of all rows, shape (F, K).

        The objective is F = ∫ L q dt / ∫ q dt ([G] eq. 1). Besides the part that moves the points, its gradient
        contains Σ_i s_i (L_i - F) ∂q_i/∂P / q̄, which shortens the path where the loss is above its mean. F is
        estimated by the running mean over the steps so far.
        """
        assert draw.slopes is not None
        assert draw.weights is not None
        self._workers.add_up([losses])
        now = (losses * shares * draw.weights).sum() / self._curves
        self._level = now if self._level is None else torch.lerp(now, self._level, _MEMORY)
        excess = (losses - self._level) * shares
        # Not a matrix product: autocast would round it to bf16.
        return (draw.slopes[:, self._free, None] * excess[:, None, None] * draw.slopes[:, None, :]).sum(dim=0)

    def _division(self, count: int) -> tuple[list[int], Tensor]:
        """Return the number of examples for each sample of a curve, and all samples' batch shares, shape (n,)."""
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
        held = None if draw.held is None else draw.held[part]
        return Draw(draw.coefficients[part], draw.pull[:, part], held, draw.weights, draw.slopes)

    def _write_held(self, draw: Draw) -> None:
        if self._held is not None and draw.held is not None:
            torch.mm(draw.held, self._held.rows, out=self.lanes.theta[: len(draw.held), self._flat.trained :])


def least_examples(flat: FlatModel, workers: Workers) -> int:
    """Return how many examples a sample must see at least: batch statistics need two in every process."""
    return flat.least_batch * workers.size


def check_schedules(flat: FlatModel, split: Sized, phases: Sequence[Phase], how: Optimisation) -> None:
    """Raise InputError early for a schedule with a place beyond the end of a phase."""
    epoch = batches_per_pass(len(split), how.batch_size, max(2, least_examples(flat, present())))
    for phase in phases:
        if phase.epochs and phase.free:
            schedule_of(how.schedule, Span(phase.epochs * epoch, epoch))


@dataclass(frozen=True)
class Trained:
    """How training went: the update used (eager or compiled), notes for the user, and the budget that stopped it."""

    update: str
    notes: tuple[str, ...] = ()
    stopped: str | None = None


def train_phases(
    objective: Objective,
    P: Tensor,
    phases: Sequence[Phase],
    how: Optimisation,
    options: PathOptions = PathOptions(),
    *,
    after_step: Callable[[int], None] | None = None,
    progress: ProgressCallback = silent,
    checkpointer: Checkpointer | None = None,
) -> Trained:
    """Train P, shape (K, trained columns), in place through all phases.

    Each phase runs its own learning-rate schedule, starting from zero momentum. A phase that produces non-finite
    numbers is started again with half the learning rate and a LearningRateWarning. Raises NonFiniteError, naming the
    step, if that does not help or the loss is not finite at the very start.

    ``after_step`` is called with the number of every step of a phase. If ``checkpointer`` has a state, P and the
    network must be as they were when that training began; training continues from the state to the same result, bit for
    bit on a CPU. States are saved between steps, and only in a single process.
    """
    least = max(2, least_examples(objective.flat, present()))
    driver = Driver(objective.flat, objective.split, how, least=least, checkpointer=checkpointer, progress=progress)
    run = _Phases(driver, objective, P, phases, how, options, after_step)
    driver.run(run)
    return Trained(run.used, tuple(driver.notes), driver.stopped)


class _Phases(Stepper):
    """The phases of one training run, each with its own PathTrainer."""

    def __init__(
        self,
        driver: Driver,
        objective: Objective,
        P: Tensor,
        phases: Sequence[Phase],
        how: Optimisation,
        options: PathOptions,
        after_step: Callable[[int], None] | None,
    ) -> None:
        self._driver, self._objective, self._P, self._phases = driver, objective, P, phases
        self._how, self._options, self._watches, self._after_step = how, options, options.watches, after_step
        self._lr = 0.0  # of the last step
        self._number = 0  # of the next or current phase
        self._first = min((n for n, phase in enumerate(phases) if phase.epochs and phase.free), default=0)
        self._moving = sorted({row for phase in phases for row in phase.free})
        self._trainer: PathTrainer | None = None
        self._saved: tuple[Mapping[str, Any], Arrays] = {}, {}
        self.used = "eager"

    @override
    def start(self) -> None:
        """Do nothing: the first phase needs no preparation."""

    @override
    def segment(self) -> TrainingSegment | None:
        """Return the next phase in which anything moves."""
        while self._number < len(self._phases):
            phase = self._phases[self._number]
            if phase.epochs and phase.free:
                lr = self._how.lr if phase.lr is None else phase.lr
                whole = phase.epochs * self._driver.batches.per_pass
                steps = whole if phase.steps is None else phase.steps
                schedule = schedule_of(self._how.schedule, Span(whole, self._driver.batches.per_pass))
                if steps < whole:
                    schedule = beginning_of(schedule, steps / whole)
                return TrainingSegment(phase.name, steps, lr, schedule=schedule)
            self._number += 1
        return None

    @override
    def begin(self, segment: TrainingSegment, *, anew: bool) -> None:
        """Set up the trainer and its draws."""
        phase, driver = self._phases[self._number], self._driver
        self._trainer = PathTrainer(
            self._objective.flat,
            self._objective.loss,
            self._P,
            phase,
            rule=UpdateRule.of(self._how, self._options.decay),
            options=self._options,
            module=driver.module,
            workers=driver.workers,
        )
        self._stream = DrawStream(phase, self._options.sampling, driver.streams.draws, self._P, self._options.held)
        if anew:
            driver.batches.begin_pass()
        else:
            self._stream.again(self._saved[0]["draws"], named(self._saved[1], "draws."))
        self._upcoming = next(self._stream)
        self._trainer.begin(self._upcoming)
        if not anew:
            arrays = named(self._saved[1], "update.")
            self._trainer.restore({name: to_tensor(array) for name, array in arrays.items()})

    @override
    def step(self, batches: Batches, lr: float) -> Tensor:
        """Do one step, with the next step's draws already known so that the update can write the next points."""
        assert self._trainer is not None
        current, self._upcoming = self._upcoming, next(self._stream)
        self._lr = lr
        return self._trainer.step(*next(batches), lr, current, self._upcoming)

    @override
    def after(self, done: int) -> None:
        """Notify the watches and the caller."""
        for watch in self._watches:
            watch.after(done, self._lr)
        if self._after_step is not None:
            self._after_step(done)

    @override
    def seen(self, losses: Sequence[float]) -> None:
        """Notify the watches."""
        for watch in self._watches:
            watch.seen(losses)

    @override
    def end(self, segment: TrainingSegment, why: str | None) -> None:
        """Check the weights: the last update may have made them non-finite after a last finite loss."""
        assert self._trainer is not None
        largest = float(self._P.abs().max())  # NaN if any weight is
        if not largest < _BLOWN_UP * max(1.0, float(self._before.abs().max())):
            became = f"grew to {largest:.3g}" if math.isfinite(largest) else "became NaN or infinite"
            raise DivergedError(f"A weight {became} in training; lower the learning rate.", segment.steps)
        self.used = self._trainer.update.name
        self.leave()
        self._number += 1
        if self._driver.stopped is not None:
            self._driver.notes.append(self._driver.stopped)
            self._number = len(self._phases)

    @override
    def mark(self) -> None:
        """Remember the rows that move."""
        self._before = self._P[list(self._phases[self._number].free)]

    @override
    def back(self) -> None:
        self.leave()
        self._P[list(self._phases[self._number].free)] = self._before
        for watch in self._watches:
            watch.begin()

    @override
    def state(self) -> tuple[Mapping[str, Any], Arrays]:
        """Return the control points, the optimiser, the draws, and where the phase began."""
        assert self._trainer is not None
        drawn, draws = self._stream.state()
        tensors = {"points": self._P[self._moving]}
        if self._number > self._first:  # the beginning of the first phase is known when training resumes
            tensors["before"] = self._before
        tensors |= {f"update.{name}": tensor for name, tensor in self._trainer.state().items()}
        arrays = {name: to_array(tensor) for name, tensor in tensors.items()} | with_prefix("draws.", draws)
        watched = [watch.state() for watch in self._watches]
        for number, (_, noted) in enumerate(watched):
            arrays |= with_prefix(f"watch.{number}.", noted)
        values = {"phase": self._number, "draws": drawn, "update": self._trainer.update.name}
        return values | {"watches": [noted for noted, _ in watched]}, arrays

    @override
    def load(self, values: Mapping[str, Any], arrays: Arrays) -> None:
        """Restore the control points; the rest is restored once the trainer exists."""
        self._number, self._saved = values["phase"], (values, arrays)
        self._options = replace(self._options, update=values["update"])
        self._before = self._P[list(self._phases[self._number].free)]
        if "before" in arrays:
            self._before = to_tensor(arrays["before"]).to(self._P)
        self._P[self._moving] = to_tensor(arrays["points"]).to(self._P)
        # A state from before watches existed has none.
        for number, (watch, noted) in enumerate(zip(self._watches, values.get("watches", ()), strict=False)):
            watch.load(noted, named(arrays, f"watch.{number}."))

    @override
    def leave(self) -> None:
        """Give the network its own buffer back."""
        if self._trainer is not None:
            self._trainer.finish()
