"""Tensor objects at a URL, for graphs with only the index local: S3-compatible storage, and what else obstore reaches.

Zarr's own ObjectStore reads and writes. Remote storage has neither rename nor fsync, so an object is written in place
and then counted, every file by name and size, before a row may refer to it; and it is hidden by removing the file that
Zarr reads first. One URL belongs to one graph; for other users of it see :mod:`mgraph_store.tensors.claims`.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from typing_extensions import override

from mgraph_store.errors import CorruptError, InputError, StoreError
from mgraph_store.flushing import NewTree
from mgraph_store.folder import Folder
from mgraph_store.objectstorage import Found, ObjectStorage
from mgraph_store.tensors.arrays import REMOTE_CHUNKS, StoredArray, chunks_at_a_time
from mgraph_store.tensors.claims import Claims, Place
from mgraph_store.tensors.objects import CODECS, DTYPES, KEY, TensorStore, create_array, to_the_end

if TYPE_CHECKING:
    import zarr

    from mgraph_store.tensors.zarrobjects import Below

_FIRST = "zarr.json"
_OBJECT_FILE = re.compile(r"(?:(?:float32|float64|int64)/)?(?:zarr\.json|c/\d+(?:/\d+)?)")


class RemoteTensorStore(TensorStore):
    """Tensor objects below a URL; addresses and credentials are those of :class:`ObjectStorage`."""

    def __init__(self, place: Place, root: Folder, temporary: Folder, *, is_shared: bool = False) -> None:
        """If the graph ``is_shared`` by several machines, all of them have the one claim."""
        super().__init__(root, temporary)
        self._place, self._plain = place, ObjectStorage(place.url)
        self._introduced = is_shared

    @property
    def _storage(self) -> ObjectStorage:
        if not self._introduced:  # before anything else is done at the URL
            self._introduced = True
            self._claims.introduce()
        return self._plain

    @cached_property
    def _claims(self) -> Claims:
        return Claims(self._root.above(), self._place, self._plain)

    @override
    def _files_of(self, key: str) -> RemoteFiles:
        return RemoteFiles(self._storage, key)

    def claim(self) -> None:
        """Claim an empty place for a new graph.

        Raises
        ------
        NameTakenError
            If there is already something.
        StoreError
            If it cannot be reached or written.
        """
        self._introduced = True  # since it will be that place
        self._claims.begin()

    def release(self) -> None:
        """Give up the place, with everything that this graph has put there, unless another directory uses it too."""
        if self.refusal() is not None:
            return
        for key in self.keys():
            self.remove(key)
        self._claims.remove()

    @override
    def refusal(self) -> str | None:
        """Return why nothing may be deleted, namely that another directory uses the same tensors; None if none does."""
        _ = self._storage  # introduces this directory
        return self._claims.refusal()

    def take_over(self) -> None:
        """Make this graph's directory the only one that uses the tensors."""
        _ = self._storage
        self._claims.take_over()

    @override
    def arrays(self, key: str) -> dict[str, StoredArray]:
        """Open all arrays of an object, by dtype name; ``CorruptError`` if there is none."""
        names = [d for d in DTYPES if KEY.fullmatch(key) and self._storage.has(f"{key}/{d}/{_FIRST}")]
        return {name: self.open(key, name) for name in names or ["float32"]}

    @override
    def keys(self) -> set[str]:
        """List the keys of all objects, including those that no row refers to."""
        return set(self.sizes())

    @override
    def has(self, key: str) -> bool:
        """Return whether there is an object with this key."""
        return KEY.fullmatch(key) is not None and self._storage.has(f"{key}/{_FIRST}")

    @override
    def sizes(self, keys: Iterable[str] | None = None) -> dict[str, int]:
        """Map the keys of objects, of all or of some, to the bytes that their files take."""
        wanted = None if keys is None else set(keys)
        found: dict[str, int] = {}
        for key, file in self._files() if wanted is None or wanted else ():
            if wanted is None or key in wanted:
                found[key] = found.get(key, 0) + file.size
        return found

    @override
    def size(self, key: str) -> int:
        """Return the size of an object's files in bytes; 0 if it is gone."""
        return sum(file.size for _, file in self._files(key)) if KEY.fullmatch(key) else 0

    @override
    def age(self, key: str) -> float:
        """Seconds since an object was written; 0 if it is gone."""
        return max(0.0, time.time() - self.written(key))

    @override
    def written(self, key: str) -> float:
        """Return when an object was written, in seconds since 1970 by the clock of the service."""
        times = [file.written for _, file in self._files(key)] if KEY.fullmatch(key) else []
        return max(times, default=math.inf)

    @override
    def hide(self, key: str) -> None:
        """Hide an object in one step; :meth:`remove` then deletes it."""
        if self.has(key):
            self._storage.delete([f"{key}/{_FIRST}"])

    @override
    def remove(self, key: str) -> None:
        """Delete an object, as far as permitted; only for objects that no row refers to."""
        try:
            if KEY.fullmatch(key):  # never everything
                self._storage.delete([file.name for _, file in self._files(key)])
        except StoreError:
            return  # it is garbage, which a later gc finds

    @override
    def copy_object(self, key: str, folder: Folder) -> None:
        """Copy an object into a folder on this machine, and flush it; ``FileNotFoundError`` if it is gone."""
        if not self.has(key):
            raise FileNotFoundError(key)
        for name in self._files_of(key).names():
            if not _OBJECT_FILE.fullmatch(name):
                raise CorruptError(f"{self._plain.url}/{key} holds {name[:80]!r}, which a tensor object cannot have.")
            place, _, own = name.rpartition("/")
            data = self._storage.read(f"{key}/{name}")
            with folder.sub(key, place).opened(create=True):
                pass
            folder.sub(key, place).write(own, data)
        folder.flush_tree(key)

    def _files(self, key: str = "") -> Iterator[tuple[str, Found]]:
        for file in self._storage.find(key):
            if "/" in file.name:
                yield file.name.partition("/")[0], file

    @override
    def _publish(
        self, key: str, build: Callable[[Any], None], codec: str, build_raw: Callable[[NewTree], None]
    ) -> None:
        if codec not in CODECS:
            raise InputError(f"Unknown tensor codec {codec!r}: choose one of {', '.join(CODECS)}.")

        def write() -> None:
            store = self._files_of(key).zarr_store(read_only=False)
            build(lambda name, *rest: create_array(store, name, *rest))

        storage = self._storage
        self._claims.require()
        try:
            with storage.translated(), chunks_at_a_time(REMOTE_CHUNKS):
                to_the_end(write)
            self._count(key)
        except BaseException:
            self.remove(key)
            raise

    def _count(self, key: str) -> None:
        files = self._files_of(key)
        names = {name.partition("/")[0] for name in files.names()} & set(DTYPES)
        for name in names:
            StoredArray(files, key, name, None)
        if not names:
            StoredArray(files, key, "float32", 0)


class RemoteFiles:
    """Files of a tensor object at a URL, listed once."""

    def __init__(self, storage: ObjectStorage, key: str) -> None:
        self._storage, self._key = storage, key

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return {file.name.removeprefix(f"{self._key}/"): file.size for file in self._storage.find(self._key)}

    def names(self) -> list[str]:
        """List all files."""
        return list(self._sizes)

    def zarr_store(self, *, read_only: bool) -> Below:
        """Return the object as a store for Zarr."""
        from mgraph_store.tensors.zarrobjects import Below

        return Below(self._storage, self._key, read_only=read_only)

    def holding(self, name: str) -> contextlib.AbstractContextManager[RemoteFiles]:
        """Return the same files for a block: nothing is gained by it here."""
        del name
        return contextlib.nullcontext(self)

    def open_array(self, name: str) -> zarr.Array[Any]:
        """Open a Zarr array for reading; ``FileNotFoundError`` if it is not there."""
        import zarr

        with self._storage.translated():
            return zarr.open_array(self.zarr_store(read_only=True), path=name, mode="r")

    def sizes(self, folder: str, names: Sequence[str]) -> list[int | None]:
        """Return the sizes of files in one folder; None for a missing one."""
        return [self._sizes.get(f"{folder}/{name}") for name in names]

    def ending(self, name: str, length: int) -> tuple[int, bytes]:
        """Return the size of a file in bytes, and its last ``length`` bytes, or all if it is shorter;
        ``FileNotFoundError`` if it is not there."""
        if name not in self._sizes:
            raise FileNotFoundError(name)
        size = self._sizes[name]
        return size, self._storage.read(f"{self._key}/{name}", max(0, size - length), size)

    def raw(self, name: str) -> None:
        """Return None: everything remote is read by Zarr."""
        return

    def attributes(self, name: str) -> Mapping[str, Any]:
        """Read the attributes of an array."""
        return dict(self.open_array(name).attrs)

    def folder(self, name: str) -> NoReturn:
        """Refuse: no folders are on this machine."""
        raise NotImplementedError(name)
