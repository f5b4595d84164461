"""A power cut for our own files: what was not flushed is gone.

The process keeps what is on the disk for certain: the content of a file when it was last flushed, the entries of a
directory when *it* was. At the cut these make a copy of the graph. DuckDB flushes its files itself, from C++, where
nothing can look on: they are copied as they are.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

from faultkit.crash import start
from faultkit.model import Model, verify
from faultkit.workload import Work

_OF_DUCKDB = ("index.duckdb", "index.duckdb.wal")


class Disk:
    """What is on the disk for certain, below one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.entries: dict[int, dict[str, int]] = {}  # inode of a directory → name → inode
        self.content: dict[int, bytes] = {}
        self.directories: set[int] = set()
        for folder, _, files in os.walk(root):
            self.flushed(Path(folder))
            for name in files:
                if name not in _OF_DUCKDB:
                    self.flushed(Path(folder) / name)

    def flushed(self, path: Path) -> None:
        """Take note that a file or directory was flushed."""
        inode = path.stat().st_ino
        if path.is_dir():
            self.directories.add(inode)
            self.entries[inode] = {entry.name: entry.inode() for entry in os.scandir(path)}
        elif path.is_file():
            self.directories.discard(inode)  # numbers of deleted ones are used again
            self.content[inode] = path.read_bytes()

    def restore(self, to: Path) -> None:
        """Write what is on the disk for certain to another directory."""
        self._restore(self.root.stat().st_ino, to)
        for name in _OF_DUCKDB:
            (to / name).unlink(missing_ok=True)
            if (self.root / name).exists():
                (to / name).write_bytes((self.root / name).read_bytes())

    def _restore(self, inode: int, to: Path) -> None:
        to.mkdir()
        for name, child in self.entries[inode].items():
            if child in self.directories:
                self._restore(child, to / name)
            elif name not in _OF_DUCKDB:  # whatever was created and never flushed is empty, even a directory
                (to / name).write_bytes(self.content.get(child, b""))


def cut_power(path: Path, before: Model, seed: int, scratch: Path, *, careless: bool = False) -> Model:
    """Let a process work up to a random flush; check what is left then, and return it.

    A ``careless`` process flushes nothing: the check must find that out.
    """
    draw = random.Random(seed)
    log, left = scratch / f"{seed}.log", scratch / f"{seed}.mgraph"
    worker = start(work_until_cut, path, seed, log, left, draw.randrange(1, 60), draw.random() < 0.5, careless)
    worker.join()
    assert worker.exitcode == -signal.SIGKILL, worker.exitcode
    return verify(left, before, log)


def work_until_cut(path: Path, seed: int, log: Path, left: Path, last: int, late: bool, careless: bool) -> None:
    """Play random operations up to the nth flush, before it or ``late``, behind it."""
    working = Work.at(path, seed, log)
    disk, fsync = Disk(path.resolve()), os.fsync
    remaining, turn = last, threading.Lock()  # files of one object are flushed by several threads

    def cut() -> None:
        disk.restore(left)
        os.kill(os.getpid(), signal.SIGKILL)

    def watched(descriptor: Any) -> None:
        nonlocal remaining
        with turn:
            remaining -= 1
            mine = remaining
            if mine == 0 and not late:
                cut()
        fsync(descriptor)
        with turn:
            if not careless:
                number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
                disk.flushed(Path(f"/proc/self/fd/{number}").readlink())
            if mine == 0:
                cut()

    os.fsync = watched
    while True:
        working.play()
