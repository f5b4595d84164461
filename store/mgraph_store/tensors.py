"""Tensor objects: immutable Zarr v3 arrays below ``tensors.zarr``, durable before anything refers to them.

An *object* is a group with one flat array per dtype (``float32``, ``float64``, ``int64``), cut into equal
chunks of at most 4 MiB. A *segment* is a batch of small float32 vectors of shape (B, P) in one sharded array,
two files in all. Every chunk carries a CRC32C. Zarr takes a missing chunk for one full of the fill value, so
chunks are written even if they hold nothing else, and are counted when an array is opened.

An object is written in a temporary directory, flushed to disk file by file, and renamed into place: below
``tensors.zarr`` it is whole or not there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mgraph_store.errors import CorruptError, InputError, StoreError
from mgraph_store.ids import random_characters

if TYPE_CHECKING:
    import zarr

CODECS = ("none", "blosc")
CHUNK_BYTES = 4 << 20
SEGMENT_BYTES = 64 << 20  # a shard is put together in memory

_DTYPES = ("float32", "float64", "int64")
_KEY = re.compile(r"[a-z0-9]{8,64}")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def digest(array: NDArray[Any]) -> str:
    """BLAKE2b-128 over dtype, shape and the bytes in C order, little-endian; 32 hexadecimal digits."""
    canonical = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    state = hashlib.blake2b(f"{array.dtype.name} {list(array.shape)}\n".encode(), digest_size=16)
    state.update(canonical.reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def digest_groups(groups: Mapping[str, NDArray[Any]]) -> str:
    """BLAKE2b-128 over the digests of several arrays, in the order of their names."""
    text = "".join(f"{name} {digest(groups[name])}\n" for name in sorted(groups))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def new_key() -> str:
    """Draw the key of a new tensor object."""
    return "t" + random_characters(16)


class StoredArray:
    """One flat array on disk, shape (P,), whole as far as names and sizes of files tell."""

    def __init__(self, path: Path, key: str, dtype: str, row: int | None) -> None:
        import zarr

        self._path, self._key, self._row = path, key, row
        with self._blame():
            self._array: zarr.Array[Any] = zarr.open_array(str(path), mode="r")
        shape = self._array.shape
        if str(self._array.dtype) != dtype or len(shape) != (1 if row is None else 2):
            raise self._corrupt(f"has dtype {self._array.dtype} and shape {list(shape)}")
        if row is not None and not 0 <= row < shape[0]:
            raise self._corrupt(f"has no row {row}")
        self.size = int(shape[-1])
        self.chunk = max(1, int(self._array.chunks[-1]))
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
        part = slice(start, self.size if stop is None else stop)
        with self._blame(), _one_at_a_time():
            return np.asarray(self._array[part] if self._row is None else self._array[self._row, part])

    def chunks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (offset, elements) chunk by chunk, so that no more than one is in memory."""
        for start in range(0, self.size, self.chunk):
            yield start, self.read(start, min(start + self.chunk, self.size))

    def _check_files(self) -> None:
        # What Zarr would fill with NaN in silence: files that are gone, and rows that a cut shard has lost.
        if self._array.shards is not None:
            self._check_shard(self._path / "c/0/0", self._array.shards[0])
            return
        exact = len(self._array.compressors) == 1  # nothing but the checksum
        expected = self.chunk * self._array.dtype.itemsize + 4
        for i in range(-(-self.size // self.chunk)):
            size = self._file_size(self._path / f"c/{i}")
            if size == 0 or (exact and size != expected):
                raise self._corrupt(f"has a chunk c/{i} of {size} bytes")

    def _check_shard(self, file: Path, rows: int) -> None:
        # The index ends the file: offset and length of every row, then a checksum, which Zarr verifies.
        size, length = self._file_size(file), 16 * rows + 4
        with file.open("rb") as shard:
            shard.seek(max(0, size - length))
            tail = shard.read(length)
        ends = np.frombuffer(tail[:-4].ljust(16 * rows, b"\xff")[: 16 * rows], "<u8").reshape(rows, 2)
        if size <= length or (ends > size).any() or int(ends.sum(axis=1).max()) + length != size:
            raise self._corrupt(f"has a damaged shard of {size} bytes")

    def _file_size(self, file: Path) -> int:
        try:
            return file.stat().st_size
        except OSError:
            raise self._corrupt(f"lacks chunk {file.relative_to(self._path)}") from None

    @contextlib.contextmanager
    def _blame(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise self._corrupt("is missing") from None
        except OSError as error:
            raise StoreError(
                f"Cannot read tensor object {self._key} ({error.strerror or error}): check the disk and its "
                "permissions."
            ) from error
        except MemoryError:
            raise
        except Exception as error:  # whatever a codec makes of damaged bytes
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise self._corrupt(f"cannot be read ({reason.rstrip('.')})") from error

    def _corrupt(self, what: str) -> CorruptError:
        return CorruptError(
            f"Tensor object {self._key} {what}: restore tensors.zarr/{self._key} from a copy of the graph, "
            "or remove what depends on it (`mgraph check` lists it)."
        )


class TensorStore:
    """Tensor objects below ``root``; what is unfinished lies in ``temporary``, on the same file system."""

    def __init__(self, root: Path, temporary: Path) -> None:
        self._root, self._temporary = root, temporary

    @property
    def name(self) -> str:
        """Name of the directory that holds the objects."""
        return self._root.name

    def write(self, key: str, arrays: Mapping[str, NDArray[Any]], codec: str = "none") -> None:
        """Write an object: flat arrays by dtype name, each (P,) with P > 0.

        Raises
        ------
        InputError
            If a dtype, shape or codec is not one that is stored.
        StoreError
            If the disk is full or refuses; nothing is left behind.
        """
        for name, array in arrays.items():
            if name not in _DTYPES or array.dtype.name != name or array.ndim != 1 or array.size == 0:
                raise InputError(
                    f"Cannot store {array.dtype} of shape {list(array.shape)} as {name}: "
                    f"give flat, not empty arrays of {', '.join(_DTYPES)}."
                )
        if not arrays:
            raise InputError("A tensor object needs at least one array.")

        def build(directory: Path) -> None:
            import zarr

            zarr.create_group(str(directory), zarr_format=3)
            for name, array in arrays.items():
                longest = CHUNK_BYTES // array.dtype.itemsize
                pieces = -(-array.size // longest)
                _create(directory / name, array, (-(-array.size // pieces),), None, codec)

        self._publish(key, build, codec)

    def write_segment(self, key: str, rows: Sequence[NDArray[np.float32]], codec: str = "none") -> None:
        """Write B float32 vectors of P elements as one array of shape (B, P); errors as :meth:`write`."""
        if len({(r.shape, r.dtype.name, r.ndim) for r in rows}) != 1 or rows[0].dtype != np.float32:
            raise InputError("A segment needs flat float32 rows of one length.")
        if not 0 < rows[0].nbytes <= CHUNK_BYTES or rows[0].nbytes * len(rows) > SEGMENT_BYTES:
            raise InputError(f"A segment holds rows of at most {CHUNK_BYTES} bytes, {SEGMENT_BYTES} in all.")
        stacked = np.stack(rows)

        def build(directory: Path) -> None:
            _create(directory, stacked, (1, stacked.shape[1]), stacked.shape, codec)

        self._publish(key, build, codec)

    def open(self, key: str, dtype: str = "float32", row: int | None = None) -> StoredArray:
        """Open an array of an object, or one row of a segment.

        Raises
        ------
        CorruptError
            If it is missing, incomplete or not what was asked for.
        """
        if not _KEY.fullmatch(key):
            raise CorruptError(f"The index names a tensor object {key!r}, which is no key: run `mgraph check`.")
        return StoredArray(self._root / key / dtype if row is None else self._root / key, key, dtype, row)

    def read(self, key: str, dtype: str = "float32", row: int | None = None) -> NDArray[Any]:
        """Read a whole array, shape (P,); errors as :meth:`open` and :meth:`StoredArray.read`."""
        return self.open(key, dtype, row).read()

    def arrays(self, key: str) -> dict[str, StoredArray]:
        """Open all arrays of an object, by dtype name; ``CorruptError`` if there is none."""
        names = [d for d in _DTYPES if _KEY.fullmatch(key) and (self._root / key / d).is_dir()]
        return {name: self.open(key, name) for name in names or ["float32"]}

    def groups(self, key: str) -> dict[str, NDArray[Any]]:
        """Read all arrays of an object: dtype name → (P,); errors as :meth:`read`."""
        return {name: array.read() for name, array in self.arrays(key).items()}

    def keys(self) -> set[str]:
        """List the keys of all objects on disk, those that no row refers to included."""
        return {p.name for p in self._root.iterdir() if p.is_dir()}

    def has(self, key: str) -> bool:
        """Say whether there is an object of that key."""
        return _KEY.fullmatch(key) is not None and (self._root / key).is_dir()

    def sizes(self) -> dict[str, int]:
        """Map the key of every object to the bytes that its files take."""
        return {key: tree_size(self._root / key) for key in self.keys()}

    def age(self, key: str) -> float:
        """Seconds since an object was written; 0 if it is gone."""
        return age(self._root / key)

    def hide(self, key: str) -> None:
        """Take an object out of sight in one step; :meth:`remove` deletes it then."""
        with contextlib.suppress(OSError):
            self._temporary.mkdir(exist_ok=True)
            (self._root / key).rename(self._temporary / key)

    def remove(self, key: str) -> None:
        """Delete an object, as far as the file system lets us; only for objects that no row refers to."""
        _remove(self._temporary / key)
        if (self._root / key).exists():
            self.hide(key)  # so that no half object is ever found below the root
            _remove(self._temporary / key)

    def _publish(self, key: str, build: Callable[[Path], None], codec: str) -> None:
        if codec not in CODECS:
            raise InputError(f"Unknown tensor codec {codec!r}: choose one of {', '.join(CODECS)}.")
        temporary, final = self._temporary / key, self._root / key
        try:
            self._temporary.mkdir(exist_ok=True)
            with _one_at_a_time():
                to_the_end(lambda: build(temporary))
            flush_tree(temporary)
            temporary.rename(final)
            flush(self._root)
        except BaseException as error:
            self.remove(key)
            if isinstance(error, OSError):
                raise disk_error(error, self._root) from error
            raise


def disk_error(error: OSError, place: Path) -> StoreError:
    """Make one sentence of a failed write."""
    if error.errno in _FULL:
        return StoreError(
            f"No space left for {place}: nothing was stored; free some disk space (or quota) and try again."
        )
    return StoreError(f"Cannot write {place} ({error.strerror or error}): nothing was stored.")


def tree_size(path: Path) -> int:
    """Add up the sizes of a file or of all files below a directory; what vanishes meanwhile counts nothing."""
    total = 0
    for file in [path, *path.rglob("*")]:
        with contextlib.suppress(OSError):
            status = file.lstat()
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def age(path: Path) -> float:
    """Seconds since a file or directory was changed; 0 if it is gone."""
    try:
        return max(0.0, time.time() - path.lstat().st_mtime)
    except OSError:
        return 0.0


def flush(path: Path) -> None:
    """Wait until a file or directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(directory: Path) -> None:
    """Wait until a directory and all below it are on the disk, innermost first."""
    for folder, _, files in os.walk(directory, topdown=False):
        for name in files:
            flush(Path(folder) / name)
        flush(Path(folder))


def _create(
    path: Path, data: NDArray[Any], chunks: tuple[int, ...], shards: tuple[int, ...] | None, codec: str
) -> None:
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    # Zarr's own Blosc codec is the one of numcodecs, and unlike those of zarr.codecs.numcodecs it is
    # in the specification. Bitshuffle gains most on weights; two digits of per cent at best.
    blosc = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=data.dtype.itemsize)
    array = zarr.create_array(
        str(path),
        shape=data.shape,
        dtype=data.dtype.name,
        chunks=chunks,
        shards=shards,
        filters=None,
        compressors=(Crc32cCodec(),) if codec == "none" else (blosc, Crc32cCodec()),
        fill_value=float("nan") if data.dtype.kind == "f" else int(np.iinfo(data.dtype).min),
        config={"write_empty_chunks": True},
    )
    array[...] = data


def _remove(path: Path) -> None:
    # After a second interruption Zarr's threads may still be adding files: try again for a moment.
    for _ in range(20):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        time.sleep(0.01)


T = TypeVar("T")


def to_the_end(function: Callable[[], T]) -> T:
    """Call ``function``, which uses Zarr, where Ctrl-C does not reach it; the interruption comes when it is done.

    Zarr works in threads of its own, which an exception in the main thread leaves running: they would complain
    at exit, and go on creating the files that we are about to remove.
    """
    if threading.current_thread() is not threading.main_thread():
        return function()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


_users = 0
_users_lock = threading.Lock()
_setting: Any = None


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Let Zarr handle one chunk at a time: a third faster on local files, and less memory.

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
