"""The files of a graph, opened in such a way that nothing leads out of its directory.

A graph may come from a stranger, and every entry of its directory may be something other than it should be: a symbolic
link, a second name (hard link) of somebody's file, a pipe, a device. So nothing here uses a path: a :class:`Root` holds
the graph's own directory open, a :class:`Folder` walks down from it one name at a time without following links, and
what it opens is checked before and after it is open. Anything that is not what it should be is refused by name. Because
a name is looked up only once, a link that appears between check and use is not followed either, and a graph that is
moved meanwhile is still the same graph.

If a library needs a path (Zarr, safetensors), :func:`path_of` gives one that leads through a descriptor. DuckDB opens
its index by its own path, see :mod:`mgraph_store.index.index`. Everything else in this package uses this module; a test
looks for calls that do not.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mgraph_store.errors import EntryError
from mgraph_store.flushing import Flushes
from mgraph_store.root import HAS_PROC, Root, path_of

TEMPORARY, SET_ASIDE, STATES, PREDICTIONS = "tmp", "damaged", "states", "predictions"
"""Folders of a graph: for what is being written, and for what a repair replaced."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # non-blocking, because a pipe would block for ever
_WRITING = os.O_WRONLY | os.O_RDWR
_FIRST, _PART = 1 << 12, 1 << 20  # bytes that are read at first, where most files end, and then at a time

_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISREG, "a file"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Folder:
    """A directory of a graph: the graph's own, or one below it. ``path`` is for messages only."""

    def __init__(self, root: Root | Path, names: tuple[str, ...] = (), held: _Held | None = None) -> None:
        self.root = Root(root) if isinstance(root, Path) else root
        self._names = names
        self._held = held

    @classmethod
    def at(cls, place: Folder | Path) -> Folder:
        """Return a folder as it is, or a path as a folder of the directory that contains it."""
        return place if isinstance(place, Folder) else cls(Root(place.parent), (place.name,))

    @property
    def name(self) -> str:
        """Its own name."""
        return self.path.name

    @property
    def path(self) -> Path:
        """Its path when the graph was opened."""
        return self.root.path.joinpath(*self._names)

    def above(self) -> Folder:
        """Return the parent of this folder; for the root, the root itself."""
        return Folder(self.root, self._names[:-1])

    def sub(self, *names: str) -> Folder:
        """Return a folder below this one, without checking whether it exists."""
        parts = tuple(part for name in names for part in name.split("/") if part)
        if ".." in parts or "." in parts:
            raise ValueError(f"{'/'.join(parts)!r} leads out of a folder.")
        return Folder(self.root, self._names + parts, self._held)

    def opened(self, *, create: bool = False) -> contextlib.AbstractContextManager[int]:
        """Hold the folder open for a block; ``create`` makes it if it is missing.

        Raises
        ------
        EntryError
            If it, or one on the way, is not an ordinary directory.
        OSError
            If it is missing or not accessible.
        """
        return _Opened(self, create)

    def with_open(self, folder: Folder, descriptor: int) -> Folder:
        """Return this folder, to be used only while a folder below it is open: what is in there is then opened from its
        descriptor, without walking down to it again."""
        return Folder(self.root, self._names, _Held(descriptor, folder._names))

    def open_directory(self, *, create: bool = False) -> tuple[int, bool]:
        """Open the folder as :meth:`opened` does; return its descriptor, and whether it is to be closed: that of the
        root, or of a folder that is held, is open anyway."""
        held = self._held
        if held is not None and held.names == self._names[: len(held.names)]:
            descriptor, depth = held.descriptor, len(held.names)
        else:
            descriptor, depth = self.root.descriptor(), 0
        ours = False
        for i in range(depth, len(self._names)):
            above = descriptor
            try:
                descriptor = self._step(above, i, self._names[i], create)
            finally:
                if ours:
                    os.close(above)
            ours = True
        return descriptor, ours

    def _step(self, descriptor: int, depth: int, name: str, create: bool) -> int:
        try:
            return os.open(name, _DIRECTORY, dir_fd=descriptor)
        except FileNotFoundError:
            if not create:
                raise
            with contextlib.suppress(FileExistsError), self._in_place():
                os.mkdir(name, dir_fd=descriptor)
            return os.open(name, _DIRECTORY, dir_fd=descriptor)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            raise self._refusal(self._names[: depth + 1], _kind_at(descriptor, name), "a directory") from None

    def path_within(self, descriptor: int) -> Path:
        """Return a path that leads to this folder, open as ``descriptor``, for libraries that need one.

        If the system has none that leads through the descriptor, it is the folder's own path.
        """
        return path_of(descriptor) if HAS_PROC else self.root.where().joinpath(*self._names)

    # Looking

    def status(self, name: str) -> os.stat_result:
        """Return what an entry is, without following a link; OSError if there is none."""
        with self.opened() as descriptor:
            return os.stat(name, dir_fd=descriptor, follow_symlinks=False)

    def has(self, name: str) -> bool:
        """Return whether there is an entry with that name, whatever it is."""
        try:
            self.status(name)
        except OSError:
            return False
        return True

    def exists(self) -> bool:
        """Return whether the folder exists; EntryError if something else is in its place."""
        try:
            with self.opened():
                return True
        except OSError:
            return False

    def is_folder(self, name: str) -> bool:
        """Return whether an entry is a directory."""
        try:
            return stat.S_ISDIR(self.status(name).st_mode)
        except OSError:
            return False

    def entries(self) -> list[str]:
        """List the names of all entries, sorted; none if the folder is missing."""
        try:
            with self.opened() as descriptor:
                return sorted(os.listdir(descriptor))  # noqa: PTH208 (a descriptor, no path)
        except FileNotFoundError:
            return []

    def check_file(self, name: str, *, own: bool = False) -> os.stat_result | None:
        """Check that an entry is a file and, with ``own``, that it has no other name; None if there is none.

        Raises
        ------
        EntryError
            If it is anything else.
        """
        try:
            status = self.status(name)
        except FileNotFoundError:
            return None
        self._check(name, status, own)
        return status

    def check_folder(self, name: str) -> None:
        """Check that an entry is a directory; EntryError if it is anything else, but not if there is none."""
        with contextlib.suppress(FileNotFoundError):
            status = self.status(name)
            if not stat.S_ISDIR(status.st_mode):
                raise self._refusal((*self._names, name), _kind(status), "a directory")

    def size(self, name: str) -> int:
        """Return the bytes of a file; OSError if it is missing."""
        status = self.status(name)
        self._check(name, status, False)
        return status.st_size

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """Return the bytes of several files; None for one that is missing."""
        found: list[int | None] = [None] * len(names)
        with contextlib.suppress(FileNotFoundError), self.opened() as folder:
            for i, name in enumerate(names):
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    self._check(name, status, False)
                    found[i] = status.st_size
        return found

    def tree_size(self, name: str) -> int:
        """Add up the bytes of an entry and of everything below it; what vanishes meanwhile, and links, count
        nothing."""
        return sum(s.st_size for s in self._tree(name) if stat.S_ISREG(s.st_mode))

    def age(self, name: str) -> float:
        """Seconds since an entry was changed; 0 if it is gone."""
        try:
            return max(0.0, time.time() - self.status(name).st_mtime)
        except OSError:
            return 0.0

    def newest(self, name: str) -> float:
        """Seconds since an entry, or anything below it, was changed; 0 if it is gone."""
        return max(0.0, time.time() - self.changed(name))

    def changed(self, name: str) -> float:
        """When an entry, or anything below it, was last changed, in seconds since 1970 by the clock of where it is;
        infinity if it is gone."""
        return max((s.st_mtime for s in self._tree(name)), default=math.inf)

    def _tree(self, name: str) -> Iterator[os.stat_result]:
        with contextlib.suppress(OSError):
            status = self.status(name)
            yield status
            if not stat.S_ISDIR(status.st_mode):
                return
            with self.opened() as descriptor:
                for _, folders, files, folder in os.fwalk(name, dir_fd=descriptor, follow_symlinks=False):
                    for entry in [*folders, *files]:
                        with contextlib.suppress(OSError):
                            yield os.stat(entry, dir_fd=folder, follow_symlinks=False)

    # Opening

    def open(self, name: str, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
        """Open a file and return its descriptor; a file to be written must have no other name.

        Raises
        ------
        EntryError
            If it is not such a file.
        OSError
            If it is missing or not accessible.
        """
        with self.opened() as folder:
            return self.open_in(folder, name, flags, mode)

    def open_in(self, folder: int, name: str, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
        """Open a file as :meth:`open` does, in this folder, which is already open."""
        own = bool(flags & _WRITING)
        try:  # first, because merely opening some devices has an effect
            self._check(name, os.stat(name, dir_fd=folder, follow_symlinks=False), own)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
        try:
            descriptor = os.open(name, flags | _FILE, mode, dir_fd=folder)
        except FileNotFoundError:
            self.root.where()  # nothing can be made in a deleted directory, so say that it was deleted
            raise
        except OSError as error:  # it has since become something else
            if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                raise
            raise self._refusal((*self._names, name), _kind_at(folder, name), "a file") from None
        try:
            self._check(name, os.fstat(descriptor), own)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def reader(self, name: str) -> BinaryIO:
        """Open a file for reading, without a buffer; errors as :meth:`open`."""
        return os.fdopen(self.open(name), "rb", buffering=0)

    def read(self, name: str) -> bytes:
        """Read a whole file; errors as :meth:`open`."""
        descriptor = self.open(name)
        try:
            parts, length = [], _FIRST
            while part := os.read(descriptor, length):
                parts.append(part)
                length = _PART
            return b"".join(parts)
        finally:
            os.close(descriptor)

    def write(self, name: str, data: bytes) -> None:
        """Write a small file anew, without flushing it; errors as :meth:`open`."""
        with os.fdopen(self.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
            file.write(data)

    # Changing

    def flush(self, name: str | None = None) -> None:
        """Wait until the folder's own entries, or one of its files, are on the disk."""
        if name is None:
            with self.opened() as descriptor:
                os.fsync(descriptor)
            return
        descriptor = self.open(name)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def flush_tree(self, name: str) -> None:
        """Wait until a directory in this folder and all below it are on the disk.

        All at once, which takes as long as one of them, because a disk writes concurrent requests together.
        """
        with self.opened() as descriptor:
            flushes = Flushes()
            try:
                for _, _, files, folder in os.fwalk(name, topdown=False, dir_fd=descriptor, follow_symlinks=False):
                    for file in files:
                        flushes.begin(os.open(file, os.O_RDONLY | _FILE, dir_fd=folder))
                    flushes.begin(os.dup(folder))
            except BaseException:
                flushes.end(failed=True)
                raise
            flushes.end()

    def copy_file(self, name: str, folder: Folder) -> int:
        """Copy a file into another folder, under its name, and flush it; return the number of bytes.

        Raises
        ------
        FileExistsError
            If there is already one with that name.
        """
        with self.reader(name) as source:
            return folder.write_copy(name, source)

    def write_copy(self, name: str, source: BinaryIO) -> int:
        """Write what is left of an open file as a new file, flushed; as :meth:`copy_file`."""
        target = self.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(target, "wb", buffering=0) as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
            os.fsync(target)
            return os.fstat(target).st_size

    def copy_tree(self, name: str, folder: Folder) -> None:
        """Copy a directory and everything below it into another folder, and flush it.

        Raises
        ------
        EntryError
            If it contains anything but directories and files.
        FileNotFoundError
            If it, or a file in it, is gone.
        """
        source, copy = self.sub(name), folder.sub(name)
        with source.opened() as opened, copy.opened(create=True):
            entries = sorted(os.listdir(opened))  # noqa: PTH208 (a descriptor, no path)
        for entry in entries:
            if source.is_folder(entry):
                source.copy_tree(entry, copy)
            else:
                source.copy_file(entry, copy)
        copy.flush()

    def unlink(self, name: str) -> None:
        """Remove a file or a link, never what a link leads to; do nothing if there is none.

        Raises
        ------
        EntryError
            If it is a directory.
        """
        with contextlib.suppress(FileNotFoundError), self.opened() as descriptor:
            try:
                os.unlink(name, dir_fd=descriptor)
            except (IsADirectoryError, PermissionError):  # the second one on systems other than Linux
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode):
                    raise
                raise self._refusal((*self._names, name), _kind(status), "a file") from None

    def rename(self, name: str, folder: Folder, new: str) -> None:
        """Move an entry, in one step; a file that replaces another may be read and written by the same people."""
        with self.opened() as here, folder.opened() as there:
            with contextlib.suppress(FileNotFoundError):
                replaced = os.stat(new, dir_fd=there, follow_symlinks=False)
                if stat.S_ISREG(replaced.st_mode):
                    _take_over(here, name, replaced)
            os.rename(name, new, src_dir_fd=here, dst_dir_fd=there)

    def remove(self, name: str) -> None:
        """Delete an entry and everything below it, as far as the file system allows; links are removed, not
        followed."""
        with contextlib.suppress(OSError), self.opened() as descriptor:
            if stat.S_ISDIR(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                shutil.rmtree(name, ignore_errors=True, dir_fd=descriptor)
            else:
                os.unlink(name, dir_fd=descriptor)

    def remove_if_empty(self, name: str) -> None:
        """Remove a directory if it is empty; otherwise do nothing."""
        with contextlib.suppress(OSError), self.opened() as descriptor:
            os.rmdir(name, dir_fd=descriptor)

    # Refusing

    @contextlib.contextmanager
    def _in_place(self) -> Iterator[None]:
        # Nothing can be made in a deleted directory, so say that it was deleted.
        try:
            yield
        except FileNotFoundError:
            self.root.where()
            raise

    def _check(self, name: str, status: os.stat_result, own: bool) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise self._refusal((*self._names, name), _kind(status), "a file")
        if own and status.st_nlink > 1:
            raise self._refusal((*self._names, name), "a file with other names elsewhere (hard links)", "a file")

    def _refusal(self, names: tuple[str, ...], found: str, wanted: str) -> EntryError:
        return EntryError(
            f"{'/'.join(names)} in graph {self.root.path} is {found}, where {wanted} should be: the graph "
            "is not used, and nothing outside it is touched. Replace it with what it should be, or use a copy of the "
            "graph that has it."
        )


class _Held(NamedTuple):
    """A folder that is open: its descriptor, and the names that lead to it."""

    descriptor: int
    names: tuple[str, ...]


class _Opened:
    """What :meth:`Folder.opened` returns. A class, because it is entered dozens of times for each commit."""

    def __init__(self, folder: Folder, create: bool) -> None:
        self._folder, self._create = folder, create
        self._descriptor, self._ours = -1, False

    def __enter__(self) -> int:
        self._descriptor, self._ours = self._folder.open_directory(create=self._create)
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        if self._ours:
            os.close(self._descriptor)


def put_in_place(building: Path, path: Path) -> None:
    """Rename a directory that was made beside its place, in one step, durably; only if nothing is there yet.

    Raises
    ------
    FileExistsError
        If there is something at ``path``, or somebody else was faster.
    OSError
        If it cannot be renamed.
    """
    path.mkdir()  # only one can; rename alone would replace an empty directory of somebody else
    try:
        building.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            path.rmdir()
        raise
    Folder(path.parent).flush()


def _kind(status: os.stat_result) -> str:
    return next((what for test, what in _KINDS if test(status.st_mode)), "something unknown")


def _take_over(folder: int, name: str, status: os.stat_result) -> None:
    """Give a file the owner, group and permissions of another, as far as we may."""
    descriptor = os.open(name, os.O_RDONLY | _FILE, dir_fd=folder)
    try:
        for owner in (status.st_uid, -1):
            with contextlib.suppress(OSError):
                os.fchown(descriptor, owner, status.st_gid)
                break
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
    finally:
        os.close(descriptor)


def _kind_at(folder: int, name: str) -> str:
    try:
        return _kind(os.stat(name, dir_fd=folder, follow_symlinks=False))
    except OSError:
        return "something else by now"
