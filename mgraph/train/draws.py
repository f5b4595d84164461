"""The parameter values for the steps of a phase: drawn ahead in blocks, and handed out one step at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from mgraph.families import Floats
from mgraph.train.controlpoints import GramMeasure, Held
from mgraph.train.phases import Phase
from mgraph.train.sampling import Sampling, cover

# Steps drawn at once: drawing step by step takes many small NumPy calls, 5 % of every step of a small network.
_AHEAD = 256

Block = tuple[Floats, ...]
"""Coefficients (steps, n, K) and weights (steps, n) of many steps; slopes (steps, n, K) if the gradient needs them."""


@dataclass(frozen=True)
class Draw:
    """The samples of one step on the device: coefficients C (n, K), and weighted ones of the free rows (F, n).

    ``held`` are the coefficients, shape (n, R), of the rows that make up the held columns. If part of the gradient
    comes from the measure itself, ``weights`` (n,) are the samples' weights and ``slopes`` (n, K) the result of
    :meth:`Curve.slopes`.
    """

    coefficients: Tensor
    pull: Tensor
    held: Tensor | None = None
    weights: Tensor | None = None
    slopes: Tensor | None = None


def draws(
    phase: Phase, sampling: Sampling, rng: np.random.Generator, measure: GramMeasure | None = None
) -> Iterator[Block]:
    """Yield block after block of steps: coefficients (steps, n, K) and weights (steps, n), n = samples · curves.

    Parameters are uniform in the domain ([G] eq. 3, [S] eq. 9). Under another measure, each is weighted by its density
    over the mean density ([G] eq. 1, [S] eq. 7, with the density held constant); otherwise the weight is 1. The samples
    of the first curve come first, then those of the next.
    """
    while True:
        yield _block(phase, sampling, rng, None if measure is None else measure.gram())


def _block(phase: Phase, sampling: Sampling, rng: np.random.Generator, G: Floats | None) -> Block:
    """Draw for a block of steps, under the measure of control points with Gram matrix ``G`` if given."""
    k = sampling.samples
    steps = _AHEAD if G is None else min(_AHEAD, sampling.gram_every)
    coefficients, weights, slopes = [], [], []
    for curve in phase.curves:
        t = cover(steps, k, curve.family.dimension, sampling.draw, rng).reshape(steps * k, -1)
        coefficients.append(curve.coefficients(t).reshape(steps, k, -1))
        density = np.ones(steps * k) if G is None else curve.relative_density(G, t)
        weights.append(curve.weight * density.reshape(steps, k))
        if sampling.exact and G is not None:
            slopes.append(curve.slopes(G, t).reshape(steps, k, -1))
    return tuple(np.concatenate(parts, axis=1) for parts in (coefficients, weights, slopes) if parts)


def on_device(blocks: Iterable[Block], free: Sequence[int], P: Tensor, held: Held | None = None) -> Iterator[Draw]:
    """Turn blocks of draws into tensors for one step after another, in P's type and on its device."""
    for coefficients, weights, *slopes in blocks:
        pulls = np.swapaxes(coefficients[:, :, list(free)] * weights[:, :, None], 1, 2)
        arrays = {"coefficients": coefficients, "pull": pulls}
        if held is not None:
            arrays["held"] = coefficients @ held.matrix
        if slopes:
            arrays |= {"weights": weights, "slopes": slopes[0]}
        tensors = {k: torch.from_numpy(np.ascontiguousarray(a)).to(P.device, P.dtype) for k, a in arrays.items()}
        for step in range(len(coefficients)):
            of = {name: tensor[step] for name, tensor in tensors.items()}
            yield Draw(of["coefficients"], of["pull"], of.get("held"), of.get("weights"), of.get("slopes"))


class DrawStream(Iterator[Draw]):
    """The draws for a phase's steps, one after another; its position can be saved and continued by another stream."""

    def __init__(
        self, phase: Phase, sampling: Sampling, rng: np.random.Generator, P: Tensor, held: Held | None = None
    ) -> None:
        self._phase, self._sampling, self._rng, self._P, self._held = phase, sampling, rng, P, held
        self._measure = None if sampling.measure == "uniform" else GramMeasure(P, held)
        self._steps: Iterator[Draw] = iter(())
        self._taken = 0

    @override
    def __next__(self) -> Draw:
        draw = next(self._steps, None)
        if draw is None:
            self._begin(None if self._measure is None else self._measure.gram())
            draw = next(self._steps)
        self._taken += 1
        return draw

    def _begin(self, G: Floats | None) -> None:
        self._before, self._G, self._taken = self._rng.bit_generator.state, G, 0
        block = _block(self._phase, self._sampling, self._rng, G)
        self._steps = on_device([block], self._phase.free, self._P, self._held)

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return values and arrays from which :meth:`again` finds the draw last handed out."""
        arrays = {} if self._G is None else {"gram": self._G}
        return {"generator": self._before, "taken": self._taken}, arrays

    def again(self, values: Mapping[str, Any], arrays: Mapping[str, Floats]) -> None:
        """Go back to a state: the next draw is the one that had been handed out last."""
        self._rng.bit_generator.state = values["generator"]
        self._begin(arrays.get("gram"))
        for _ in range(values["taken"] - 1):
            next(self)
