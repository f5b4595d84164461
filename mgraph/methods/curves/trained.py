"""What the trained methods share: moving control points by sampling the family's parameter."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from typing_extensions import override

from mgraph.errors import InputError, MGraphWarning
from mgraph.families import Family
from mgraph.methods.base import Method, Outcome, Start
from mgraph.settings import setting
from mgraph.train.sampling import DRAWS, MEASURES, Sampling
from mgraph.train.settings import Optimisation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mgraph.data.task import Task
    from mgraph.network.flat import FlatModel
    from mgraph.progress import ProgressCallback
    from mgraph.train.phases import Phase
    from mgraph.train.state import Checkpointer

MOST_SAMPLES = 8
LEAST_PER_SAMPLE = 32  # examples: with fewer, overhead dominates and BatchNorm's batch statistics are too noisy
# Multiply-adds of a forward pass over a batch. Below this, the overhead of every further sample outweighs its benefit
# (benchmarks/time_to_loss.py). Work is counted rather than timed so that every machine makes the same choice.
LEAST_WORK = 20e6


@dataclass(frozen=True, kw_only=True)
class TrainedMethod(Method, Optimisation):
    """A method that trains the free control points of a family by sampling its parameter.

    By default, a batch whose pass takes fewer than ``least_work`` multiply-adds is not split.
    """

    least_work: ClassVar[float] = LEAST_WORK
    samples: int | None = setting(
        None,
        f"parameter values per batch and curve (auto: one per {LEAST_PER_SAMPLE} examples of a split batch, at most "
        f"{MOST_SAMPLES}; one for whole batches, and for paths where a pass takes fewer than {LEAST_WORK / 1e6:g} "
        f"million multiply-adds)",
        low=1,
        nothing="auto",
    )
    batch: str = setting(
        "split", "what each parameter value sees: its part of the batch, or all of it", choices=("split", "whole")
    )
    draw: str = setting("stratified", "how the values of a batch are drawn jointly", choices=DRAWS)
    measure: str = setting(
        "uniform",
        "what sampling is uniform in: the parameter itself, or length (paths) or area (surfaces)",
        choices=MEASURES,
    )
    measure_gradient: str = setting(
        "held",
        "gradient under measure=arc: held treats the length element as constant, exact includes its gradient "
        "(from a geometry at most gram_every steps old)",
        choices=("held", "exact"),
    )
    gram_every: int = setting(100, "steps between updates of the geometry (measure arc, area)", unit="steps", low=1)
    decay: str = setting("point", "what weight decay acts on", choices=("point", "control"))
    train_only: tuple[str, ...] = setting(
        (), "name patterns of the parameters to train, e.g. fc.*,layer4.*; the others stay interpolated (default: all)"
    )
    fixed: tuple[int, ...] = setting((), "rows of control points that stay where they start", low=0)
    update: str = setting("auto", "control-point update: auto chooses by size", choices=("auto", "eager", "compiled"))

    @abstractmethod
    def plan(self, family: Family) -> tuple[Phase, ...]:
        """Return the phases of training, in order."""

    def sampling(self, work: float = math.inf) -> Sampling:
        """Return what a step samples when a forward pass over a batch takes ``work`` multiply-adds."""
        split = self.batch == "split"
        k = self.samples
        if k is None:
            most = MOST_SAMPLES if split and work >= self.least_work else 1
            k = max(1, min(most, self.batch_size // LEAST_PER_SAMPLE))
        exact = self.measure_gradient == "exact"
        return Sampling(k, split and k > 1, self.draw, self.measure, self.gram_every, exact)

    @override
    def cost(self, family: Family, examples: int) -> float:
        """Return the number of examples: every curve of a phase sees every batch, or each value does."""
        sampling = self.sampling()
        each = 1 if sampling.split else sampling.samples
        return float(examples * each * sum(phase.epochs * len(phase.curves) for phase in self.plan(family)))

    def sampling_for(self, flat: FlatModel, task: Task) -> Sampling:
        """Return what a step samples on this network."""
        if self.samples is not None or self.batch != "split":
            return self.sampling()
        import torch

        from mgraph.network.cost import multiply_adds

        x, _ = task.train.examples(torch.zeros(1, dtype=torch.int64), device=flat.device)
        return self.sampling(multiply_adds(flat.module, flat.inputs(x)) * self.batch_size)

    def trained_names(self, names: Sequence[str]) -> frozenset[str]:
        """Return which of the network's parameters are trained; raise InputError for a pattern that matches none."""
        if not self.train_only:
            return frozenset(names)
        chosen: set[str] = set()
        for pattern in self.train_only:
            matched = {name for name in names if fnmatchcase(name, pattern)}
            if not matched:
                raise InputError(
                    f"train_only: the pattern {pattern!r} matches no trainable parameter; there are {', '.join(names)}."
                )
            chosen |= matched
        return frozenset(chosen)

    @override
    def check(self, flat: FlatModel, task: Task, family: Family) -> None:
        """Check rows, measure, patterns, batch splitting, precision and loss before anything runs."""
        from mgraph.network.precision import check_precision
        from mgraph.train.engine import check_schedules
        from mgraph.train.losses import check_objective
        from mgraph.train.updates import UpdateRule, choose_update

        for row in self.fixed:
            if row not in family.free:
                raise InputError(f"fixed: row {row} is not one of the free control points {list(family.free)}.")
        suits = {1: ("uniform", "arc"), 2: ("uniform", "area")}[family.dimension]
        if self.measure not in suits:
            raise InputError(f"The measure of a {family.name} is {' or '.join(suits)}, not {self.measure}.")
        if self.measure_gradient == "exact" and (self.measure != "arc" or self.update == "compiled"):
            raise InputError("measure_gradient=exact is for measure=arc and the eager update.")
        self.trained_names(flat.names)
        check_precision(self.precision, flat.device)
        self._check_division(flat, self.sampling_for(flat, task))
        if self.update == "compiled":
            choose_update(flat.theta, self.update, UpdateRule.of(self, self.decay))
        check_objective(flat, task, self)
        check_schedules(flat, task.train, self.plan(family), self)

    def _check_division(self, flat: FlatModel, sampling: Sampling) -> None:
        from mgraph.train.engine import least_examples
        from mgraph.train.parallel import present

        least = least_examples(flat, present())
        k = sampling.samples if sampling.split else 1
        if self.batch_size < k * least:
            why = " (BatchNorm needs two)" if flat.least_batch > 1 else ""
            if k == 1:
                raise InputError(f"A step needs at least {least} examples{why}, not {self.batch_size}.")
            raise InputError(
                f"A batch of {self.batch_size} cannot be split between {k} parameter values of at least {least} "
                f"examples{why}; raise batch_size, lower samples, or take batch=whole."
            )
        if flat.least_batch > 1 and k > 1 and self.batch_size // k < LEAST_PER_SAMPLE:
            warnings.warn(
                f"Each of {k} parameter values sees {self.batch_size // k} examples, and BatchNorm's batch statistics "
                f"want {LEAST_PER_SAMPLE} or more: raise batch_size or lower samples.",
                MGraphWarning,
                stacklevel=2,
            )

    @override
    def run(
        self,
        flat: FlatModel,
        task: Task,
        family: Family,
        start: Start,
        progress: ProgressCallback,
        checkpointer: Checkpointer | None = None,
    ) -> Outcome:
        """Train the family's free rows from their start."""
        import torch

        from mgraph.train.controlpoints import Held
        from mgraph.train.engine import PathOptions, train_phases
        from mgraph.train.losses import training_loss
        from mgraph.train.objective import Objective

        points = start.points()
        names = self.trained_names(flat.names)
        with flat.training_only(names):
            rows = [flat.pack(torch.from_numpy(row)) for row in points]
            P = torch.stack([row[: flat.trained] for row in rows])
            held = None
            if flat.trained < flat.size:
                given = [flat.pack(torch.from_numpy(np.array(row)))[flat.trained :] for row in start.rows]
                held = Held(start.matrix, torch.stack(given))
            trained = train_phases(
                Objective(flat, training_loss(task, self), task.train),
                P,
                self.plan(family),
                self,
                PathOptions(self.sampling_for(flat, task), self.decay, held, self.update),
                progress=progress,
                checkpointer=checkpointer,
            )
            for k in family.free:
                rows[k][: flat.trained] = P[k]
                points[k] = flat.unpack(rows[k]).numpy()
        everything = len(names) == len(flat.names)
        names_trained = None if everything else names
        return Outcome(points, trained.update, trained.notes, names_trained, stopped=trained.stopped)

    def moving(self, rows: Sequence[int]) -> tuple[int, ...]:
        """Return those of ``rows`` that are not fixed."""
        return tuple(row for row in rows if row not in self.fixed)
