"""AutoNEB: a band relaxes in cycles and gets more pivots where its loss is high between them.

Draxler, Veschgini, Salmhofer, Hamprecht, Essentially no barriers in neural network energy landscape, ICML 2018, after
Kolsbjerg, Groves, Hammer, J. Chem. Phys. 145, 094107 (2016). After every cycle the loss is evaluated densely along the
chain; the largest loss there is the saddle.

Everything that the rest of a run depends on is in its state, which is saved after every cycle and periodically in
between: a run that continues from there takes exactly the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from mgraph.errors import NonFiniteError
from mgraph.families import Floats, PolygonalChainFamily
from mgraph.methods.neb.band import Band, BandRule
from mgraph.methods.neb.cyclelog import Array, CycleLog, CycleRecord, Relaxed
from mgraph.methods.neb.cycles import FALLS, PATIENCE, BandSettings
from mgraph.progress import ProgressCallback, silent
from mgraph.train.batches import Batches
from mgraph.train.driver import Driver
from mgraph.train.objective import Objective
from mgraph.train.snapshots import named, to_array, to_tensor
from mgraph.train.state import Arrays, Checkpointer
from mgraph.train.stepper import DivergedError, Stepper, TrainingSegment

# Rows, coefficients of shape (S, K), the name of the current phase → the loss at each of S points.
Measure = Callable[[Sequence[Tensor], Floats, str], Floats]


def gaps(values: Floats, inside: int) -> list[tuple[float, int, float]]:
    """Return, for each piece of a chain, the largest excess of its loss over the line between its pivots' losses.

    ``values`` are the losses at the pivots and at ``inside`` evenly spaced points on every piece. Each gap is (excess
    as a fraction of max - min of all values, piece, how far along it); 0 if nothing exceeds or all values are equal.
    """
    spread = float(values.max() - values.min())
    along = np.arange(1, inside + 1) / (inside + 1)
    found = []
    for piece, start in enumerate(range(0, len(values) - 1, inside + 1)):
        left, right = values[start], values[start + inside + 1]
        excess = values[start + 1 : start + inside + 1] - (left + along * (right - left))
        worst = int(np.argmax(excess))
        share = float(excess[worst]) / spread if spread > 0 else 0.0
        found.append((max(0.0, share), piece, float(along[worst])))
    return found


def relax(
    objective: Objective,
    points: Array,
    how: BandSettings,
    measure: Measure,
    *,
    continues: bool = False,
    checkpointer: Checkpointer | None = None,
    progress: ProgressCallback = silent,
) -> Relaxed:
    """Relax the chain of ``points``, shape (N, D), canonical; the ends stay as they are, bit for bit.

    ``measure`` evaluates points densely. A chain that ``continues`` an earlier band gets more pivots at once where its
    loss is high between them, and no random push. A cycle that produces non-finite numbers is repeated with half the
    learning rate and a LearningRateWarning; raises NonFiniteError if that does not help or the start is not finite.
    """
    driver = Driver(objective.flat, objective.split, how, checkpointer=checkpointer, progress=progress)
    run = _Relaxation(driver, objective, points, how, measure, continues=continues)
    driver.run(run)
    return run.result()


class _Relaxation(Stepper):
    """One run of AutoNEB; each cycle is a segment."""

    keeps_rate = True
    saves_between = True

    def __init__(
        self,
        driver: Driver,
        objective: Objective,
        points: Array,
        how: BandSettings,
        measure: Measure,
        *,
        continues: bool,
    ) -> None:
        self._driver, self._flat, self._loss = driver, objective.flat, objective.loss
        self._how, self._measure = how, measure
        self._start, self._ends, self._continues = points, points[[0, -1]], continues
        self._plan = [
            (number, stage.steps, stage.lr or how.lr)
            for number, stage in enumerate(how.stages())
            for _ in range(stage.cycles)
        ]
        self._band: Band | None = None
        self.progress = CycleLog()

    @property
    def band(self) -> Band:
        """The chain in its current state."""
        assert self._band is not None
        return self._band

    @override
    def start(self) -> None:
        """Evaluate the start, then push the pivots off it or insert more."""
        how, points = self._how, self._start
        self._band = self._made(points)
        values = self._dense("start")
        if not np.isfinite(values).all():
            raise NonFiniteError(
                "The train loss at the start is not finite everywhere between the ends; start from a connection along "
                "which it is, with --init."
            )
        self._record(values, 0.0)
        self._keep_best(points)
        if not self._reached():
            if self._continues:
                self._insert(values)
            elif how.noise:
                self._band = self._made(self._pushed(points))

    @override
    def segment(self) -> TrainingSegment | None:
        s = self.progress
        if s.ended is not None:
            return None
        _, steps, lr = self._plan[s.cycle]
        return TrainingSegment(f"cycle {s.cycle + 1}", steps, lr, kind="cycle")

    @override
    def begin(self, segment: TrainingSegment, *, anew: bool) -> None:
        """Do nothing: the band already exists."""

    @override
    def step(self, batches: Batches, lr: float) -> float:
        """Do one step of the band; return the largest of its losses."""
        losses = self.band.step(*next(batches), lr)
        self.progress.summed += float(losses[1:-1].mean())
        return float(losses.max())  # NaN if any is

    @override
    def end(self, segment: TrainingSegment, why: str | None) -> None:
        """Evaluate the chain, keep it if it is the best, and insert pivots; raise DivergedError if it is not finite."""
        s, driver = self.progress, self._driver
        spent = why or driver.spent()
        if spent and driver.done == 0:
            s.ended = spent
            return
        stage, _, lr = self._plan[s.cycle]
        values = self._dense(f"dense {s.cycle + 1}")
        if not np.isfinite(values).all():
            raise DivergedError(f"In {segment} the loss between two pivots is not finite; lower the learning rate.", 1)
        s.cycle += 1
        saddle = self._record(values, lr * driver.scale)
        before = s.history[s.best]["saddle"]
        if saddle < before:
            s.best = len(s.history) - 1
            self._keep_best(self._points())
        s.summed = 0.0
        if not self._reached():
            asking = [gap for gap in gaps(values, self._how.dense) if gap[0] > self._how.gap]
            if spent:
                s.ended = spent
            elif "gaps" in self._how.stop and not asking:
                self._skip(stage, "no gap asks for a pivot")
            elif "saddle" in self._how.stop and self._rests(stage):
                self._skip(stage, "the saddle no longer falls")
            elif s.cycle == len(self._plan):
                s.ended = "all its cycles are done"
        if s.ended is None:
            self._insert(values)

    @override
    def mark(self) -> None:
        """Remember the chain as it is when a cycle begins."""
        self._from = self._points()

    @override
    def back(self) -> None:
        """Restore the remembered chain, without momentum."""
        self.progress.summed = 0.0
        self.band.leave()
        self._band = self._made(self._from, self.band.spacing)

    @override
    def leave(self) -> None:
        """Give the network back its own point."""
        if self._band is not None:
            self._band.leave()

    def result(self) -> Relaxed:
        """Return the chain with the lowest saddle over all cycles, including the start."""
        s = self.progress
        history = tuple(CycleRecord(**record) for record in s.history)
        notes = list(self._driver.notes)
        if s.best < len(history) - 1:
            notes.append(f"the chain after cycle {history[s.best].cycle} has the lowest saddle and is kept")
        return Relaxed(self._best, history, history[s.best], str(s.ended), tuple(notes), self._driver.stopped)

    # Between cycles

    def _dense(self, what: str) -> Floats:
        """Evaluate the pivots and the points inside every gap."""
        self.band.leave()
        n = len(self.band.points)
        chain = PolygonalChainFamily(n - 2)  # evenly in t: pieces are identified by number, not by length
        return self._measure(
            list(self.band.points), chain.coefficients(chain.pieces_grid(self._how.dense).points), what
        )

    def _record(self, values: Floats, lr: float) -> float:
        """Record the result of a cycle; return its saddle."""
        s, lengths = self.progress, self.band.lengths()
        worst = int(values.argmax())
        piece, inside = divmod(worst, self._how.dense + 1)
        reached = lengths[:piece].sum() + (lengths[piece] * inside / (self._how.dense + 1) if inside else 0.0)
        record = CycleRecord(
            cycle=s.cycle,
            saddle=float(values[worst]),
            at=float(reached / lengths.sum()),
            length=float(lengths.sum()),
            pivots=len(lengths) - 1,
            lr=lr,
            train_loss=s.summed / self._driver.done if self._driver.done else None,
            seconds=self._driver.seconds,
        )
        s.history.append(asdict(record))
        return record.saddle

    def _reached(self) -> bool:
        """Return whether the target is reached, and record it."""
        s, target = self.progress, self._how.target
        if target is None or s.history[-1]["saddle"] > target:
            return False
        s.ended = f"the saddle is at most the target, {target:g}"
        return True

    def _rests(self, stage: int) -> bool:
        """Return whether the last cycles of a stage failed to lower the saddle."""
        s = self.progress
        recent = s.history[-PATIENCE:]
        if len(s.history) <= PATIENCE or any(self._plan[r["cycle"] - 1][0] != stage for r in recent):
            return False
        before = float(min(r["saddle"] for r in s.history[:-PATIENCE]))
        return before - float(min(r["saddle"] for r in recent)) < FALLS * abs(before)

    def _skip(self, stage: int, why: str) -> None:
        """Move on to the next stage, or end."""
        s = self.progress
        following = [cycle for cycle, (number, _, _) in enumerate(self._plan) if number > stage]
        if not following:
            s.ended = why
        elif following[0] > s.cycle:
            self._driver.notes.append(f"after cycle {s.cycle} {why}: cycles at the next learning rate")
            s.cycle = following[0]

    def _insert(self, values: Floats) -> None:
        """Insert pivots into the gaps that need one, the worst first."""
        found = [gap for gap in gaps(values, self._how.dense) if gap[0] > self._how.gap]
        chosen = sorted(found, reverse=True)[: self._how.insert]
        if chosen:
            self._band = self.band.grown([(piece, along) for _, piece, along in chosen])

    def _pushed(self, points: Array) -> Array:
        """Push the pivots in random directions, by ``noise`` times the chord's length.

        On an exactly straight line through a symmetric maximum, nothing would pull a pivot to either side.
        """
        chord = float(np.linalg.norm(points[-1].astype(np.float64) - points[0]))
        scale = self._how.noise * chord / math.sqrt(points.shape[1])
        noise = self._driver.streams.draws.standard_normal((len(points) - 2, points.shape[1]), dtype=np.float32)
        pushed = points.copy()
        pushed[1:-1] += np.float32(scale) * noise
        return pushed

    # Points and states

    def _made(self, points: Array, spacing: Floats | None = None, moments: Arrays | None = None) -> Band:
        how = self._how
        return Band(
            self._flat,
            self._loss,
            self._packed(points),
            rule=BandRule(how.momentum, how.weight_decay, how.spring, how.optimizer, how.nesterov, how.beta2),
            spacing=spacing,
            moments=None if moments is None else {name: self._moment(array) for name, array in moments.items()},
            module=self._driver.module,
            workers=self._driver.workers,
        )

    def _packed(self, points: Array) -> Tensor:
        return torch.stack([self._flat.pack(torch.from_numpy(np.array(row))) for row in points])

    def _moment(self, array: NDArray[Any]) -> Tensor:
        return self._packed(array) if array.ndim == 2 else to_tensor(array).to(self._flat.device)

    def _unpacked(self, rows: Tensor) -> Array:
        return np.stack([self._flat.unpack(row).numpy() for row in rows])

    def _points(self) -> Array:
        return self._between_ends(self._unpacked(self.band.points[1:-1]))

    def _keep_best(self, points: Array) -> None:
        self._best = points
        self._driver.checkpointer.append({"points": points[1:-1]})

    @override
    def state(self) -> tuple[Mapping[str, Any], Arrays]:
        """Return the chain, its momentum, where the cycle began, and everything recorded so far."""
        arrays: dict[str, NDArray[Any]] = {"points": self._unpacked(self.band.points[1:-1])}
        for name, moment in self.band.moments.items():
            arrays[f"moment.{name}"] = self._unpacked(moment) if moment.ndim == 2 else to_array(moment)
        if self._driver.done:
            arrays["from"] = self._from[1:-1]
        return asdict(self.progress) | {"spacing": self.band.spacing.tolist()}, arrays

    @override
    def load(self, values: Mapping[str, Any], arrays: Arrays) -> None:
        noted = dict(values)
        spacing = np.array(noted.pop("spacing"))
        self.progress = CycleLog(**noted)
        self._band = self._made(self._between_ends(arrays["points"]), spacing, named(arrays, "moment."))
        if "from" in arrays:
            self._from = self._between_ends(arrays["from"])
        checkpointer = self._driver.checkpointer
        self._best = self._between_ends(checkpointer.appended(checkpointer.count - 1)["points"])

    def _between_ends(self, inner: Array) -> Array:
        return np.concatenate([self._ends[:1], inner, self._ends[1:]])

    @override
    def where(self) -> str:
        """Name the cycle and its step, or the reason why it ended."""
        s = self.progress
        return f"cycle {s.cycle + 1}, step {self._driver.done}" if s.ended is None else s.ended
