"""A nudged elastic band: a chain of points that relaxes across itself, one mini-batch for all of it per step.

P, shape (N, size), holds the points, the modes first and last. The network's parameters are pointed at one row
after the other, so that no point is copied anywhere. All that the forces need of N - 2 gradients are a few inner
products with the differences e_i = p_{i+1} - p_i; these, and then the update, are one pass over memory each, in
blocks of columns that stay in cache. Scalars are NumPy's: that is where tangents are decided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mgraph.families import Floats
from mgraph.network.flat import FlatModel
from mgraph.train.losses import Loss
from mgraph.train.parallel import Workers
from mgraph.train.tangent import pulls

_COLUMNS = {"cpu": 1 << 14}  # of a block: with a dozen points and their gradients it fits into cache
_COLUMNS_ELSEWHERE = 1 << 22


@dataclass(frozen=True)
class Rule:
    """How a band moves: SGD with momentum, weight decay as part of the gradient, and what keeps points apart.

    ``spring`` is the constant k of springs between neighbours. None stands for k = ∞: before every step the points
    are put back to where they are to be along the chain.
    """

    momentum: float = 0.9
    weight_decay: float = 0.0
    spring: float | None = None


class Band:
    """A chain of points of one network; the ends stay what they are, bit for bit."""

    def __init__(
        self,
        flat: FlatModel,
        loss: Loss,
        points: Tensor,
        *,
        rule: Rule | None = None,
        spacing: Floats | None = None,
        momentum: Tensor | None = None,
        module: Callable[[Tensor], Tensor] | None = None,
        workers: Workers | None = None,
    ) -> None:
        """Take ``points``, shape (N, size), N at least 3, rows as :meth:`FlatModel.pack` makes them.

        ``spacing`` are the lengths that the N - 1 pieces shall have relative to one another (default: those that
        they have). Until :meth:`leave` the network belongs to the band.
        """
        self._flat, self._loss, self._rule = flat, loss, rule or Rule()
        self._module, self._workers = module or flat.module, workers or Workers()
        self._lanes = flat.lanes(len(points))
        self.points = self._lanes.theta
        self.points.copy_(points)
        self._grad = self._lanes.grad[1:-1]
        self.momentum = torch.zeros_like(self._grad) if momentum is None else momentum
        width = min(_COLUMNS.get(flat.device.type, _COLUMNS_ELSEWHERE), flat.size)
        self._blocks = [slice(start, min(start + width, flat.size)) for start in range(0, flat.size, width)]
        self._scratch = points.new_empty(2, len(points) - 1, width)
        self._clear = True  # whether the gradients are all 0
        # Sums over millions of columns; there is no float64 on Apple's GPUs.
        self._sums = torch.float32 if flat.device.type == "mps" else torch.float64
        self._squares: Tensor | None = None  # of the lengths of the pieces, where they are known
        self.spacing = self.lengths() if spacing is None else np.asarray(spacing, dtype=np.float64)

    def leave(self) -> None:
        """Give the network its own point back."""
        self._lanes.leave()

    def lengths(self) -> Floats:
        """Return the lengths of the N - 1 pieces, in float64."""
        if self._squares is None:
            self._squares = self._zeros(len(self.points) - 1)
            for _, differences in self._differences():
                self._squares += _squares(differences)
        return np.sqrt(self._squares.cpu().numpy().astype(np.float64))

    def step(self, x: Tensor, y: Tensor, lr: float) -> Floats:
        """Do one step on a batch; return the batch's losses at the N points before it.

        Where a loss, a gradient or a point is not finite, some loss that is returned is not, and no pivot has followed
        a gradient.
        """
        if self._rule.spring is None:
            self._redistribute()
        losses = self._gradients(x, y)
        n = len(self.points)
        found = torch.cat([losses.to(self._sums), *self._products()]).cpu().numpy().astype(np.float64)
        values, squares, products, to_left, to_right = np.split(found, np.cumsum([n, n - 1, n - 2, n - 2]))
        if np.isfinite(found).all():
            slopes = np.stack([to_left, to_right], axis=1)
            with np.errstate(over="ignore", invalid="ignore"):  # the next step's losses tell
                forces = pulls(values, squares, products, slopes, self._rule.spring)
            self._move(*forces, lr)
        elif np.isfinite(values).all():
            values = np.full(n, np.nan)
        return values

    def grown(self, places: Sequence[tuple[int, float]]) -> Band:
        """Return a band with further points: on a piece, so far along it (0 to 1); at most one on each.

        A new point has no momentum, and it divides its piece where it was put. This band is spent.
        """
        self.leave()
        points, momentum, spacing = list(self.points), list(self.momentum), list(self.spacing)
        for piece, along in sorted(places, reverse=True):
            points.insert(piece + 1, torch.lerp(points[piece], points[piece + 1], along))
            momentum.insert(piece, torch.zeros_like(self.momentum[0]))
            spacing[piece : piece + 1] = [along * spacing[piece], (1.0 - along) * spacing[piece]]
        return Band(
            self._flat,
            self._loss,
            torch.stack(points),
            rule=self._rule,
            spacing=np.array(spacing),
            momentum=torch.stack(momentum),
            module=self._module,
            workers=self._workers,
        )

    def _redistribute(self) -> None:
        """Put the inner points back to their shares of the chain's length, along the chain as it is."""
        lengths = self.lengths()
        reached = np.concatenate([[0.0], np.cumsum(lengths)])
        if not 0 < reached[-1] < np.inf:
            return
        wanted = np.cumsum(self.spacing)[:-1] / self.spacing.sum() * reached[-1]
        piece = np.clip(np.searchsorted(reached, wanted, side="right") - 1, 0, len(reached) - 2)
        along = (wanted - reached[piece]) / lengths[piece]
        start = torch.from_numpy(piece).to(self.points.device)
        share = torch.from_numpy(along).to(self.points)[:, None]
        for block in self._blocks:
            P = self.points[:, block]
            P[1:-1] = torch.lerp(P[start], P[start + 1], share)
        self._squares = None

    def _gradients(self, x: Tensor, y: Tensor) -> Tensor:
        """Fill in the gradients of the inner points; return the losses of all, shape (N,), on the device."""
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
                loss = self._loss(self._module(x), y)
                if fraction != 1.0:
                    loss = loss * fraction
                if 0 < i < last:
                    loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        everything = torch.stack(losses)
        self._workers.add_up([everything, self._grad])
        return everything

    def _products(self) -> tuple[Tensor, ...]:
        """Return |e|², e⁻·e⁺, g·e⁻ and g·e⁺, g the gradients with weight decay."""
        inner, known = len(self._grad), self._squares
        squares = self._zeros(inner + 1)
        sums = [self._zeros(inner) for _ in range(3)]
        for block, differences in self._differences():
            gradients = self._grad[:, block]
            if self._rule.weight_decay:
                decayed = self._scratch[1, : len(gradients), : gradients.shape[1]]
                gradients = torch.add(gradients, self.points[1:-1, block], alpha=self._rule.weight_decay, out=decayed)
            before, after = differences[:-1], differences[1:]
            if known is None:
                squares += _squares(differences)
            pairs = ((before, after), (gradients, before), (gradients, after))
            for total, (left, right) in zip(sums, pairs, strict=True):
                total += torch.linalg.vecdot(left, right)
        return squares if known is None else known, *sums

    def _move(self, before: Floats, after: Floats, lr: float) -> None:
        """Update momentum and points: M ← μM + g - (a⁻ e⁻ + a⁺ e⁺), p ← p - lr M; note the new lengths."""
        to_left, to_right = (torch.from_numpy(a).to(self.points)[:, None] for a in (before, after))
        squares = self._zeros(len(before) + 1)
        for block, differences in self._differences():
            P, M = self.points[:, block], self.momentum[:, block]
            gradients = self._grad[:, block]
            torch.add(gradients, M, alpha=self._rule.momentum, out=M)
            gradients.zero_()  # here they are in cache
            if self._rule.weight_decay:
                M.add_(P[1:-1], alpha=self._rule.weight_decay)
            M.addcmul_(to_left, differences[:-1], value=-1.0)
            M.addcmul_(to_right, differences[1:], value=-1.0)
            P[1:-1].sub_(M, alpha=lr)
            torch.sub(P[1:], P[:-1], out=differences)
            squares += _squares(differences)
        self._squares = squares

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
    """Return the squared lengths of rows; unlike an inner product it makes no products in between."""
    norms: Tensor = torch.linalg.vector_norm(differences, dim=1)
    return norms.square()
