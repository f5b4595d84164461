"""Settings of the process itself."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE = 32 << 20  # the largest mmap threshold that glibc accepts


def tune_allocator() -> None:
    """Let glibc keep freed memory: returning it costs a convolution step about 10 % in page faults."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def import_nothing_from_here() -> None:
    """Take the working directory off the import path, of this process and of those that it starts.

    It may be a stranger's, and hold files named like modules that a library looks for. It is on the path if Python was
    started with -c or -m, or if $PYTHONPATH has an empty part; naming it in $PYTHONPATH keeps it.
    """
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    named = [part for part in given if part]
    if named != given and "PYTHONPATH" in os.environ:
        os.environ["PYTHONPATH"] = os.pathsep.join(named)
    here = os.path.abspath("")  # noqa: PTH100  (Path.cwd() fails where there is none any more)
    wanted = here in {os.path.abspath(part) for part in named}  # noqa: PTH100
    started_here = not sys.flags.safe_path and sys.path[:1] == [here]
    if not wanted and (started_here or len(given) > max(1, len(named))) and here in sys.path:
        sys.path.remove(here)
    sys.path[:] = [entry for entry in sys.path if entry]
