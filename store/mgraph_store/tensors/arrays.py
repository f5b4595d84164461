"""Reading stored arrays, whole or in parts, with everything verified.

Zarr takes a missing chunk for one full of the fill value, so the chunks are counted when an array is opened; a flipped
bit shows in the checksum of its chunk.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mgraph_store.errors import CorruptError, StoreError
from mgraph_store.folder import Folder
from mgraph_store.tensors.chunkfiles import CHECKSUM_BYTES, ChunkStream, is_raw, read_chunk, shard_places
from mgraph_store.tensors.memory import new_array
from mgraph_store.tensors.rawzarr import DESCRIPTION, RawArray, recognised
from mgraph_store.tensors.threads import deal

if TYPE_CHECKING:
    import zarr


class Files(Protocol):
    """Access to the files of a tensor object; names are relative, with ``/``."""

    def holding(self, name: str) -> contextlib.AbstractContextManager[Files]:
        """Return the same files for a block in which those in the folder ``name`` are opened more than once;
        ``FileNotFoundError`` if it is not there."""

    def open_array(self, name: str) -> zarr.Array[Any]:
        """Open a Zarr array for reading; ``FileNotFoundError`` if it is not there."""

    def sizes(self, folder: str, names: Sequence[str]) -> list[int | None]:
        """Return the sizes of files in one folder; None for a missing one."""

    def ending(self, name: str, length: int) -> tuple[int, bytes]:
        """Return the size of a file in bytes, and its last ``length`` bytes, or all if it is shorter;
        ``FileNotFoundError`` if it is not there."""

    def raw(self, name: str) -> RawArray | None:
        """Describe an array if it is on this machine and its chunks can be read without Zarr, else return None."""

    def attributes(self, name: str) -> Mapping[str, Any]:
        """Read the attributes of an array."""

    def folder(self, name: str) -> Folder:
        """Return a folder, if it is on this machine."""


class LocalFiles:
    """Files of a tensor object in a directory."""

    def __init__(self, folder: Folder | Path) -> None:
        self._folder = Folder.at(folder)

    def holding(self, name: str) -> _Near:
        """Hold a folder open for a block in which files there are opened more than once; ``FileNotFoundError`` if it is
        not there."""
        return _Near(self._folder, self._folder.sub(name))

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
        folder, _, own = name.rpartition("/")
        with self._folder.sub(folder).reader(own) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - length))
            return size, file.read(length)

    def raw(self, name: str) -> RawArray | None:
        """Describe an array if its chunks can be read without Zarr, else return None."""
        return recognised(self._folder.sub(name).read(DESCRIPTION))

    def attributes(self, name: str) -> Mapping[str, Any]:
        """Read the attributes of an array; ``ValueError`` if they are something else."""
        found = json.loads(self._folder.sub(name).read(DESCRIPTION)).get("attributes", {})
        if not isinstance(found, dict):
            raise ValueError("its attributes are not a JSON object")
        return found

    def folder(self, name: str) -> Folder:
        """Return a folder."""
        return self._folder.sub(name)


# Classes, because entering a generator takes several times as long, which counts where a small array is read.


class _Near:
    """What :meth:`LocalFiles.holding` returns."""

    def __init__(self, folder: Folder, inner: Folder) -> None:
        self._folder, self._inner = folder, inner
        self._opened = inner.opened()

    def __enter__(self) -> LocalFiles:
        return LocalFiles(self._folder.with_open(self._inner, self._opened.__enter__()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, trace)


class _Blaming:
    """What :meth:`StoredArray.blaming` returns."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, MemoryError | StoreError):
            return
        if isinstance(error, FileNotFoundError):
            raise _corrupt(self._key, "is missing") from None
        if isinstance(error, OSError):
            raise StoreError(
                f"Cannot read tensor object {self._key} ({error.strerror or error}): check the disk and its "
                "permissions."
            ) from error
        # Whatever a codec raises on damaged bytes.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _corrupt(self._key, f"cannot be read ({reason.rstrip('.')})") from error


def _corrupt(key: str, what: str) -> CorruptError:
    """Return the error for a tensor object that is not what it was."""
    return CorruptError(
        f"Tensor object {key} {what}: restore tensors.zarr/{key} from a copy of the graph, "
        "or remove what depends on it (`mgraph check` lists it)."
    )


class StoredArray:
    """One flat array, shape (P,), complete judging by names and sizes of files; safe to use from threads."""

    def __init__(self, files: Files, key: str, dtype: str, row: int | None) -> None:
        self._files, self._key, self._row = files, key, row
        self._name = dtype if row is None else ""
        self._array: zarr.Array[Any] | None = None
        with self.blaming(), files.holding(self._name) as near:
            self._look_at(near, dtype)

    def _look_at(self, near: Files, dtype: str) -> None:
        row = self._row
        found = near.raw(self._name)
        if found is None:
            self._open_by_zarr()
        else:
            self.is_raw, self._exact, self._dtype = True, True, np.dtype(found.dtype)
            self._shape, self.chunk = found.shape, found.chunk
            self._rows = found.shape[0] if found.is_segment else None
        if self._dtype != dtype or len(self._shape) != (1 if row is None else 2):
            raise self._corrupt(f"has dtype {self._dtype} and shape {list(self._shape)}")
        if row is not None and not 0 <= row < self._shape[0]:
            raise self._corrupt(f"has no row {row}")
        self.size = int(self._shape[-1])
        self._offset = 0  # where the row begins in its shard
        self._check_files(near)

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

        place = self._chunks()
        with self.blaming(), place.opened() as directory:  # once, for to open a folder is to hand Python on

            def work(dealt: Iterator[int]) -> None:
                for first in dealt:
                    begin = max(start, first)
                    self._fill(out[begin - start : first + self.chunk - start], begin, place, directory)

            deal(range(start - start % self.chunk, stop, self.chunk), work, here=True)
        return out

    def read_into(self, out: NDArray[Any], start: int = 0) -> None:
        """Read the elements from ``start`` on that fill ``out``, a contiguous flat array; errors as :meth:`read`."""
        if not self.is_raw:
            out[...] = self._decode(start, start + out.shape[0])
            return
        place = self._chunks()
        with self.blaming(), place.opened() as directory:
            self._fill(out, start, place, directory)

    def _fill(self, out: NDArray[Any], start: int, place: Folder, directory: int) -> None:
        stop, each = start + out.shape[0], self._dtype.itemsize
        for i in range(start // self.chunk, -(-stop // self.chunk)):
            first = i * self.chunk
            a, b = max(start, first), min(stop, first + self.chunk)
            before, after = each * (a - first), each * (first + self.chunk - b)  # read for the checksum
            descriptor = place.open_in(directory, self._chunk_file(i))
            try:
                read_chunk(descriptor, out[a - start : b - start], self._offset, before=before, after=after)
            finally:
                os.close(descriptor)

    def _chunks(self) -> Folder:
        return self._files.folder(self._chunk_folder)

    @property
    def _chunk_folder(self) -> str:
        return f"{self._name}/c" if self._row is None else "c/0"

    def _chunk_file(self, i: int) -> str:
        return str(i) if self._row is None else "0"

    @contextlib.contextmanager
    def holding(self) -> Iterator[StoredArray]:
        """Return the same array for a block in which it is read many times."""
        if not self.is_raw:
            yield self
            return
        near = copy.copy(self)
        with contextlib.ExitStack() as held:
            with self.blaming():
                near._files = held.enter_context(self._files.holding(self._chunk_folder))
            yield near

    def is_chunk(self, start: int, stop: int) -> bool:
        """Return whether :meth:`stream` can read the elements from ``start`` up to ``stop``: one raw chunk."""
        return self.is_raw and start % self.chunk == 0 and stop == min(start + self.chunk, self.size)

    def stream(self, start: int) -> ChunkStream:
        """Open the chunk that begins at ``start``, to be read piece by piece inside :meth:`blaming`."""
        with self.blaming():
            descriptor = self._chunks().open(self._chunk_file(start // self.chunk))
            return ChunkStream(descriptor, self._offset, self.chunk * self._dtype.itemsize)

    def chunks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (offset, elements) chunk by chunk, so that only one is in memory."""
        for start in range(0, self.size, self.chunk):
            yield start, self.read(start, min(start + self.chunk, self.size))

    def _decode(self, start: int, stop: int) -> NDArray[Any]:
        part = slice(start, stop)
        assert self._array is not None
        with self.blaming(), chunks_at_a_time(1 if isinstance(self._files, LocalFiles) else REMOTE_CHUNKS):
            return np.asarray(self._array[part] if self._row is None else self._array[self._row, part])

    def _check_files(self, near: Files) -> None:
        # Zarr would silently fill these with NaN: files that are gone, and rows lost from a truncated shard.
        if self._rows is not None:
            self._check_shard(near, "c/0/0", self._rows)
            return
        expected = self.chunk * self._dtype.itemsize + CHECKSUM_BYTES
        names = [str(i) for i in range(-(-self.size // self.chunk))]
        for i, size in enumerate(near.sizes(f"{self._name}/c", names)):
            if size is None:
                raise self._corrupt(f"lacks chunk c/{i}")
            if size == 0 or (self._exact and size != expected):
                raise self._corrupt(f"has a chunk c/{i} of {size} bytes")

    def _check_shard(self, near: Files, name: str, rows: int) -> None:
        length = 16 * rows + CHECKSUM_BYTES
        try:
            size, index = near.ending(name, length)
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

    def blaming(self) -> _Blaming:
        """Attribute errors inside the block to this array: ``CorruptError``, or ``StoreError`` for the disk."""
        return _Blaming(self._key)

    def _corrupt(self, what: str) -> CorruptError:
        return _corrupt(self._key, what)


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
