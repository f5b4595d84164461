"""From a walk to a connection: the chain through the kept points, and what was observed (no torch)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from mgraph.families import Floats, PolygonalChainFamily
from mgraph.methods.base import Array, SeriesData

if TYPE_CHECKING:
    from mgraph.methods.llpf.legs import Units
    from mgraph.methods.llpf.thinning import Kept
    from mgraph.methods.llpf.walklog import Walked
    from mgraph.train.state import Checkpointer

_CHUNK = 1 << 20


class KeptPoints(Sequence[Array]):
    """The points of a walk, each of shape (D,), read from the checkpointer on demand.

    They are in walking order: the first end, the kept points, and the last end if there is one. ``order`` selects and
    rearranges them.
    """

    def __init__(
        self, ends: Sequence[Array], checkpointer: Checkpointer, kept: int, order: Sequence[int] | None = None
    ) -> None:
        self._ends, self._checkpointer, self._kept = ends, checkpointer, kept
        self._order = range(kept + len(ends)) if order is None else order

    def arranged(self, order: Sequence[int]) -> KeptPoints:
        """Return the selected points in this order."""
        return KeptPoints(self._ends, self._checkpointer, self._kept, [self._order[i] for i in order])

    @override
    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Array: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Array]: ...
    @override
    def __getitem__(self, index: int | slice) -> Array | Sequence[Array]:
        if isinstance(index, slice):
            return self.arranged(range(len(self))[index])
        place = self._order[index]
        if place == 0:
            return self._ends[0]
        if place > self._kept:
            return self._ends[1]
        found: Array = self._checkpointer.appended(place - 1)["point"]
        return found


def chain(points: KeptPoints, *, backwards: bool) -> tuple[PolygonalChainFamily, KeptPoints, list[int]]:
    """Return the chain through a walk's distinct points, parametrised by length, the points, and where each came from.

    The last point stands for itself and any repetitions of it, so the destination is exact. ``backwards``: the chain
    runs from where the walk ended to where it began.
    """
    lengths = [_distance(a, b) for a, b in pairwise(points)]
    order = [0, *(i + 1 for i, length in enumerate(lengths) if length > 0)]
    order[-1] = len(points) - 1
    lengths = [length for length in lengths if length > 0]
    if backwards:
        order, lengths = order[::-1], lengths[::-1]
    return PolygonalChainFamily.by_length(lengths), points.arranged(order), order


def observed(
    walked: Walked, units: Units, weights: Sequence[str], kept: Sequence[Kept], order: Sequence[int]
) -> tuple[SeriesData, ...]:
    """Return what was observed: by tick, by layer, and at the kept points.

    Distances are to the destination; on the way towards the origin they are called ``norm``. ``left`` is the fraction
    of each layer's way (towards the origin: of its norm) that was left after the last tick. ``row`` says which control
    point the point of a tick became; ``point_loss`` and ``piece_loss`` are the train losses there and in the middle of
    the straight piece leading there, on the examples of the check.
    """
    log = walked.log
    ticks = np.arange(1.0, len(log.ticks) + 1)
    down = np.array(log.column("to_origin"), dtype=bool)
    series = []
    for quantity in log.ticks[0] if log.ticks else ():
        series += _by_goal(quantity, "", ticks, np.array(log.column(quantity)), down)
    entries = np.array(log.entries, dtype=np.int64)
    for quantity, names, rows in (
        ("distance", units.names, log.distances),
        ("step", units.names, log.lengths),
        ("variance", weights, log.variances),
    ):
        values = np.array(rows, dtype=np.float64)
        for i, name in enumerate(names if len(entries) else ()):
            series += _by_goal(quantity, name, entries.astype(np.float64), values[:, i], down[entries - 1])
    last = (float(len(log.ticks)),)
    whole = np.linalg.norm(walked.distances) / np.linalg.norm(walked.leg.gap)
    series.append(SeriesData("left", "", last, (float(whole),)))
    series += [
        SeriesData("left", name, last, (float(distance / gap),))
        for name, distance, gap in zip(units.names, walked.distances, walked.leg.gap, strict=True)
        if gap > 0
    ]
    passed = [0.0, *(float(k.tick) for k in kept)]
    by_tick = sorted((passed[place], float(row)) for row, place in enumerate(order))
    series += [
        SeriesData("row", "", tuple(tick for tick, _ in by_tick), tuple(row for _, row in by_tick)),
        SeriesData("point_loss", "", tuple(passed), (walked.start_loss, *(k.loss for k in kept))),
        SeriesData("piece_loss", "", tuple(passed[1:]), tuple(k.middle for k in kept)),
    ]
    return tuple(series)


def _by_goal(
    quantity: str, subject: str, positions: Floats, values: Floats, down: NDArray[np.bool_]
) -> list[SeriesData]:
    """Make a series; split distances into those to the destination and, for ticks towards the origin, ``norm``."""
    parts = [(quantity, np.ones_like(down))]
    if quantity == "distance":
        parts = [("norm", down), ("distance", ~down)]
    return [
        SeriesData(name, subject, tuple(positions[chosen].tolist()), tuple(values[chosen].tolist()))
        for name, chosen in parts
        if chosen.any()
    ]


def _distance(a: Array, b: Array) -> float:
    total: Any = 0.0
    for start in range(0, a.shape[0], _CHUNK):
        part = slice(start, start + _CHUNK)
        difference: Floats = a[part].astype(np.float64) - b[part]
        total += difference @ difference
    return float(np.sqrt(total))
