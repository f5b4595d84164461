"""Processes of this machine: which one holds a lock, whose run is under way.

A process is identified by what no clock and no other container can change: the kernel's boot, its PID namespace, its
number, and its start in ticks since the boot.
"""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple


class Process(NamedTuple):
    """A process as it is recorded: host name and number and, if Linux provides them, boot, PID namespace and start."""

    host: str
    pid: int | None
    boot: str | None = None
    numbers: int | None = None
    start: int | None = None

    @classmethod
    def present(cls) -> Process:
        """Return this process."""
        pid = os.getpid()
        return cls(platform.node(), pid, _boot(), _numbers(), _start(pid))

    def marks(self) -> dict[str, Any]:
        """Return what is recorded besides host and number, as plain data; empty if the system provides nothing."""
        return {k: v for k, v in self._asdict().items() if k in ("boot", "numbers", "start") and v is not None}

    @property
    def on_this_machine(self) -> bool:
        """Whether it runs or ran under this boot of this kernel or, if no boot is known, on a host with this name."""
        boot = _boot()
        return self.host == platform.node() if None in (boot, self.boot) else self.boot == boot

    @property
    def alive(self) -> bool | None:
        """Whether it is running; None if that cannot be seen from here."""
        if self.pid is None or not self.on_this_machine:
            return None
        if self.numbers != _numbers():
            return None  # another container, or nothing was recorded
        if not is_alive(self.pid):
            return False
        return None if self.start is None else _start(self.pid) == self.start


def is_alive(pid: int) -> bool:
    """Return whether this machine has a process with that number."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _stat(pid: int) -> list[str]:
    """Return what Linux says about a process after its name, which may contain anything; empty elsewhere."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _is_zombie(pid: int) -> bool:
    return _stat(pid)[:1] == ["Z"]


def _start(pid: int) -> int | None:
    """Return when a process started, in ticks since the boot."""
    try:
        return int(_stat(pid)[19])
    except (ValueError, IndexError):
        return None


@cache
def _boot() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() or None
    except OSError:
        return None


def _numbers() -> int | None:
    """Return the PID namespace of this process."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return None
