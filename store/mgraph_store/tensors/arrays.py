"""Reading stored arrays, whole or in parts, with everything verified.

Zarr takes a missing chunk for one full of the fill value, so the chunks are counted when an array is opened; a flipped
bit shows in the checksum of its chunk.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from mgraph_store.errors import CorruptError, StoreError
from mgraph_store.folder import Folder
from mgraph_store.tensors.chunkfiles import CHECKSUM_BYTES, ChunkStream, is_raw, read_chunk, shard_places

if TYPE_CHECKING:
    import zarr


class Files(Protocol):
    """Access to the files of a tensor object; names are relative, with ``/``."""

    def open_array(self, name: str) -> zarr.Array[Any]:
        """Open a Zarr array for reading; ``FileNotFoundError`` if it is not there."""

    def size(self, name: str) -> int:
        """Return the size of a file in bytes; ``FileNotFoundError`` if it is not there."""

    def sizes(self, folder: str, names: Sequence[str]) -> list[int | None]:
        """Return the sizes of files in one folder; None for a missing one."""

    def tail(self, name: str, length: int) -> bytes:
        """Read the last ``length`` bytes of a file, or all if it is shorter."""

    def local(self, name: str) -> BinaryIO | None:
        """Open a file on this machine, or return None if it is remote."""

    @property
    def is_local(self) -> bool:
        """Whether the files are on this machine."""


class LocalFiles:
    """Files of a tensor object in a directory."""

    def __init__(self, folder: Folder | Path) -> None:
        self._folder = Folder.at(folder)

    def open_array(self, name: str) -> zarr.Array[Any]:
        """Open a Zarr array for reading; ``FileNotFoundError`` if it is not there."""
        from mgraph_store.tensors.zarrfolder import open_array

        return open_array(self._folder.sub(name))

    def size(self, name: str) -> int:
        """Return the size of a file in bytes; ``FileNotFoundError`` if it is not there."""
        folder, _, own = name.rpartition("/")
        return self._folder.sub(folder).size(own)

    def sizes(self, folder: str, names: Sequence[str]) -> list[int | None]:
        """Return the sizes of files in one folder; None for a missing one."""
        return self._folder.sub(folder).sizes(names)

    def tail(self, name: str, length: int) -> bytes:
        """Read the last ``length`` bytes of a file, or all if it is shorter."""
        with self.local(name) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - length))
            return file.read(length)

    def local(self, name: str) -> BinaryIO:
        """Open a file."""
        folder, _, own = name.rpartition("/")
        return self._folder.sub(folder).reader(own)

    is_local = True


class StoredArray:
    """One flat array, shape (P,), complete judging by names and sizes of files; safe to use from threads."""

    def __init__(self, files: Files, key: str, dtype: str, row: int | None) -> None:
        self._files, self._key, self._row = files, key, row
        self._name = dtype if row is None else ""
        with self.blaming():
            self._array: zarr.Array[Any] = files.open_array(self._name)
        shape = self._array.shape
        if str(self._array.dtype) != dtype or len(shape) != (1 if row is None else 2):
            raise self._corrupt(f"has dtype {self._array.dtype} and shape {list(shape)}")
        if row is not None and not 0 <= row < shape[0]:
            raise self._corrupt(f"has no row {row}")
        self.size = int(shape[-1])
        self.chunk = max(1, int(self._array.chunks[-1]))
        self._raw = is_raw(self._array) and files.is_local
        self._offset = 0  # where the row begins in its shard
        self._check_files()

    @property
    def nbytes(self) -> int:
        """Size of the numbers, uncompressed."""
        return self.size * int(self._array.dtype.itemsize)

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Read the elements from ``start`` up to ``stop``; a new array.

        Raises
        ------
        CorruptError
            If a chunk fails its checksum or cannot be decoded.
        """
        stop = self.size if stop is None else min(stop, self.size)
        if not self._raw:
            return self._decode(start, stop)
        out = np.empty(max(0, stop - start), self._array.dtype)
        self.read_into(out, start)
        return out

    def read_into(self, out: NDArray[Any], start: int = 0) -> None:
        """Read the elements from ``start`` on that fill ``out``, a contiguous flat array; errors as :meth:`read`."""
        stop = start + out.shape[0]
        if not self._raw:
            out[...] = self._decode(start, stop)
            return
        with self.blaming():
            for i in range(start // self.chunk, -(-stop // self.chunk)):
                first = i * self.chunk
                a, b = max(start, first), min(stop, first + self.chunk)
                if b - a == self.chunk:
                    self._read_chunk(i, out[a - start : b - start])
                else:  # even for a part, the whole has to be read for the checksum
                    whole = np.empty(self.chunk, self._array.dtype)
                    self._read_chunk(i, whole)
                    out[a - start : b - start] = whole[a - first : b - first]

    def is_chunk(self, start: int, stop: int) -> bool:
        """Return whether :meth:`stream` can read the elements from ``start`` up to ``stop``: one raw chunk."""
        return self._raw and start % self.chunk == 0 and stop == min(start + self.chunk, self.size)

    def stream(self, start: int) -> ChunkStream:
        """Open the chunk that begins at ``start``, to be read piece by piece inside :meth:`blaming`."""
        with self.blaming():
            file = self._files.local(self._chunk_name(start // self.chunk))
            assert file is not None
            return ChunkStream(file, self._offset, self.chunk * self._array.dtype.itemsize)

    def chunks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (offset, elements) chunk by chunk, so that only one is in memory."""
        for start in range(0, self.size, self.chunk):
            yield start, self.read(start, min(start + self.chunk, self.size))

    def _read_chunk(self, i: int, out: NDArray[Any]) -> None:
        file = self._files.local(self._chunk_name(i))
        assert file is not None
        read_chunk(file, out, self._offset)

    def _decode(self, start: int, stop: int) -> NDArray[Any]:
        part = slice(start, stop)
        with self.blaming(), one_at_a_time():
            return np.asarray(self._array[part] if self._row is None else self._array[self._row, part])

    def _chunk_name(self, i: int) -> str:
        return f"{self._name}/c/{i}" if self._row is None else "c/0/0"

    def _check_files(self) -> None:
        # What Zarr would silently fill with NaN: files that are gone, and rows that a truncated shard has lost.
        if self._array.shards is not None:
            self._check_shard("c/0/0", self._array.shards[0])
            return
        exact = len(self._array.compressors) == 1  # nothing but the checksum
        expected = self.chunk * self._array.dtype.itemsize + CHECKSUM_BYTES
        names = [str(i) for i in range(-(-self.size // self.chunk))]
        for i, size in enumerate(self._files.sizes(f"{self._name}/c", names)):
            if size is None:
                raise self._corrupt(f"lacks chunk c/{i}")
            if size == 0 or (exact and size != expected):
                raise self._corrupt(f"has a chunk c/{i} of {size} bytes")

    def _check_shard(self, name: str, rows: int) -> None:
        size, length = self._file_size(name), 16 * rows + CHECKSUM_BYTES
        if size <= length:
            raise self._corrupt(f"has a damaged shard of {size} bytes")
        with self.blaming():
            places = shard_places(self._files.tail(name, length))
        ends = places.astype(object).sum(axis=1) if (places >> 62).any() else places.sum(axis=1)
        if int(ends.max()) + length != size:
            raise self._corrupt(f"has a damaged shard of {size} bytes")
        offset, stored = (int(v) for v in places[self._row])
        if self._raw and stored != self.size * self._array.dtype.itemsize + CHECKSUM_BYTES:
            raise self._corrupt(f"has a row {self._row} of {stored} bytes")
        self._offset = offset

    def _file_size(self, name: str) -> int:
        try:
            return self._files.size(name)
        except OSError:
            raise self._corrupt(f"lacks chunk {name.removeprefix(f'{self._name}/')}") from None

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


_users = 0
_users_lock = threading.Lock()
_setting: Any = None


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Make Zarr handle one chunk at a time, which is a third faster on local files and takes less memory.

    The setting is global to the process, so the first of several threads sets it and the last restores it.
    """
    global _users, _setting
    import zarr

    with _users_lock:
        if _users == 0:
            _setting = zarr.config.set({"async.concurrency": 1})
        _users += 1
    try:
        yield
    finally:
        with _users_lock:
            _users -= 1
            if _users == 0:
                _setting.__exit__(None, None, None)
