"""Digests of files' contents: each file is read once, and again only when its size or times have changed.

Results are remembered in the user's cache directory, in one table per folder. A file that changed within the last
moments is not remembered, since another change might leave it with the same times.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import platformdirs

from mgraph.data.machine import processors
from mgraph.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = 16  # bytes of a digest
VARIABLE = "MGRAPH_CACHE_DIR"
"""The environment variable that overrides the user's cache directory."""

RECORD = np.dtype(
    [
        ("name", "u8"),  # its hash
        ("size", "i8"),
        ("mtime", "i8"),
        ("ctime", "i8"),
        ("digest", "u1", (SIZE,)),
        ("noted", "i8", (4,)),
    ]
)
"""A file: its size and times, in nanoseconds, the digest, and four numbers recorded by the code that looked at it."""

Look = Callable[[Path], tuple[bytes, tuple[int, int, int, int] | None]]
"""Reads a file; returns its digest and what to record about it, or None if it should not be remembered."""

_JUST_NOW = 2_000_000_000  # nanoseconds: the resolution of the coarsest file-system clock in use
_AT_ONCE = 1024
_SAVE_EVERY = 60.0  # seconds


def digest(data: bytes) -> bytes:
    """Return the BLAKE2b-128 of a file's bytes."""
    return hashlib.blake2b(data, digest_size=SIZE).digest()


def whole(file: Path) -> tuple[bytes, tuple[int, int, int, int]]:
    """Look at a file of any size, with nothing to record about it."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=SIZE)).digest(), (0, 0, 0, 0)


def stamp(status: os.stat_result) -> tuple[int, int, int]:
    """Return what changes with a file's contents: its size, and when its contents and its status last changed."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_files(root: Path, names: Sequence[str], look: Look, *, threads: int | None = None) -> NDArray[Any]:
    """Return a RECORD for each of these files below ``root``, in order; only new and changed ones are read.

    Raises InputError, naming the file, for one that cannot be read.
    """
    found = np.zeros(len(names), RECORD)
    for row, name in enumerate(names):
        status = _status(root / name)
        found[row] = (_hashed(name), *stamp(status), (0,) * SIZE, (0,) * 4)
    known = _load(root)
    if len(known) and len(found):
        at = np.minimum(np.searchsorted(known["name"], found["name"]), len(known) - 1)
        same = np.ones(len(found), bool)
        for field in ("name", "size", "mtime", "ctime"):
            same &= known[field][at] == found[field]
        found[same] = known[at[same]]
        missing = np.flatnonzero(~same)
    else:
        missing = np.arange(len(found))
    if len(missing):
        _look_at(root, names, look, found, missing, threads or processors())
    return found


def remembered(key: str, compute: Callable[[], str]) -> str:
    """Return what was computed for this key earlier on this machine, or compute it."""
    place = _directory() / "values" / hashlib.blake2b(key.encode(), digest_size=SIZE).hexdigest()
    with suppress(OSError, UnicodeDecodeError):
        return place.read_text()
    value = compute()
    with suppress(OSError):
        _write(place, lambda file: file.write_text(value))
    return value


def _look_at(
    root: Path, names: Sequence[str], look: Look, found: NDArray[Any], rows: NDArray[np.int64], threads: int
) -> None:
    """Fill in what is missing, saving it from time to time so that an interrupted run is not wasted."""
    keep = np.zeros(len(found), bool)
    now, saved = time.time_ns(), time.monotonic()
    steady = np.maximum(found["mtime"], found["ctime"]) < now - _JUST_NOW

    def one(row: int) -> tuple[bytes, tuple[int, int, int, int] | None]:
        try:
            return look(root / names[row])
        except OSError as error:
            raise InputError(f"{root / names[row]} cannot be read: {error.strerror}.") from None

    try:
        with ThreadPoolExecutor(threads) as pool:
            for block in _blocks(rows):
                for row, (hashed, noted) in zip(block, pool.map(one, block), strict=True):
                    found["digest"][row] = np.frombuffer(hashed, np.uint8)
                    found["noted"][row] = noted or (0,) * 4
                    keep[row] = noted is not None and steady[row]
                if time.monotonic() - saved > _SAVE_EVERY:
                    _save(root, found[keep])
                    saved = time.monotonic()
    finally:
        _save(root, found[keep])


def _blocks(rows: NDArray[np.int64]) -> Iterator[list[int]]:
    for start in range(0, len(rows), _AT_ONCE):
        yield rows[start : start + _AT_ONCE].tolist()


def _status(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from None


def _hashed(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest(), "little")


def _directory() -> Path:
    return Path(os.environ.get(VARIABLE) or platformdirs.user_cache_dir("mgraph")) / "digests"


def _table(root: Path) -> Path:
    return _directory() / f"{digest(os.fsencode(os.path.realpath(root))).hex()}.npy"


def _load(root: Path) -> NDArray[Any]:
    """Return what is remembered about a folder, sorted by name; nothing if the table is missing or damaged."""
    try:
        table: NDArray[Any] = np.load(_table(root), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return np.zeros(0, RECORD)
    return table if table.dtype == RECORD and table.ndim == 1 else np.zeros(0, RECORD)


def _save(root: Path, new: NDArray[Any]) -> None:
    """Put records into the table of a folder; if nothing can be written, the files will be read again next time."""
    if not len(new):
        return
    old = _load(root)
    old = old[~np.isin(old["name"], new["name"])]
    table = np.concatenate([old, new])
    table = table[np.argsort(table["name"], kind="stable")]

    def write(file: Path) -> None:
        with file.open("wb") as opened:
            np.save(opened, table, allow_pickle=False)

    with suppress(OSError):
        _write(_table(root), write)


def _write(place: Path, write: Callable[[Path], Any]) -> None:
    """Write a file, either completely or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f"{place.name}.{os.getpid()}.part")
    try:
        write(part)
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)
