"""The path-training engine: trains the control points of any family on any network.

Per sample: θ = c(t)ᵀP goes into the network's flat buffer, one plain forward and backward fills the flat
gradient g, and the gradient of control point k is c_k g: rank one, never autograd through the control points.
A step draws k parameter values on each curve of its phase; each of them sees the whole batch, or the batch is
split between them, which costs one pass instead of k.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mgraph.data.splits import Split
from mgraph.errors import MGraphWarning, NonFiniteError
from mgraph.network.flat import FlatModel
from mgraph.network.precision import computing_in
from mgraph.progress import Report, silent
from mgraph.train.controlpoints import Held
from mgraph.train.draws import Draw, DrawStream
from mgraph.train.loop import DivergedError, Position, Streams, run_epochs
from mgraph.train.losses import Loss
from mgraph.train.parallel import Workers, present
from mgraph.train.phases import Phase
from mgraph.train.sampling import Sampling
from mgraph.train.schedules import SCHEDULES
from mgraph.train.settings import Optimisation
from mgraph.train.standing import Attempt, Before, Saved, buffer_bytes, load_buffer_bytes
from mgraph.train.state import InMemory, Keeper, State
from mgraph.train.updates import EagerUpdate, Rule, choose_update

_MEMORY = 0.98  # of the mean loss along a path, from step to step

_MOST_LANES = 8  # points in memory at once; more samples than these go in groups

_HALVINGS = 6  # of the learning rate, before a diverging phase is given up
_BLOWN_UP = 1e6  # times what the weights were: as good as infinite


class LearningRateWarning(MGraphWarning):
    """A phase diverged and was begun again with half the learning rate."""


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
        choice = "eager" if self._sampling.exact else update
        kind = choose_update(P, choice, rule or Rule(), free=len(phase.free), samples=len(self.lanes))
        trained = self.lanes.theta[:, : flat.trained]
        self.update: EagerUpdate = kind(P, phase.free, trained, self.lanes.grad, rule or Rule())
        self._least = least_examples(flat, self._workers)
        self._shares: dict[int, tuple[list[int], Tensor]] = {}
        self._free = list(phase.free)
        self._level: Tensor | None = None  # running mean of the loss under the measure

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
                stretch = None if draw.slopes is None else self._stretch(draw, torch.stack(losses), shares)
                self.update.apply(pull[:, start:stop], start == 0, lr, coming.coefficients, stretch)
            else:
                self.update.accumulate(pull[:, start:stop], start == 0)
                self.update.points(coming.coefficients)
            self._write_held(coming)
        # No product of matrices: autocast would round the loss to bf16.
        mean = losses[0] if total == 1 else (torch.stack(losses) * shares).sum() / self._curves
        self._workers.add_up([mean])
        return mean

    def state(self) -> dict[str, Tensor]:
        """Return what the next step depends on besides P and the network, between two steps."""
        return self.update.state() | ({} if self._level is None else {"level": self._level})

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back a state, after P and the points."""
        kept = dict(state)
        level = kept.pop("level", None)
        self._level = None if level is None else level.to(self.lanes.grad)
        self.update.restore(kept)

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

    def _stretch(self, draw: Draw, losses: Tensor, shares: Tensor) -> Tensor:
        """Return what of the free rows' gradient comes from the measure, as combinations of all rows, shape (F, K).

        The objective is F = ∫ L q dt / ∫ q dt ([G] eq. 1); besides the part that moves the points its gradient has
        Σ_i s_i (L_i - F) ∂q_i/∂P / q̄: towards a shorter way where the loss is above its mean. F is taken from the
        running mean of the steps so far.
        """
        assert draw.slopes is not None
        assert draw.weights is not None
        self._workers.add_up([losses])
        now = (losses * shares * draw.weights).sum() / self._curves
        self._level = now if self._level is None else torch.lerp(now, self._level, _MEMORY)
        excess = (losses - self._level) * shares
        # No product of matrices: autocast would round it to bf16.
        return (draw.slopes[:, self._free, None] * excess[:, None, None] * draw.slopes[:, None, :]).sum(dim=0)

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
        held = None if draw.held is None else draw.held[part]
        return Draw(draw.coefficients[part], draw.pull[:, part], held, draw.weights, draw.slopes)

    def _write_held(self, draw: Draw) -> None:
        if self._held is not None and draw.held is not None:
            torch.mm(draw.held, self._held.rows, out=self.lanes.theta[: len(draw.held), self._flat.trained :])


def least_examples(flat: FlatModel, workers: Workers) -> int:
    """Return how many examples a sample must see: batch statistics need two in every process."""
    return flat.least_batch * workers.size


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
    keeper: Keeper | None = None,
) -> Trained:
    """Train P, shape (K, trained columns), in place through all phases.

    Each phase runs its own learning-rate schedule from zero momentum. A phase that leaves the finite numbers
    begins again with half the learning rate, with a LearningRateWarning. Raises NonFiniteError, naming the step,
    if that does not help, or the loss is not finite at the very start.

    Where ``keeper`` has a state, P and the network must be what they were when that training began; it goes on from
    the state to the same result, on a CPU bit for bit. States are saved between steps, by a process on its own.
    """
    workers = present()
    streams = Streams.of(how.seed)
    keeper = keeper if keeper is not None and workers.size == 1 else InMemory()
    module = torch.compile(flat.module) if how.compile else flat.module
    saved = None if keeper.last is None else Saved(keeper.last)
    run = _Run(
        flat,
        loss,
        split,
        P,
        how,
        sampling or Sampling(),
        decay,
        held,
        update if saved is None else saved.values["update"],
        after_epoch,
        report,
        workers,
        streams,
        module,
        keeper,
        [] if saved is None else list(saved.values["notes"]),
        tuple(sorted({row for phase in phases for row in phase.free})),
        min((number for number, phase in enumerate(phases) if phase.epochs and phase.free), default=0),
    )
    gpus = [] if flat.device.type == "cpu" else [flat.device]
    flat.module.train()
    used = "eager"
    with torch.random.fork_rng(devices=gpus), computing_in(how.precision, flat.device):
        torch.manual_seed(streams.network + workers.rank)
        for number, phase in enumerate(phases):
            if phase.epochs and phase.free and (saved is None or number >= saved.values["phase"]):
                used = run.until_finite(number, phase, saved)
                saved = None
    return Trained(used, tuple(run.notes))


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
    keeper: Keeper
    notes: list[str]
    moving: tuple[int, ...]
    first: int

    def until_finite(self, number: int, phase: Phase, saved: Saved | None) -> str:
        """Train a phase, anew with half the learning rate as often as it diverges; return the update used."""
        lr = self.how.lr if phase.lr is None else phase.lr
        attempt = Attempt(number, 0, lr, self._present(phase))
        if saved is not None:
            attempt = self._restore(saved, attempt)
        while True:
            try:
                used = self.once(phase, attempt, saved)
                largest = float(self.P.abs().max())  # NaN if any is
                if not largest < _BLOWN_UP * max(1.0, float(attempt.before.rows.abs().max())):
                    became = f"grew to {largest:.3g}" if math.isfinite(largest) else "became NaN or infinite"
                    raise DivergedError(f"A weight {became} in training; lower the learning rate.", 2)
                return used
            except DivergedError as error:
                if error.steps <= 1 or attempt.number == _HALVINGS:
                    raise NonFiniteError(str(error)) from None
                attempt, saved = replace(attempt, number=attempt.number + 1, lr=attempt.lr / 2), None
                self._say(str(error), phase, attempt.lr)
                self.P[list(phase.free)] = attempt.before.rows
                load_buffer_bytes(
                    self.flat.module, attempt.before.buffers
                )  # a diverging run leaves NaN in running statistics

    def _present(self, phase: Phase) -> Before:
        return Before(self.P[list(phase.free)], buffer_bytes(self.flat.module))

    def _restore(self, saved: Saved, attempt: Attempt) -> Attempt:
        """Put control points and buffers where they were, and return the attempt that was under way."""
        before = attempt.before
        if "before.points" in saved:
            before = Before(saved.tensor("before.points").to(self.P), saved.tensors("before.buffer."))
        self.P[list(self.moving)] = saved.tensor("points").to(self.P)
        load_buffer_bytes(self.flat.module, saved.tensors("buffer."))
        return replace(attempt, number=saved.values["attempt"], lr=saved.values["lr"], before=before)

    def once(self, phase: Phase, attempt: Attempt, saved: Saved | None) -> str:
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
        stream = DrawStream(phase, self.sampling, self.streams.draws, self.P, self.held)
        if saved is not None:
            stream.again(saved.values["draws"], saved.arrays("draws."))
        upcoming = next(stream)
        trainer.begin(upcoming)
        at = None if saved is None else self._go_on(saved, trainer)

        def step(x: Tensor, y: Tensor, lr: float) -> Tensor:
            # It knows the next one's draws, so that each update can write the next points.
            nonlocal upcoming
            current, upcoming = upcoming, next(stream)
            return trainer.step(x, y, lr, current, upcoming)

        def save(position: Position) -> None:
            self.keeper.save(self._state(phase, attempt, trainer, stream, position))

        try:
            run_epochs(
                self.split,
                step,
                epochs=phase.epochs,
                batch_size=self.how.batch_size,
                lr=attempt.lr,
                order=self.streams.order,
                device=self.flat.device,
                schedule=SCHEDULES[self.how.schedule],
                least=max(2, least_examples(self.flat, self.workers)),
                phase=phase.name,
                after_epoch=self.after_epoch,
                report=self.report,
                at=at,
                due=lambda: self.keeper.due,
                save=save,
            )
        finally:
            trainer.finish()
        return trainer.update.name

    def _state(
        self, phase: Phase, attempt: Attempt, trainer: PathTrainer, stream: DrawStream, position: Position
    ) -> State:
        """Write down all that the coming steps depend on."""
        drawn, arrays = stream.state()
        tensors = {"points": self.P[list(self.moving)], "order": position.order, "torch": torch.get_rng_state()}
        if self.flat.device.type == "cuda":
            tensors["cuda"] = torch.cuda.get_rng_state(self.flat.device)
        if position.pending:
            tensors["pending"] = torch.stack(position.pending)
        tensors |= {f"update.{name}": tensor for name, tensor in trainer.state().items()}
        tensors |= {f"buffer.{name}": buffer for name, buffer in buffer_bytes(self.flat.module).items()}
        if attempt.phase > self.first:  # the first one's is known when the training goes on
            tensors["before.points"] = attempt.before.rows
            tensors |= {f"before.buffer.{name}": buffer for name, buffer in attempt.before.buffers.items()}
        values = {
            "phase": attempt.phase,
            "attempt": attempt.number,
            "lr": attempt.lr,
            "epoch": position.epoch,
            "batch": position.batch,
            "first": position.first,
            "draws": drawn,
            "notes": list(self.notes),
            "update": trainer.update.name,
        }
        arrays = {f"draws.{name}": array for name, array in arrays.items()}
        arrays |= {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        return State(values, arrays, f"step {position.done} of {position.total} ({phase.name})")

    def _go_on(self, saved: Saved, trainer: PathTrainer) -> Position:
        """Take back the optimiser and torch's generators, and return the position in the phase."""
        trainer.restore(saved.tensors("update."))
        torch.set_rng_state(saved.tensor("torch"))
        if self.flat.device.type == "cuda":
            torch.cuda.set_rng_state(saved.tensor("cuda"), self.flat.device)
        pending = saved.tensors("pending")
        return Position(
            saved.values["epoch"],
            saved.values["batch"],
            saved.values["first"],
            saved.tensor("order"),
            tuple(pending[""].to(self.flat.device).unbind()) if pending else (),
        )

    def _say(self, error: str, phase: Phase, lr: float) -> None:
        self.notes.append(f"phase {phase.name} diverged and began again at learning rate {lr:g}")
        if self.workers.rank == 0:
            said = error.partition(";")[0]
            warnings.warn(
                f"{said}: the phase begins again with half the learning rate, {lr:g}.",
                LearningRateWarning,
                stacklevel=4,
            )
