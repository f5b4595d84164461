"""AutoNEB: a band relaxes in cycles and gets further pivots where its loss is high between them.

Draxler, Veschgini, Salmhofer, Hamprecht, Essentially no barriers in neural network energy landscape, ICML 2018, after
Kolsbjerg, Groves, Hammer, J. Chem. Phys. 145, 094107 (2016). After every cycle the loss is evaluated densely along the
chain; the largest loss there is the saddle.

All that the rest of a run depends on is in its state, saved after every cycle and in between when it is time: a run
that goes on from there takes the very same steps.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgraph.data.splits import Split
from mgraph.errors import MGraphWarning, NonFiniteError
from mgraph.families import Floats, PolygonalChainFamily
from mgraph.network.flat import FlatModel
from mgraph.network.layout import to_numpy
from mgraph.network.precision import computing_in
from mgraph.progress import Progress, Report, silent
from mgraph.train.band import Band, Rule
from mgraph.train.batches import Batches
from mgraph.train.cyclelog import Array, CycleRecord, Relaxed, Standing
from mgraph.train.cycles import FALLS, PATIENCE, BandSettings
from mgraph.train.losses import Loss
from mgraph.train.parallel import present
from mgraph.train.state import Keeper, State
from mgraph.train.streams import Streams

# Rows, coefficients of shape (S, K), the name of what is under way → the loss at each of S points.
Measure = Callable[[Sequence[Tensor], Floats, str], Floats]

_HALVINGS = 6  # of the learning rate, before a diverging cycle is given up
_BLOWN_UP = 1e4  # times the first loss: as good as infinite


class BandWarning(MGraphWarning):
    """A cycle diverged and was begun again with half the learning rate."""


def gaps(values: Floats, inside: int) -> list[tuple[float, int, float]]:
    """Return for every piece of a chain the largest excess of its loss over its pivots' (linearly between them).

    ``values`` are losses of the pivots and of ``inside`` evenly spaced points on every piece. Each gap is (excess as a
    share of max - min of all values, piece, how far along it); 0 where nothing exceeds or all values are equal.
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
    flat: FlatModel,
    loss: Loss,
    split: Split,
    points: Array,
    how: BandSettings,
    measure: Measure,
    *,
    continues: bool = False,
    keeper: Keeper | None = None,
    report: Report = silent,
) -> Relaxed:
    """Relax the chain of ``points``, shape (N, D), canonical; the ends stay, bit for bit.

    ``measure`` evaluates points densely. A chain that ``continues`` an earlier band gets its pivots at once, where
    its loss is high between them, and no random push. A cycle that leaves the finite numbers begins again with half
    the learning rate, with a BandWarning; NonFiniteError if that does not help, or the start is not finite.
    """
    run = _Relaxation(flat, loss, split, how, measure, keeper, report)
    gpus = [flat.device] if flat.device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        try:
            run.begin(points, continues) if keeper is None or keeper.last is None else run.go_on(points, keeper.last)
            while run.standing.ended is None:
                run.cycle()
        finally:
            run.band.leave()
    return run.result()


class _Relaxation:
    """One run of AutoNEB."""

    band: Band

    def __init__(
        self,
        flat: FlatModel,
        loss: Loss,
        split: Split,
        how: BandSettings,
        measure: Measure,
        keeper: Keeper | None,
        report: Report,
    ) -> None:
        self._flat, self._loss, self._how, self._measure = flat, loss, how, measure
        self._keeper, self._report = keeper, report
        self._workers = present()
        self._streams = Streams.of(how.seed)
        self._batches = Batches(split, how.batch_size, self._streams.order, flat.device)
        self._module = torch.compile(flat.module) if how.compile else flat.module
        self._plan = [
            (number, stage.steps, stage.lr or how.lr)
            for number, stage in enumerate(how.stages())
            for _ in range(stage.cycles)
        ]
        self._constants = [(buffer, buffer.clone()) for buffer in flat.module.buffers()]
        self._started = time.monotonic()
        self.standing = Standing()

    def begin(self, points: Array, continues: bool) -> None:
        """Evaluate the start, and push the pivots off it or insert further ones."""
        how = self._how
        torch.manual_seed(self._streams.network + self._workers.rank)
        self._ends = points[[0, -1]]
        self.band = self._band(points)
        values = self._dense("start")
        if not np.isfinite(values).all():
            raise NonFiniteError(
                "The train loss at the start is not finite everywhere between the ends; start from a connection along "
                "which it is, with --init."
            )
        self._record(values, 0.0)
        self._keep_best(points)
        if not self._reached():
            if continues:
                self._insert(values)
            elif how.noise:
                self.band = self._band(self._pushed(points))
        self._from = self._points()
        self._save()

    def go_on(self, points: Array, state: State) -> None:
        """Take everything from a state."""
        values, arrays = dict(state.values), state.arrays
        self._ends = points[[0, -1]]
        spacing, position = np.array(values.pop("spacing")), values.pop("position")
        self.standing = Standing(**values)
        inner, momentum = arrays["points"], arrays["momentum"]
        self.band = self._band(np.concatenate([self._ends[:1], inner, self._ends[1:]]), spacing, momentum)
        self._from = np.concatenate([self._ends[:1], arrays["from"], self._ends[1:]])
        self._batches.go_to(position, torch.from_numpy(np.array(arrays["order"])))
        torch.set_rng_state(torch.from_numpy(np.array(arrays["random"])))
        if self._flat.device.type == "cuda":
            torch.cuda.set_rng_state(torch.from_numpy(np.array(arrays["random_cuda"])), self._flat.device)
        for number, buffer in enumerate(self._flat.module.buffers()):
            buffer.copy_(torch.from_numpy(np.array(arrays[f"buffer{number}"])).view(buffer.shape))
        assert self._keeper is not None
        kept = self._keeper.appended(self._keeper.count - 1)["points"]
        self._best = np.concatenate([self._ends[:1], kept, self._ends[1:]])

    def cycle(self) -> None:
        """Relax for a cycle from where it stands, evaluate, and insert pivots; or begin it again, more slowly."""
        s = self.standing
        stage, steps, lr = self._plan[s.cycle]
        spent = self._relax(steps, lr)
        if spent and s.step == 0:
            s.ended = spent
            self._save()
            return
        values = self._dense(f"dense {s.cycle + 1}")
        if not np.isfinite(values).all():
            self._restart("the loss between two pivots is not finite")
            return
        s.cycle += 1
        saddle = self._record(values, lr * s.scale)
        before = s.history[s.best]["saddle"]
        if saddle < before:
            s.best = len(s.history) - 1
            self._keep_best(self._points())
        s.step, s.summed = 0, 0.0
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
        self._from = self._points()
        self._save()

    def result(self) -> Relaxed:
        """Return the chain with the lowest saddle of all cycles, the start included."""
        s = self.standing
        history = tuple(CycleRecord(**record) for record in s.history)
        notes = list(s.notes)
        if s.best < len(history) - 1:
            notes.append(f"the chain after cycle {history[s.best].cycle} has the lowest saddle and is kept")
        return Relaxed(self._best, history, history[s.best], str(s.ended), tuple(notes))

    # A cycle

    def _relax(self, steps: int, lr: float) -> str | None:
        """Do the steps of a cycle; return which budget was spent before they were done."""
        s = self.standing
        self._flat.module.train()
        with computing_in(self._how.precision, self._flat.device):
            while s.step < steps:
                if spent := self._spent():
                    return spent
                losses = self.band.step(*next(self._batches), lr * s.scale)
                s.steps += 1
                worst = float(losses.max())  # NaN if any is
                if not (math.isfinite(worst) and worst < _BLOWN_UP * (1.0 + abs(s.first or worst))):
                    self._restart(f"the loss became {worst:g} at step {s.step + 1} of {steps}")
                    continue
                s.first = worst if s.first is None else s.first
                s.step += 1
                s.summed += float(losses[1:-1].mean())
                self._report(Progress(f"cycle {s.cycle + 1}", s.step, steps, worst))
                if self._keeper is not None and self._keeper.due:
                    self._save()
        return self._spent()

    def _restart(self, why: str) -> None:
        """Go back to the start of the cycle, without momentum, at half the learning rate."""
        s = self.standing
        lr = self._plan[s.cycle][2] * s.scale
        said = f"In cycle {s.cycle + 1} {why}"
        if s.first is None or s.halvings == _HALVINGS:
            raise NonFiniteError(f"{said}; lower the learning rate (it was {lr:g}) or look at the data.")
        s.halvings += 1
        s.scale /= 2.0
        s.step, s.summed = 0, 0.0
        s.notes.append(f"cycle {s.cycle + 1} diverged and began again at learning rate {lr / 2.0:g}")
        if self._workers.rank == 0:
            text = f"{said}: the cycle begins again with half the learning rate, {lr / 2.0:g}."
            warnings.warn(text, BandWarning, stacklevel=5)
        for buffer, value in self._constants:  # a diverging run leaves NaN in running statistics
            buffer.copy_(value)
        self.band.leave()
        self.band = self._band(self._from, self.band.spacing)
        self._flat.module.train()

    def _spent(self) -> str | None:
        """Say which budget is spent, if one is."""
        how = self._how
        if how.max_steps is not None and self.standing.steps >= how.max_steps:
            return f"{how.max_steps} steps are spent"
        if how.max_seconds is None:
            return None
        over = torch.tensor(float(self._seconds() >= how.max_seconds), device=self._flat.device)
        self._workers.add_up([over])  # all processes stop at the same step
        return f"{how.max_seconds:g} s are spent" if over > 0 else None

    def _seconds(self) -> float:
        return self.standing.seconds + time.monotonic() - self._started

    # Between cycles

    def _dense(self, what: str) -> Floats:
        """Evaluate the pivots and the points inside every gap."""
        self.band.leave()
        n = len(self.band.points)
        chain = PolygonalChainFamily(n - 2)  # evenly in t: pieces are told apart by number, not by length
        return self._measure(
            list(self.band.points), chain.coefficients(chain.pieces_grid(self._how.dense).points), what
        )

    def _record(self, values: Floats, lr: float) -> float:
        """Note what a cycle came to; return its saddle."""
        s, lengths = self.standing, self.band.lengths()
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
            train_loss=s.summed / s.step if s.step else None,
            seconds=self._seconds(),
        )
        s.history.append(asdict(record))
        return record.saddle

    def _reached(self) -> bool:
        """Tell whether the target is reached, and note it."""
        s, target = self.standing, self._how.target
        if target is None or s.history[-1]["saddle"] > target:
            return False
        s.ended = f"the saddle is at most the target, {target:g}"
        return True

    def _rests(self, stage: int) -> bool:
        """Tell whether the last cycles of a stage brought the saddle no further."""
        s = self.standing
        recent = s.history[-PATIENCE:]
        if len(s.history) <= PATIENCE or any(self._plan[r["cycle"] - 1][0] != stage for r in recent):
            return False
        before = float(min(r["saddle"] for r in s.history[:-PATIENCE]))
        return before - float(min(r["saddle"] for r in recent)) < FALLS * abs(before)

    def _skip(self, stage: int, why: str) -> None:
        """Go on at the next stage, or end."""
        s = self.standing
        following = [cycle for cycle, (number, _, _) in enumerate(self._plan) if number > stage]
        if not following:
            s.ended = why
        elif following[0] > s.cycle:
            s.notes.append(f"after cycle {s.cycle} {why}: cycles at the next learning rate")
            s.cycle = following[0]

    def _insert(self, values: Floats) -> None:
        """Put pivots into the gaps that ask for one, the worst first."""
        found = [gap for gap in gaps(values, self._how.dense) if gap[0] > self._how.gap]
        chosen = sorted(found, reverse=True)[: self._how.insert]
        if chosen:
            self.band = self.band.grown([(piece, along) for _, piece, along in chosen])

    def _pushed(self, points: Array) -> Array:
        """Push the pivots in random directions, by the noise's share of the chord.

        Exactly on a straight line through a symmetric maximum nothing pulls a pivot to either side.
        """
        chord = float(np.linalg.norm(points[-1].astype(np.float64) - points[0]))
        scale = self._how.noise * chord / math.sqrt(points.shape[1])
        noise = self._streams.draws.standard_normal((len(points) - 2, points.shape[1]), dtype=np.float32)
        pushed = points.copy()
        pushed[1:-1] += np.float32(scale) * noise
        return pushed

    # Points and states

    def _band(self, points: Array, spacing: Floats | None = None, momentum: Array | None = None) -> Band:
        how = self._how
        return Band(
            self._flat,
            self._loss,
            self._packed(points),
            rule=Rule(how.momentum, how.weight_decay, how.spring),
            spacing=spacing,
            momentum=None if momentum is None else self._packed(momentum),
            module=self._module,
            workers=self._workers,
        )

    def _packed(self, points: Array) -> Tensor:
        return torch.stack([self._flat.pack(torch.from_numpy(np.array(row))) for row in points])

    def _unpacked(self, rows: Tensor) -> Array:
        return np.stack([self._flat.unpack(row).numpy() for row in rows])

    def _points(self) -> Array:
        return np.concatenate([self._ends[:1], self._unpacked(self.band.points[1:-1]), self._ends[1:]])

    def _keep_best(self, points: Array) -> None:
        self._best = points
        if self._keeper is not None:
            self._keeper.append({"points": points[1:-1]})

    def _save(self) -> None:
        """Save everything that the rest depends on."""
        if self._keeper is None:
            return
        values = asdict(self.standing) | {
            "seconds": self._seconds(),
            "spacing": self.band.spacing.tolist(),
            "position": self._batches.position,
        }
        arrays: dict[str, NDArray[Any]] = {
            "points": self._unpacked(self.band.points[1:-1]),
            "momentum": self._unpacked(self.band.momentum),
            "from": self._from[1:-1],
            "order": self._batches.pass_state.numpy(),
            "random": torch.get_rng_state().numpy(),
        }
        if self._flat.device.type == "cuda":
            arrays["random_cuda"] = torch.cuda.get_rng_state(self._flat.device).numpy()
        for number, buffer in enumerate(self._flat.module.buffers()):
            arrays[f"buffer{number}"] = to_numpy(buffer).reshape(-1)
        s = self.standing
        self._keeper.save(State(values, arrays, f"cycle {s.cycle + 1}, step {s.step}" if s.ended is None else s.ended))
