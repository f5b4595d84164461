"""The tangent of a chain at its inner points: the direction that counts as "along" the chain (no torch).

Improved tangent estimate of Henkelman and Jónsson, Improved tangent estimate in the nudged elastic band method for
finding minimum energy paths and saddle points, J. Chem. Phys. 113, 9978 (2000). A tangent is a linear combination of
the differences to the two neighbours, τ⁻ = p_i - p_{i-1} and τ⁺ = p_{i+1} - p_i, so two numbers per point describe it,
whatever the dimension of the points.
"""

from __future__ import annotations

import numpy as np

from mgraph.families import Floats

_CANCELS = 1e-10  # squared lengths below this, relative to their parts, are rounding error


def tangent_weights(losses: Floats) -> Floats:
    """Return the weights (w⁻, w⁺) of τ = w⁻ τ⁻ + w⁺ τ⁺ at the inner points, shape (N - 2, 2).

    Where the loss rises or falls along the chain, the tangent is the difference to the neighbour of higher loss (eq. 8
    and 9). At a minimum or maximum it uses both: the side of the higher neighbour weighted with the larger of |L_{i+1}
    - L_i| and |L_{i-1} - L_i|, the other with the smaller (eq. 10 and 11; here divided by the larger). Where all three
    are equal, both count alike: p_{i+1} - p_{i-1}.
    """
    left, here, right = losses[:-2], losses[1:-1], losses[2:]
    to_left, to_right = np.abs(left - here), np.abs(right - here)
    larger, smaller = np.maximum(to_left, to_right), np.minimum(to_left, to_right)
    share = np.divide(smaller, larger, out=np.ones_like(larger), where=larger > 0)
    # Neighbours of equal loss have equal differences, so the share is one and either side may be called higher.
    weights = np.where((right > left)[:, None], np.stack([share, np.ones_like(share)], axis=1), 1.0)
    weights[right <= left, 1] = share[right <= left]
    weights[(left < here) & (here < right)] = (0.0, 1.0)
    weights[(left > here) & (here > right)] = (1.0, 0.0)
    return weights


def squared_lengths(weights: Floats, squares: Floats, products: Floats) -> Floats:
    """Return ‖w⁻ τ⁻ + w⁺ τ⁺‖², shape (N - 2,), exactly 0 where the parts cancel.

    ``squares`` are the squared lengths of the N - 1 pieces, ``products`` are τ⁻·τ⁺ at the inner points.
    """
    w = weights * weights
    parts = w[:, 0] * squares[:-1] + w[:, 1] * squares[1:]
    total = parts + 2.0 * weights[:, 0] * weights[:, 1] * products
    return np.where(total > _CANCELS * parts, total, 0.0)


def pulls(
    losses: Floats, squares: Floats, products: Floats, slopes: Floats, spring: float | None = None
) -> tuple[Floats, Floats]:
    """Return what to add to -∇L at the inner points: (a⁻, a⁺), each (N - 2,), of the force -∇L + a⁻ τ⁻ + a⁺ τ⁺.

    This removes the part of the gradient along the tangent, (∇L·τ̂) τ̂, and adds the spring force k (‖τ⁺‖ - ‖τ⁻‖) τ̂
    (Henkelman and Jónsson, eq. 3 to 5 and 12). ``slopes`` are ∇L·τ⁻ and ∇L·τ⁺, shape (N - 2, 2). If the tangent from
    the losses vanishes, p_{i+1} - p_{i-1} takes its place; if that vanishes too, there is no tangent.
    """
    weights = tangent_weights(losses)
    length2 = squared_lengths(weights, squares, products)
    weights[length2 == 0] = 1.0
    length2 = squared_lengths(weights, squares, products)
    along = (weights * slopes).sum(axis=1)
    if spring is not None:
        lengths = np.sqrt(squares)
        along = along + spring * (lengths[1:] - lengths[:-1]) * np.sqrt(length2)
    factor = np.divide(along, length2, out=np.zeros_like(along), where=length2 > 0)
    return factor * weights[:, 0], factor * weights[:, 1]
