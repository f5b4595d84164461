"""Which points of a long walk are kept, so that straight pieces between them stay as low as the walk itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

_MOST_WAITING = 8  # points in memory between two that are kept


@dataclass(frozen=True)
class Kept:
    """A kept point: its tick, its loss, and the loss in the middle of the straight piece that leads to it."""

    tick: int
    loss: float
    middle: float

    def error(self, before: float) -> float:
        """Return how far the middle rises above the higher of the piece's ends, ``before`` the loss at the first."""
        return self.middle - max(before, self.loss)


class Thinner:
    """Keeps every so many ticks a point, and points before it where the straight piece to it would rise.

    A piece is judged by its middle, where the error of interpolating a bent function is largest. Where even the
    nearest point that waits is too far, it is kept nevertheless, and the record says how far the piece rises.
    """

    def __init__(
        self,
        every: int,
        bound: float,
        loss_at: Callable[[Tensor], float],
        keep: Callable[[Tensor, Kept], None],
    ) -> None:
        """``loss_at`` measures a row; ``keep`` takes one for good."""
        self._every, self._bound = every, bound
        self._stride = -(-every // _MOST_WAITING)
        self._loss_at, self._keep = loss_at, keep
        self.waiting: list[tuple[int, Tensor]] = []

    def begin(self, row: Tensor, tick: int, loss: float, waiting: Sequence[tuple[int, Tensor]] = ()) -> None:
        """Go on from the point that was kept last."""
        self._last, self._tick, self._loss = row.clone(), tick, loss
        self.waiting = list(waiting)

    def add(self, tick: int, row: Tensor) -> None:
        """Take notice of the next point of the walk."""
        passed = tick - self._tick
        if passed >= self._every:
            self.settle(tick, row)
        elif passed % self._stride == 0:
            self.waiting.append((tick, row.clone()))

    def settle(self, tick: int, row: Tensor) -> None:
        """Keep this point, and those before it that the bound asks for."""
        if tick == self._tick:
            return
        points = [*(point for point in self.waiting if point[0] < tick), (tick, row.clone())]
        while points:
            at = len(points) - 1
            found = self._piece(*points[at])
            while at > 0 and found.error(self._loss) > self._bound:
                at //= 2
                found = self._piece(*points[at])
            self._last, self._tick, self._loss = points[at][1], found.tick, found.loss
            self._keep(self._last, found)
            points = points[at + 1 :]
        self.waiting = []

    def closing(self, row: Tensor, tick: int) -> Kept:
        """Measure the piece from the last kept point to the end of the path."""
        return self._piece(tick, row)

    def _piece(self, tick: int, row: Tensor) -> Kept:
        return Kept(tick, self._loss_at(row), self._loss_at((self._last + row) / 2))
