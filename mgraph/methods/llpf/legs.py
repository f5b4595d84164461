"""The two ways LLPF [L] moves: towards a mode (Algorithm 1) and towards the origin (Algorithm 2).

There are T tensors and U units; a unit is one layer, its weight and bias taken as one vector. The quantities that steer
a walk are small float64 NumPy arrays; large tensors move in a few fused calls on the network's own row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from mgraph.families import Floats
from mgraph.methods.llpf.tensors import Tensors, move, rescale, scale, squares
from mgraph.methods.llpf.walk_settings import WalkSettings
from mgraph.network.flat import FlatModel
from mgraph.network.order import Layer

ARRIVED = 0.01  # a unit has arrived when this fraction of its way is left
_PUSH = 1.1  # factor by which a slow layer's step grows from one tick to the next

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Units:
    """The layers of a network that moves: names (U,), each tensor's unit (T,), and which tensors (T,) are weights.

    Only weights have a variance to hold; biases, scales and shifts of normalisations, and single numbers are not
    weights. ``normalises`` (U,) marks the normalisation layers.
    """

    names: tuple[str, ...]
    of: NDArray[np.int64]
    weight: Mask
    normalises: Mask

    @classmethod
    def of_layers(cls, flat: FlatModel, layers: Sequence[Layer], phases: Sequence[Collection[str]]) -> Units:
        """Make one unit of every layer, or several if its parameters start to move in different phases."""
        place = {name: i for i, name in enumerate(flat.names)}
        sizes = Tensors(flat).sizes
        of, weight = np.zeros(len(place), dtype=np.int64), np.zeros(len(place), dtype=bool)
        names: list[str] = []
        normalises: list[bool] = []
        for layer in layers:
            entries = {p: next((i for i, phase in enumerate(phases) if p in phase), -1) for p in layer.parameters}
            for entry in dict.fromkeys(entries.values()):
                parameters = [p for p in layer.parameters if entries[p] == entry]
                whole = len(parameters) == len(layer.parameters)
                names.append((layer.name or "network") if whole else ",".join(parameters))
                normalises.append(layer.normalises)
                of[[place[p] for p in parameters]] = len(names) - 1
            weight[[place[p] for p in layer.weights]] = True
        return cls(tuple(names), of, weight & (sizes > 1), np.array(normalises))

    def __len__(self) -> int:
        return len(self.names)

    def norms(self, squares: Floats) -> Floats:
        """Return the norm of each unit, shape (U,), from the sums of squares of its tensors."""
        return np.asarray(np.sqrt(np.bincount(self.of, weights=squares, minlength=len(self))))

    def containing(self, parameters: Collection[str], names: Sequence[str]) -> Mask:
        """Return which units consist of these parameters, shape (U,)."""
        moving = np.zeros(len(self), dtype=bool)
        for name, unit in zip(names, self.of, strict=True):
            moving[unit] |= name in parameters
        return moving


@dataclass(frozen=True)
class TickPhase:
    """Which units move, shape (U,), for how many ticks at most, and by what fraction of the remaining distance."""

    name: str
    moving: Mask
    ticks: int
    step: float


class Leg(ABC):
    """A way to move the network's row, one tick at a time, from where it was when the leg began.

    ``gap`` holds the distances (U,) at its beginning, ``variances`` (W,) the variances of the weights after the last
    tick.
    """

    gap: Floats

    def __init__(self, flat: FlatModel, units: Units, how: WalkSettings) -> None:
        self._flat, self._units, self._how = flat, units, how
        self._tensors = Tensors(flat)
        self._weights = np.flatnonzero(units.weight)
        self._weight_views = self._tensors.views(flat.theta, self._weights)
        self._weight_sizes = self._tensors.sizes[self._weights]
        self.variances = self._tensors.moments(self._weight_views, self._weight_sizes)[1]

    @abstractmethod
    def begin(self, phase: TickPhase, *, anew: bool) -> None:
        """Prepare for a phase, either at its beginning (``anew``) or partway through it."""

    def memory(self) -> dict[str, Floats]:
        """Return what was recorded at the start of phases, for :meth:`recall`."""
        return {}

    def recall(self, memory: Mapping[str, Floats]) -> None:
        """Restore what :meth:`memory` returned."""
        del memory

    @abstractmethod
    def distances(self) -> Floats:
        """Return how far each unit is from the leg's destination, shape (U,)."""

    @abstractmethod
    def lengths(self, distances: Floats, before: Floats) -> Floats:
        """Return how far each unit moves in this tick, shape (U,); ``before`` are the distances when the phase began.

        Called once per tick, whereas :meth:`move` is called again whenever the tick is taken back.
        """

    @abstractmethod
    def move(self, distances: Floats, lengths: Floats) -> None:
        """Move each unit by its length, and do what must follow before training."""

    def rates(self) -> Floats | None:
        """Return factors for the learning rate of each weight in this tick; None means 1 for all."""
        return None

    @abstractmethod
    def settle(self) -> None:
        """Do what must follow training; afterwards ``variances`` of the weights, shape (W,), are up to date."""

    @abstractmethod
    def finished(self, distances: Floats) -> bool:
        """Return whether the phase is over before it has used all its ticks."""


class TowardsMode(Leg):
    """Move, VarianceCorrection, (training), VarianceCorrection [L, Alg. 1].

    The variance of a weight about its own mean is held at its value at the start or, with ``variance_target="blend"``,
    between its value when the layer began to move and the destination's, by the layer's progress since then: f = 1 -
    distance / distance then. (Before that, training moves it freely; holding the start's value would make it jump.)
    """

    def __init__(self, flat: FlatModel, units: Units, how: WalkSettings, start: Tensor, destination: Tensor) -> None:
        super().__init__(flat, units, how)
        self._destination, self._difference = destination, torch.empty_like(destination)
        self._difference_views = self._tensors.views(self._difference)
        everything = how.variance_scope == "everything"
        self._scope = np.arange(len(self._tensors)) if everything else self._weights
        self._scope_views = self._tensors.views(flat.theta, self._scope)
        self._weights_in_scope = np.flatnonzero(np.isin(self._scope, self._weights))
        sizes = self._tensors.sizes[self._scope]
        ends = [self._tensors.moments(self._tensors.views(row, self._scope), sizes)[1] for row in (start, destination)]
        self._from, self._to = ends
        self.gap = self._between(start)
        self._way, self._moving = self.gap, np.zeros(len(units), dtype=bool)

    @override
    def begin(self, phase: TickPhase, *, anew: bool) -> None:
        """Look up what moves, and record the state of the layers that start to move now."""
        units = self._units
        entering = phase.moving & ~self._moving
        if anew and self._how.variance_target == "blend":
            here = self._tensors.moments(self._scope_views, self._tensors.sizes[self._scope])[1]
            self._from = np.where(entering[units.of[self._scope]], here, self._from)
            self._way = np.where(entering, self.distances(), self._way)
        self._moving = phase.moving
        self._phase = phase
        chosen = np.flatnonzero(phase.moving[units.of])
        self._moved_units = units.of[chosen]
        self._moved = self._tensors.views(self._flat.theta, chosen)
        self._goals = self._tensors.views(self._destination, chosen)
        active = np.ones(len(self._scope), dtype=bool)
        if self._how.variance_scope == "weights":
            active = phase.moving[units.of[self._scope]]
        self._active = np.flatnonzero(active)
        self._corrected = self._tensors.views(self._flat.theta, self._scope[active])

    @override
    def memory(self) -> dict[str, Floats]:
        """Return the variances and distances with which layers began to move, and which layers are moving."""
        return {"from": self._from, "way": self._way, "moving": self._moving.astype(np.float64)}

    @override
    def recall(self, memory: Mapping[str, Floats]) -> None:
        self._from, self._way = np.array(memory["from"]), np.array(memory["way"])
        self._moving = np.array(memory["moving"], dtype=bool)

    @override
    def distances(self) -> Floats:
        """Return ‖destination - x‖ of each unit."""
        return self._between(self._flat.theta)

    def _between(self, row: Tensor) -> Floats:
        torch.sub(self._destination, row, out=self._difference)
        return self._units.norms(squares(self._difference_views))

    @override
    def lengths(self, distances: Floats, before: Floats) -> Floats:
        """Return min(‖d‖, max(step_f + step_c·D, step_a·‖d‖)), which never overshoots the destination."""
        how = self._how
        least = how.step_f + how.step_c * before
        return np.where(self._phase.moving, np.minimum(distances, np.maximum(least, self._phase.step * distances)), 0.0)

    @override
    def move(self, distances: Floats, lengths: Floats) -> None:
        """Move straight towards the destination, then correct the variances."""
        share = np.divide(lengths, distances, out=np.zeros_like(lengths), where=distances > 0)
        move(self._moved, self._goals, share[self._moved_units])
        self._target = self._from
        if self._how.variance_target == "blend":
            left = np.divide(distances - lengths, self._way, out=np.zeros_like(lengths), where=self._way > 0)
            progress = np.clip(1.0 - left, 0.0, 1.0)[self._units.of[self._scope]]
            self._target = self._from + progress * (self._to - self._from)
        if self._how.variance_correction:
            self._correct(*self._tensors.moments(self._corrected, self._tensors.sizes[self._scope[self._active]]))

    @override
    def settle(self) -> None:
        """Correct the variances again, and measure those of the weights that do not move as well."""
        mean, variance = self._tensors.moments(self._scope_views, self._tensors.sizes[self._scope])
        if self._how.variance_correction:
            chosen = self._active
            variance[chosen] = self._correct(mean[chosen], variance[chosen])
        self.variances = variance[self._weights_in_scope]

    def _correct(self, mean: Floats, variance: Floats) -> Floats:
        """Rescale about the mean so that the variance meets its target (ε added to both); return the new variance."""
        if not len(self._active):
            return variance
        target, eps = self._target[self._active], self._how.variance_eps
        ratio = np.divide(target + eps, variance + eps, out=np.ones_like(variance), where=variance + eps > 0)
        rescale(self._corrected, mean, np.sqrt(ratio))
        return np.asarray(ratio * variance)

    def arrived(self, distances: Floats) -> Mask:
        """Return which units have at most a hundredth of their way left, or had no way to go, shape (U,)."""
        return np.asarray((distances <= ARRIVED * self.gap) | (self.gap == 0))

    @override
    def finished(self, distances: Floats) -> bool:
        """Return whether everything that moves has arrived."""
        return bool(self.arrived(distances)[self._phase.moving].all())


class TowardsOrigin(Leg):
    """Shrink, and lower each weight's learning rate in step with its variance (AngleConformal) [L, Alg. 2].

    Normalisation layers do not move. With ``limits``, the variances (W,) of another mode, a layer stops once all its
    weights are at or below theirs, and the leg ends when all layers have stopped. Without, it ends when the norm of
    what moves has fallen to ``shrink`` times its initial value.
    """

    def __init__(
        self, flat: FlatModel, units: Units, how: WalkSettings, start: Tensor, limits: Floats | None = None
    ) -> None:
        super().__init__(flat, units, how)
        self._moving = ~units.normalises
        self._views = self._tensors.views(flat.theta)
        views = self._tensors.views(start)
        self.gap = self._norms(views)
        self._first = self._tensors.moments(self._tensors.views(start, self._weights), self._weight_sizes)[1]
        self._limits = limits
        self._push, self._last = np.ones(len(units)), np.full(len(units), np.inf)

    @override
    def memory(self) -> dict[str, Floats]:
        """Return the factor by which each layer's step is enlarged, and its norm one tick ago."""
        return {"push": self._push, "last": self._last}

    @override
    def recall(self, memory: Mapping[str, Floats]) -> None:
        self._push, self._last = np.array(memory["push"]), np.array(memory["last"])

    @override
    def begin(self, phase: TickPhase, *, anew: bool) -> None:
        self._phase = phase
        self._chosen = np.flatnonzero((phase.moving & self._moving)[self._units.of])
        self._moved = self._tensors.views(self._flat.theta, self._chosen)
        self.settle()

    @override
    def distances(self) -> Floats:
        """Return ‖x‖ of each unit, 0 for those that do not move."""
        return self._norms(self._views)

    def _norms(self, views: Sequence[Tensor]) -> Floats:
        return np.where(self._moving, self._units.norms(squares(views)), 0.0)

    @override
    def lengths(self, distances: Floats, before: Floats) -> Floats:
        """Return a fraction of each norm, 0 for a layer that has stopped.

        The fraction grows as long as a layer loses less than a quarter of it per tick, because training makes it grow
        back.
        """
        slow = distances > (1.0 - self._phase.step / 4.0) * self._last
        self._push = np.clip(np.where(slow, self._push * _PUSH, self._push / _PUSH), 1.0, self._how.origin_push)
        self._last = distances
        return np.where(self._stopped(), 0.0, np.minimum(self._push * self._phase.step, 1.0) * distances)

    def _stopped(self) -> Mask:
        if self._limits is None:
            return ~self._moving
        above = np.zeros(len(self._units), dtype=bool)
        above[self._units.of[self._weights[self.variances > self._limits]]] = True
        return ~(above & self._moving)

    @override
    def move(self, distances: Floats, lengths: Floats) -> None:
        share = np.divide(lengths, distances, out=np.zeros_like(lengths), where=distances > 0)
        scale(self._moved, 1.0 - share[self._units.of[self._chosen]])

    @override
    def rates(self) -> Floats | None:
        """Return Var(x) / Var(start) of each weight, at most 1, lest a weight that has grown grow even faster."""
        if not self._how.conformal:
            return None
        ratio = np.divide(self.variances, self._first, out=np.ones_like(self._first), where=self._first > 0)
        return np.minimum(ratio, 1.0)

    @override
    def settle(self) -> None:
        self.variances = self._tensors.moments(self._weight_views, self._weight_sizes)[1]

    @override
    def finished(self, distances: Floats) -> bool:
        """Return whether all layers have stopped or the norm is low enough."""
        if self._limits is not None:
            return bool(self._stopped().all())
        return float(np.linalg.norm(distances)) <= self._how.shrink * float(np.linalg.norm(self.gap))
