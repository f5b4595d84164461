"""Reading stored arrays, whole or in parts, with everything verified.

Zarr takes a missing chunk for one full of the fill value, so the chunks are counted when an array is opened; a flipped
bit shows in the checksum of its chunk.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from mgraph_store.errors import CorruptError, StoreError
from mgraph_store.folder import Folder
from mgraph_store.tensors.chunkfiles import CHECKSUM_BYTES, ChunkStream, is_raw, new_array, read_chunk, shard_places
from mgraph_store.tensors.rawzarr import DESCRIPTION, RawArray, recognised
from mgraph_store.tensors.threads import deal

if TYPE_CHECKING:
    import zarr


class Files(Protocol):
    """Access to the files of a tensor object; names are relative, with ``/``."""

    def open_array(self, name: str) -> zarr.Array[Any]:
        """Open a Zarr array for reading; ``FileNotFoundError`` if it is not there."""

    def sizes(self, folder: str, names: Sequence[str]) -> list[int | None]:
        """Return the sizes of files in one folder; None for a missing one."""

    def ending(self, name: str, length: int) -> tuple[int, bytes]:
        """Return the size of a file in bytes, and its last ``length`` bytes, or all if it is shorter;
        ``FileNotFoundError`` if it is not there."""

    def local(self, name: str) -> BinaryIO | None:
        """Open a file on this machine, or return None if it is remote."""

    def raw(self, name: str) -> RawArray | None:
        """Describe an array if it is on this machine and its chunks can be read without Zarr, else return None."""

    def attributes(self, name: str) -> Mapping[str, Any]:
        """Read the attributes of an array."""

    def descriptors(self, folder: str) -> contextlib.AbstractContextManager[Callable[[str], int]]:
        """Hold a folder on this machine open: the function opens a file in it, which the caller closes."""


class LocalFiles:
    """Files of a tensor object in a directory."""

    def __init__(self, folder: Folder | Path) -> None:
        self._folder = Folder.at(folder)

    def open_array(self, name: str) -> zarr.Array[Any]:
        """Open a Zarr array for reading; ``FileNotFoundError`` if it is not there."""
        from mgraph_store.tensors.zarrfolder import open_array

        return open_array(self._folder.sub(name))

    def sizes(self, folder: str, names: Sequence[str]) -> list[int | None]:
        """Return the sizes of files in one folder; None for a missing one."""
        return self._folder.sub(folder).sizes(names)

    def ending(self, name: str, length: int) -> tuple[int, bytes]:
        """Return the size of a file in bytes, and its last ``length`` bytes, or all if it is shorter;
        ``FileNotFoundError`` if it is not there."""
        with self.local(name) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - length))
            return size, file.read(length)

    def local(self, name: str) -> BinaryIO:
        """Open a file."""
        folder, _, own = name.rpartition("/")
        return self._folder.sub(folder).reader(own)

    def raw(self, name: str) -> RawArray | None:
        """Describe an array if its chunks can be read without Zarr, else return None."""
        return recognised(self._folder.sub(name).read(DESCRIPTION))

    def attributes(self, name: str) -> Mapping[str, Any]:
        """Read the attributes of an array; ``ValueError`` if they are something else."""
        found = json.loads(self._folder.sub(name).read(DESCRIPTION)).get("attributes", {})
        if not isinstance(found, dict):
            raise ValueError("its attributes are not a JSON object")
        return found

    @contextlib.contextmanager
    def descriptors(self, folder: str) -> Iterator[Callable[[str], int]]:
        """Hold a folder open: the function opens a file in it, which the caller closes."""
        place = self._folder.sub(folder)
        with place.opened() as directory:
            yield lambda name: place.open_in(directory, name)


class StoredArray:
    """One flat array, shape (P,), complete judging by names and sizes of files; safe to use from threads."""

    def __init__(self, files: Files, key: str, dtype: str, row: int | None) -> None:
        self._files, self._key, self._row = files, key, row
        self._name = dtype if row is None else ""
        self._array: zarr.Array[Any] | None = None
        with self.blaming():
            found = files.raw(self._name)
            if found is None:
                self._open_by_zarr()
            else:
                self.is_raw, self._exact, self._dtype = True, True, np.dtype(found.dtype)
                self._shape, self.chunk = found.shape, found.chunk
                self._rows = found.shape[0] if found.is_segment else None
        if self._dtype.name != dtype or len(self._shape) != (1 if row is None else 2):
            raise self._corrupt(f"has dtype {self._dtype} and shape {list(self._shape)}")
        if row is not None and not 0 <= row < self._shape[0]:
            raise self._corrupt(f"has no row {row}")
        self.size = int(self._shape[-1])
        self._offset = 0  # where the row begins in its shard
        self._check_files()

    def _open_by_zarr(self) -> None:
        array = self._array = self._files.open_array(self._name)
        self._dtype, self._shape = np.dtype(array.dtype), array.shape
        self.chunk = max(1, int(array.chunks[-1]))
        self._rows = None if array.shards is None else int(array.shards[0])
        self._exact = len(array.compressors) == 1  # nothing but the checksum
        self.is_raw = is_raw(array) and isinstance(self._files, LocalFiles)

    is_raw: bool
    """Whether it is read without Zarr, so that Ctrl-C leaves no thread at work."""

    chunk: int
    """Elements of a chunk."""

    @property
    def nbytes(self) -> int:
        """Size of the numbers, uncompressed."""
        return self.size * self._dtype.itemsize

    def attributes(self) -> Mapping[str, Any]:
        """Read what the array's own description says about it, see :mod:`mgraph_store.tensors.attributes`.

        Raises
        ------
        CorruptError
            If it cannot be read.
        """
        with self.blaming():
            return self._files.attributes(self._name)

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Read the elements from ``start`` up to ``stop``; a new array.

        Raises
        ------
        CorruptError
            If a chunk fails its checksum or cannot be decoded.
        """
        stop = self.size if stop is None else min(stop, self.size)
        if not self.is_raw:
            return self._decode(start, stop)
        out = new_array(max(0, stop - start), self._dtype)
        if out.shape[0] < 2 * self.chunk:
            self.read_into(out, start)
            return out

        def work(dealt: Iterator[int]) -> None:
            for first in dealt:
                begin = max(start, first)
                self.read_into(out[begin - start : first + self.chunk - start], begin)

        deal(range(start - start % self.chunk, stop, self.chunk), work, here=True)
        return out

    def read_into(self, out: NDArray[Any], start: int = 0) -> None:
        """Read the elements from ``start`` on that fill ``out``, a contiguous flat array; errors as :meth:`read`."""
        stop = start + out.shape[0]
        if not self.is_raw:
            out[...] = self._decode(start, stop)
            return
        with self.blaming(), self._files.descriptors(f"{self._name}/c" if self._row is None else "c/0") as opened:
            for i in range(start // self.chunk, -(-stop // self.chunk)):
                first = i * self.chunk
                a, b = max(start, first), min(stop, first + self.chunk)
                descriptor = opened(str(i) if self._row is None else "0")
                try:
                    if b - a == self.chunk:
                        read_chunk(descriptor, out[a - start : b - start], self._offset)
                    else:  # for part of a chunk, all of it must be read for the checksum
                        whole = new_array(self.chunk, self._dtype)
                        read_chunk(descriptor, whole, self._offset)
                        out[a - start : b - start] = whole[a - first : b - first]
                finally:
                    os.close(descriptor)

    def is_chunk(self, start: int, stop: int) -> bool:
        """Return whether :meth:`stream` can read the elements from ``start`` up to ``stop``: one raw chunk."""
        return self.is_raw and start % self.chunk == 0 and stop == min(start + self.chunk, self.size)

    def stream(self, start: int) -> ChunkStream:
        """Open the chunk that begins at ``start``, to be read piece by piece inside :meth:`blaming`."""
        with self.blaming():
            file = self._files.local(self._chunk_name(start // self.chunk))
            assert file is not None
            return ChunkStream(file, self._offset, self.chunk * self._dtype.itemsize)

    def chunks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (offset, elements) chunk by chunk, so that only one is in memory."""
        for start in range(0, self.size, self.chunk):
            yield start, self.read(start, min(start + self.chunk, self.size))

    def _decode(self, start: int, stop: int) -> NDArray[Any]:
        part = slice(start, stop)
        assert self._array is not None
        with self.blaming(), chunks_at_a_time(1 if isinstance(self._files, LocalFiles) else REMOTE_CHUNKS):
            return np.asarray(self._array[part] if self._row is None else self._array[self._row, part])

    def _chunk_name(self, i: int) -> str:
        return f"{self._name}/c/{i}" if self._row is None else "c/0/0"

    def _check_files(self) -> None:
        # Zarr would silently fill these with NaN: files that are gone, and rows lost from a truncated shard.
        if self._rows is not None:
            self._check_shard("c/0/0", self._rows)
            return
        expected = self.chunk * self._dtype.itemsize + CHECKSUM_BYTES
        names = [str(i) for i in range(-(-self.size // self.chunk))]
        for i, size in enumerate(self._files.sizes(f"{self._name}/c", names)):
            if size is None:
                raise self._corrupt(f"lacks chunk c/{i}")
            if size == 0 or (self._exact and size != expected):
                raise self._corrupt(f"has a chunk c/{i} of {size} bytes")

    def _check_shard(self, name: str, rows: int) -> None:
        length = 16 * rows + CHECKSUM_BYTES
        with self.blaming():
            try:
                size, index = self._files.ending(name, length)
            except FileNotFoundError:
                raise self._corrupt(f"lacks chunk {name.removeprefix(f'{self._name}/')}") from None
            if size <= length:
                raise self._corrupt(f"has a damaged shard of {size} bytes")
            places = shard_places(index)
        ends = places.astype(object).sum(axis=1) if (places >> 62).any() else places.sum(axis=1)
        if int(ends.max()) + length != size:
            raise self._corrupt(f"has a damaged shard of {size} bytes")
        offset, stored = (int(v) for v in places[self._row])
        if self.is_raw and stored != self.size * self._dtype.itemsize + CHECKSUM_BYTES:
            raise self._corrupt(f"has a row {self._row} of {stored} bytes")
        self._offset = offset

    @contextlib.contextmanager
    def blaming(self) -> Iterator[None]:
        """Attribute errors inside the block to this array: ``CorruptError``, or ``StoreError`` for the disk."""
        try:
            yield
        except FileNotFoundError:
            raise self._corrupt("is missing") from None
        except OSError as error:
            raise StoreError(
                f"Cannot read tensor object {self._key} ({error.strerror or error}): check the disk and its "
                "permissions."
            ) from error
        except (MemoryError, StoreError):
            raise
        except Exception as error:  # whatever a codec raises on damaged bytes
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise self._corrupt(f"cannot be read ({reason.rstrip('.')})") from error

    def _corrupt(self, what: str) -> CorruptError:
        return CorruptError(
            f"Tensor object {self._key} {what}: restore tensors.zarr/{self._key} from a copy of the graph, "
            "or remove what depends on it (`mgraph check` lists it)."
        )


REMOTE_CHUNKS = 4
"""Chunks that travel at a time between this machine and a URL."""

_limits: list[int] = []
_limits_lock = threading.Lock()
_usual: Any = None


def one_at_a_time() -> contextlib.AbstractContextManager[None]:
    """Make Zarr handle one chunk at a time, which is a third faster on local files and takes less memory."""
    return chunks_at_a_time(1)


@contextlib.contextmanager
def chunks_at_a_time(limit: int) -> Iterator[None]:
    """Make Zarr handle at most so many chunks at a time, so that memory is bounded.

    The setting is global to the process: of several threads, the lowest limit holds, and the last one restores it.
    """
    global _usual
    import zarr

    with _limits_lock:
        _usual = _usual if _limits else zarr.config.get("async.concurrency")
        _limits.append(limit)
        zarr.config.set({"async.concurrency": min(_limits)})
    try:
        yield
    finally:
        with _limits_lock:
            del _limits[_limits.index(limit)]
            zarr.config.set({"async.concurrency": min(_limits, default=_usual)})
