"""A folder of a graph as a read-only store for Zarr, which gives access to no other files."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import zarr
from typing_extensions import override
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore

from mgraph_store.folder import Folder

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype


def open_array(folder: Folder) -> zarr.Array[Any]:
    """Open the Zarr array in a folder for reading; ``FileNotFoundError`` if there is none."""
    return zarr.open_array(_FolderStore(folder), mode="r")


class _FolderStore(LocalStore):
    # LocalStore for its behaviour; every method that reads a file is replaced.

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder.path, read_only=True)
        self._folder = folder

    @override
    def with_read_only(self, read_only: bool = True) -> _FolderStore:
        return type(self)(self._folder)

    @override
    async def _open(self, *, mode: Any = None) -> None:
        self._is_open = True

    @override
    def _ensure_open_sync(self) -> None:
        self._is_open = True

    @override
    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        data = self._read(key, byte_range)
        return None if data is None else (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    @override
    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        data = await asyncio.to_thread(self._read, key, byte_range)
        return None if data is None else (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    @override
    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    @override
    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread(self._read, key, RangeByteRequest(0, 0)) is not None

    def _read(self, key: str, wanted: ByteRequest | None) -> bytes | None:
        folder, _, name = key.rpartition("/")
        try:
            file = self._folder.sub(folder).reader(name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with file:
            if wanted is None:
                return file.read()
            if isinstance(wanted, RangeByteRequest):
                file.seek(wanted.start)
                return file.read(wanted.end - wanted.start)
            if isinstance(wanted, OffsetByteRequest):
                file.seek(wanted.offset)
            elif isinstance(wanted, SuffixByteRequest):
                file.seek(max(0, file.seek(0, 2) - wanted.suffix))
            return file.read()
