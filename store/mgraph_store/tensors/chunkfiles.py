"""Chunk files read and written without Zarr, if they hold only raw little-endian numbers and their CRC32C.

Such a file is read straight into the memory where its numbers are needed, and written from where they are. This takes a
quarter of the time that Zarr needs, which copies every chunk twice and passes it between threads.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from fastcrc.crc32 import iscsi as crc32c  # which new processors do twice as fast as the one that Zarr uses
from numpy.typing import NDArray

from mgraph_store.folder import Folder
from mgraph_store.tensors.memory import new_array

if TYPE_CHECKING:
    import zarr

CHECKSUM_BYTES = 4

PIECE = 1 << 19
"""Bytes that are read or written at a time: they stay in the processor's cache until their checksum is computed."""

_PART = 1 << 20
"""Bytes read at a time if only the checksum is needed."""


def is_raw(array: zarr.Array[Any]) -> bool:
    """Return whether the chunks of an array, or the rows of its one shard, are raw numbers and their checksums."""
    from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

    codecs: tuple[Any, ...] = tuple(getattr(array.metadata, "codecs", ()))
    if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec):
        codecs = tuple(codecs[0].codecs)
    return sys.byteorder == "little" and codecs == (BytesCodec(endian="little"), Crc32cCodec())


def read_chunk(descriptor: int, out: NDArray[Any], offset: int = 0, *, before: int = 0, after: int = 0) -> None:
    """Read from the chunk that begins at a byte ``offset`` of an open file what fills ``out``, a contiguous flat array.

    In pieces, so that each is still in the processor's cache when its checksum is computed. Of the bytes of the chunk
    ``before`` and ``after`` these, nothing is kept.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it ends too soon, or the checksum does not match.
    """
    numbers, stored = out.view(np.uint8), bytearray(CHECKSUM_BYTES)
    size, found = numbers.shape[0], 0
    if before:
        found = _pass_over(descriptor, offset, before, found)
    for start in range(0, size, PIECE):
        piece, at = numbers[start : start + PIECE], offset + before + start
        last = start + PIECE >= size and not after
        if not last or os.preadv(descriptor, [piece.data, stored], at) != piece.shape[0] + CHECKSUM_BYTES:
            _fill(descriptor, piece.data, at)
            if last:
                _fill(descriptor, memoryview(stored), at + piece.shape[0])
        found = crc32c(piece.data, found)
    if after:
        found = _pass_over(descriptor, offset + before + size, after, found)
        _fill(descriptor, memoryview(stored), offset + before + size + after)
    _compare(found, stored)


def _pass_over(descriptor: int, offset: int, count: int, found: int) -> int:
    """Return the checksum of bytes that nobody wants, continued from that of those before them."""
    scratch = new_array(min(count, PIECE), np.dtype(np.uint8))
    for start in range(0, count, PIECE):
        piece = scratch[: count - start]
        _fill(descriptor, piece.data, offset + start)
        found = crc32c(piece.data, found)
    return found


class ChunkStream:
    """A chunk read piece by piece, so that each piece is used while it is still in the processor's cache."""

    def __init__(self, descriptor: int, offset: int, nbytes: int) -> None:
        self._descriptor = descriptor
        self._at, self._left = offset, nbytes
        self._sum = 0

    def read_into(self, out: NDArray[Any]) -> None:
        """Read the next elements that fill ``out``; errors as :func:`read_chunk`."""
        numbers = out.view(np.uint8)
        count = numbers.shape[0]
        _fill(self._descriptor, numbers.data, self._at)
        self._sum = crc32c(numbers.data, self._sum)
        self._at += count
        self._left -= count

    def finish(self) -> None:
        """Read the rest (an array's end is padded) and compare the checksum; ``ValueError`` if it differs."""
        rest = np.empty(min(self._left, _PART), np.uint8)
        while self._left:
            self.read_into(rest[: self._left])
        stored = bytearray(CHECKSUM_BYTES)
        _fill(self._descriptor, memoryview(stored), self._at)
        _compare(self._sum, stored)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _fill(descriptor: int, part: memoryview, offset: int) -> None:
    while part:
        count = os.preadv(descriptor, [part], offset)
        if not count:
            raise ValueError("a chunk ends too soon")
        part, offset = part[count:], offset + count


def _compare(found: int, stored: bytes | bytearray) -> None:
    if found.to_bytes(CHECKSUM_BYTES, "little") != stored:
        raise ValueError("the stored and computed checksum do not match")


def write_chunks(folder: Folder, data: NDArray[Any], length: int, fill: Any) -> None:
    """Write a flat array as chunk files 0, 1, … of ``length`` elements, the last one padded, with the same bytes as
    Zarr."""
    with folder.opened(create=True) as directory:
        for i, parts in enumerate(chunks_of(data, length, fill)):
            descriptor = folder.open_in(directory, str(i), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                for part in parts:
                    write_all(descriptor, part)
            finally:
                os.close(descriptor)


def chunks_of(data: NDArray[Any], length: int, fill: Any) -> Iterator[Iterator[memoryview]]:
    """Cut a flat array into the chunk files that :func:`write_chunks` writes, each as parts that follow one another."""
    for start in range(0, data.shape[0], length):
        block = data[start : start + length]
        if block.shape[0] < length:
            block = np.concatenate([block, np.full(length - block.shape[0], fill, data.dtype)])
        yield _with_checksum(np.ascontiguousarray(block).view(np.uint8))


def _with_checksum(numbers: NDArray[np.uint8]) -> Iterator[memoryview]:
    found = 0
    for start in range(0, numbers.shape[0], PIECE):
        piece = numbers[start : start + PIECE]
        yield piece.data
        found = crc32c(piece.data, found)  # it has just been written, and so is in the cache
    yield memoryview(found.to_bytes(CHECKSUM_BYTES, "little"))


def write_all(descriptor: int, part: memoryview) -> None:
    """Write all of ``part`` to an open file."""
    while part:
        part = part[os.write(descriptor, part) :]


def shard_places(index: bytes) -> NDArray[np.uint64]:
    """Read the index that ends a shard file: offset and length of every row, shape (B, 2), then its checksum.

    Raises
    ------
    ValueError
        If the checksum does not match.
    """
    places = np.frombuffer(index[:-CHECKSUM_BYTES], "<u8")
    if checksum(places.view(np.uint8)) != index[-CHECKSUM_BYTES:]:
        raise ValueError("the stored and computed checksum do not match")
    return places.reshape(-1, 2)


def checksum(data: NDArray[np.uint8]) -> bytes:
    """Return the CRC32C of some bytes, as it is stored."""
    return crc32c(data.data).to_bytes(CHECKSUM_BYTES, "little")
