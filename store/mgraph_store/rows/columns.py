"""Columns: the coordinates that a partial node stores, as ranges [start, stop) of a point's D coordinates.

Ranges are in canonical order: sorted, disjoint, none empty, none adjacent to the next, and there is at least
one. So equal sets of columns are equal tuples, and equal JSON.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mgraph_store.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Ranges = tuple[tuple[int, int], ...]


def merge(ranges: Iterable[Sequence[int]]) -> Ranges:
    """Bring any ranges into canonical order: sort them, leave out empty ones, join those that touch or overlap.

    Raises
    ------
    InputError
        If a range is not a pair of integers with 0 ≤ start ≤ stop, or no range is left.
    """
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(_pairs(ranges)):
        if not 0 <= start <= stop:
            raise InputError(f"[{start}, {stop}) is not a range of columns: give 0 ≤ start ≤ stop.")
        if start < stop:
            if merged and start <= merged[-1][1]:
                start, stop = merged[-1][0], max(merged.pop()[1], stop)
            merged.append((start, stop))
    return check(merged)


def check(ranges: Iterable[Sequence[int]]) -> Ranges:
    """Return ranges that are in canonical order, as a tuple of pairs.

    Raises
    ------
    InputError
        If they are not.
    """
    pairs = _pairs(ranges)
    if not pairs:
        raise InputError("There are no columns: give at least one range [start, stop).")
    for start, stop in pairs:
        if not 0 <= start < stop:
            raise InputError(f"[{start}, {stop}) is not a range of columns: give 0 ≤ start < stop.")
    for (_, end), (start, _) in pairwise(pairs):
        if end >= start:
            raise InputError(
                f"The range that starts at {start} comes after one that ends at {end}: "
                "sort the ranges and join those that touch (`merge`)."
            )
    return pairs


def to_json(ranges: Iterable[Sequence[int]]) -> str:
    """Write ranges as JSON, ``[[0,12],[20,25]]``; ``InputError`` if they are not in canonical order."""
    return json.dumps(check(ranges), separators=(",", ":"))


def from_json(text: str) -> Ranges:
    """Read what :func:`to_json` wrote; ``InputError`` if it is anything else."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, list):
        raise InputError(f"{text!r} is not a JSON list of columns: give [[start, stop], …].")
    return check(document)


def count(ranges: Iterable[Sequence[int]]) -> int:
    """Return the total number of columns in all ranges."""
    return sum(stop - start for start, stop in ranges)


def take(row: NDArray[Any], ranges: Iterable[Sequence[int]]) -> NDArray[Any]:
    """Take the columns of a row of shape (D,), one range after the other, as a new array of shape (count,).

    Raises
    ------
    InputError
        If ranges are not in canonical order or go beyond the row.
    """
    import numpy as np

    pairs = _inside(ranges, row)
    return np.concatenate([row[start:stop] for start, stop in pairs])


def put(out: NDArray[Any], ranges: Iterable[Sequence[int]], values: NDArray[Any]) -> None:
    """Put ``values``, shape (count,), where :func:`take` took them from; ``out`` of shape (D,) is changed.

    Raises
    ------
    InputError
        If ranges are not in canonical order, go beyond ``out``, or have another number of columns than there are
        values.
    """
    pairs = _inside(ranges, out)
    if values.shape != (count(pairs),):
        raise InputError(f"There are {count(pairs)} columns, but values of shape {list(values.shape)}: give one each.")
    offset = 0
    for start, stop in pairs:
        out[start:stop] = values[offset : offset + stop - start]
        offset += stop - start


def clip(ranges: Ranges, start: int, stop: int) -> tuple[int, Ranges]:
    """Return how many columns come before ``start``, and the ranges cut to [start, stop), counted from ``start``."""
    before = sum(min(b, start) - a for a, b in ranges if a < start)
    return before, tuple((max(a, start) - start, min(b, stop) - start) for a, b in ranges if a < stop and b > start)


def _pairs(ranges: Iterable[Sequence[int]]) -> Ranges:
    pairs = []
    for given in ranges:
        try:
            start, stop = given
            pairs.append((operator.index(start), operator.index(stop)))
        except (TypeError, ValueError):
            raise InputError(f"{given!r} is not a range of columns: give two integers [start, stop].") from None
    return tuple(pairs)


def _inside(ranges: Iterable[Sequence[int]], row: NDArray[Any]) -> Ranges:
    pairs = check(ranges)
    if row.ndim != 1 or pairs[-1][1] > row.shape[0]:
        raise InputError(f"Columns up to {pairs[-1][1]} do not fit an array of shape {list(row.shape)}.")
    return pairs
