"""A nudged elastic band: a chain of points that relaxes perpendicular to itself, one mini-batch per step for all of it.

P, shape (N, size), holds the points, with the modes first and last. The network's parameters are pointed at one row
after another, so no point is ever copied. All that the forces need from the N - 2 gradients are a few inner products
with the differences e_i = p_{i+1} - p_i. Computing these takes one pass over memory and the update another, both in
blocks of columns that stay in cache. Scalars live in NumPy, where tangents are decided. Most tangents depend on one
side only, so inner products and pulls are computed row by row, only where needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgraph.families import Floats
from mgraph.fields import Fields
from mgraph.methods.neb.tangent import pulls, squared_lengths, tangent_weights
from mgraph.network.flat import FlatModel
from mgraph.train.losses import Loss
from mgraph.train.parallel import Workers

Moments = dict[str, Tensor]
"""An optimiser's state: tensors with one row for each inner point."""

_COLUMNS = {"cpu": 1 << 16}  # per block: a dozen points and their gradients fit into cache
_COLUMNS_ELSEWHERE = 1 << 22


@dataclass(frozen=True)
class BandRule:
    """How a band moves, and what keeps its points apart.

    Either SGD with momentum (optionally Nesterov), where weight decay is part of the gradient from which the force is
    made; or AdamW on the forces, where ``momentum`` is β₁ and decoupled weight decay shrinks the points themselves.
    ``spring`` is the constant k of the springs between neighbours. None stands for k = ∞: before every step, the points
    are put back to their prescribed positions along the chain.
    """

    momentum: float = 0.9
    weight_decay: float = 0.0
    spring: float | None = None
    optimizer: str = "sgd"
    nesterov: bool = False
    beta2: float = 0.999

    @property
    def is_plain(self) -> bool:
        """Whether the optimiser is SGD with plain momentum."""
        return self.optimizer == "sgd" and not self.nesterov

    @property
    def in_gradient(self) -> float:
        """The weight decay that is part of the gradient."""
        return self.weight_decay if self.optimizer == "sgd" else 0.0

    def moments(self, like: Tensor) -> Moments:
        """Return the optimiser's initial state for every inner point, one row for each row of ``like``."""
        if self.optimizer == "sgd":
            return {"momentum_buffer": torch.zeros_like(like)}
        steps = torch.zeros(len(like), dtype=torch.float32, device=like.device)
        return {"exp_avg": torch.zeros_like(like), "exp_avg_sq": torch.zeros_like(like), "step": steps}

    def optimiser(self, rows: Tensor, gradients: Tensor, moments: Moments) -> torch.optim.Optimizer:
        """Return a torch optimiser for these rows that keeps its state in ``moments``."""
        parameters = [torch.nn.Parameter(row) for row in rows]
        made: torch.optim.Optimizer
        if self.optimizer == "sgd":
            made = torch.optim.SGD(parameters, momentum=self.momentum, nesterov=self.nesterov, fused=True)
        else:
            betas = (self.momentum, self.beta2)
            made = torch.optim.AdamW(parameters, betas=betas, weight_decay=self.weight_decay, fused=True)
        for i, parameter in enumerate(parameters):
            parameter.grad = gradients[i]
            made.state[parameter] = {name: moment[i] for name, moment in moments.items()}
        return made


class Band:
    """A chain of points of one network; the ends stay as they are, bit for bit."""

    def __init__(
        self,
        flat: FlatModel,
        loss: Loss,
        points: Tensor,
        *,
        rule: BandRule | None = None,
        spacing: Floats | None = None,
        moments: Moments | None = None,
        module: Callable[[Tensor], Tensor] | None = None,
        workers: Workers | None = None,
    ) -> None:
        """Take ``points``, shape (N, size) with N at least 3, whose rows are as :meth:`FlatModel.pack` makes them.

        ``spacing`` are the relative lengths that the N - 1 pieces should have (default: their present ones). The
        network belongs to the band until :meth:`leave`.
        """
        self._flat, self._loss, self._rule = flat, loss, rule or BandRule()
        self._module, self._workers = module or flat.module, workers or Workers()
        self._lanes = flat.lanes(len(points))
        self.points = self._lanes.theta
        self.points.copy_(points)
        self._grad = self._lanes.grad[1:-1]
        self.moments = self._rule.moments(self._grad) if moments is None else dict(moments)
        self._optimiser: torch.optim.Optimizer | None = None
        if not self._rule.is_plain:
            self._optimiser = self._rule.optimiser(self.points[1:-1], self._grad, self.moments)
        width = min(_COLUMNS.get(flat.device.type, _COLUMNS_ELSEWHERE), flat.size)
        self._blocks = [slice(start, min(start + width, flat.size)) for start in range(0, flat.size, width)]
        self._scratch = points.new_empty(2, len(points) - 1, width)
        self._clear = True  # whether the gradients are all 0
        self._decayed = False  # whether weight decay has been added to them
        # These sums run over millions of columns; Apple's GPUs have no float64.
        self._sums = torch.float32 if flat.device.type == "mps" else torch.float64
        self._squares: Tensor | None = None  # squared lengths of the pieces, if known
        self.spacing = self.lengths() if spacing is None else np.asarray(spacing, dtype=np.float64)

    def leave(self) -> None:
        """Give the network back its own point."""
        self._lanes.leave()

    def lengths(self) -> Floats:
        """Return the lengths of the N - 1 pieces, in float64."""
        if self._squares is None:
            self._squares = self._zeros(len(self.points) - 1)
            for _, differences in self._differences():
                self._squares += _squares(differences)
        return np.sqrt(self._squares.cpu().numpy().astype(np.float64))

    def step(self, x: Fields, y: Fields, lr: float) -> Floats:
        """Do one step on a batch; return the batch's losses at the N points before the step.

        If a loss, gradient or point is not finite, some returned loss is not finite either, and no pivot has followed a
        gradient.
        """
        if self._rule.spring is None:
            self._redistribute()
        values = self._gradients(x, y).to(self._sums).cpu().numpy().astype(np.float64)
        if not np.isfinite(values).all():
            return values
        self._decayed = False
        weights = tangent_weights(values)
        found = self._products(weights != 0)
        if _finite(found) and (squared_lengths(weights, *found[:2]) == 0).any():  # where a tangent vanishes
            found = self._products(np.ones_like(weights, dtype=np.bool_))  # the other side counts as well
        if not _finite(found):
            return np.full(len(values), np.nan)
        with np.errstate(over="ignore", invalid="ignore"):  # the next step's losses reveal it
            forces = pulls(values, *found, self._rule.spring)
        self._move(*forces, lr)
        return values

    def grown(self, places: Sequence[tuple[int, float]]) -> Band:
        """Return a band with more points, at most one per piece, each the given fraction (0 to 1) along its piece.

        A new point has no momentum, and splits its piece where it was inserted. This band can no longer be used.
        """
        self.leave()
        points, spacing = list(self.points), list(self.spacing)
        moments = {name: list(moment) for name, moment in self.moments.items()}
        for piece, along in sorted(places, reverse=True):
            points.insert(piece + 1, torch.lerp(points[piece], points[piece + 1], along))
            for rows in moments.values():
                rows.insert(piece, torch.zeros_like(rows[0]))
            spacing[piece : piece + 1] = [along * spacing[piece], (1.0 - along) * spacing[piece]]
        return Band(
            self._flat,
            self._loss,
            torch.stack(points),
            rule=self._rule,
            spacing=np.array(spacing),
            moments={name: torch.stack(rows) for name, rows in moments.items()},
            module=self._module,
            workers=self._workers,
        )

    def _redistribute(self) -> None:
        """Put the inner points back to their shares of the chain's length, along the present chain."""
        lengths = self.lengths()
        reached = np.concatenate([[0.0], np.cumsum(lengths)])
        if not 0 < reached[-1] < np.inf:
            return
        wanted = np.cumsum(self.spacing)[:-1] / self.spacing.sum() * reached[-1]
        piece = np.clip(np.searchsorted(reached, wanted, side="right") - 1, 0, len(reached) - 2)
        along = (wanted - reached[piece]) / lengths[piece]
        for block in self._blocks:
            P = self.points[:, block]
            new = self._scratch[1, : len(piece), : P.shape[1]]
            for row, k, share in zip(new, piece.tolist(), along.tolist(), strict=True):
                torch.lerp(P[k], P[k + 1], share, out=row)
            P[1:-1] = new
        self._squares = None

    def _gradients(self, x: Fields, y: Fields) -> Tensor:
        """Compute the gradients of the inner points; return the losses of all points, shape (N,), on the device."""
        x, y, fraction = self._workers.share(x, y)
        x = self._flat.inputs(x)
        if not self._clear:
            self._grad.zero_()
        self._clear = False
        last = len(self.points) - 1
        losses = []
        for i in range(last + 1):
            self._lanes.enter(i)
            with torch.set_grad_enabled(0 < i < last):
                loss = self._loss(self._flat.run(x, self._module), y)
                if fraction != 1.0:
                    loss = loss * fraction
                if 0 < i < last:
                    loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        everything = torch.stack(losses)
        self._workers.add_up([everything, self._grad])
        return everything

    def _products(self, sides: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
        """Return |e|², shape (N - 1,), e⁻·e⁺, (N - 2,), and g·e⁻ and g·e⁺, (N - 2, 2), with weight decay included in g.

        ``sides``, shape (N - 2, 2), are those that a tangent uses; e⁻·e⁺ is computed only where it uses both. Whatever
        is not requested is 0.
        """
        slopes, products = np.argwhere(sides), np.flatnonzero(sides.all(axis=1))
        pairs = [(int(i), int(i + side)) for i, side in slopes]
        squares = self._zeros(len(sides) + 1) if self._squares is None else self._squares
        found: list[Tensor] = []
        for block, differences in self._differences():
            if self._squares is None:
                squares += _squares(differences)
            gradients = self._grad[:, block]
            if self._rule.in_gradient and not self._decayed:
                gradients.add_(self.points[1:-1, block], alpha=self._rule.in_gradient)
            e, g = differences.unbind(), gradients.unbind()
            found += [torch.dot(g[i], e[k]) for i, k in pairs]
            found += [torch.dot(e[i], e[i + 1]) for i in products.tolist()]
        self._squares, self._decayed = squares, True
        sums = torch.stack(found).view(len(self._blocks), -1).to(self._sums).sum(0)
        numbers = torch.cat([squares, sums]).cpu().numpy().astype(np.float64)
        dots, along = np.zeros(len(sides)), np.zeros(sides.shape)
        along[sides] = numbers[len(squares) :][: len(pairs)]
        dots[products] = numbers[len(squares) + len(pairs) :]
        return numbers[: len(squares)], dots, along

    def _move(self, before: Floats, after: Floats, lr: float) -> None:
        """Update momentum and points: M ← μM + g - (a⁻ e⁻ + a⁺ e⁺), p ← p - lr M.

        The new lengths are recorded if the next step starts with them.
        """
        pulled = [
            (int(i), int(i) + side, float(-a[i])) for side, a in enumerate((before, after)) for i in np.flatnonzero(a)
        ]
        if self._optimiser is not None:
            self._move_by(self._optimiser, pulled, lr)
            return
        squares = self._zeros(len(before) + 1) if self._rule.spring is None else None
        momentum = self.moments["momentum_buffer"]
        for block, differences in self._differences():
            P, M = self.points[:, block], momentum[:, block]
            gradients = self._grad[:, block]
            torch.add(gradients, M, alpha=self._rule.momentum, out=M)
            gradients.zero_()  # while they are in cache
            m, e = M.unbind(), differences.unbind()
            for i, k, pull in pulled:
                m[i].add_(e[k], alpha=pull)
            P[1:-1].sub_(M, alpha=lr)
            if squares is not None:
                torch.sub(P[1:], P[:-1], out=differences)
                squares += _squares(differences)
        self._squares, self._clear = squares, True

    def _move_by(self, optimiser: torch.optim.Optimizer, pulled: Sequence[tuple[int, int, float]], lr: float) -> None:
        """Turn gradients into forces, and let the torch optimiser step along them."""
        for block, differences in self._differences():
            gradients = self._grad[:, block]
            for i, k, pull in pulled:
                gradients[i].add_(differences[k], alpha=pull)
        for group in optimiser.param_groups:
            group["lr"] = lr
        optimiser.step()
        self._squares, self._clear = None, False

    def _zeros(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=self._sums, device=self.points.device)

    def _differences(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield blocks of columns with the differences of neighbouring points there, in a buffer that is reused."""
        for block in self._blocks:
            P = self.points[:, block]
            differences = self._scratch[0, :, : P.shape[1]]
            torch.sub(P[1:], P[:-1], out=differences)
            yield block, differences


def _squares(differences: Tensor) -> Tensor:
    """Return the squared lengths of rows; unlike an inner product, this allocates no intermediate products."""
    norms: Tensor = torch.linalg.vector_norm(differences, dim=1)
    return norms.square()


def _finite(numbers: Sequence[Floats]) -> bool:
    return all(np.isfinite(n).all() for n in numbers)
