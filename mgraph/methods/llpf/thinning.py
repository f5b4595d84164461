"""Choose which points of a long walk to keep, so that the straight pieces between them stay as low as the walk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

_MOST_WAITING = 8  # points held in memory between two kept points


@dataclass(frozen=True)
class Kept:
    """A kept point: its tick, its loss, and the loss in the middle of the straight piece leading to it."""

    tick: int
    loss: float
    middle: float

    def error(self, before: float) -> float:
        """Return how far the middle rises above the higher end of its piece; ``before`` is the first end's loss."""
        return self.middle - max(before, self.loss)


class Thinner:
    """Keeps a point every ``every`` ticks, and earlier ones where the straight piece to it would rise.

    A piece is judged by its middle, where the interpolation error of a curved function is largest. If even the piece to
    the nearest waiting point rises too far, that point is kept anyway, and its record says how far the piece rises.
    """

    def __init__(
        self,
        every: int,
        bound: float,
        loss_at: Callable[[Tensor], float],
        keep: Callable[[Tensor, Kept], None],
    ) -> None:
        """``loss_at`` measures a row; ``keep`` stores one permanently."""
        self._every, self._bound = every, bound
        self._stride = -(-every // _MOST_WAITING)
        self._loss_at, self._keep = loss_at, keep
        self.waiting: list[tuple[int, Tensor]] = []

    def begin(self, row: Tensor, tick: int, loss: float, waiting: Sequence[tuple[int, Tensor]] = ()) -> None:
        """Continue from the last kept point."""
        self._last, self._tick, self._loss = row.clone(), tick, loss
        self.waiting = list(waiting)

    def add(self, tick: int, row: Tensor) -> None:
        """Take in the next point of the walk."""
        passed = tick - self._tick
        if passed >= self._every:
            self.settle(tick, row)
        elif passed % self._stride == 0:
            self.waiting.append((tick, row.clone()))

    def settle(self, tick: int, row: Tensor) -> None:
        """Keep this point, and the earlier ones that the bound requires."""
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
