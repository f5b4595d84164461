"""Whether a process still runs: who holds a lock, whose run is under way."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime, timedelta
from pathlib import Path

_SLACK = timedelta(seconds=5)  # clocks are set, and boot time is rounded


def is_alive(pid: int) -> bool:
    """Tell whether this machine has a process of that number."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def may_run(host: str, pid: int | None, since: datetime) -> bool:
    """Tell whether the process that noted host, pid and time may still run; elsewhere that cannot be known.

    After a reboot or many processes another one can have the number: one that began later is not the one.
    """
    if host != platform.node() or pid is None:
        return True
    if not is_alive(pid):
        return False
    began = _began(pid)
    return began is None or began <= since + _SLACK


def _stat(pid: int) -> list[str]:
    """Return what Linux tells about a process after its name, which may hold anything; empty elsewhere."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _is_zombie(pid: int) -> bool:
    return _stat(pid)[:1] == ["Z"]


def _began(pid: int) -> datetime | None:
    try:
        ticks = int(_stat(pid)[19])
        (booted,) = [line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime ")]
    except (OSError, ValueError, IndexError):
        return None
    seconds = int(booted.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    return datetime.fromtimestamp(seconds, UTC)
