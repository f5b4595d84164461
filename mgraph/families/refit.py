"""Initial values of one family from another: refine, split, reverse.

The target's domain is mapped into the source's by interpolating the parameters p(t) of the ends it takes. Both maps are
linear in control points, so one matrix R, shape (K_target, K_source), gives the target's control points R P for any P:
the least-squares fit of θ_target(t) to θ_source(p(t)) over the domain, with the ends kept as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

import numpy as np

from mgraph.errors import InputError
from mgraph.families.base import Family
from mgraph.families.grid import Floats
from mgraph.families.simplex import SimplexFamily

_NOTHING = 1e-10  # the largest coefficient that may count as rounding error
_EXACT = 1e-9  # a difference of coefficients that is invisible in float32 points


def refit(target: Family, source: Family, ends: Sequence[int]) -> Floats:
    """Return the target's control points as combinations of the source's, shape (K_target, K_source).

    ``ends[i]`` is the number of the source's end at which the target's i-th end sits. Rows sum to one, and those of the
    ends are one-hot. Where the target can represent the source there (a curve or surface of higher degree, an edge of a
    surface, a chain split at its knots, a reversal), the fit is exact up to rounding.

    Raises InputError for ends that the source does not have or that occur twice, for a wrong number of ends, and for a
    target of higher dimension than the source.
    """
    t, weights, wanted = _samples(target, source, ends)
    basis = target.coefficients(t)
    rows = np.zeros((target.size, source.size))
    rows[list(target.ends), np.array(source.ends)[list(ends)]] = 1.0
    free = list(target.free)
    if free:
        scale = np.sqrt(weights)[:, None]
        found = np.linalg.lstsq(scale * basis[:, free], scale * (wanted - basis @ rows))
        singular = found[3]
        # A Bernstein basis of degree n has condition number about 2ⁿ; true coefficients far exceed its rounding error.
        nothing = min(8.0 * np.finfo(np.float64).eps * singular[0] / singular[-1], _NOTHING)
        rows[free] = np.where(np.abs(found[0]) > nothing, found[0], 0.0)
    for k in free:
        largest = int(np.argmax(np.abs(rows[k])))
        rows[k, largest] = 0.0
        rows[k, largest] = 1.0 - fsum(rows[k])
    return rows


def is_exact(target: Family, source: Family, ends: Sequence[int]) -> bool:
    """Return whether :func:`refit` leaves the map unchanged, up to rounding, whatever the control points.

    Raises InputError as :func:`refit` does.
    """
    t, _, wanted = _samples(target, source, ends)
    return bool(np.abs(target.coefficients(t) @ refit(target, source, ends) - wanted).max() <= _EXACT)


def _samples(target: Family, source: Family, ends: Sequence[int]) -> tuple[Floats, Floats, Floats]:
    """Return t, the weights of an integral over the target's domain, and the source's coefficients at p(t).

    There are enough t for both families' polynomials, so maps that agree there agree everywhere.
    """
    _check(target, source, ends)
    corners = source.end_parameters()[list(ends)]
    forward = corners[0, 0] <= corners[-1, 0]
    knots = np.union1d(target.knots, source.knots if forward else 1.0 - source.knots)
    t, weights = target.quadrature(max(target.order, source.order) + 1, knots)
    # Families start straight: their initial rows interpolate the ends over the domain.
    p = target.coefficients(t) @ target.initial() @ corners
    return t, weights, source.coefficients(np.clip(p, 0.0, 1.0))


def _check(target: Family, source: Family, ends: Sequence[int]) -> None:
    if target.dimension > source.dimension:
        what = f"a simplex of {target.size} modes" if isinstance(target, SimplexFamily) else "a surface"
        raise InputError(
            f"A {source.name} of {source.dimension} dimension(s) cannot start {what}; "
            f"start it from a connection with {target.dimension} dimensions or more."
        )
    if len(ends) != len(target.ends):
        raise InputError(f"A {target.name} has {len(target.ends)} ends; got {len(ends)} ends of the source: {ends}.")
    last = len(source.ends) - 1
    if not all(isinstance(e, int | np.integer) and 0 <= e <= last for e in ends):
        raise InputError(f"The ends of a {source.name} are numbered 0 to {last}; got {ends}.")
    if len(set(ends)) < len(ends):
        raise InputError(f"Every end of a {target.name} takes another end of the source; got {ends}.")
