"""A walk through weight space, tick by tick: move a little, train until the loss is low, keep points on the way.

These are the ticks of LLPF [L, Alg. 1 and 2]; the leg decides how a tick moves. Everything that a tick depends on can
be saved between two ticks: an interrupted walk continues bit for bit (on a CPU), in the phase it had reached.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from mgraph.data.splits import Split
from mgraph.errors import NonFiniteError
from mgraph.families import Floats
from mgraph.methods.llpf.legs import Leg, TickPhase, TowardsOrigin, Units
from mgraph.methods.llpf.tensors import scale
from mgraph.methods.llpf.thinning import Kept, Thinner
from mgraph.methods.llpf.walk_settings import WalkSettings
from mgraph.methods.llpf.walklog import Log, Walked
from mgraph.network.flat import FlatModel
from mgraph.network.precision import computing_in
from mgraph.progress import ProgressCallback, silent
from mgraph.train.augmentation import augmentation
from mgraph.train.batches import Batches
from mgraph.train.driver import Driver
from mgraph.train.losses import Loss
from mgraph.train.objective import Objective
from mgraph.train.snapshots import named, with_prefix
from mgraph.train.state import Arrays, Checkpointer
from mgraph.train.stepper import Stepper, TrainingSegment

POINT = "point"  # name in the checkpointer of a kept point's canonical parameters
_BLOWN_UP = 1e4  # times the first loss: anything above counts as infinite
_ATTEMPTS, _RECOVERY = 4, 1.1  # attempts per tick; factor by which the learning rate recovers after each good tick


@dataclass(frozen=True)
class Stretch:
    """A leg that begins where the stretch before it ended and goes through its phases in order."""

    name: str
    leg: Callable[[Tensor], Leg]  # makes the leg from the row where it starts
    phases: tuple[TickPhase, ...]


class Walk(Stepper):
    """Walks the network's own row from a start through some stretches; a step is a tick, a segment a phase.

    A tick whose loss climbs is taken back here; phases are never repeated.
    """

    halvings = 0
    saves_between = True

    def __init__(
        self,
        objective: Objective,
        units: Units,
        how: WalkSettings,
        threshold: float,
        *,
        measure: Callable[[], float],
        checkpointer: Checkpointer | None = None,
        progress: ProgressCallback = silent,
    ) -> None:
        """``measure`` returns the loss of the network as it stands; kept points are appended to ``checkpointer``."""
        self._flat, self._loss, self._units, self._how = objective.flat, objective.loss, units, how
        self._threshold, self._measure = threshold, measure
        self._driver = Driver(objective.flat, objective.split, how, checkpointer=checkpointer, progress=progress)
        self._x = self._flat.theta
        self._aside, self._back = torch.empty_like(self._x), torch.empty_like(self._x)
        self._thinner = Thinner(how.keep_every, how.piece_error, self._loss_at, self._keep)
        self._kept: list[Kept] = []
        self._log = Log()
        self._reasons: list[str] = []
        self._tick = self._stretch = self._phase = 0  # ticks in total, and the position in the plan
        self._from = -1  # index of the kept point where the current stretch began; -1: the start
        self._before = np.zeros(len(units))  # distances when the current phase began
        self._memory: dict[str, Floats] = {}  # of the leg during which the state was saved
        self._leg: Leg | None = None  # of the current stretch
        self._elapsed = 0.0
        self._first_loss = self._last_loss = math.nan
        self._rate, self._again = 1.0, 0  # factor on the learning rate; ticks taken back in this phase

    def run(self, start: Tensor, stretches: Sequence[Stretch]) -> Walked:
        """Walk from ``start``, or continue from the checkpointer's last state.

        Raises NonFiniteError, naming the tick, when a loss is no longer finite.
        """
        self._start, self._stretches = start, stretches
        self._driver.run(self)
        leg = self._present_leg()
        kept, reasons = tuple(self._kept), tuple(self._reasons)
        return Walked(self._start_loss, kept, self._log, reasons, leg.distances(), leg, self._driver.stopped)

    def close(self, destination: Tensor) -> Kept:
        """Measure the straight piece from the last point to the end of the path, which counts as one more tick."""
        with computing_in(self._how.precision, self._flat.device):
            return self._thinner.closing(destination, self._tick + 1)

    @override
    def start(self) -> None:
        """Put the network at the start."""
        self._x.copy_(self._start)
        self._start_loss = self._loss_at(self._x)
        self._thinner.begin(self._start, 0, self._start_loss)

    @override
    def segment(self) -> TrainingSegment | None:
        """Return the next phase of this stretch, or None if there is none left."""
        phases = self._stretches[self._stretch].phases
        if self._phase == len(phases):
            return None
        phase = phases[self._phase]
        return TrainingSegment(phase.name, phase.ticks, self._how.lr)

    @override
    def begin(self, segment: TrainingSegment, *, anew: bool) -> None:
        """Set up what moves and what is trained in the phase."""
        phase = self._stretches[self._stretch].phases[self._phase]
        leg = self._present_leg()
        leg.begin(phase, anew=anew)
        flat, names = self._flat, self._flat.names
        weights = np.flatnonzero(self._units.weight)
        self._weight_gradients = [flat.grad[flat.columns(names[i])] for i in weights]
        moving = np.flatnonzero(phase.moving[self._units.of])
        self._trained, self._learning = None, np.arange(len(names))
        if self._how.train == "active" and len(moving) < len(names):
            self._learning = moving
            columns = [flat.columns(names[i]) for i in moving]
            self._trained = [self._x[c] for c in columns], [flat.grad[c] for c in columns]
        self._distances = leg.distances()
        if anew:
            self._before, self._again = self._distances, 0

    @override
    def finished(self) -> str | None:
        """Return "arrived" if the layers have arrived."""
        assert self._leg is not None
        return "arrived" if self._leg.finished(self._distances) else None

    @override
    def step(self, batches: Batches, lr: float) -> float:
        """Do one tick: move, then train on as many batches as it takes."""
        leg = self._leg
        assert leg is not None
        lengths = leg.lengths(self._distances, self._before)
        loss, iterations = self._moved(leg, self._distances, lengths)
        leg.settle()
        self._distances = leg.distances()
        self._tick += 1
        self._elapsed = self._driver.seconds
        self._note(loss, iterations, lengths, leg)
        self._thinner.add(self._tick, self._x)
        return loss

    @override
    def end(self, segment: TrainingSegment, why: str | None) -> None:
        """Keep the point where the phase ended, and go on to the next phase or stretch."""
        self._thinner.settle(self._tick, self._x)
        again = f", {self._again} times taken back at half the learning rate" if self._again else ""
        reason = why or f"{segment.steps} ticks spent"
        self._reasons.append(f"{segment.name}: {reason} after {self._driver.done} ticks{again}")
        self._phase += 1
        if self._phase == len(self._stretches[self._stretch].phases) and self._stretch < len(self._stretches) - 1:
            self._stretch, self._phase, self._from, self._leg = self._stretch + 1, 0, len(self._kept) - 1, None

    @override
    def mark(self) -> None:
        """Do nothing: phases are never repeated, only single ticks."""

    @override
    def back(self) -> None:
        """Do nothing: phases are never repeated."""

    @override
    def leave(self) -> None:
        """Do nothing: the walk uses the network's own row."""

    def _present_leg(self) -> Leg:
        """Return the leg of this stretch, set up as it was when the stretch began."""
        if self._leg is None:
            row = self._start if self._from < 0 else self._point(self._from)
            present = self._aside.copy_(self._x)
            self._x.copy_(row)
            self._leg = self._stretches[self._stretch].leg(row)
            self._x.copy_(present)
            if self._memory:
                self._leg.recall(self._memory)
            self._memory = {}
        return self._leg

    def _moved(self, leg: Leg, distances: Floats, lengths: Floats) -> tuple[float, int]:
        """Move and train, again and more gently if the loss climbs; return the last loss and the total iterations.

        A single step too far into a sharp region undoes what a thousand ticks have kept low. If the loss climbs in
        every attempt, the lowest one counts; raises NonFiniteError if none is finite.
        """
        if self._how.take_back is None:
            leg.move(distances, lengths)
            return self._train(leg.rates())
        bound = self._how.take_back * max(self._threshold, self._last_loss)  # NaN at first, then the threshold counts
        self._back.copy_(self._x)
        lowest, spent = math.inf, 0
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._x.copy_(self._back)
                self._rate, self._again = self._rate / 2.0, self._again + 1
            leg.move(distances, lengths)
            try:
                loss, iterations = self._train(leg.rates())
            except NonFiniteError:
                if attempt == _ATTEMPTS - 1 and lowest == math.inf:
                    raise
                loss, iterations = math.inf, self._how.max_iters
            spent += iterations
            if loss <= bound:
                break
            if loss < lowest:
                lowest = loss
                self._aside.copy_(self._x)
        else:
            loss = lowest
            self._x.copy_(self._aside)
        if attempt == 0:
            self._rate = min(1.0, self._rate * _RECOVERY)
        self._last_loss = loss
        return loss, spent

    def _train(self, rates: Floats | None) -> tuple[float, int]:
        """Train until the loss is low enough; return the mean of the last losses and the number of iterations."""
        how = self._how
        lr = self._rate * (how.lr if rates is None or how.origin_lr is None else how.origin_lr)
        optimiser = None if how.optimizer == "sgd" and how.momentum == 0 else self._optimiser(lr, rates)
        recent: deque[float] = deque(maxlen=how.min_iters)
        for iteration in range(1, how.max_iters + 1):
            recent.append(self._gradient())
            if optimiser is not None:
                optimiser.step()
            else:
                self._descend(lr, rates)
            mean = sum(recent) / len(recent)
            if iteration >= how.min_iters and mean < self._threshold:
                break
        return mean, iteration

    def _descend(self, lr: float, rates: Floats | None) -> None:
        """Do one step of plain SGD."""
        if rates is not None:
            scale(self._weight_gradients, rates)
        if self._trained is None:
            self._x.add_(self._flat.grad, alpha=-lr)
        else:
            torch._foreach_add_(*self._trained, alpha=-lr)

    def _optimiser(self, lr: float, rates: Floats | None) -> torch.optim.Optimizer:
        """Make a torch optimiser for what is trained, with empty momentum: the move has made the old one useless."""
        how, flat = self._how, self._flat
        factors = np.ones(len(flat.names))
        if rates is not None:
            factors[self._units.weight] = rates
        groups: list[dict[str, Any]] = []
        for i in self._learning.tolist():
            columns = flat.columns(flat.names[i])
            parameter = torch.nn.Parameter(self._x[columns])
            parameter.grad = flat.grad[columns]
            groups.append({"params": [parameter], "lr": lr * factors[i]})
        if how.optimizer == "adamw":
            return torch.optim.AdamW(groups, betas=(how.momentum, how.beta2), weight_decay=0.0)
        return torch.optim.SGD(groups, momentum=how.momentum)

    def _gradient(self) -> float:
        """Compute the flat gradient on the next batch, and return the batch's loss."""
        flat = self._flat
        x, y, fraction = self._driver.workers.share(*next(self._driver.batches))
        flat.grad.zero_()
        loss = self._loss(flat.run(x, self._driver.module), y)
        if fraction != 1.0:
            loss = loss * fraction
        loss.backward()  # type: ignore[no-untyped-call]
        mean = loss.detach().to(flat.grad.dtype)
        self._driver.workers.add_up([flat.grad, mean])
        value = float(mean)
        if math.isnan(self._first_loss):
            self._first_loss = value
        if not (math.isfinite(value) and value < _BLOWN_UP * (1.0 + abs(self._first_loss))):
            raise NonFiniteError(
                f"The loss became {value:g} in tick {self._tick + 1}; lower the learning rate (it was "
                f"{self._how.lr:g}) or the steps."
            )
        return value

    def _note(self, loss: float, iterations: int, lengths: Floats, leg: Leg) -> None:
        self._log.ticks.append(
            {
                "train_loss": loss,
                "iterations": float(iterations),
                "step": float(np.linalg.norm(lengths)),
                "distance": float(np.linalg.norm(self._distances)),
                "phase": float(len(self._reasons)),
                "to_origin": float(isinstance(leg, TowardsOrigin)),
                "seconds": self._elapsed,
            }
        )
        if self._tick % self._how.log_every == 0:
            self._log.entries.append(self._tick)
            self._log.distances.append(self._distances)
            self._log.lengths.append(lengths)
            self._log.variances.append(leg.variances)

    def _loss_at(self, row: Tensor) -> float:
        """Measure the loss at a row; afterwards the network is back where it was, in training mode."""
        if row.data_ptr() == self._x.data_ptr():
            loss = self._measure()
        else:
            self._aside.copy_(self._x)
            self._x.copy_(row)
            loss = self._measure()
            self._x.copy_(self._aside)
        self._flat.module.train()
        if not math.isfinite(loss):
            raise NonFiniteError(f"The train loss of a point of the path is {loss:g} (tick {self._tick}).")
        return loss

    def _keep(self, row: Tensor, kept: Kept) -> None:
        self._driver.checkpointer.append({POINT: self._flat.unpack(row).numpy()})
        self._kept.append(kept)

    def _point(self, index: int) -> Tensor:
        return self._flat.pack(torch.from_numpy(self._driver.checkpointer.appended(index)[POINT]))

    @override
    def state(self) -> tuple[Mapping[str, Any], Arrays]:
        """Return everything that the next tick depends on, and everything recorded so far."""
        waiting = self._thinner.waiting
        memory = self._memory if self._leg is None else self._leg.memory()
        arrays: dict[str, NDArray[Any]] = {
            "x": self._flat.unpack(self._x).numpy(),
            "before": self._before,
            **with_prefix("leg-", memory),
            "kept": np.array([(k.tick, k.loss, k.middle) for k in self._kept], dtype=np.float64).reshape(-1, 3),
            "log": np.array([list(tick.values()) for tick in self._log.ticks], dtype=np.float64),
            "entries": np.array(self._log.entries, dtype=np.int64),
            **{name: np.array(getattr(self._log, name), dtype=np.float64) for name in _BY_ENTRY},
            **{f"waiting{i}": self._flat.unpack(row).numpy() for i, (_, row) in enumerate(waiting)},
        }
        values = {
            "tick": self._tick,
            "stretch": self._stretch,
            "phase": self._phase,
            "from": self._from,
            "elapsed": self._elapsed,
            "first_loss": None if math.isnan(self._first_loss) else self._first_loss,
            "last_loss": None if math.isnan(self._last_loss) else self._last_loss,
            "rate": self._rate,
            "again": self._again,
            "reasons": list(self._reasons),
            "waiting": [tick for tick, _ in waiting],
            "columns": list(self._log.ticks[0]) if self._log.ticks else [],
        }
        return values, arrays

    @override
    def load(self, values: Mapping[str, Any], arrays: Arrays) -> None:
        """Restore all of that; the loss at the start is measured again."""
        self.start()
        self._tick, self._stretch, self._phase = values["tick"], values["stretch"], values["phase"]
        self._from, self._elapsed = values["from"], values["elapsed"]
        self._first_loss = math.nan if values["first_loss"] is None else values["first_loss"]
        self._last_loss = math.nan if values["last_loss"] is None else values["last_loss"]
        self._rate, self._again = float(values["rate"]), int(values["again"])
        self._reasons = list(values["reasons"])
        self._x.copy_(self._row(arrays["x"]))
        self._before = np.array(arrays["before"])
        self._memory = {name: np.array(array) for name, array in named(arrays, "leg-").items()}
        self._kept = [Kept(int(tick), float(loss), float(middle)) for tick, loss, middle in arrays["kept"]]
        log = [dict(zip(values["columns"], row, strict=True)) for row in np.array(arrays["log"]).tolist()]
        self._log = Log(log, np.array(arrays["entries"]).tolist(), *[list(arrays[name]) for name in _BY_ENTRY])
        waiting = [(tick, self._row(arrays[f"waiting{i}"])) for i, tick in enumerate(values["waiting"])]
        if self._kept:
            last = self._kept[-1]
            self._thinner.begin(self._point(len(self._kept) - 1), last.tick, last.loss, waiting)
        else:
            self._thinner.begin(self._start, 0, self._start_loss, waiting)

    @override
    def where(self) -> str:
        return f"tick {self._tick}"

    def _row(self, canonical: NDArray[Any]) -> Tensor:
        return self._flat.pack(torch.from_numpy(np.array(canonical)))


_BY_ENTRY = ("distances", "lengths", "variances")


@torch.no_grad()
def batch_loss(flat: FlatModel, loss: Loss, split: Split, how: WalkSettings, examples: int = 2000) -> float:
    """Return the mean loss as training sees it (batch statistics, dropout, augmentation), without training anything."""
    buffers = [(buffer, buffer.clone()) for buffer in flat.module.buffers()]
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:examples]
    gpus = [] if flat.device.type == "cpu" else [flat.device]
    flat.module.train()
    with torch.random.fork_rng(devices=gpus), computing_in(how.precision, flat.device):
        torch.manual_seed(how.seed)
        whole = split.batches(how.batch_size, order=order, device=flat.device, drop_last=len(order) >= how.batch_size)
        augment = augmentation(how, split)
        seen = whole if augment is None else (augment(x, y, number) for number, (x, y) in enumerate(whole))
        losses = [float(loss(flat.run(x), y)) for x, y in seen]
    for buffer, value in buffers:
        buffer.copy_(value)
    flat.module.eval()
    return sum(losses) / len(losses)
