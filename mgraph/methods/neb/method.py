"""The nudged elastic band between two modes, refined cycle by cycle (NEB, AutoNEB)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from typing_extensions import override

from mgraph.errors import InputError, NonFiniteError
from mgraph.families import Family, Floats, PolygonalChainFamily
from mgraph.methods.base import Array, Method, Outcome, Panel, SeriesData, Start, wrong_ends
from mgraph.methods.neb.cycles import PATIENCE, BandSettings

if TYPE_CHECKING:
    from torch import Tensor

    from mgraph.data.task import Task
    from mgraph.methods.neb.autoneb import Measure
    from mgraph.methods.neb.cyclelog import Relaxed
    from mgraph.network.flat import FlatModel
    from mgraph.progress import ProgressCallback
    from mgraph.query.observed import Observation
    from mgraph.query.sweepdata import SweepData
    from mgraph.train.state import Checkpointer

_BY_CYCLE = ("saddle", "length", "pivots", "lr", "train_loss", "seconds")


@dataclass(frozen=True, kw_only=True)
class NudgedElasticBand(Method, BandSettings):
    """A band of pivots between two modes that relaxes to a path of low loss.

    Plain NEB is a single cycle, ``cycles=1x500``. With several, pivots are inserted wherever the loss is high between
    them (AutoNEB). The default settings are those of the preset quick.
    """

    name: ClassVar[str] = "neb"
    summary: ClassVar[str] = "nudged elastic band between 2 modes, pivots inserted as needed (AutoNEB)"
    node_kind: ClassVar[str] = "pivot"
    references: ClassVar[tuple[str, ...]] = (
        "Draxler, Veschgini, Salmhofer, Hamprecht (2018). Essentially No Barriers in Neural Network Energy Landscape. "
        "ICML 2018, arXiv:1803.00885",
        "Henkelman, Jónsson (2000). Improved tangent estimate in the nudged elastic band method for finding minimum "
        "energy paths and saddle points. J. Chem. Phys. 113, 9978",
        "Kolsbjerg, Groves, Hammer (2016). An automated nudged elastic band method. J. Chem. Phys. 145, 094107",
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            # The published settings for ResNets and DenseNets on CIFAR: the standard ones, and a cheaper variant.
            "standard": {
                "pivots": 3,
                "cycles": ("4x1000@0.1", "2x2000@0.1", "4x1000@0.01", "4x1000@0.001"),
                "batch_size": 512,
                "stop": (),
            },
            "fast": {
                "pivots": 15,
                "cycles": ("3x2000@0.1", "2x2000@0.01", "2x2000@0.001"),
                "insert": 0,
                "batch_size": 512,
                "stop": (),
            },
            # For small networks on a CPU; takes minutes at most.
            "quick": {"pivots": 3, "cycles": ("5x60@0.05",), "batch_size": 256},
        }
    )

    @override
    def family(self, ends: int) -> Family:
        """Return the chain at the start; it takes two ends."""
        if ends != 2:
            raise InputError(wrong_ends("--neb", ends, "exactly 2 modes"))
        return PolygonalChainFamily(self.pivots)

    @override
    def cost(self, family: Family, examples: int) -> float | None:
        """Count the batch once per pivot and certain step; return None if the run may end after its first cycle."""
        if self.target is not None or self.max_seconds is not None:
            return None
        least = 1 if "gaps" in self.stop else PATIENCE
        cycles = [(s.steps, min(s.cycles, least) if self.stop else s.cycles) for s in self.stages()]
        steps = sum(steps * count for steps, count in cycles)
        return float(min(steps, self.max_steps or steps) * self.pivots * min(self.batch_size, examples))

    @override
    def starting_from(self, family: Family, source: Family, ends: Sequence[int]) -> tuple[Family, Floats, bool]:
        """Continue with an earlier band's pivots, or start from points of a curve evenly spaced in its parameter."""
        first, last = source.end_parameters()[list(ends)]
        if isinstance(source, PolygonalChainFamily) and source.at is not None:
            at = source.at if first[0] < last[0] else tuple(1.0 - t for t in reversed(source.at))
            rows = np.eye(source.size)
            return PolygonalChainFamily(source.bends, at), rows if first[0] < last[0] else rows[::-1], True
        t = family.knots[:, None]
        return family, source.coefficients((1.0 - t) * first + t * last), True

    @override
    def check(self, flat: FlatModel, task: Task, family: Family) -> None:
        """Raise InputError early for settings that do not suit the network or the task."""
        from mgraph.network.precision import check_precision
        from mgraph.train.losses import check_objective
        from mgraph.train.parallel import present

        check_precision(self.precision, flat.device)
        flat.check_batch(min(self.batch_size, len(task.train)) // present().size)
        check_objective(flat, task, self)

    @override
    def check_start(self, flat: FlatModel, task: Task, start: Start) -> None:
        """Raise InputError early for ends that are the same point, or for a target below their own loss."""
        import torch

        points = start.points()
        if np.array_equal(points[0], points[-1]):
            raise InputError("The two modes are the same point; there is nothing to connect.")
        ends = [flat.pack(torch.from_numpy(points[k])) for k in (0, -1)]
        losses = self._measure(flat, task, start.augment, None)(ends, np.eye(2), "ends")
        if not np.isfinite(losses).all():
            raise NonFiniteError(f"The train losses of the two modes are {losses[0]:g} and {losses[1]:g}, not finite.")
        if self.target is not None and self.target < losses.max():
            raise InputError(
                f"The target {self.target:g} is below the train loss of the modes themselves ({losses[0]:.4g} and "
                f"{losses[1]:.4g}), and a path begins and ends there; give a target above {losses.max():.4g}."
            )

    @classmethod
    @override
    def describe(cls, series: Sequence[Observation], data: SweepData | None) -> dict[str, Any]:
        """Return ``cycles``: the results of each."""
        from mgraph.methods.neb.picture import cycle_rows

        return {"cycles": cycle_rows(series)}

    @classmethod
    @override
    def panel(cls, series: Sequence[Observation]) -> Panel | None:
        """Return a function that draws the saddle by cycle."""
        from mgraph.methods.neb.picture import cycle_rows, draw_cycles

        rows = cycle_rows(series)
        return partial(draw_cycles, rows) if rows else None

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
        """Relax the band; the result is the chain with the lowest saddle over all cycles."""
        from mgraph.methods.neb.autoneb import relax
        from mgraph.train.losses import training_loss
        from mgraph.train.objective import Objective

        assert isinstance(family, PolygonalChainFamily)
        relaxed = relax(
            Objective(flat, training_loss(task, self), task.train),
            start.points(),
            self,
            self._measure(flat, task, start.augment, progress),
            continues=family.at is not None,
            checkpointer=checkpointer,
            progress=progress,
        )
        points, chain = _by_length(relaxed.points)
        return Outcome(
            points,
            notes=(self._ended(relaxed, task), *relaxed.notes),
            family=chain,
            series=_series(relaxed),
            stopped=relaxed.stopped,
        )

    def _ended(self, relaxed: Relaxed, task: Task) -> str:
        best, cycles = relaxed.best, len(relaxed.history) - 1
        examples = len(task.train) if self.dense_examples is None else min(self.dense_examples, len(task.train))
        return (
            f"ended because {relaxed.ended}: saddle {best.saddle:.4g} (train loss of {examples} examples) at "
            f"t = {best.at:.3f}, {best.pivots} pivots, after {cycles} cycle{'' if cycles == 1 else 's'}"
        )

    def _measure(self, flat: FlatModel, task: Task, augment: str, progress: ProgressCallback | None) -> Measure:
        """Return a function that evaluates the train loss of points, with BatchNorm statistics recomputed for each."""
        from mgraph.evaluate.batchnorm import BatchNormPolicy
        from mgraph.evaluate.metrics import LOSS, Subset
        from mgraph.evaluate.sweep import Measuring, sweep
        from mgraph.progress import silent

        how = Measuring(BatchNormPolicy.default(task.train, augment=augment))
        subsets = {"train": Subset.random(len(task.train), self.dense_examples)}

        def measure(rows: Sequence[Tensor], coefficients: Floats, phase: str) -> Floats:
            found = sweep(
                flat, task, rows, coefficients, how=how, subsets=subsets, phase=phase, progress=progress or silent
            )
            return np.array([point["train"][LOSS].value for point in found])

        return measure


def _by_length(points: Array) -> tuple[Array, PolygonalChainFamily]:
    """Parametrise a chain by its length, dropping pivots that coincide with their neighbour or the end."""
    inner = range(1, len(points) - 1)
    apart = [i for i in inner if (points[i] != points[i - 1]).any() and (points[i] != points[-1]).any()]
    points = points[[0, *apart, -1]]
    lengths = [np.linalg.norm(b.astype(np.float64) - a) for a, b in pairwise(points)]
    return points, PolygonalChainFamily.by_length(lengths)


def _series(relaxed: Relaxed) -> tuple[SeriesData, ...]:
    """Turn the history into one series per quantity, by cycle; cycle 0 is the start."""
    series = []
    for quantity in _BY_CYCLE:
        found = [(float(r.cycle), getattr(r, quantity)) for r in relaxed.history]
        known = [(cycle, float(value)) for cycle, value in found if value is not None]
        if known:
            cycles, values = zip(*known, strict=True)
            series.append(SeriesData(quantity, "", cycles, values))
    return tuple(series)
