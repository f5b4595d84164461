"""Low-loss path finding [L]: walk from one mode to another, layer by layer and tick by tick, keeping the loss low."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from typing_extensions import override

from mgraph.errors import InputError
from mgraph.families import Family, Floats, Segment
from mgraph.methods.base import Array, Method, Outcome, Start, wrong_ends
from mgraph.methods.llpf.groups import ALL, AUTO, FDF, phases_of
from mgraph.methods.llpf.walk_settings import WalkSettings
from mgraph.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from mgraph.data.task import Task
    from mgraph.methods.llpf.legs import Leg, TickPhase, Units
    from mgraph.methods.llpf.walk import Stretch, Walk
    from mgraph.methods.llpf.walklog import Walked
    from mgraph.network.flat import FlatModel
    from mgraph.progress import ProgressCallback
    from mgraph.query.observed import Observation
    from mgraph.query.sweepdata import SweepData
    from mgraph.train.losses import Loss
    from mgraph.train.state import Checkpointer

# Ratio of the modes' norms above which a walk closes that difference first. A direct walk at a blended variance is
# shorter, but with BatchNorm it slows down far from its goal (benchmarks/llpf_digits.py).
_APART = 1.25
_FEW_LAYERS = 8  # with weights; networks of at most this many move all layers at once by default
_LOWEST_THRESHOLD, _OVER_OWN = 0.02, 1.2

_RESNET = {
    "batch_size": 256,
    "lr": 1e-3,
    "step_f": 0.0,
    "variance_target": "start",
    "take_back": None,
    "origin_step": 1e-3,
    "origin_push": 1.0,
    "log_every": 10,
}


@dataclass(frozen=True, kw_only=True)
class LLPF(Method, WalkSettings):
    """Low-loss path finding: every tick moves a little towards the other mode, then trains until the loss is low.

    The path ends at the destination itself: whatever distance the walk leaves becomes a straight last piece.
    """

    name: ClassVar[str] = "llpf"
    summary: ClassVar[str] = "low-loss path between 2 modes, layer by layer; or of 1 mode towards the origin"
    references: ClassVar[tuple[str, ...]] = ("Connecting Independently Trained Modes via Layer-Wise Connectivity [L]",)
    node_kind: ClassVar[str] = "pivot"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "quick": {"step_a": 1e-2, "step_f": 0.02, "lr": 0.05, "min_iters": 5, "max_iters": 30},
            # Table 4 of [L], ResNet-18 on CIFAR-10; there, the loss is averaged over ten iterations.
            "paper": {
                **_RESNET,
                "groups": "all:10000@5e-4;fdf",
                "max_groups": 5,
                "ticks": 5000,
                "step_a": 1e-3,
                "loss_threshold": 0.04,
                "min_iters": 10,
                "max_iters": 200,
                "keep_every": 500,
            },
            # The settings of the authors' code.
            "released": {
                **_RESNET,
                "groups": "fdf",
                "max_groups": 6,
                "ticks": 2000,
                "step_a": 1e-3,
                "loss_threshold": 0.005,
                "min_iters": 20,
                "max_iters": 20000,
                "variance_eps": 1e-4,
                "variance_scope": "everything",
                "keep_every": 200,
            },
            "paper-lenet5": {
                **_RESNET,
                "batch_size": 64,
                "groups": "all",
                "ticks": 30000,
                "step_a": 0.0,
                "step_f": 1e-3,
                "min_iters": 5,
                "max_iters": 5,
                "keep_every": 500,
            },
            "paper-cct": {
                **_RESNET,
                "batch_size": 128,
                "groups": "fdf:500;all:1000",
                "max_groups": 8,
                "step_a": 2e-3,
                "step_c": 2e-3,
                "loss_threshold": 0.05,
                "min_iters": 10,
                "max_iters": 1000,
                "keep_every": 100,
            },
            "paper-dla": {
                **_RESNET,
                "batch_size": 128,
                "groups": "fdf:400;all:400",
                "max_groups": 20,
                "step_a": 1e-3,
                "step_c": 2e-3,
                "loss_threshold": 0.005,
                "min_iters": 10,
                "max_iters": 1000,
                "keep_every": 100,
            },
        }
    )
    walk: str = setting(
        "auto",
        "m2m: to the other mode; across: from the larger mode towards the origin to the other's variance, then m2m; "
        "m2o: one mode towards the origin; auto: m2m, or across if the modes' norms differ by more than a quarter",
        choices=("auto", "m2m", "across", "m2o"),
    )

    @override
    def family(self, ends: int) -> Family:
        """Return a path, which is all that is known before the walk; it takes two ends, or one towards the origin."""
        if ends != (1 if self.walk == "m2o" else 2):
            expected = "exactly 2 modes, or 1 towards the origin by --walk m2o"
            raise InputError(wrong_ends("--llpf", ends, expected))
        return Segment()

    @override
    def check(self, flat: FlatModel, task: Task, family: Family) -> None:
        """Check groups, batch size, precision and loss before anything runs."""
        from mgraph.network.precision import check_precision
        from mgraph.train.losses import check_objective

        check_precision(self.precision, flat.device)
        flat.check_batch(self.batch_size)
        check_objective(flat, task, self)
        self._plan(flat, task)

    @override
    def check_start(self, flat: FlatModel, task: Task, start: Start) -> None:
        """Refuse identical modes, and a threshold below the modes' own loss."""
        from mgraph.train.losses import training_loss

        ends = start.rows
        if len(ends) == 2 and np.array_equal(ends[0], ends[1]):
            raise InputError("The two modes have exactly the same parameters; there is nothing to connect.")
        own = self._own_losses(flat, task, training_loss(task, self), ends)
        if not np.isfinite(own).all():
            found = " and ".join(f"{x:g}" for x in own)
            raise InputError(f"The modes' own train loss is {found}; a walk needs finite ones.")
        if self.loss_threshold is not None and self.min_iters < self.max_iters and max(own) > self.loss_threshold:
            listed = " and ".join(f"{x:.3g}" for x in own)
            raise InputError(
                f"loss_threshold={self.loss_threshold:g} is below the modes' own train loss in batches of "
                f"{self.batch_size} ({listed}), so no tick could reach it: raise it above {max(own):.2g}, leave it "
                f"auto, or train the modes longer."
            )

    @classmethod
    @override
    def describe(cls, series: Sequence[Observation], data: SweepData | None) -> dict[str, Any]:
        """Return the ``checks`` of a walk, and its ``layers`` and ``weights`` after the first and the last tick."""
        from mgraph.methods.llpf.report import WalkSeries, layer_rows, walk_checks, weight_rows

        walk = WalkSeries.of(series)
        if not walk.is_walk:
            return {"checks": None, "layers": [], "weights": []}
        return {"checks": walk_checks(walk, data), "layers": layer_rows(walk), "weights": weight_rows(walk)}

    @classmethod
    @override
    def figure(
        cls,
        series: Sequence[Observation],
        data: SweepData,
        ends: Sequence[str],
        *,
        title: str = "",
        before: SweepData | None = None,
    ) -> Any:
        """Draw a walk by tick, as [L] does."""
        from mgraph.methods.llpf.picture import draw_walk
        from mgraph.methods.llpf.report import WalkSeries

        walk = WalkSeries.of(series)
        return draw_walk(walk, data, ends, title, before) if walk.is_walk else None

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
        """Walk, and return the chain through the kept points from the first end to the second."""
        import torch

        from mgraph.methods.llpf.walk import Walk
        from mgraph.train.losses import training_loss
        from mgraph.train.objective import Objective
        from mgraph.train.state import InMemory

        checkpointer = InMemory() if checkpointer is None else checkpointer
        given = list(start.rows)
        loss = training_loss(task, self)
        threshold = self.loss_threshold
        if threshold is None:
            threshold = max(_LOWEST_THRESHOLD, _OVER_OWN * max(self._own_losses(flat, task, loss, given)))
        units, phases = self._plan(flat, task)
        rows = [flat.pack(torch.from_numpy(np.array(row))) for row in given]
        sizes = [_size(flat, units, row) for row in rows]
        backwards = len(rows) == 2 and self._crosses(sizes) and sizes[1] > sizes[0]
        if backwards:
            rows.reverse()
        stretches = self._stretches(flat, units, phases, rows, crossing=len(rows) == 2 and self._crosses(sizes))
        walk = Walk(
            Objective(flat, loss, task.train),
            units,
            self,
            threshold,
            measure=self._measure(flat, task, start.augment),
            checkpointer=checkpointer,
            progress=progress,
        )
        walked = walk.run(rows[0], stretches)
        return self._outcome(flat, units, walk, walked, given, rows, checkpointer, backwards=backwards)

    def _own_losses(self, flat: FlatModel, task: Task, loss: Loss, ends: Sequence[Array]) -> list[float]:
        import torch

        from mgraph.methods.llpf.walk import batch_loss

        found = []
        for end in ends:
            flat.theta.copy_(flat.pack(torch.from_numpy(np.array(end))))
            found.append(batch_loss(flat, loss, task.train, self))
        return found

    def _measure(self, flat: FlatModel, task: Task, augment: str) -> Callable[[], float]:
        """Return a function measuring the network's train loss on a fixed subset, recomputing BatchNorm statistics."""
        from mgraph.evaluate.batchnorm import BatchNormPolicy, recompute_statistics
        from mgraph.evaluate.metrics import LOSS, Subset, measure

        subset = Subset.random(len(task.train), self.check_examples)
        policy = BatchNormPolicy.default(task.train, self.check_examples, augment)

        def loss_here() -> float:
            recompute_statistics(flat, task.train, policy)
            return measure(flat, task, "train", subset, precision=self.precision)[LOSS].value

        return loss_here

    def _plan(self, flat: FlatModel, task: Task) -> tuple[Units, tuple[TickPhase, ...]]:
        """Find the layers, and the phases in which they move."""
        import torch

        from mgraph.methods.llpf.legs import TickPhase, Units
        from mgraph.network.order import execution_order

        x, _ = task.train.examples(torch.arange(min(2, len(task.train))), device=flat.device)
        traced, idle = execution_order(flat.module, flat.inputs(x))
        text = self.groups
        if text == AUTO:
            text = ALL if sum(bool(layer.weights) for layer in traced) <= _FEW_LAYERS else FDF
        groups = phases_of(text, traced, idle, self.max_groups)
        units = Units.of_layers(flat, [*traced, *idle], [group.parameters for group in groups])
        return units, tuple(
            TickPhase(
                group.name,
                units.containing(group.parameters, flat.names),
                self.ticks if group.ticks is None else group.ticks,
                self.step_a if group.step is None else group.step,
            )
            for group in groups
        )

    def _crosses(self, sizes: Sequence[float]) -> bool:
        """Return whether a walk between modes of these sizes goes towards the origin first."""
        if self.walk == "auto":
            return max(sizes) > _APART * min(sizes)
        return self.walk == "across"

    def _stretches(
        self,
        flat: FlatModel,
        units: Units,
        phases: tuple[TickPhase, ...],
        rows: Sequence[Tensor],
        *,
        crossing: bool,
    ) -> list[Stretch]:
        from mgraph.methods.llpf.legs import TickPhase, TowardsMode, TowardsOrigin
        from mgraph.methods.llpf.walk import Stretch

        limits = _variances(flat, units, rows[1]) if crossing else None

        def shrinking(row: Tensor) -> Leg:
            return TowardsOrigin(flat, units, self, row, limits)

        def approaching(row: Tensor) -> Leg:
            return TowardsMode(flat, units, self, row, rows[1])

        down = TickPhase("towards the origin", ~units.normalises, self.origin_ticks, self.origin_step)
        origin, mode = Stretch("m2o", shrinking, (down,)), Stretch("m2m", approaching, phases)
        if len(rows) == 1:
            return [origin]
        return [origin, mode] if crossing else [mode]

    def _outcome(
        self,
        flat: FlatModel,
        units: Units,
        walk: Walk,
        walked: Walked,
        given: Sequence[Array],
        rows: Sequence[Tensor],
        checkpointer: Checkpointer,
        *,
        backwards: bool,
    ) -> Outcome:
        from mgraph.methods.llpf.legs import TowardsMode
        from mgraph.methods.llpf.walked import KeptPoints, chain, observed

        kept = list(walked.kept)
        notes = [*walked.reasons]
        to_mode = len(rows) == 2
        if not (to_mode or kept):
            raise InputError("The walk towards the origin ended before its first tick; raise max_seconds.")
        if to_mode:
            assert isinstance(walked.leg, TowardsMode)
            kept.append(walk.close(rows[1]))
            left = float(np.linalg.norm(walked.distances)) / float(np.linalg.norm(walked.leg.gap))
            away = [n for n, there in zip(units.names, walked.leg.arrived(walked.distances), strict=True) if not there]
            notes.append(
                f"the closing piece is {100 * left:.2g} % of the way"
                + (f" ({len(away)} of {len(units)} layers had not arrived, first {away[0]})" if away else "")
            )
        else:
            norm = float(np.linalg.norm(walked.distances)) / float(np.linalg.norm(walked.leg.gap))
            notes.append(f"the norm of what moves fell to {100 * norm:.3g} %")
        if backwards:
            notes.append("walked from the second mode, the larger one, to the first")
        losses = [walked.start_loss, *(x for k in kept for x in (k.middle, k.loss))]
        ends = [walked.start_loss, kept[-1].loss] if to_mode else [walked.start_loss]
        notes.append(
            f"train loss at most {max(losses):.3g} at kept points and between, {max(losses) - max(ends):.2g} above the "
            f"ends"
        )
        points = KeptPoints(given[::-1] if backwards else given, checkpointer, len(walked.kept))
        family, points, order = chain(points, backwards=backwards)
        weights = [name for name, weight in zip(flat.names, units.weight, strict=True) if weight]
        series = observed(walked, units, weights, kept, order)
        return Outcome(
            points, notes=tuple(notes), family=family, series=series, found_end=not to_mode, stopped=walked.stopped
        )


def _size(flat: FlatModel, units: Units, row: Tensor) -> float:
    """Return (Σ ‖x - mean‖²)^½ over the weights: how far from the origin a mode lies."""
    from mgraph.methods.llpf.tensors import Tensors

    tensors = Tensors(flat)
    chosen = np.flatnonzero(units.weight)
    sizes = tensors.sizes[chosen]
    _, variances = tensors.moments(tensors.views(row, chosen), sizes)
    return float(np.sqrt(sizes @ variances))


def _variances(flat: FlatModel, units: Units, row: Tensor) -> Floats:
    from mgraph.methods.llpf.tensors import Tensors

    tensors = Tensors(flat)
    chosen = np.flatnonzero(units.weight)
    return tensors.moments(tensors.views(row, chosen), tensors.sizes[chosen])[1]
