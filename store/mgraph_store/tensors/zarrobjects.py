"""Objects below a URL as a store for Zarr: its own ObjectStore, below a prefix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from typing_extensions import override
from zarr.storage import ObjectStore

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from mgraph_store.objectstorage import ObjectStorage


class Below(ObjectStore[Any]):
    """The objects below a name. For a chunk that is missing when it is read, Zarr would silently fill in NaN."""

    def __init__(self, storage: ObjectStorage, name: str, *, read_only: bool) -> None:
        super().__init__(storage.client, read_only=read_only)
        self._storage, self._name = storage, name

    supports_listing = False

    @override
    def with_read_only(self, read_only: bool = False) -> Below:
        return type(self)(self._storage, self._name, read_only=read_only)

    @override
    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        found = await super().get(self._at(key), prototype, byte_range)
        if found is None and self.read_only and "/c/" in f"/{key}":
            raise FileNotFoundError(key)
        return found

    @override
    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return await super().get_partial_values(prototype, [(self._at(key), part) for key, part in key_ranges])

    @override
    async def exists(self, key: str) -> bool:
        return await super().exists(self._at(key))

    @override
    async def set(self, key: str, value: Buffer) -> None:
        await super().set(self._at(key), value)

    @override
    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        await super().set_if_not_exists(self._at(key), value)

    @override
    async def delete(self, key: str) -> None:
        await super().delete(self._at(key))

    @override
    def __str__(self) -> str:
        # What Zarr says in its errors. An obstore of Azure whose account is in the environment panics when asked.
        return f"{self._storage.url}/{self._name}"

    def _at(self, key: str) -> str:
        return self._storage.path(f"{self._name}/{key}")
