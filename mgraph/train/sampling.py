"""Which parameter values a training step sees: several per batch, drawn so that they cover the domain.

Every draw is uniform on its own, so the estimate stays unbiased; the stratified and lattice draws of one step are
jointly spread over the domain, which lowers the variance between steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, isqrt

import numpy as np

from mgraph.families import Floats

DRAWS = ("stratified", "lattice", "iid")
MEASURES = ("uniform", "arc", "area")


@dataclass(frozen=True)
class Sampling:
    """How many values a step draws on each curve, how, and what each of them sees.

    With ``split``, each value sees its own part of the batch, otherwise the whole batch. Under a ``measure`` other than
    uniform, draws are weighted by the length or area element, from control points at most ``gram_every`` steps old.
    With ``exact``, the gradient includes the part that comes from the length element itself.
    """

    samples: int = 1
    split: bool = False
    draw: str = "stratified"
    measure: str = "uniform"
    gram_every: int = 100
    exact: bool = False


def cover(steps: int, samples: int, dimension: int, how: str, rng: np.random.Generator) -> Floats:
    """Draw parameters for many steps, shape (steps, samples, dimension), in the unit cube, each uniform.

    stratified: one draw in each of ``samples`` equal intervals; on a square, one in each cell of the most nearly square
    grid of that many cells, randomly transposed, or a Latin hypercube if ``samples`` is prime. lattice: a rank-1
    lattice, randomly shifted. In both, the values of a step come in random order.
    """
    if how == "iid" or samples == 1:
        return rng.random((steps, samples, dimension))
    if how == "lattice":
        points = np.broadcast_to(_lattice(samples, dimension), (steps, samples, dimension))
        shifted = points + rng.random((steps, 1, dimension))
        order = rng.permuted(np.tile(np.arange(samples), (steps, 1)), axis=1)
        return np.asarray(np.take_along_axis(shifted % 1.0, order[:, :, None], axis=1))
    inside = rng.random((steps, samples, dimension))
    rows = _rows(samples) if dimension == 2 else 1
    if rows > 1:
        columns = samples // rows
        cells = rng.permuted(np.tile(np.arange(samples), (steps, 1)), axis=1)
        grid = (np.stack([cells // columns, cells % columns], axis=2) + inside) / (rows, columns)
        turned = rng.random(steps) < 0.5  # so that both coordinates are divided equally finely
        grid[turned] = grid[turned][:, :, ::-1]
        return np.asarray(grid)
    strata = np.tile(np.arange(samples), (steps, 1))
    axes = [rng.permuted(strata, axis=1) for _ in range(dimension)]
    return np.asarray((np.stack(axes, axis=2) + inside) / samples)


def _rows(samples: int) -> int:
    """Return the smaller side of the most nearly square grid of that many cells."""
    return max(n for n in range(1, isqrt(samples) + 1) if samples % n == 0)


def _lattice(samples: int, dimension: int) -> Floats:
    """Return the rank-1 lattice i·(1, g)/n with the largest minimum distance between points on the torus."""
    if dimension == 1:
        return np.arange(samples)[:, None] / samples
    index = np.arange(samples)

    def closest(generator: int) -> float:
        steps = np.stack([index[1:], index[1:] * generator % samples], axis=1) / samples
        return float(np.square(np.minimum(steps, 1.0 - steps)).sum(axis=1).min())

    best = max((g for g in range(1, samples) if gcd(g, samples) == 1), key=closest)
    return np.stack([index, index * best % samples], axis=1) / samples
