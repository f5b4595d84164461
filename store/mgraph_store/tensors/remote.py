"""Tensor objects at a URL, for graphs with only the index local: S3-compatible storage, or anything that fsspec
reaches.

Zarr's own FsspecStore reads and writes. Remote storage has neither rename nor fsync, so an object is written in place
and then counted, every file by name and size, before a row may refer to it; and it is hidden by removing the file that
Zarr reads first. One URL belongs to one graph; for other users of it see :mod:`mgraph_store.tensors.claims`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from typing_extensions import override

from mgraph_store.errors import CorruptError, InputError, StoreError
from mgraph_store.folder import Folder
from mgraph_store.tensors.arrays import StoredArray, one_at_a_time
from mgraph_store.tensors.claims import Claims, Place
from mgraph_store.tensors.objects import CODECS, DTYPES, KEY, TensorStore, create_array, to_the_end

if TYPE_CHECKING:
    import zarr
    from zarr.storage import FsspecStore

SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "memory")
"""Schemes allowed for tensors; none that runs code, chains others or reads this machine's files."""

_URL = re.compile(r"([a-z0-9]+)://[A-Za-z0-9][A-Za-z0-9._/=+@-]*")
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_FIRST = "zarr.json"
_OBJECT_FILE = re.compile(r"(?:(?:float32|float64|int64)/)?(?:zarr\.json|c/\d+(?:/\d+)?)")


def check_url(url: str) -> str:
    """Return a valid URL for tensors, without a slash at its end; ``InputError`` if it is not one."""
    match = _URL.fullmatch(url)
    if match is None or match[1] not in SCHEMES or ".." in url:
        raise InputError(
            f"{url!r} is not a place for tensors: give a URL such as s3://bucket/path ({', '.join(SCHEMES)})."
        )
    return url.rstrip("/")


class RemoteTensorStore(TensorStore):
    """Tensor objects below a URL; credentials and endpoints are those that fsspec finds in the environment."""

    def __init__(self, place: Place, root: Folder, temporary: Folder) -> None:
        super().__init__(root, temporary)
        self._place, self._url = place, check_url(place.url)
        self._introduced = False

    @property
    def _fs(self) -> Any:
        if not self._introduced:  # before anything else is done at the URL
            self._introduced = True
            with _Translated(self._url):
                self._claims.introduce()
        return self._plain_fs

    @cached_property
    def _claims(self) -> Claims:
        return Claims(self._root.above(), self._place, self._plain_fs, self._path)

    @cached_property
    def _plain_fs(self) -> Any:
        import fsspec

        scheme = self._url.partition("://")[0]
        try:
            return fsspec.filesystem(scheme, use_listings_cache=False)
        except ImportError as error:
            package = _PACKAGES.get(scheme, scheme)
            hint = "pip install mgraph[s3]" if package == "s3fs" else f"pip install {package}"
            raise InputError(f"Tensors at {self._url} need the package {package} ({error}): {hint}.") from None

    def _files_of(self, key: str) -> RemoteFiles:
        return RemoteFiles(self._fs, f"{self._url}/{key}", self._path(key))

    def _path(self, key: str = "") -> str:
        return str(self._plain_fs._strip_protocol(f"{self._url}/{key}" if key else self._url))

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
        with _Translated(self._url):
            try:
                self._claims.begin()
            except FileNotFoundError as error:  # a missing bucket
                raise OSError(str(error)) from None

    def release(self) -> None:
        """Give up the place, with everything that this graph has put there, unless another directory uses it too."""
        if self.refusal() is not None:
            return
        for key in self.keys():
            self.remove(key)
        with _Translated(self._url):
            self._claims.remove()

    @override
    def refusal(self) -> str | None:
        """Return why nothing may be deleted, namely that another directory uses the same tensors; None if none does."""
        fs = self._fs  # introduces this directory
        with _Translated(self._url):
            return self._claims.refusal() if fs is not None else None

    def take_over(self) -> None:
        """Make this graph's directory the only one that uses the tensors."""
        fs = self._fs
        with _Translated(self._url):
            if fs is not None:
                self._claims.take_over()

    @override
    def open(self, key: str, dtype: str = "float32", row: int | None = None) -> StoredArray:
        """Open an array of an object, or one row of a segment; errors like those of the local store."""
        if not KEY.fullmatch(key):
            raise CorruptError(f"The index names a tensor object {key!r}, which is not a key: run `mgraph check`.")
        return StoredArray(self._files_of(key), key, dtype, row)

    @override
    def arrays(self, key: str) -> dict[str, StoredArray]:
        """Open all arrays of an object, by dtype name; ``CorruptError`` if there is none."""
        with _Translated(self._url):
            names = [d for d in DTYPES if KEY.fullmatch(key) and self._fs.exists(self._path(f"{key}/{d}/{_FIRST}"))]
        return {name: self.open(key, name) for name in names or ["float32"]}

    @override
    def keys(self) -> set[str]:
        """List the keys of all objects, including those that no row refers to."""
        return set(self.sizes())

    @override
    def has(self, key: str) -> bool:
        """Return whether there is an object with this key."""
        with _Translated(self._url):
            return KEY.fullmatch(key) is not None and bool(self._fs.exists(self._path(f"{key}/{_FIRST}")))

    @override
    def sizes(self, keys: Iterable[str] | None = None) -> dict[str, int]:
        """Map the keys of objects, of all or of some, to the bytes that their files take."""
        wanted = None if keys is None else set(keys)
        found: dict[str, int] = {}
        for key, info in self._files() if wanted is None or wanted else ():
            if wanted is None or key in wanted:
                found[key] = found.get(key, 0) + int(info["size"])
        return found

    @override
    def size(self, key: str) -> int:
        """Return the size of an object's files in bytes; 0 if it is gone."""
        return sum(int(info["size"]) for of, info in self._files() if of == key)

    @override
    def age(self, key: str) -> float:
        """Seconds since an object was written; 0 if it is gone."""
        times = [_written(info) for k, info in self._files(key) if k == key]
        return max(0.0, time.time() - max(times)) if times else 0.0

    @override
    def hide(self, key: str) -> None:
        """Hide an object in one step; :meth:`remove` then deletes it."""
        if self.has(key):
            with _Translated(self._url):
                self._fs.rm_file(self._path(f"{key}/{_FIRST}"))

    @override
    def remove(self, key: str) -> None:
        """Delete an object, as far as permitted; only for objects that no row refers to."""
        try:
            with _Translated(self._url):
                if self._fs.find(self._path(key)):
                    self._fs.rm(self._path(key), recursive=True)
        except StoreError:
            return  # it is garbage, which a later gc finds

    @override
    def copy_object(self, key: str, folder: Folder) -> None:
        """Copy an object into a folder on this machine, and flush it; ``FileNotFoundError`` if it is gone."""
        if not self.has(key):
            raise FileNotFoundError(key)
        for name in self._files_of(key).names():
            if not _OBJECT_FILE.fullmatch(name):
                raise CorruptError(f"{self._url}/{key} holds {name[:80]!r}, which a tensor object cannot have.")
            place, _, own = name.rpartition("/")
            with _Translated(self._url):
                data = bytes(self._fs.cat_file(self._path(f"{key}/{name}")))
            with folder.sub(key, place).opened(create=True):
                pass
            folder.sub(key, place).write(own, data)
        folder.flush_tree(key)

    def _files(self, key: str = "") -> list[tuple[str, dict[str, Any]]]:
        with _Translated(self._url):
            found = self._fs.find(self._path(key), detail=True)
        root = self._path() + "/"
        names = {name.removeprefix(root): info for name, info in found.items()}
        return [(name.partition("/")[0], info) for name, info in names.items() if "/" in name]

    @override
    def _publish(self, key: str, build: Callable[[Any], None], codec: str, build_raw: Callable[[Folder], None]) -> None:
        if codec not in CODECS:
            raise InputError(f"Unknown tensor codec {codec!r}: choose one of {', '.join(CODECS)}.")

        def write() -> None:
            store = self._files_of(key).zarr_store(read_only=False)
            build(lambda name, *rest: create_array(store, name, *rest))

        fs = self._fs
        with _Translated(self._url):
            if fs is not None:
                self._claims.require()
        try:
            with _Translated(self._url), one_at_a_time():
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

    def __init__(self, fs: Any, url: str, path: str) -> None:
        self._fs, self._url, self._path = fs, url, path

    @cached_property
    def _sizes(self) -> dict[str, int]:
        with _Translated(self._url):
            found = self._fs.find(self._path, detail=True)
        return {name.removeprefix(f"{self._path}/"): int(info["size"]) for name, info in found.items()}

    def names(self) -> list[str]:
        """List all files."""
        return list(self._sizes)

    def zarr_store(self, *, read_only: bool) -> FsspecStore:
        """Return the object as a store for Zarr."""
        from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
        from zarr.storage import FsspecStore

        # Wrapped, so that Zarr's thread and ours share one connection, which fsspec closes at the end.
        fs = AsyncFileSystemWrapper(self._fs, asynchronous=True)
        return FsspecStore(fs, path=self._path, read_only=read_only)

    def open_array(self, name: str) -> zarr.Array[Any]:
        """Open a Zarr array for reading; ``FileNotFoundError`` if it is not there."""
        import zarr

        with _Translated(self._url):
            return zarr.open_array(self.zarr_store(read_only=True), path=name, mode="r")

    def size(self, name: str) -> int:
        """Return the size of a file in bytes; ``FileNotFoundError`` if it is not there."""
        if name not in self._sizes:
            raise FileNotFoundError(name)
        return self._sizes[name]

    def sizes(self, folder: str, names: Sequence[str]) -> list[int | None]:
        """Return the sizes of files in one folder; None for a missing one."""
        return [self._sizes.get(f"{folder}/{name}") for name in names]

    def tail(self, name: str, length: int) -> bytes:
        """Read the last ``length`` bytes of a file, or all if it is shorter."""
        with _Translated(self._url):
            start = max(0, self.size(name) - length)
            return bytes(self._fs.cat_file(f"{self._path}/{name}", start=start))

    def local(self, name: str) -> None:
        """Return None, because no file is on this machine."""
        return

    def raw(self, name: str) -> None:
        """Return None: everything remote is read by Zarr."""
        return

    def attributes(self, name: str) -> Mapping[str, Any]:
        """Read the attributes of an array."""
        return dict(self.open_array(name).attrs)

    def descriptors(self, folder: str) -> NoReturn:
        """Refuse: no files are on this machine."""
        raise NotImplementedError(folder)


class _Translated:
    """Turn exceptions of a remote-storage client into one sentence; let our own errors, and missing files, pass."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        ours = (FileNotFoundError, StoreError, InputError, MemoryError)
        if isinstance(error, Exception) and not isinstance(error, ours):
            why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise StoreError(
                f"{self._url} cannot be reached or refuses ({why}): check address and credentials."
            ) from error


def _written(info: dict[str, Any]) -> float:
    moment = info.get("LastModified") or info.get("created") or info.get("mtime")
    if isinstance(moment, datetime):
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return float(moment) if isinstance(moment, int | float) else time.time()
