"""The summation kernel that turns derived nodes into numbers.

``θ = c₀P₀ + c₁P₁ + …`` in float32, term after term, with each product rounded before it is added (no fused
multiply-add). Every step is one IEEE operation per element, so numpy, torch and any blocking of the vector give the
same bits, and a sample that is computed again has the same digest. Any change here is a new version.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mgraph_store.errors import InputError

KERNEL_VERSION = 1

BLOCK = 1 << 16
"""Elements summed at a time, such that output, product and one row stay in the cache."""


def active_terms(coefficients: Sequence[float]) -> list[tuple[int, np.float32]]:
    """Round the coefficients to float32 and drop those that are exactly 0; pairs (position, coefficient).

    Raises
    ------
    InputError
        If a coefficient is not finite in float32.
    """
    with np.errstate(over="ignore"):
        rounded = np.asarray(coefficients, np.float64).astype(np.float32)
    if not np.isfinite(rounded).all():
        raise InputError("Coefficients of a derived node must be finite in float32.")
    return [(k, c) for k, c in enumerate(rounded) if c != 0]


def combine(coefficients: Sequence[float], rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Sum float32 ``rows``, each of shape (D,), with K ``coefficients``; a new array of shape (D,).

    Raises
    ------
    InputError
        If numbers, shapes or dtypes do not match, or a coefficient is not finite.
    """
    if not rows or len(rows) != len(coefficients):
        raise InputError(f"{len(coefficients)} coefficients for {len(rows)} rows: give one for each.")
    terms = active_terms(coefficients)
    out = np.empty_like(rows[0], dtype=np.float32)
    if any(row.shape != out.shape or row.dtype != np.float32 for row in rows):
        raise InputError("All rows of a sum must be float32 arrays of the same shape.")
    combine_into(out, [c for _, c in terms], [rows[k] for k, _ in terms])
    return out


def combine_into(
    out: NDArray[np.float32], coefficients: Sequence[np.float32], rows: Sequence[NDArray[np.float32]]
) -> None:
    """Write the sum of the terms that :func:`active_terms` kept into ``out``, block by block."""
    if not rows:
        out[...] = 0
        return
    if len(rows) == 1 and coefficients[0] == 1:
        out[...] = rows[0]
        return
    product = np.empty(min(BLOCK, out.shape[0]), np.float32)
    for start in range(0, out.shape[0], BLOCK):
        stop = start + BLOCK
        for k, (c, row) in enumerate(zip(coefficients, rows, strict=True)):
            add_term(out[start:stop], c, row[start:stop], product, first=k == 0)


def add_term(
    out: NDArray[np.float32],
    coefficient: np.float32,
    row: NDArray[np.float32],
    product: NDArray[np.float32],
    *,
    first: bool,
) -> None:
    """Add one term to a sum, or begin the sum with the ``first``; ``product`` is scratch memory for :data:`BLOCK`
    elements.

    Adding the terms one after another over all of ``out`` gives the same bits as adding all of them block by block.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        if first:
            np.multiply(row, coefficient, out=out)
            return
        for start in range(0, out.shape[0], BLOCK):
            block = out[start : start + BLOCK]
            scratch = product[: block.shape[0]]
            np.multiply(row[start : start + BLOCK], coefficient, out=scratch)
            np.add(block, scratch, out=block)


def kernel_step(
    out: NDArray[np.float32],
    coefficient: np.float32,
    row: NDArray[np.float32],
    product: NDArray[np.float32],
    first: bool,
) -> None:
    """Add one term like :func:`add_term`, with the same bits, to a block in the cache; ``product`` may be ``row``.

    The caller has told NumPy not to warn about overflow.
    """
    if first:
        np.multiply(row, coefficient, out=out)
    else:
        np.multiply(row, coefficient, out=product)
        np.add(out, product, out=out)
