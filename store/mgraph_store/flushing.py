"""Waiting until files are on the disk: many at once, which takes as long as one, for a disk writes them together."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

AT_ONCE = 64
"""Files that are open to be flushed."""

_THREADS = 8

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class NewTree:
    """A new directory in an open one, and all that is written below it; each file is flushed as soon as it is written.

    To be used as a context, which ends when everything is on the disk. Nobody else knows its name yet, so nothing in it
    has to be looked at again, and the order of the flushes does not matter.
    """

    def __init__(self, above: int, name: str) -> None:
        """``above`` is the descriptor of the directory in which it is made, under a name that is not there yet."""
        os.mkdir(name, dir_fd=above)
        self._folders = {"": os.open(name, _DIRECTORY, dir_fd=above)}
        self._flushes = Flushes()

    def __enter__(self) -> NewTree:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        try:
            while self._folders and failed is None:
                self._flushes.begin(self._folders.popitem()[1])
        except BaseException as error:
            failed = error
            raise
        finally:
            for descriptor in self._folders.values():
                os.close(descriptor)
            self._flushes.end(failed=failed is not None)

    def write(self, place: str, parts: Iterable[memoryview]) -> None:
        """Write a new file, whose ``place`` is the path below this directory, and have it flushed."""
        folder, _, name = place.rpartition("/")
        descriptor = os.open(name, _NEW, 0o666, dir_fd=self._folder(folder))
        try:
            for part in parts:
                while part:
                    part = part[os.write(descriptor, part) :]
        except BaseException:
            os.close(descriptor)
            raise
        self._flushes.begin(descriptor)

    def _folder(self, place: str) -> int:
        if place not in self._folders:
            above, _, name = place.rpartition("/")
            within = self._folder(above)
            os.mkdir(name, dir_fd=within)
            self._folders[place] = os.open(name, _DIRECTORY, dir_fd=within)
        return self._folders[place]


class Flushes:
    """Flushes under way, each of which closes its descriptor."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, Future[None]]] = []

    def begin(self, descriptor: int) -> None:
        """Flush a file or directory, at the latest in :meth:`end`, and close it then."""
        self._waiting.append((descriptor, _threads().submit(_flush, descriptor)))
        while len(self._waiting) > AT_ONCE:
            self._waiting.pop(0)[1].result()

    def end(self, *, failed: bool = False) -> None:
        """Wait until all are done, whatever happens; raise the first error, unless something has ``failed`` anyway."""
        first: BaseException | None = None
        while self._waiting:
            descriptor, flushed = self._waiting.pop()
            try:
                if flushed.cancel():  # no thread has come to it, and this one has nothing else to do
                    _flush(descriptor)
                else:
                    flushed.result()
            except BaseException as error:
                first = first or error
        if first is not None and not failed:
            raise first


def _flush(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_pool: ThreadPoolExecutor | None = None


def _threads() -> ThreadPoolExecutor:
    # Kept, because starting them takes as long as a small file; they are not daemons, but idle at exit.
    global _pool
    if _pool is None:
        from concurrent.futures import ThreadPoolExecutor  # and with it logging, which readers need not load

        _pool = ThreadPoolExecutor(_THREADS, "mgraph-flush")
    return _pool


def _after_in_child() -> None:
    global _pool
    _pool = None  # the parent's threads are not there


os.register_at_fork(after_in_child=_after_in_child)
