"""What the machine has: processors for this process, and memory."""

from __future__ import annotations

import os
from pathlib import Path

_SHARE = 4  # a data set may take a quarter of the memory: networks, and what they compute, need the rest
_UNKNOWN = 8 << 30  # bytes, where the system does not say
_MOST_WORKERS = 8
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
    """Tell whether data of so many bytes are held in memory: if they take a quarter of it at most."""
    return size <= memory() // _SHARE


def default_workers() -> int:
    """Return how many processes read data where nobody said it; 0 where processes are not made by forking."""
    return min(_MOST_WORKERS, processors() - 1) if hasattr(os, "fork") and os.uname().sysname == "Linux" else 0
