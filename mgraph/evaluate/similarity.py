"""How similar points are, tensor by tensor (NumPy; with one block of each point in memory at a time).

Tensors are compared separately because a cosine over the whole vector misleads: normalisation's γ ≈ 1 alone gives two
independent modes 0.3-0.7 [L, appendix B]. Weight tensors (two or more axes) decide; biases and normalisation's
parameters are also measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mgraph_store.rows.layout import TensorSpec

# Independent runs have a cosine of about 0 per layer, points of the same run 0.45-0.98 [L, appendices].
SAME_RUN = 0.3

_ROUNDING = 1e-9  # of sums of float64 in another order

Blocks = Iterable[tuple[int, Sequence[NDArray[np.floating]]]]


@dataclass(frozen=True)
class TensorSimilarity:
    """One tensor in two points a and b: the angle between them, their distance, and the variance of each.

    ``cosine`` is None if either is zero or not finite, and so has no direction. ``relative`` is the distance over
    √(‖a‖² + ‖b‖²): 0 for equal tensors, 1 for orthogonal ones, √2 for opposite ones. Variances are about each tensor's
    own mean, over its elements.
    """

    name: str
    shape: tuple[int, ...]
    cosine: float | None
    distance: float
    relative: float | None
    norms: tuple[float, float]
    variances: tuple[float, float]

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def is_weight(self) -> bool:
        """Whether it is a layer's weight, not a bias or a parameter of a normalisation."""
        return len(self.shape) >= 2


@dataclass(frozen=True)
class Similarity:
    """How similar two points are: each tensor in canonical order, and all parameters as one vector."""

    tensors: tuple[TensorSimilarity, ...]

    @property
    def weights(self) -> tuple[TensorSimilarity, ...]:
        """The weight tensors that have a direction, by which independent runs differ from one run."""
        return tuple(t for t in self.tensors if t.is_weight and t.cosine is not None)

    @property
    def median_cosine(self) -> float | None:
        """Median cosine of the weight tensors; None if there are none."""
        return float(np.median([t.cosine for t in self.weights])) if self.weights else None

    @property
    def variance_ratio(self) -> float | None:
        """Summed variance of b's weight tensors, weighted by size, over a's: about 1 on one variance sphere [L]."""
        a, b = (sum(t.size * t.variances[i] for t in self.tensors if t.is_weight) for i in (0, 1))
        return b / a if a > 0 else None

    @property
    def same_run(self) -> bool:
        """Whether most layers are more similar than those of independent runs ever are.

        By chance alone, a cosine of n elements has a standard deviation of 1/√n, so a small layer must exceed five of
        these.
        """
        alike = [t.cosine is not None and t.cosine > max(SAME_RUN, 5.0 / np.sqrt(t.size)) for t in self.weights]
        return bool(sum(alike) > len(alike) / 2)

    @property
    def may_be_permuted(self) -> bool:
        """Whether every tensor has the same norm and variance in both: what the order of its numbers leaves alone."""
        return all(
            np.isclose(t.norms[0], t.norms[1], rtol=_ROUNDING, atol=0.0)
            and np.isclose(t.variances[0], t.variances[1], rtol=_ROUNDING, atol=_ROUNDING * max(t.norms) ** 2)
            for t in self.tensors
        )

    @property
    def whole(self) -> TensorSimilarity:
        """All parameters as one vector; with normalisation, its cosine is misleading.

        Its variances are those of the tensors, averaged by size.
        """
        distance = float(np.sqrt(sum(t.distance**2 for t in self.tensors)))
        norms = tuple(float(np.sqrt(sum(t.norms[i] ** 2 for t in self.tensors))) for i in (0, 1))
        dot = sum((t.cosine or 0.0) * t.norms[0] * t.norms[1] for t in self.tensors)
        size = sum(t.size for t in self.tensors)
        means = [sum(t.size * t.variances[i] for t in self.tensors) / size for i in (0, 1)]
        return _similarity("", (size,), dot, distance, (norms[0], norms[1]), (means[0], means[1]))


def similarities(tensors: Sequence[TensorSpec], count: int, blocks: Blocks) -> dict[tuple[int, int], Similarity]:
    """Compare every pair of ``count`` points.

    ``blocks`` are successive parts of the parameters, shape (D,), of all points side by side; ``tensors`` say where
    each tensor begins and ends. Sums are in float64; variances are merged from part to part without cancellation.
    """
    sums = [_Sums(count) for _ in tensors]
    edges = np.cumsum([0, *(t.size for t in tensors)])
    for offset, block in blocks:
        stop = offset + len(block[0])
        first = int(np.searchsorted(edges, offset, side="right")) - 1
        for k in range(first, len(tensors)):
            if edges[k] >= stop:
                break
            part = slice(max(int(edges[k]) - offset, 0), int(edges[k + 1]) - offset)
            sums[k].add([points[part].astype(np.float64) for points in block])
    return {
        pair: Similarity(tuple(s.similarity(t, *pair) for t, s in zip(tensors, sums, strict=True)))
        for pair in combinations(range(count), 2)
    }


def same_numbers(tensors: Sequence[TensorSpec], blocks: Blocks) -> bool:
    """Return whether each tensor of the first point has the numbers of the second, in whatever order.

    Sums of hashes are compared, so that a block of each point is in memory at a time: that different numbers have the
    same sum has a probability of 2⁻⁶⁴.
    """
    edges = np.cumsum([0, *(t.size for t in tensors)])
    left = np.zeros(len(tensors), dtype=np.uint64)
    for offset, block in blocks:
        for sign, point in zip((1, -1), block, strict=True):
            hashes = _hashed(point)
            for k in range(int(np.searchsorted(edges, offset, side="right")) - 1, len(tensors)):
                part = hashes[max(int(edges[k]) - offset, 0) : max(int(edges[k + 1]) - offset, 0)]
                if edges[k] >= offset + len(point):
                    break
                total = part.sum(dtype=np.uint64)
                left[k] = left[k] + total if sign > 0 else left[k] - total
    return not left.any()


def _hashed(numbers: NDArray[np.floating]) -> NDArray[np.uint64]:
    """Mix the bits of every number (SplitMix64)."""
    x = (numbers.astype(np.float64) + 0.0).view(np.uint64)  # -0.0 is 0.0
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))


class _Sums:
    """The running sums for one tensor in every point."""

    def __init__(self, count: int) -> None:
        self.size = 0
        self.mean, self.spread = np.zeros(count), np.zeros(count)  # Σ (x - mean)²
        self.dots = np.zeros((count, count))
        self.squares = np.zeros((count, count))  # squared distances, from differences: exactly 0 for equals

    def add(self, parts: Sequence[NDArray[np.float64]]) -> None:
        count = len(parts[0])
        if count == 0:
            return
        means = np.array([x.mean() for x in parts])
        spreads = np.array([np.square(x - m).sum() for x, m in zip(parts, means, strict=True)])
        total = self.size + count
        shift = means - self.mean
        self.spread += spreads + shift**2 * (self.size * count / total)
        self.mean += shift * (count / total)
        self.size = total
        for i, x in enumerate(parts):
            self.dots[i, i] += x @ x
            for j in range(i):
                self.dots[j, i] += x @ parts[j]
                difference = x - parts[j]
                self.squares[j, i] += difference @ difference

    def similarity(self, tensor: TensorSpec, i: int, j: int) -> TensorSimilarity:
        norms = float(np.sqrt(self.dots[i, i])), float(np.sqrt(self.dots[j, j]))
        variances = self.spread / max(1, self.size)
        distance = float(np.sqrt(self.squares[i, j]))
        return _similarity(
            tensor.name,
            tensor.shape,
            float(self.dots[i, j]),
            distance,
            norms,
            (float(variances[i]), float(variances[j])),
        )


def _similarity(
    name: str,
    shape: tuple[int, ...],
    dot: float,
    distance: float,
    norms: tuple[float, float],
    variances: tuple[float, float],
) -> TensorSimilarity:
    product, extent = norms[0] * norms[1], float(np.hypot(*norms))
    cosine = min(1.0, max(-1.0, dot / product)) if product > 0 and np.isfinite(product) else None
    relative = distance / extent if extent > 0 else None
    return TensorSimilarity(name, shape, cosine, distance, relative, norms, variances)
