"""Tensor objects: immutable Zarr v3 arrays below ``tensors.zarr``, durable before anything refers to them.

An *object* is a group with one flat array per dtype (``float32``, ``float64``, ``int64``), cut into equal
chunks of at most 4 MiB. A *segment* is a batch of small float32 vectors of shape (B, P) in one sharded array,
two files in all. Every chunk carries a CRC32C, and chunks are written even if they hold nothing but the fill value.

An object is written in a temporary directory, flushed to disk file by file, and renamed into place: below
``tensors.zarr`` it is whole or not there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mgraph_store.errors import CorruptError, InputError, StoreError
from mgraph_store.flushing import NewTree
from mgraph_store.folder import Folder
from mgraph_store.rows.ids import random_characters
from mgraph_store.tensors.arrays import Files, LocalFiles, StoredArray, one_at_a_time
from mgraph_store.tensors.attributes import NONE
from mgraph_store.tensors.chunkfiles import is_raw, write_chunks
from mgraph_store.tensors.memory import PAGE
from mgraph_store.tensors.rawzarr import write_array, write_group, write_segment

CODECS = ("none", "blosc")
CHUNK_BYTES = 4 << 20
SEGMENT_BYTES = 64 << 20  # a shard is assembled in memory

ROOT_GROUP = b'{"attributes": {}, "zarr_format": 3, "node_type": "group"}\n'
"""What zarr.create_group writes, written here so that making a graph does not import Zarr."""

SEGMENT_ROWS = 256
"""Most rows of a segment, so that what describes it, with a digest for each row, is short."""

Create = Callable[..., None]
"""Creates an array (name, data, chunks, shards, codec, attributes), or a group if the data are None:
:func:`create_array`."""

DTYPES = ("float32", "float64", "int64")
KEY = re.compile(r"[a-z0-9]{8,64}")
_KEPT = 64  # opened arrays, of a kilobyte each
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def new_key() -> str:
    """Draw the key of a new tensor object."""
    return "t" + random_characters(16)


class TensorStore:
    """Tensor objects below ``root``; unfinished ones are in ``temporary``, on the same file system."""

    def __init__(self, root: Folder | Path, temporary: Folder | Path) -> None:
        self._root, self._temporary = Folder.at(root), Folder.at(temporary)
        self._lock = threading.Lock()
        self._opened: OrderedDict[tuple[str, str, int | None], StoredArray] = OrderedDict()

    @property
    def name(self) -> str:
        """Name of the directory that holds the objects."""
        return self._root.name

    @property
    def unfinished(self) -> Folder:
        """The folder of objects that are being written."""
        return self._temporary

    def write(
        self,
        key: str,
        arrays: Mapping[str, NDArray[Any]],
        codec: str = "none",
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        """Write an object: flat arrays by dtype name, each (P,) with P > 0, and their attributes in JSON.

        Raises
        ------
        InputError
            If a dtype, shape or codec cannot be stored.
        StoreError
            If the disk is full or refuses; nothing is left behind.
        """
        for name, array in arrays.items():
            if name not in DTYPES or array.dtype.name != name or array.ndim != 1 or array.size == 0:
                raise InputError(
                    f"Cannot store {array.dtype} of shape {list(array.shape)} as {name}: "
                    f"give flat, not empty arrays of {', '.join(DTYPES)}."
                )
        if not arrays:
            raise InputError("A tensor object needs at least one array.")
        said = attributes or {}

        def build(create: Create) -> None:
            create("", None, (), None, codec)
            for name, array in arrays.items():
                create(name, array, (_chunk_of(array),), None, codec, said.get(name, NONE))

        def build_raw(tree: NewTree) -> None:
            write_group(tree)
            for name, array in arrays.items():
                write_array(tree, name, array, _chunk_of(array), said.get(name, NONE))

        self._publish(key, build, codec, build_raw)

    def write_segment(
        self, key: str, rows: Sequence[NDArray[np.float32]], codec: str = "none", attributes: str = NONE
    ) -> None:
        """Write B float32 vectors of P elements as one array of shape (B, P); errors as :meth:`write`."""
        if len({(r.shape, r.dtype.name, r.ndim) for r in rows}) != 1 or rows[0].dtype != np.float32:
            raise InputError("A segment needs flat float32 rows of one length.")
        if not 0 < rows[0].nbytes <= CHUNK_BYTES or rows[0].nbytes * len(rows) > SEGMENT_BYTES:
            raise InputError(f"A segment holds rows of at most {CHUNK_BYTES} bytes, {SEGMENT_BYTES} in all.")

        def build(create: Create) -> None:
            stacked = np.stack(rows)
            create("", stacked, (1, stacked.shape[1]), stacked.shape, codec, attributes)

        self._publish(key, build, codec, lambda tree: write_segment(tree, rows, attributes))

    def open(self, key: str, dtype: str = "float32", row: int | None = None) -> StoredArray:
        """Open an array of an object, or one row of a segment.

        Raises
        ------
        CorruptError
            If it is missing, incomplete or not what was asked for.
        """
        return StoredArray(self._files_of(_checked(key)), key, dtype, row)

    def _files_of(self, key: str) -> Files:
        return LocalFiles(self._root.sub(key))

    def open_again(self, key: str, dtype: str = "float32", row: int | None = None) -> StoredArray:
        """Open like :meth:`open`, but reuse an array that was opened a short while ago: objects do not change.

        Removal or damage since then is noticed when it is read. This holds for raw files read here; what Zarr reads is
        opened each time, because Zarr would silently fill in for missing files.
        """
        wanted = (key, dtype, row)
        with self._lock:
            found = self._opened.get(wanted)
            if found is not None:
                self._opened.move_to_end(wanted)
                return found
        found = self.open(key, dtype, row)
        if not found.is_raw:
            return found
        with self._lock:
            self._opened[wanted] = found
            if len(self._opened) > _KEPT:
                self._opened.popitem(last=False)
        return found

    def read(self, key: str, dtype: str = "float32", row: int | None = None) -> NDArray[Any]:
        """Read a whole array, shape (P,); errors as :meth:`open` and :meth:`StoredArray.read`."""
        return self.open(key, dtype, row).read()

    def arrays(self, key: str) -> dict[str, StoredArray]:
        """Open all arrays of an object, by dtype name; ``CorruptError`` if there is none."""
        names = [d for d in DTYPES if KEY.fullmatch(key) and self._root.sub(key).is_folder(d)]
        return {name: self.open(key, name) for name in names or ["float32"]}

    def groups(self, key: str) -> dict[str, NDArray[Any]]:
        """Read all arrays of an object: dtype name → (P,); errors as :meth:`read`."""
        return {name: array.read() for name, array in self.arrays(key).items()}

    def keys(self) -> set[str]:
        """List the keys of all objects on disk, including those that no row refers to."""
        return {name for name in self._root.entries() if self._root.is_folder(name)}

    def has(self, key: str) -> bool:
        """Return whether there is an object with this key."""
        return KEY.fullmatch(key) is not None and self._root.is_folder(key)

    def sizes(self, keys: Iterable[str] | None = None) -> dict[str, int]:
        """Map the keys of objects, of all or of some, to the bytes that their files take."""
        return {key: self._root.tree_size(key) for key in (self.keys() if keys is None else keys)}

    def size(self, key: str) -> int:
        """Return the size of an object's files in bytes; 0 if it is gone."""
        return self._root.tree_size(key) if self.has(key) else 0

    def age(self, key: str) -> float:
        """Seconds since an object was written; 0 if it is gone."""
        return self._root.age(key)

    def written(self, key: str) -> float:
        """Return when an object was written, in seconds since 1970 by the clock of where it is."""
        try:
            return self._root.status(key).st_mtime
        except OSError:
            return math.inf

    def refusal(self) -> str | None:
        """Return why no object may be deleted, or None if they belong to this graph alone."""
        return None

    def hide(self, key: str) -> None:
        """Hide an object in one step; :meth:`remove` then deletes it."""
        with contextlib.suppress(OSError):
            with self._temporary.opened(create=True):
                pass
            self._root.rename(key, self._temporary, key)

    def remove(self, key: str) -> None:
        """Delete an object, as far as the file system allows; only for objects that no row refers to."""
        _remove(self._temporary, key)
        if self._root.has(key):
            self.hide(key)  # so that no half-deleted object is ever found below the root
            _remove(self._temporary, key)

    def copy_object(self, key: str, folder: Folder) -> None:
        """Copy an object into a folder in the form of the local store, and flush it; ``FileNotFoundError`` if it is
        gone."""
        self._root.copy_tree(_checked(key), folder)

    def _publish(
        self, key: str, build: Callable[[Create], None], codec: str, build_raw: Callable[[NewTree], None]
    ) -> None:
        if codec not in CODECS:
            raise InputError(f"Unknown tensor codec {codec!r}: choose one of {', '.join(CODECS)}.")
        try:
            # In a new directory, so that nothing is written into an existing one.
            if codec == "none" and sys.byteorder == "little":
                with self._temporary.opened(create=True) as folder, NewTree(folder, key) as tree:
                    build_raw(tree)
            else:
                with self._temporary.opened(create=True) as folder:
                    os.mkdir(key, dir_fd=folder)
                with one_at_a_time():
                    to_the_end(lambda: build(partial(create_array, self._temporary.sub(key))))
                flush_tree(self._temporary, key)
            self._temporary.rename(key, self._root, key)
            flush(self._root)
        except BaseException as error:
            self.remove(key)
            if isinstance(error, OSError):
                raise disk_error(error, self._root.path) from error
            raise


def _checked(key: str) -> str:
    if not KEY.fullmatch(key):
        raise CorruptError(f"The index names a tensor object {key!r}, which is not a key: run `mgraph check`.")
    return key


def _chunk_of(array: NDArray[Any]) -> int:
    """Return the number of elements in a chunk of a flat array: all chunks have the same size, as few as possible.

    Those of several are whole pages, so that each is copied from a page of its file to the beginning of a page.
    """
    pieces = -(-array.size // (CHUNK_BYTES // array.dtype.itemsize))
    each, page = -(-array.size // pieces), PAGE // array.dtype.itemsize
    return int(each if pieces == 1 else -(-each // page) * page)


def disk_error(error: OSError, place: Path) -> StoreError:
    """Turn a failed write into an error with a one-sentence message."""
    if error.errno in _FULL:
        return StoreError(
            f"No space left for {place}: nothing was stored; free some disk space (or quota) and try again."
        )
    return StoreError(f"Cannot write {place} ({error.strerror or error}): nothing was stored.")


def flush(folder: Folder) -> None:
    """Wait until the names in a folder are on the disk."""
    folder.flush()


def flush_tree(folder: Folder, name: str) -> None:
    """Wait until a directory in a folder, and everything below it, are on the disk."""
    folder.flush_tree(name)


def create_array(
    store: Any,
    name: str,
    data: NDArray[Any] | None,
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None,
    codec: str,
    attributes: str = NONE,
) -> None:
    """Write an array of an object into a folder or Zarr store, or a group without ``data``."""
    import zarr

    with contextlib.ExitStack() as stack:
        place, pieces = {"store": store, "path": name}, None
        if isinstance(store, Folder):
            folder = store.sub(name)
            path = folder.path_within(stack.enter_context(folder.opened(create=True)))
            place, pieces = {"store": str(path)}, folder.sub("c")
        if data is None:
            zarr.create_group(**place, zarr_format=3)
            return
        where = {"store": place["store"], "name": place.get("path") or None, "attributes": json.loads(attributes)}
        _create_array(where, data, chunks, shards, codec, pieces)


def _create_array(
    where: dict[str, Any],
    data: NDArray[Any],
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None,
    codec: str,
    pieces: Folder | None,
) -> None:
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    # Zarr's own Blosc codec is the one of numcodecs, and unlike those of zarr.codecs.numcodecs it is
    # in the specification. Bitshuffle gains most on weights, a two-digit percentage at best.
    blosc = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=data.dtype.itemsize)
    array = zarr.create_array(
        **where,
        shape=data.shape,
        dtype=data.dtype.name,
        chunks=chunks,
        shards=shards,
        filters=None,
        compressors=(Crc32cCodec(),) if codec == "none" else (blosc, Crc32cCodec()),
        fill_value=float("nan") if data.dtype.kind == "f" else int(np.iinfo(data.dtype).min),
        config={"write_empty_chunks": True},
    )
    if pieces is not None and shards is None and is_raw(array):
        write_chunks(pieces, data, chunks[0], array.fill_value)
    else:
        array[...] = data


def _remove(folder: Folder, name: str) -> None:
    # After a second interruption, Zarr's threads may still be adding files, so keep trying for a moment.
    for _ in range(20):
        folder.remove(name)
        if not folder.has(name):
            return
        time.sleep(0.01)


T = TypeVar("T")


def to_the_end(function: Callable[[], T]) -> T:
    """Call ``function``, which uses Zarr, with Ctrl-C deferred until it is done.

    Zarr works in its own threads, which keep running after an exception in the main thread: they would complain at
    exit, and go on creating the files that we are about to remove.
    """
    if threading.current_thread() is not threading.main_thread():
        return function()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()
