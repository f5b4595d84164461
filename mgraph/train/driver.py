"""The one driver for everything that trains step by step, whatever a step does.

A method is a :class:`~mgraph.train.stepper.Stepper`: it says which segment of its work comes next, does one step at a
time, and saves and restores the named arrays that its next step depends on. The driver does the rest: random streams,
batches, precision, progress, limits on steps and seconds, saved states from which a run continues bit for bit (on a
CPU), multiple processes, and the response to a non-finite loss: back to the beginning of the segment, at half the
learning rate.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from mgraph.data.splits import Split
from mgraph.errors import InputError, MGraphWarning, NonFiniteError
from mgraph.network.flat import FlatModel
from mgraph.network.precision import computing_in
from mgraph.progress import Progress, ProgressCallback, silent
from mgraph.train.augmentation import augmentation
from mgraph.train.batches import Batches
from mgraph.train.compiler import compiled
from mgraph.train.parallel import present
from mgraph.train.snapshots import (
    buffer_bytes,
    load_buffer_bytes,
    load_random_state,
    named,
    random_state,
    to_array,
    to_tensor,
    with_prefix,
)
from mgraph.train.state import Checkpointer, InMemory, State
from mgraph.train.stepper import DivergedError, Stepper, TrainingSegment
from mgraph.train.streams import Streams

_FORMAT = 1  # of saved states
_BLOWN_UP = 1e4  # times the first loss: anything above counts as infinite
_LOOK_EVERY_ON_DEVICE = 50  # steps: reading a loss from an accelerator waits for the device


class LearningRateWarning(MGraphWarning):
    """A segment of training diverged and was started again with half the learning rate."""


class Driven(Protocol):
    """The settings that a driver needs."""

    @property
    def seed(self) -> int:
        """Seed of all randomness."""

    @property
    def augment(self) -> str | None:
        """Augmentation of the batches."""

    @property
    def batch_size(self) -> int:
        """Examples per batch."""

    @property
    def precision(self) -> str:
        """Precision of the network's passes."""

    @property
    def compile(self) -> bool:
        """Whether to compile the network."""

    @property
    def max_steps(self) -> int | None:
        """The maximum number of steps."""

    @property
    def max_seconds(self) -> float | None:
        """The maximum number of seconds."""


class Driver:
    """Drives one run of a method, from its beginning or from the checkpointer's last state."""

    def __init__(
        self,
        flat: FlatModel,
        split: Split,
        how: Driven,
        *,
        least: int | None = None,
        checkpointer: Checkpointer | None = None,
        progress: ProgressCallback = silent,
    ) -> None:
        """``least`` is for :class:`Batches`; with several processes, none of them saves states."""
        self._flat, self._how, self._progress = flat, how, progress
        self.workers, self.streams = present(), Streams.of(how.seed)
        self.checkpointer = InMemory() if checkpointer is None else checkpointer
        self._alone = self.workers.size == 1
        self.batches = Batches(
            split, how.batch_size, self.streams.order, flat.device, least=least, augment=augmentation(how, split)
        )
        self._each: dict[str, Any] = {"examples": min(how.batch_size, len(split)), "called": split.called}
        self.module: Callable[..., Any] = compiled(flat.module) if how.compile else flat.module
        self.notes: list[str] = []
        self.steps = 0  # total, including those of diverged attempts
        self.done = 0  # steps done in the current segment
        self.scale = 1.0  # factor on the learning rate after divergence
        self._halvings = 0
        self._first: float | None = None  # the loss with which later ones are compared
        self.stopped: str | None = None  # the budget that ran out, and where
        self._pending: list[Tensor | float] = []  # losses not read yet
        self._before, self._began = 0.0, time.monotonic()
        self._segment: TrainingSegment | None = None

    @property
    def seconds(self) -> float:
        """Time since the run began, not counting interruptions."""
        return self._before + time.monotonic() - self._began

    def run(self, method: Stepper) -> None:
        """Drive the method through its segments.

        Raises NonFiniteError, naming the step, when a segment diverges at every learning rate tried or its first loss
        is not finite, and InputError for a state saved by another version of this package.
        """
        gpus = [self._flat.device] if self._flat.device.type == "cuda" else []
        self._began = time.monotonic()
        with torch.random.fork_rng(devices=gpus), computing_in(self._how.precision, self._flat.device):
            torch.manual_seed(self.streams.network + self.workers.rank)
            try:
                if self._alone and self.checkpointer.last is not None:
                    self._load(method, self.checkpointer.last)
                else:
                    method.start()
                    self._save_between(method)
                while (segment := method.segment()) is not None:
                    self._drive(method, segment)
                    self._save_between(method)
            finally:
                method.leave()

    def spent(self) -> str | None:
        """Return which budget is spent, or None; all processes agree at the same step."""
        why = self._spent()
        if why is not None and self.stopped is None and self._segment is not None:
            self.stopped = f"{why} after step {self.done} of {self._segment.steps} ({self._segment.name})"
        return why

    def _spent(self) -> str | None:
        how = self._how
        if how.max_steps is not None and self.steps >= how.max_steps:
            return f"{how.max_steps} steps are spent"
        if how.max_seconds is None:
            return None
        over = self.seconds >= how.max_seconds
        if self.workers.size > 1:
            votes = torch.tensor(float(over), device=self._flat.device)
            self.workers.add_up([votes])
            over = bool(votes > 0)
        return f"{how.max_seconds:g} s are spent" if over else None

    def _drive(self, method: Stepper, segment: TrainingSegment) -> None:
        """Drive a segment to its end, restarting with half the learning rate whenever it diverges."""
        anew, self._segment = self.done == 0, segment
        if anew:
            method.mark()
            self._buffers = buffer_bytes(self._flat.module)
        method.begin(segment, anew=anew)
        while True:
            try:
                method.end(segment, self._steps(method, segment))
                break
            except DivergedError as error:
                self._halve(method, segment, error)
                method.back()
                method.begin(segment, anew=True)
        self.done = 0
        if not method.keeps_rate:
            self.scale, self._halvings, self._first = 1.0, 0, None

    def _steps(self, method: Stepper, segment: TrainingSegment) -> str | None:
        """Do the remaining steps of a segment; if it ended before they were done, return why."""
        every = 1 if self._flat.device.type == "cpu" else _LOOK_EVERY_ON_DEVICE
        lr, total = segment.lr * self.scale, segment.steps
        self._flat.module.train()
        while True:
            if why := method.finished():
                break
            if self.done == total:
                return None
            if why := self.spent():
                break
            loss = method.step(self.batches, lr * segment.schedule(self.done / total))
            self.done += 1
            self.steps += 1
            self._pending.append(loss)
            if len(self._pending) >= every or self.done == total or isinstance(loss, float):
                self._look(method, segment, lr)
            method.after(self.done)
            if self._alone and self.checkpointer.due:
                self._save(method)
        if self._pending:
            self._look(method, segment, lr)
        return why

    def _look(self, method: Stepper, segment: TrainingSegment, lr: float) -> None:
        """Read the pending losses; raise DivergedError at the first one that is not finite or that has blown up."""
        pending = self._pending
        losses = [float(pending[0])] if len(pending) == 1 else torch.stack(pending).tolist()  # type: ignore[arg-type]
        pending.clear()
        first = losses[0] if self._first is None else self._first
        self._first = first
        for back, loss in enumerate(losses):
            if not (math.isfinite(loss) and loss < _BLOWN_UP * (1.0 + abs(first))):
                at = self.done - len(losses) + back + 1
                raise DivergedError(
                    f"The loss became {loss:g} at step {at} of {segment.steps} ({segment.name}); lower the learning "
                    f"rate (it was {lr:g}) or look at the data.",
                    at,
                )
        method.seen(losses)
        self._progress(Progress(segment.name, self.done, segment.steps, losses[-1], **self._each))

    def _halve(self, method: Stepper, segment: TrainingSegment, error: DivergedError) -> None:
        """Halve the learning rate with a warning; raise NonFiniteError if that cannot help, or has not helped."""
        if self._first is None or not math.isfinite(self._first) or self._halvings == method.halvings:
            raise NonFiniteError(str(error)) from None
        self._halvings += 1
        self.scale /= 2.0
        lr = segment.lr * self.scale
        self.notes.append(f"{segment} diverged and began again at learning rate {lr:g}")
        if self.workers.rank == 0:
            said = str(error).partition(";")[0]
            warnings.warn(
                f"{said}: the {segment.kind} begins again with half the learning rate, {lr:g}.",
                LearningRateWarning,
                stacklevel=2,
            )
        load_buffer_bytes(self._flat.module, self._buffers)  # divergence leaves NaN in running statistics
        self.done = 0
        self._pending.clear()
        if not method.keeps_rate:
            self._first = None

    # Saved states

    def _save_between(self, method: Stepper) -> None:
        if self._alone and method.saves_between:
            self._save(method)

    def _save(self, method: Stepper) -> None:
        """Save everything that later steps depend on."""
        values, arrays = method.state()
        mine = {
            "done": self.done,
            "steps": self.steps,
            "scale": self.scale,
            "halvings": self._halvings,
            "first": self._first,
            "seconds": self.seconds,
            "notes": list(self.notes),
            "stopped": self.stopped,
            "position": self.batches.position,
            "batches": self.batches.number,
        }
        everything = {"order": to_array(self.batches.pass_state)}
        everything |= with_prefix("random.", random_state(self._flat.device))
        everything |= with_prefix("buffer.", buffer_bytes(self._flat.module))
        if self._pending:
            everything["pending"] = to_array(torch.stack(self._pending))  # type: ignore[arg-type]
        if self.done:
            everything |= with_prefix("before.", self._buffers)
        everything |= with_prefix("method.", arrays)
        segment = self._segment
        place = "" if segment is None else f"step {self.done} of {segment.steps} ({segment.name})"
        state = State({"format": _FORMAT, "driver": mine, "method": values}, everything, method.where() or place)
        self.checkpointer.save(state)

    def _load(self, method: Stepper, state: State) -> None:
        """Restore everything from a state."""
        if state.values.get("format") != _FORMAT:
            raise InputError("What this run saved was written by another version of mgraph; give the command again.")
        mine, arrays = state.values["driver"], state.arrays
        self.done, self.steps, self.scale = mine["done"], mine["steps"], mine["scale"]
        self._halvings, self._first, self._before = mine["halvings"], mine["first"], mine["seconds"]
        self.notes, self.stopped = list(mine["notes"]), mine["stopped"]
        if "pending" in arrays:
            self._pending = list(to_tensor(arrays["pending"]).to(self._flat.device).unbind())
        method.load(state.values["method"], named(arrays, "method."))
        # States from before augmentation existed lack this number.
        self.batches.go_to(mine["position"], to_tensor(arrays["order"]), mine.get("batches", 0))
        self._buffers = named(arrays, "before.")
        load_buffer_bytes(self._flat.module, named(arrays, "buffer."))
        load_random_state(named(arrays, "random."), self._flat.device)
