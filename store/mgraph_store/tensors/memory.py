"""Memory to read arrays into, which a large array leaves to the next one.

New memory has to be cleared and mapped by the kernel, page by page, which takes as long as to copy the numbers into it
(benchmarks/reading.py). glibc keeps freed blocks for the next use, but never one above 32 MB; so that of the last such
array is kept here, up to a limit.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEPT_ABOVE = 32 << 20
"""Bytes of an array up to which its memory is left to the allocator."""

KEPT_UP_TO = 128 << 20
"""Bytes of an array up to which its memory is kept; the process may hold so much without need."""

PAGE = 4096
"""Bytes of a page of memory, in most systems."""

_kept: list[NDArray[np.uint8]] = []  # at most one; taken and put back in single steps, so that threads need no lock


def new_array(size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Make a flat array, shape (size,), for numbers that are read or computed; until then they are arbitrary.

    From 256 KiB on it begins on a page of memory, as a file does. Where it begins a few bytes further on, as those of
    NumPy do, some processors need three times as long to copy the first chunk: the low bits of addresses make a load
    look as if it needed the store just before.
    """
    nbytes = size * dtype.itemsize
    if nbytes <= 64 * PAGE:
        return np.empty(size, dtype)
    whole = _lend(nbytes + PAGE) if KEPT_ABOVE < nbytes <= KEPT_UP_TO else np.empty(nbytes + PAGE, np.uint8)
    start = -whole.ctypes.data % PAGE
    return whole[start : start + nbytes].view(dtype)


def _lend(nbytes: int) -> NDArray[np.uint8]:
    """Return an array over the kept memory, or over new memory; it is kept when nothing refers to it any more."""
    try:
        memory = _kept.pop()
    except IndexError:
        memory = None
    if memory is None or memory.shape[0] != nbytes:
        memory = np.empty(nbytes, np.uint8)
    # Whatever is made of it refers to this very array, and keeps it alive: of the bases of an array, NumPy passes over
    # arrays only, and the base of this one is a memoryview.
    lent = np.frombuffer(memory.data, np.uint8)
    weakref.finalize(lent, _keep, memory).atexit = False
    return lent


def _keep(memory: NDArray[np.uint8]) -> None:
    _kept[:] = [memory]
