"""Where a grid is too coarse: estimate the error of linear interpolation, and place points where it is large.

NumPy only. For a function with second derivative f'', the error in the middle of an interval of length h is h² |f''| /
8, and a point of an even grid deviates by h² |f''| / 2 from the chord between its two neighbours. A kink anywhere
inside the interval causes an error of at most half of the sum of the deviations at its two ends. The estimate used
here, a quarter of that sum, is therefore up to twice the error for a smooth function and at least half the error for a
kink. Nothing can detect what happens between two points without leaving a trace in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, prod

import numpy as np

from mgraph.errors import InputError
from mgraph.families import Floats, Grid, SimplexGrid, TensorGrid

MAX_POINTS = 2000
_SHORTEST = 2.0**-20  # intervals are not halved below this length: a jump has no finite slope


@dataclass(frozen=True)
class Refinement:
    """Add points until the estimated interpolation error of one metric is at most ``bound``."""

    bound: float
    split: str = "train"
    metric: str = "loss"
    max_points: int = MAX_POINTS

    def __post_init__(self) -> None:
        if not (np.isfinite(self.bound) and self.bound > 0):
            raise InputError(f"The bound of a refinement must be a positive number, not {self.bound}.")
        if self.max_points < 2:
            raise InputError(f"A refined sweep must have at least 2 points, not {self.max_points}.")

    @classmethod
    def of(cls, bound: float, on: str = "train loss", max_points: int = MAX_POINTS) -> Refinement:
        """Parse the metric to refine on: 'train loss' or 'train:loss'; raise InputError for anything else."""
        words = on.replace(":", " ").split()
        if len(words) != 2:
            raise InputError(f"A sweep is refined on a split and a metric, as in 'valid loss', not {on!r}.")
        return cls(bound, words[0], words[1], max_points)

    def check(self, splits: Sequence[str], metrics: Sequence[str], points: int) -> None:
        """Raise InputError if the sweep does not measure that metric, or starts with too many points."""
        for kind, name, known in (("split", self.split, splits), ("metric", self.metric, metrics)):
            if name not in known:
                raise InputError(
                    f"The sweep is refined on {self.split} {self.metric}, but does not measure the {kind} {name}; "
                    f"it measures {', '.join(known)}."
                )
        if points > self.max_points:
            raise InputError(
                f"The grid to start from has {points} points, more than the {self.max_points} allowed; "
                f"choose a coarser grid or a larger --max-points."
            )


def interval_errors(axis: Floats, values: Floats) -> Floats:
    """Estimate the largest interpolation error in each interval between n points; shape (n - 1,).

    ``values`` has shape (n,) or (n, M), in which case the worst column counts. The first and the last interval are seen
    from one side only, so there the whole deviation counts. Two points alone reveal nothing, and the estimate is
    infinite.
    """
    steps = np.diff(axis)
    if len(steps) < 2:
        return np.full(1, np.inf)
    values = values.reshape(len(axis), -1)
    left, right = steps[:-1, None], steps[1:, None]
    chord = (values[:-2] * right + values[2:] * left) / (left + right)
    deviation = np.abs(values[1:-1] - chord)
    # Beside a shorter interval, a point deviates less than it would on an even grid of the longer one.
    to_right = deviation * np.maximum(1.0, right / left)  # as seen from the interval on the point's right
    to_left = deviation * np.maximum(1.0, left / right)  # and from the one on its left
    inside = (to_right[:-1] + to_left[1:]) / 4.0
    return np.asarray(np.concatenate([to_left[:1], inside, to_right[-1:]]).max(axis=1))


def interpolation_error(grid: Grid, values: Floats) -> float:
    """Estimate the largest error of interpolating ``values``, shape (S,), linearly between a grid's points.

    On a surface, the errors of both directions add up. NaN if a value is not finite.
    """
    if not np.isfinite(values).all():
        return float("nan")
    if isinstance(grid, SimplexGrid):
        return _simplex_error(grid, values)
    return float(sum(errors.max() for errors in _axis_errors(grid, values)))


def refined(grid: Grid, values: Floats, bound: float, max_points: int) -> Grid:
    """Return a finer grid that contains all points of this one, or this one itself if nothing can or need be added.

    Intervals whose estimate exceeds the bound are halved, the worst first, as long as there is room. On a surface, each
    direction may use half of the bound, and a new point means a whole grid line. On a simplex, the steps double.
    """
    if isinstance(grid, SimplexGrid):
        finer = SimplexGrid(grid.corners, 2 * grid.steps)
        room = comb(finer.steps + finer.corners - 1, finer.corners - 1) <= max_points
        return finer if room and interpolation_error(grid, values) > bound else grid
    assert isinstance(grid, TensorGrid)
    if not np.isfinite(values).all():
        return grid
    limit = bound / len(grid.axes)
    wanted = sorted(
        (-float(error), k, i)
        for k, (axis, errors) in enumerate(zip(grid.axes, _axis_errors(grid, values), strict=True))
        for i, error in enumerate(errors)
        if error > limit and axis[i + 1] - axis[i] > _SHORTEST
    )
    counts = list(grid.counts)
    middles: list[list[float]] = [[] for _ in grid.axes]
    for _, k, i in wanted:
        if prod(n + (j == k) for j, n in enumerate(counts)) <= max_points:
            counts[k] += 1
            middles[k].append(float(grid.axes[k][i] + grid.axes[k][i + 1]) / 2.0)
    if not any(middles):
        return grid
    axes = tuple(np.sort(np.r_[axis, new]) for axis, new in zip(grid.axes, middles, strict=True))
    return TensorGrid(axes, grid.places)


def _axis_errors(grid: Grid, values: Floats) -> list[Floats]:
    assert isinstance(grid, TensorGrid)
    cube = values.reshape(grid.counts)
    return [interval_errors(axis, np.moveaxis(cube, k, 0)) for k, axis in enumerate(grid.axes)]


def _simplex_error(grid: SimplexGrid, values: Floats) -> float:
    """Return half of the largest deviation of a point from the midpoint of two opposite neighbours."""
    units = [tuple(u) for u in np.rint(grid.points * grid.steps).astype(int).tolist()]
    value = dict(zip(units, values.tolist(), strict=True))
    largest = -1.0
    for i, j in combinations(range(grid.corners), 2):
        for here in units:
            if here[i] and here[j]:
                up, down = list(here), list(here)
                up[i], up[j] = up[i] + 1, up[j] - 1
                down[i], down[j] = down[i] - 1, down[j] + 1
                middle = (value[tuple(up)] + value[tuple(down)]) / 2.0
                largest = max(largest, abs(value[here] - middle))
    return largest / 2.0 if largest >= 0 else float("inf")
