"""The machine's resources: processors for this process, and memory."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_SHARE = 4  # a data set may take a quarter of the memory; networks and their computations need the rest
_UNKNOWN = 8 << 30  # bytes, if the system does not say
_MOST_WORKERS = 8
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_CGROUP = Path("/sys/fs/cgroup/memory.max")  # the limit of a container


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int:
    """Return the bytes of memory that this process may use at most."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        total = _UNKNOWN
    try:
        return min(total, int(_CGROUP.read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return total


def fits(size: int) -> bool:
    """Return whether data of this many bytes are held in memory: if they take at most a quarter of it."""
    return size <= memory() // _SHARE


def default_workers() -> int:
    """Return how many processes read data where nobody said it; 0 where processes are not made by forking.

    Of several processes that torchrun started here, each has its share.
    """
    if sys.platform != "linux":
        return 0
    beside = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return max(0, min(_MOST_WORKERS, processors() // max(1, beside) - 1))


def give_back_memory() -> None:
    """Give memory that is free back to the system, where glibc keeps it.

    Batches that come and go leave gaps between the small results that stay; a pass over a large set would else take
    more and more.
    """
    if _LIBC is not None and hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)
