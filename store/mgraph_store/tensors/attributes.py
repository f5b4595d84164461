"""What the attributes of a stored array say about it, so that tensors are not anonymous without the index.

An array written alone has ``digest``, a segment has ``digests``, one for each row. Where the layout is known, there are
also ``layout_hash`` and ``tensors``: names and shapes, in the order in which they lie one after the other; and for
partial nodes ``columns``, the coordinates that are stored (of a segment a list, with null for a row that is whole).
Attributes are for people and other programs: mgraph itself relies on the index, and only a check compares the two.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from mgraph_store.errors import InputError
from mgraph_store.rows.columns import Ranges, count
from mgraph_store.rows.layout import Layout, TensorSpec, storage_dtype
from mgraph_store.tensors.digests import same_algorithm

NONE = "{}"
"""Attributes that say nothing, as in objects of earlier versions."""

LONGEST = 1 << 17
"""Characters of the longest attributes; beyond this, only digests and layout hash are given."""

_DEPTH = "\n  "  # where attributes stand in an array's description


def of_parameters(
    digests: Sequence[str], size: int, layout: Layout | None, ranges: Sequence[Ranges | None], *, segment: bool
) -> str:
    """Describe one row of parameters, or a segment of several, of ``size`` numbers each, as JSON.

    Raises
    ------
    InputError
        If rows have another number of parameters than the layout, or of columns than there are in the ranges.
    """
    named: dict[str, Any] = {"digests": list(digests)} if segment else {"digest": digests[0]}
    if layout is None:
        return _text(named, None)
    for own in ranges:
        expected = layout.size if own is None else count(own)
        if expected != size:
            raise InputError(f"A row of {size} numbers does not fit a layout of {expected}: nothing was stored.")
    stored = {} if all(r is None for r in ranges) else {"columns": list(ranges) if segment else ranges[0]}
    return _text(named | {"layout_hash": layout.fingerprint}, _tensors(_shapes(layout.parameters)), stored)


def of_buffers(digest: str, dtype: str, size: int, layout: Layout | None) -> str:
    """Describe the buffers that are stored as one dtype, ``size`` numbers, as JSON; errors as
    :func:`of_parameters`."""
    if layout is None:
        return _text({"digest": digest}, None)
    own = _shapes(_buffers(layout, dtype))
    expected = sum(math.prod(shape) for _, shape in own)
    if expected != size:
        raise InputError(f"{size} numbers of {dtype} buffers do not fit a layout of {expected}: nothing was stored.")
    return _text({"digest": digest, "layout_hash": layout.fingerprint}, _tensors(own))


def contradiction(
    attributes: Mapping[str, Any],
    digest: str | None,
    row: int | None = None,
    layout: Layout | None = None,
    buffers: str | None = None,
) -> str | None:
    """Say where attributes contradict what is known of parameters, or of ``buffers`` of a dtype; None if nowhere.

    What they do not say contradicts nothing. The layout, that of the node's space, counts only if it is the one that
    they name: a node of another space may have had the same numbers first.
    """
    digests = attributes.get("digests")
    if row is None or digests is None:
        said = attributes.get("digest")
    elif isinstance(digests, list) and row < len(digests):
        said = digests[row]
    else:
        return "its attributes lack the digest of the row"
    if said is not None and digest is not None and said != digest and same_algorithm(str(said), digest):
        return f"its attributes give the digest {said}"
    if layout is not None and attributes.get("layout_hash") == layout.fingerprint and "tensors" in attributes:
        own = layout.parameters if buffers is None else _buffers(layout, buffers)
        known = [{"name": name, "shape": list(shape)} for name, shape in _shapes(own)]
        if attributes["tensors"] != known:
            return "its attributes give other tensors than the layout that they name"
    return None


Shapes = tuple[tuple[str, tuple[int, ...]], ...]


def _buffers(layout: Layout, dtype: str) -> list[TensorSpec]:
    return [t for t in layout.buffers if storage_dtype(t.dtype) == dtype]


def _shapes(tensors: Sequence[TensorSpec]) -> Shapes:
    return tuple((t.name, t.shape) for t in tensors)


@lru_cache(maxsize=16)
def _tensors(shapes: Shapes) -> str:
    listed = [{"name": name, "shape": list(shape)} for name, shape in shapes]
    return json.dumps(listed, indent=2).replace("\n", f"{_DEPTH}  ")


def _text(named: Mapping[str, Any], tensors: str | None, stored: Mapping[str, Any] | None = None) -> str:
    """Write attributes as Zarr writes them: JSON with an indent of two, where they stand in a description."""
    text = json.dumps(named, indent=2).replace("\n", _DEPTH)
    if tensors is None:
        return text
    end = f"{_DEPTH}}}"
    more = json.dumps(stored, indent=2).replace("\n", _DEPTH)[1:] if stored else end
    whole = f'{text.removesuffix(end)},{_DEPTH}  "tensors": {tensors}{"," if stored else ""}{more}'
    return whole if len(whole) <= LONGEST else text
