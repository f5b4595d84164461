"""The two ways to move of LLPF [L]: towards a mode (Algorithm 1), and towards the origin (Algorithm 2).

T tensors, U units: a unit is one layer, its weight and bias as one vector. What steers is float64 NumPy and small;
what is large moves in a few fused calls on the network's own row.
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

ARRIVED = 0.01  # of the way, left
_PUSH = 1.1  # by which a slow layer is moved farther, from one tick to the next

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Units:
    """The layers of a network that moves: names (U,), each tensor's unit (T,), and which tensors (T,) are weights.

    Weights are what has a variance to hold: no bias, no scale or shift of a normalisation, no single number.
    ``normalises`` (U,) tells layers that are normalisations.
    """

    names: tuple[str, ...]
    of: NDArray[np.int64]
    weight: Mask
    normalises: Mask

    @classmethod
    def of_layers(cls, flat: FlatModel, layers: Sequence[Layer], phases: Sequence[Collection[str]]) -> Units:
        """Make a unit of every layer; of a layer whose parameters begin to move in different phases, several."""
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
        """Tell which units consist of these parameters, shape (U,)."""
        moving = np.zeros(len(self), dtype=bool)
        for name, unit in zip(names, self.of, strict=True):
            moving[unit] |= name in parameters
        return moving


@dataclass(frozen=True)
class TickPhase:
    """What moves (units, shape (U,)), for how many ticks at most, and by which share of what is left."""

    name: str
    moving: Mask
    ticks: int
    step: float


class Leg(ABC):
    """A way to move the network's row, a tick at a time, from where it was when the leg began.

    ``gap`` are the distances (U,) at its beginning, ``variances`` (W,) those of the weights after the last tick.
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
        """Get ready for a phase, at its beginning (``anew``) or in its midst."""

    def memory(self) -> dict[str, Floats]:
        """Return what was noted as phases began, for :meth:`recall`."""
        return {}

    def recall(self, memory: Mapping[str, Floats]) -> None:
        """Take up what :meth:`memory` returned."""
        del memory

    @abstractmethod
    def distances(self) -> Floats:
        """Return how far each unit is from where the leg leads, shape (U,)."""

    @abstractmethod
    def lengths(self, distances: Floats, before: Floats) -> Floats:
        """Return how far each unit moves in this tick, shape (U,); ``before`` are distances as the phase began.

        Called once a tick, while :meth:`move` is called again where the tick is taken back.
        """

    @abstractmethod
    def move(self, distances: Floats, lengths: Floats) -> None:
        """Move the units so far, and do what follows before training."""

    def rates(self) -> Floats | None:
        """Return factors on the learning rate of the weights in this tick, or None: all 1."""
        return None

    @abstractmethod
    def settle(self) -> None:
        """Do what follows training; ``variances`` of the weights, shape (W,), are then up to date."""

    @abstractmethod
    def finished(self, distances: Floats) -> bool:
        """Tell whether the phase is over before its ticks are."""


class TowardsMode(Leg):
    """Move, VarianceCorrection, (training), VarianceCorrection [L, Alg. 1].

    The variance of a weight is held about its own mean: at the start's, or, with ``variance_target="blend"``, between
    what it was when its layer began to move and the destination's, by the layer's progress since then, f = 1 -
    distance / distance then. (Until then training moves it freely: the start's would be a jump.)
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
        """Look up what moves; note where layers are that begin to."""
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
        """The variances and distances from which layers began to move, and which are moving."""
        return {"from": self._from, "way": self._way, "moving": self._moving.astype(np.float64)}

    @override
    def recall(self, memory: Mapping[str, Floats]) -> None:
        self._from, self._way = np.array(memory["from"]), np.array(memory["way"])
        self._moving = np.array(memory["moving"], dtype=bool)

    @override
    def distances(self) -> Floats:
        """‖destination - x‖ of each unit."""
        return self._between(self._flat.theta)

    def _between(self, row: Tensor) -> Floats:
        torch.sub(self._destination, row, out=self._difference)
        return self._units.norms(squares(self._difference_views))

    @override
    def lengths(self, distances: Floats, before: Floats) -> Floats:
        """min(‖d‖, max(step_f + step_c·D, step_a·‖d‖)): never past the destination."""
        how = self._how
        least = how.step_f + how.step_c * before
        return np.where(self._phase.moving, np.minimum(distances, np.maximum(least, self._phase.step * distances)), 0.0)

    @override
    def move(self, distances: Floats, lengths: Floats) -> None:
        """Move straight towards the destination, and correct."""
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
        """Correct again, looking at the weights that do not move as well."""
        mean, variance = self._tensors.moments(self._scope_views, self._tensors.sizes[self._scope])
        if self._how.variance_correction:
            chosen = self._active
            variance[chosen] = self._correct(mean[chosen], variance[chosen])
        self.variances = variance[self._weights_in_scope]

    def _correct(self, mean: Floats, variance: Floats) -> Floats:
        """Rescale about the mean, so that the variance becomes the target (ε added to both); return what it is now."""
        if not len(self._active):
            return variance
        target, eps = self._target[self._active], self._how.variance_eps
        ratio = np.divide(target + eps, variance + eps, out=np.ones_like(variance), where=variance + eps > 0)
        rescale(self._corrected, mean, np.sqrt(ratio))
        return np.asarray(ratio * variance)

    def arrived(self, distances: Floats) -> Mask:
        """Tell of each unit whether a hundredth of its way is left, or less (or there was no way to go)."""
        return np.asarray((distances <= ARRIVED * self.gap) | (self.gap == 0))

    @override
    def finished(self, distances: Floats) -> bool:
        """Whether all that moves has arrived."""
        return bool(self.arrived(distances)[self._phase.moving].all())


class TowardsOrigin(Leg):
    """Shrink, and lower each weight's learning rate with its variance (AngleConformal) [L, Alg. 2].

    Normalisation layers do not move. With ``limits``, the variances (W,) of another mode, a layer stops when all its
    weights are at or below theirs, and the leg ends when all have stopped; else it ends when the norm of what moves
    is ``shrink`` times what it was.
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
        """How much farther each layer is moved, and its norm a tick ago."""
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
        """‖x‖ of each unit; 0 of those that do not move."""
        return self._norms(self._views)

    def _norms(self, views: Sequence[Tensor]) -> Floats:
        return np.where(self._moving, self._units.norms(squares(views)), 0.0)

    @override
    def lengths(self, distances: Floats, before: Floats) -> Floats:
        """A share of the norm; 0 of a layer that has stopped.

        The share grows while a layer loses less than a quarter of it in a tick, for training has grown it again.
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
        """Var(x) / Var(start) of each weight; not above 1, or what has grown would grow the faster."""
        if not self._how.conformal:
            return None
        ratio = np.divide(self.variances, self._first, out=np.ones_like(self._first), where=self._first > 0)
        return np.minimum(ratio, 1.0)

    @override
    def settle(self) -> None:
        self.variances = self._tensors.moments(self._weight_views, self._weight_sizes)[1]

    @override
    def finished(self, distances: Floats) -> bool:
        """Whether all layers have stopped, or the norm is low enough."""
        if self._limits is not None:
            return bool(self._stopped().all())
        return float(np.linalg.norm(distances)) <= self._how.shrink * float(np.linalg.norm(self.gap))
