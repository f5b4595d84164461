"""The image files of a split as a Dataset, read on demand, or all at once to be held in memory.

Either way, every file is looked at before anything is computed from it: unreadable files are counted and named, and
contents are identified by their digests (:mod:`mgraph.data.digests`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from mgraph.data.decoding import FULL, Facts, as_floats, check_background, decode
from mgraph.data.digests import SIZE, digest, read_files
from mgraph.data.images import Found, some
from mgraph.data.machine import processors
from mgraph.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FRAMES, _GREY16, _COLOUR16, _TRANSPARENT = 1, 2, 4, 8  # flags recorded about a file
_AT_ONCE = 256
_NANOSECONDS = ("size", "mtime")

Noted = tuple[int, int, int, int]


class ImageFiles:
    """Images of one size, (3, size, size), uint8, or float32 if any has 16 bits, with their class numbers.

    Call :meth:`look` or :meth:`read` first. ``targets`` are the class numbers, shape (N,). Raises InputError for an
    unknown background.
    """

    def __init__(self, found: Found, size: int, background: str | None) -> None:
        check_background(background)
        self._root, self._names, self._size, self._background = found.root, _Packed(found.files), size, background
        self.targets = np.array(found.labels, np.int64)
        self.floats = False
        self._digests: NDArray[np.uint8] = np.zeros((0, SIZE), np.uint8)
        self._stamps: NDArray[np.int64] = np.zeros((0, 2), np.int64)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, place: int) -> tuple[NDArray[Any], int]:
        """Read one image; raise InputError, naming the file, if it has changed since all were looked at."""
        file = self._root / self._names[place]
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            data = opened.read()
        if len(self._stamps) and (status.st_size, status.st_mtime_ns) != tuple(self._stamps[place].tolist()):
            raise InputError(f"{file} changed while it was in use: restore it, or make a new space of the new data.")
        image, facts = decode(data, self._size, self._background)
        if image is None:
            raise InputError(f"{file} cannot be read: {facts.damaged or 'it has transparent pixels'}.")
        return (as_floats(image) if self.floats and image.dtype == np.uint8 else image), int(self.targets[place])

    def look(self) -> list[str]:
        """Look at every file, only once as long as it does not change; return notes for the user.

        Raises InputError, with the number of files and the first few names, if some cannot be used.
        """
        damaged: dict[str, str] = {}

        def look(file: Path) -> tuple[bytes, Noted | None]:
            data = file.read_bytes()
            _, facts = decode(data, None, None)
            if facts.damaged:
                damaged[file.relative_to(self._root).as_posix()] = facts.damaged
                return digest(data), None
            return digest(data), _noted(facts)

        records = read_files(self._root, self._names, look)
        self._digests = records["digest"].copy()
        self._stamps = np.stack([records[name] for name in _NANOSECONDS], axis=1)
        return self._judged(records["noted"], damaged)

    def read(self) -> tuple[NDArray[Any], list[str]]:
        """Read all images, shape (N, 3, size, size); return them together with the notes of :meth:`look`."""
        pixels: NDArray[Any] = np.zeros((len(self), 3, self._size, self._size), np.uint8)
        noted = np.zeros((len(self), 4), np.int64)
        self._digests = np.zeros((len(self), SIZE), np.uint8)
        damaged: dict[str, str] = {}

        def one(place: int) -> tuple[bytes, NDArray[Any] | None, Facts]:
            try:
                data = (self._root / self._names[place]).read_bytes()
            except OSError as error:
                return b"", None, Facts(damaged=str(error.strerror))
            return digest(data), *decode(data, self._size, self._background)

        with ThreadPoolExecutor(processors()) as pool:
            for start in range(0, len(self), _AT_ONCE):
                block = range(start, min(start + _AT_ONCE, len(self)))
                for place, (hashed, image, facts) in zip(block, pool.map(one, block), strict=True):
                    if facts.damaged:
                        damaged[self._names[place]] = facts.damaged
                        continue
                    noted[place] = _noted(facts)
                    self._digests[place] = np.frombuffer(hashed, np.uint8)
                    if image is None:  # transparent, which is reported for all at once
                        continue
                    if image.dtype != pixels.dtype:
                        if pixels.dtype == np.uint8:
                            pixels = as_floats(pixels)
                        else:
                            image = as_floats(image)
                    pixels[place] = image
        return pixels, self._judged(noted, damaged)

    def examples_digest(self, places: NDArray[np.int64] | None = None) -> bytes:
        """Return what identifies these examples (default: all): their files' contents, and how they are read."""
        rows = slice(None) if places is None else places
        how = f"images {self._size} {self._background} {self.floats} {len(self.targets[rows])} "
        hasher = hashlib.blake2b(how.encode(), digest_size=SIZE)
        hasher.update(np.ascontiguousarray(self._digests[rows]).data)
        hasher.update(np.ascontiguousarray(self.targets[rows]).data)
        return hasher.digest()

    def _judged(self, noted: NDArray[np.int64], damaged: dict[str, str]) -> list[str]:
        """Refuse what cannot be used, and say what was converted."""
        root, names, flags = self._root, self._names, noted[:, 2]
        if damaged:
            listed = [f"{name} ({damaged[name]})" for name in names if name in damaged]
            raise InputError(
                f"{len(listed)} of {len(self)} images in {root} cannot be read: {some(listed)}; replace them or take "
                f"them out."
            )
        if self._background is None and (flags & _TRANSPARENT).any():
            listed = self._flagged(flags, _TRANSPARENT)
            raise InputError(
                f"{len(listed)} of {len(self)} images in {root} have transparent pixels: {some(listed)}; say what lies "
                f"behind them: add background=white or background=black to the spec, or background=ignore for the "
                f"colours stored under them."
            )
        self.floats = bool((flags & _GREY16).any())
        notes = []
        if frames := self._flagged(flags, _FRAMES):
            notes.append(f"Of files with several frames in {root} the first is taken: {some(frames)}.")
        if shortened := self._flagged(flags, _COLOUR16):
            notes.append(f"Colour images of 16 bits in {root} are read with 8 bits per colour: {some(shortened)}.")
        sizes = np.unique(noted[:, :2], axis=0)
        if len(sizes) > 1:
            low, high = sizes[0].tolist(), sizes[-1].tolist()
            notes.append(
                f"The images in {root} have {len(sizes)} sizes, from {low[0]}×{low[1]} to {high[0]}×{high[1]} pixels; "
                f"all are brought to {self._size}×{self._size}, whatever their proportions."
            )
        deepest = int(noted[:, 3].max(initial=0))
        if 0 < deepest < FULL // 8:
            notes.append(
                f"The 16-bit images in {root} reach {deepest} of {FULL} only, so that inputs lie below "
                f"{deepest / FULL:.2g}; give mean and std."
            )
        return notes

    def _flagged(self, flags: NDArray[np.int64], bit: int) -> list[str]:
        return [self._names[row] for row in np.flatnonzero(flags & bit).tolist()]


def _noted(facts: Facts) -> Noted:
    flags = _FRAMES * facts.frames | _GREY16 * facts.grey16 | _COLOUR16 * facts.colour16
    return facts.width, facts.height, flags | _TRANSPARENT * facts.transparent, facts.deepest


class _Packed(Sequence[str]):
    """A great many names in little memory, in one block, so that worker processes keep sharing it."""

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)

    @override
    def __len__(self) -> int:
        return len(self._ends)

    @override
    def __getitem__(self, place: Any) -> Any:
        start = int(self._ends[place - 1]) if place else 0
        return os.fsdecode(self._bytes[start : int(self._ends[place])].tobytes())

    @override
    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))
