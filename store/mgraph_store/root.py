"""A graph's own directory, held open: a graph that is moved while it is in use is still the same graph."""

from __future__ import annotations

import os
import sys
import threading
import warnings
import weakref
from pathlib import Path

from typing_extensions import override

from mgraph_store.errors import MovedError, MovedWarning

HAS_PROC = Path("/proc/self/fd").is_dir()
"""Whether the system has paths that lead through descriptors."""


class Root:
    """A directory that a user named, which may be a link; held open from its first use."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._identity = (0, 0)
        self._told: Path | None = None

    @override
    def __reduce__(self) -> tuple[type[Root], tuple[Path]]:
        return Root, (self.path,)

    def descriptor(self) -> int:
        """Return the descriptor of the directory; OSError if there is none."""
        with self._lock:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                self._identity = _identity(os.fstat(self._descriptor))
                weakref.finalize(self, os.close, self._descriptor)
            return self._descriptor

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode number of the directory, which identify it wherever it is moved."""
        self.descriptor()
        return self._identity

    def where(self) -> Path:
        """Return a path at which the directory is now; warn once if that is no longer the one that was given.

        Raises
        ------
        MovedError
            If it is gone, or it is unknown where it is.
        """
        descriptor = self.descriptor()
        if self._is_at(self.path):
            return self.path
        found = _path_of_directory(descriptor)
        if found is None or not self._is_at(found):
            there = ", and another one is there now" if self.path.exists() else ""
            raise MovedError(
                f"The graph at {self.path} was removed while it was in use, or moved to another file system{there}: "
                "nothing more is stored. Open the graph where it is now; an interrupted run can be resumed there with "
                "`mgraph resume`."
            )
        if found != self._told:
            self._told = found
            there = ", and something else is there now" if self.path.exists() else ""
            warnings.warn(
                f"The graph at {self.path} was moved to {found} while it was in use{there}: what is stored from now "
                f"on is stored in {found}.",
                MovedWarning,
                stacklevel=2,
            )
        return found

    def _is_at(self, path: Path) -> bool:
        try:
            return _identity(path.stat()) == self._identity
        except OSError:
            return False


def path_of(descriptor: int) -> Path:
    """Return a path that leads to the open file, for libraries that need one."""
    return Path(f"/proc/self/fd/{descriptor}" if HAS_PROC else f"/dev/fd/{descriptor}")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _path_of_directory(descriptor: int) -> Path | None:
    # Linux and macOS can tell where a directory is now.
    try:
        if sys.platform == "darwin":  # pragma: no cover
            import fcntl

            return Path(os.fsdecode(fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")))
        return Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError:
        return None
