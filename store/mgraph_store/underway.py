"""Whether a run is still under way: the lock that its process holds, and who that process is.

A run keeps ``states/RUN_ID/lock`` locked (flock) from before it is recorded until it ends, and then removes it. A lock
that is held means a process that is alive, in whatever container or, if the disk shares its locks, on whatever machine;
no clock is consulted. A lock that exists but is free was left by a process that was killed, provided that this machine
sees the other's locks: it does if both have the same kernel, or if the disk is of a kind that only one machine can use
at a time. Otherwise nobody can know, and the user is asked.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from mgraph_store.errors import CorruptError, StoreError
from mgraph_store.folder import STATES, Folder
from mgraph_store.index.processes import Process
from mgraph_store.root import Root
from mgraph_store.rows.ids import is_id
from mgraph_store.rows.records import Run

LOCK = "lock"
PROCESS = "process"  # key in a run's versions: what identifies its process

_PATIENCE = 1.0  # seconds, because a process that only looks holds the lock for a moment
# Disks that one machine uses at a time. Shared folders of virtual machines (9p, virtiofs), FUSE and networks are not.
_LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "overlay", "tmpfs", "ramfs"}
_LOCAL |= {"vfat", "exfat", "ntfs3"}


class Life(Enum):
    """Whether the process of a run that has not ended is still running."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"


class RunLock:
    """The lock of one run, held from :meth:`acquire` to :meth:`release`, and by no child of this process."""

    def __init__(self, graph: Root | Path, run_id: str) -> None:
        if not is_id(run_id):
            raise CorruptError(f"The index has a run {run_id!r}, which is not an id: run `mgraph check`.")
        self._folder = Folder(graph).sub(STATES, run_id)
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock; False if another process holds it. If the disk has no locks, there is nothing to take."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                descriptor = self._open(create=True)
            except (OSError, StoreError):  # a full disk, or a directory that is not ours: nothing is locked
                return True
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                if time.monotonic() >= deadline:
                    return False
                time.sleep(0.01)
                continue
            except OSError:  # no locks on this disk
                os.close(descriptor)
                self._remove()
                return True
            if self._is_still(descriptor):
                self._descriptor = descriptor
                _held.add(descriptor)
                return True
            os.close(descriptor)  # its holder removed it meanwhile

    def release(self) -> None:
        """Remove the lock, and the directory if it is empty."""
        if self._descriptor is not None:
            self._remove()
            descriptor, self._descriptor = self._descriptor, None
            _held.discard(descriptor)
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # explicitly, because a child may have a copy of the descriptor
            os.close(descriptor)

    def is_held(self) -> bool | None:
        """Return whether a process holds it; None if there is none, or it cannot be examined."""
        try:
            descriptor = self._open(create=False)
        except (OSError, StoreError):
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return False

    def _open(self, *, create: bool) -> int:
        self._folder.check_file(LOCK, own=True)
        with self._folder.opened(create=create) as directory:
            return self._folder.open_in(directory, LOCK, os.O_RDWR | os.O_CREAT if create else os.O_RDONLY)

    def _is_still(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(self._folder.status(LOCK), os.fstat(descriptor))
        except (OSError, StoreError):
            return False

    def _remove(self) -> None:
        states = self._folder.above()
        with contextlib.suppress(OSError, StoreError):
            self._folder.unlink(LOCK)
            states.remove_if_empty(self._folder.name)
            states.above().remove_if_empty(STATES)


@dataclass(frozen=True)
class Sighting:
    """What is known about the process of a run that has not ended."""

    life: Life
    process: Process
    why: str

    @classmethod
    def of(cls, graph: Root | Path | None, run: Run) -> Sighting:
        """Look for the process of a run in the graph in this directory; None: without its lock."""
        path = graph.path if isinstance(graph, Root) else graph
        process = process_of(run)
        held = None if graph is None else RunLock(graph, run.id).is_held()
        if held:
            return cls(Life.ALIVE, process, "its lock is held")
        if held is False and (process.on_this_machine or _is_local(path)):
            return cls(Life.GONE, process, "its process is gone")
        alive = process.alive
        if alive is not None:
            return cls(Life.ALIVE if alive else Life.GONE, process, "it runs" if alive else "its process is gone")
        if not process.on_this_machine and path is not None and process.boot is not None and _is_local(path):
            return cls(Life.GONE, process, "its process is gone")  # before a reboot, or before the disk was moved here
        if not process.on_this_machine:
            why = "it ran on another machine, whose processes and locks cannot be seen from here"
        else:
            why = "it ran in another container, or cannot be told from other processes with that number"
        return cls(Life.UNKNOWN, process, why)


def process_of(run: Run) -> Process:
    """Return the process in which a run was last recorded."""
    try:
        moments = json.loads(run.resumptions)
        marks = (moments[-1] if moments else json.loads(run.versions)).get(PROCESS, {})
        return Process(run.host, run.pid, marks.get("boot"), marks.get("numbers"), marks.get("start"))
    except (AttributeError, LookupError, TypeError, ValueError):  # not what we write
        return Process(run.host, run.pid)


def versions_of(run: Run) -> dict[str, Any]:
    """Return the versions that a run recorded, without what identifies its process."""
    return {k: v for k, v in json.loads(run.versions).items() if k != PROCESS}


def _is_local(path: Path | None) -> bool:
    """Return whether a directory is on a disk that only one machine can use at a time."""
    if path is None:
        return False
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    place, kind = "", ""
    here = os.path.realpath(path)
    for line in mounts:
        fields, _, source = line.partition(" - ")
        mount = fields.split(" ")[4].encode().decode("unicode_escape")  # spaces are octal there
        inside = here == mount or here.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(place):  # the last one is on top
            place, kind = mount, source.split(" ")[0]
    return kind in _LOCAL


_held: set[int] = set()


def _after_in_child() -> None:
    # A child has copies of the descriptors, which would keep the lock after this process is gone.
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_after_in_child)
