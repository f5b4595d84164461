"""Many readers or one writer per graph, first come first served.

Two files, locked with ``flock``: everyone takes ``gate.lock`` exclusively, then ``index.lock`` (shared to read,
exclusive to write), then releases the gate. Without the gate, overlapping readers would keep a writer out for ever.
Whoever enters signs ``index.lock``, so that a process whose wait times out can say who holds it. Both files are
separate from ``index.duckdb``, because closing any descriptor of that file would drop DuckDB's own lock on it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mgraph_store.errors import InputError, LockTimeoutError, StoreError
from mgraph_store.folder import Folder
from mgraph_store.index.processes import is_alive
from mgraph_store.rows.ids import random_characters

LOCKS = (GATE, INDEX_LOCK) = ("gate.lock", "index.lock")
DEFAULT_TIMEOUT = 60.0
TIMEOUT_VARIABLE = "MGRAPH_LOCK_TIMEOUT"

_SHORTEST, _LONGEST = 0.0005, 0.01  # seconds between two attempts

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
"""The errors of flock if the file system, or the way it is mounted, does not support it."""

_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS}

_Identity = tuple[int, int]

_held = threading.local()  # .shared, .exclusive: device and number of a directory -> how often this thread holds it


class GraphLock:
    """The lock of one graph directory; ``timeout`` in seconds (default: ``$MGRAPH_LOCK_TIMEOUT``, or 60)."""

    def __init__(self, directory: Folder | Path, timeout: float | None = None) -> None:
        self.timeout = _timeout(timeout)
        self._folder = Folder(directory) if isinstance(directory, Path) else directory
        self._directory = self._folder.path

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the lock for reading; within one thread it nests.

        Raises
        ------
        LockTimeoutError
            If a writer, or those waiting before us, take too long.
        """
        counts, me = _counts("shared"), self._identity()
        nested = counts.get(me, 0) or _counts("exclusive").get(me, 0)
        with contextlib.nullcontext(None) if nested else self._enter(fcntl.LOCK_SH):
            counts[me] = counts.get(me, 0) + 1
            try:
                yield
            finally:
                counts[me] -= 1

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[Callable[[], None]]:
        """Hold the lock for writing; calling what this yields goes on holding it for reading only.

        Others may then get in to read, and perhaps, once, to write: look again at what must not have changed.

        Raises
        ------
        LockTimeoutError
            If the others take too long.
        StoreError
            If this thread is already reading, because it would wait for itself.
        """
        shared, counts, me = _counts("shared"), _counts("exclusive"), self._identity()
        if shared.get(me, 0) or counts.get(me, 0):
            raise StoreError(
                f"This thread is reading graph {self._directory}: end that first, before the transaction ends."
            )
        with self._enter(fcntl.LOCK_EX) as hold_shared:

            def lower() -> None:
                hold_shared()
                counts[me], shared[me] = 0, shared.get(me, 0) + 1

            counts[me] = 1
            try:
                yield lower
            finally:
                if counts[me]:
                    counts[me] = 0
                else:
                    shared[me] -= 1

    def is_held(self) -> bool:
        """Return whether this thread holds the lock, in either way."""
        me = self._identity()
        return bool(_counts("shared").get(me, 0) or _counts("exclusive").get(me, 0))

    def is_awaited(self) -> bool:
        """Return whether somebody waits for the lock, while we hold it; whoever waits holds the gate."""
        with self._open(GATE, fcntl.LOCK_SH) as gate:
            try:
                fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
            _let_go(gate)
            return False

    def _identity(self) -> _Identity:
        try:
            return self._folder.root.identity
        except OSError as error:
            raise self._refused(error) from None

    def _refused(self, error: OSError) -> StoreError:
        if error.errno in _NOT_OURS:
            return StoreError(
                f"Graph {self._directory} cannot be written ({error.strerror}): it can only be read. To add "
                "to it, work on a copy (mgraph copy), or have its permissions changed."
            )
        return StoreError(f"Cannot lock graph {self._directory}: {error.strerror}.")

    @contextlib.contextmanager
    def _enter(self, mode: int) -> Iterator[Callable[[], None]]:
        deadline = time.monotonic() + self.timeout
        token = random_characters(8)
        with self._open(GATE, mode) as gate, self._open(INDEX_LOCK, mode) as index:

            def hold_shared() -> None:
                nonlocal mode
                mode = fcntl.LOCK_SH
                # This lets go of the one lock and takes the other, so somebody who just asks may be faster.
                self._acquire(index, mode, deadline)

            # Unlock explicitly before closing, because a child forked meanwhile has a copy of the descriptor.
            try:
                self._acquire(gate, fcntl.LOCK_EX, deadline)
                try:
                    self._acquire(index, mode, deadline)
                    _sign(index, token, mode)
                finally:
                    _let_go(gate)
                try:
                    yield hold_shared
                finally:
                    _unsign(gate, index, token, mode)
            finally:
                _let_go(index)

    @contextlib.contextmanager
    def _open(self, name: str, mode: int) -> Iterator[int]:
        try:
            descriptor = self._folder.open(name, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            if mode == fcntl.LOCK_EX or error.errno not in _NOT_OURS:
                raise self._refused(error) from None
            try:  # a graph that we may read but not write
                descriptor = self._folder.open(name)
            except OSError:
                raise self._refused(error) from None
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _acquire(self, descriptor: int, mode: int, deadline: float) -> None:
        # flock has no queue with a timeout, so everyone asks repeatedly, more often the longer they have waited:
        # of 8 processes that always want it, the worst then waits three times the mean, otherwise ten times.
        begun = time.monotonic()
        while True:
            try:
                return fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
            except BlockingIOError:
                waited = time.monotonic() - begun
                if begun + waited >= deadline:
                    raise LockTimeoutError(self._complaint()) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise self._refused(error) from None
                raise StoreError(
                    f"The file system at {self._directory.parent} has no file locks (flock: {error.strerror}), "
                    "without which two processes could spoil the graph: put it on a disk that has them, a local one "
                    "for example, or have the file system mounted with them (Lustre: -o flock)."
                ) from None
            time.sleep(max(_SHORTEST, _LONGEST / (1 + 50 * waited)) * random.uniform(0.5, 1))

    def _complaint(self) -> str:
        holders = "; ".join(f"process {h['pid']} ({h['command']}), {h['doing']}" for h in self._holders())
        return (
            f"Graph {self._directory} is locked by {holders or 'another process'}, and {self.timeout:g} s of "
            f"waiting were not enough: try again when it is done, or set {TIMEOUT_VARIABLE} to more seconds."
        )

    def _holders(self) -> list[dict[str, Any]]:
        try:
            with self._open(INDEX_LOCK, fcntl.LOCK_SH) as descriptor:
                return [h for h in _read(descriptor) if is_alive(h["pid"])]
        except (StoreError, OSError):
            return []


def _timeout(value: float | None) -> float:
    text = os.environ.get(TIMEOUT_VARIABLE, "") if value is None else str(value)
    try:
        seconds = float(text or DEFAULT_TIMEOUT)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise InputError(f"The lock timeout must be a number of seconds ≥ 0, not {text!r}.")
    return seconds


def _counts(mode: str) -> dict[_Identity, int]:
    counts: dict[_Identity, int] = _held.__dict__.setdefault(mode, {})
    return counts


def _sign(descriptor: int, token: str, mode: int) -> None:
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:80] if sys.argv else ""
    doing = "reading" if mode == fcntl.LOCK_SH else "writing"
    entry = {"pid": os.getpid(), "command": command or "python", "doing": doing, "token": token}
    others = [h for h in _read(descriptor) if is_alive(h["pid"])] if mode == fcntl.LOCK_SH else []
    with contextlib.suppress(OSError):  # on a full disk or a read-only graph, only the signature is lost
        _write(descriptor, [*others, entry])


def _unsign(gate: int, index: int, token: str, mode: int) -> None:
    # Signatures change only under the gate or the exclusive lock. A reader who finds the gate taken leaves
    # its own behind; the next one drops it once the process has ended.
    try:
        if mode == fcntl.LOCK_SH:
            fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(OSError):  # who writes is alone
            others = [h for h in _read(index) if h.get("token") != token] if mode == fcntl.LOCK_SH else []
            _write(index, others)
    except BlockingIOError:
        return
    finally:
        _let_go(gate)


def _let_go(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # if there are no locks, there is none to release
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _read(descriptor: int) -> list[dict[str, Any]]:
    try:
        entries = json.loads(os.pread(descriptor, 1 << 20, 0) or b"[]")
        return [h for h in entries if {"pid", "command", "doing"} <= h.keys()]
    except (ValueError, AttributeError, TypeError):
        return []


def _write(descriptor: int, entries: list[dict[str, Any]]) -> None:
    data = json.dumps(entries).encode() if entries else b""
    os.ftruncate(descriptor, 0)
    if data:
        os.pwrite(descriptor, data, 0)
