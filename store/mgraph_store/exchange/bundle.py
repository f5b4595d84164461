"""Bundles: a part of a graph in one file, with everything that it needs, to be added to another graph.

A bundle is a zip file without compression. ``manifest.json`` holds the rows; ``tensors/DIGEST`` the parameters of a
node, raw little-endian float32, and ``buffers/DIGEST/DTYPE`` an array of its buffers: the name says what the content
must be, and equal content is there only once. Nothing else may be in it. It is read entry by entry into memory and
never unpacked into files, so no name in it can lead anywhere.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from mgraph_store.errors import CorruptError, FormatError, InputError, MGraphError, NotFoundError
from mgraph_store.exchange.closure import Rows, closure
from mgraph_store.exchange.upgrades import upgrade
from mgraph_store.folder import Folder
from mgraph_store.index.migrations import can_migrate, new_since
from mgraph_store.rows import limits
from mgraph_store.rows.ids import is_id, random_characters
from mgraph_store.rows.layout import Layout
from mgraph_store.rows.records import Connection, Edge, Member, Node, NodeBuffers, NodeTerm, Space
from mgraph_store.rows.schema import FORMAT_VERSION, TABLE_OF, TABLES, columns
from mgraph_store.tensors.digests import PATTERN
from mgraph_store.tensors.objects import disk_error
from mgraph_store.values import buffer_arrays

if TYPE_CHECKING:
    from mgraph_store.store import GraphStore

BUNDLE_VERSION = 1
MANIFEST = "manifest.json"
MANIFEST_BYTES = 1 << 30

_DIGEST = PATTERN.pattern
_ENTRY = re.compile(rf"manifest\.json|tensors/(?:{_DIGEST})|buffers/(?:{_DIGEST})/(?:float32|float64|int64)")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the file contains no times, so that the same part of a graph gives the same bytes
_LOCAL_HEADER = 30


@dataclass(frozen=True)
class Packed:
    """What was packed: rows by table, and the size of the file in bytes."""

    counts: Mapping[str, int]
    nbytes: int


def pack(store: GraphStore, things: Sequence[str], path: Path, *, overwrite: bool = False) -> Packed:
    """Write the nodes and connections with these ids, and all that they need, into a bundle, whole or not at all.

    A connection comes with its nodes, sweeps and what was measured; a node with the nodes that it is computed from;
    everything with its space and the runs that made it.

    Raises
    ------
    InputError
        If there is nothing to pack, or the file exists (unless ``overwrite``) or cannot be written.
    CorruptError
        If tensors are missing or damaged.
    """
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already: choose another name, or allow overwriting.")
    with store.reading() as reader:
        rows = closure(reader, things)
    temporary = path.with_name(f".{path.name}.{random_characters(8)}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            with _new_entry(archive, MANIFEST) as entry:
                entry.write(_manifest(rows))
            for name, chunks in _tensors(store, rows):
                with _new_entry(archive, name) as entry:
                    for chunk in chunks:
                        entry.write(_little_endian(chunk))
        folder = Folder(path.parent)  # the user's, not a graph's
        folder.flush(temporary.name)
        _put_in_place(temporary, path, overwrite)
        folder.flush()
    except FileExistsError:
        raise InputError(f"{path} exists already: choose another name, or allow overwriting.") from None
    except OSError as error:
        raise InputError(str(disk_error(error, path))) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return Packed({TABLE_OF[kind]: len(found) for kind, found in rows.items() if found}, path.stat().st_size)


def _put_in_place(temporary: Path, path: Path, overwrite: bool) -> None:
    if not overwrite:
        try:
            os.link(temporary, path)  # FileExistsError if somebody was faster; a rename would replace theirs
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            temporary.replace(path)
        return
    temporary.replace(path)


class Bundle:
    """An open bundle whose entries and rows have been checked; use it in ``with``.

    Raises
    ------
    NotFoundError, InputError
        If there is no such file, or it is not a bundle, or it holds anything that a bundle cannot.
    FormatError
        If a newer mgraph wrote it.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise NotFoundError(f"There is no file {path}.")
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise InputError(f"{path} is not a bundle ({error}).") from None
        try:
            self._sizes = _check_entries(path, self._archive)
            self.rows = _rows(path, self._read(MANIFEST))
        except BaseException:
            self._archive.close()
            raise

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def parameters(self, digest: str, nbytes: int) -> NDArray[np.float32]:
        """Read the parameters of a node, flat; the caller must compare their digest."""
        return self._array(f"tensors/{digest}", "float32", nbytes)

    def buffers(self, digest: str) -> dict[str, NDArray[Any]]:
        """Read the buffers of a node by dtype name; the caller must compare their digest."""
        found = [name for name in self._sizes if name.startswith(f"buffers/{digest}/")]
        if not found:
            raise CorruptError(f"{self.path} lacks buffers/{digest}: get it again.")
        return {name.rpartition("/")[2]: self._array(name, name.rpartition("/")[2]) for name in found}

    def _array(self, name: str, dtype: str, nbytes: int | None = None) -> NDArray[Any]:
        size = self._sizes.get(name)
        if size is None:
            raise CorruptError(f"{self.path} lacks {name}: get it again.")
        kind = np.dtype(dtype).newbyteorder("<")
        if size % kind.itemsize or nbytes not in (None, size):
            raise CorruptError(f"{self.path} holds {size} bytes of {name}, which is not what its rows say.")
        return np.frombuffer(self._read(name), kind).astype(dtype)

    def _read(self, name: str) -> bytes:
        try:
            return self._archive.read(name)
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, KeyError) as error:
            raise CorruptError(f"{self.path} is damaged at {name} ({error}): get it again.") from None


def _check_entries(path: Path, archive: zipfile.ZipFile) -> dict[str, int]:
    """Return the sizes of all entries by name, if a bundle may hold every one of them."""
    sizes: dict[str, int] = {}
    end = 0
    for info in sorted(archive.infolist(), key=lambda i: i.header_offset):
        name, shown = info.filename, repr(info.filename[:80])
        if not _ENTRY.fullmatch(name) or getattr(info, "orig_filename", name) != name:
            raise InputError(f"{path} holds an entry {shown}, which no bundle has: it is refused.")
        if name in sizes:
            raise InputError(f"{path} holds {shown} twice: it is refused.")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise InputError(f"{path} holds {shown} as a link or a special file: it is refused.")
        if info.flag_bits & 0x1:
            raise InputError(f"{path} holds {shown} encrypted: it is refused.")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise InputError(f"{path} holds {shown} compressed, which no bundle has: it is refused.")
        if info.header_offset < end:
            raise InputError(f"{path} holds entries that overlap, the second {shown}: it is refused.")
        end = info.header_offset + _LOCAL_HEADER + len(name) + info.file_size
        sizes[name] = info.file_size
    if MANIFEST not in sizes:
        raise InputError(f"{path} is not a bundle, it has no {MANIFEST}.")
    if end > path.stat().st_size:
        raise InputError(f"{path} is shorter than its entries: get it again.")
    if sizes[MANIFEST] > MANIFEST_BYTES:
        raise InputError(
            f"{path} has a manifest of {sizes[MANIFEST]} bytes, more than {MANIFEST_BYTES}: it is refused."
        )
    return sizes


def _rows(path: Path, data: bytes) -> Rows:
    def refuse(what: str) -> InputError:
        return InputError(f"The manifest of {path} {what}: it is refused.")

    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise refuse("is not JSON") from None
    if not isinstance(document, dict) or document.get("format") != "mgraph-bundle":
        raise refuse("is not that of a bundle")
    found, graph = document.get("version"), document.get("graph_format")
    if not isinstance(found, int) or not isinstance(graph, int):
        raise refuse("has no version")
    if found > BUNDLE_VERSION or graph > FORMAT_VERSION:
        raise FormatError(
            f"{path} is a bundle of version {found} with rows of format {graph}; this mgraph reads version "
            f"{BUNDLE_VERSION} and format {FORMAT_VERSION}: install a newer mgraph."
        )
    if not can_migrate(graph):
        raise refuse(f"has rows of format {graph}, which never existed")
    tables = document.get("tables")
    if not isinstance(tables, dict):
        raise refuse("has no tables")
    rows: Rows = {kind: [] for kind in TABLES.values()}
    for table, content in tables.items():
        if table not in TABLES:
            raise refuse(f"has a table {str(table)[:80]!r}, which is unknown")
        try:
            rows[TABLES[table]] = list(_records(TABLES[table], content, new_since(graph)))
        except (MGraphError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise refuse(f"has a row of {table} that does not fit ({error})") from None
    try:
        rows = upgrade(rows, graph)
    except duckdb.Error as error:
        raise refuse(f"has rows that format {graph} never had ({str(error).splitlines()[0]})") from None
    wrong = _endless(rows)
    if wrong:
        raise refuse(wrong)
    return rows


def _endless(rows: Rows) -> str | None:
    """Say which connection lacks ends, or has an edge between nodes that are not its ends; None if none does."""
    ends: dict[str, set[str]] = {c.id: set() for c in rows[Connection]}
    for member in rows[Member]:
        if member.role == "end" and member.connection_id in ends:
            ends[member.connection_id].add(member.node_id)
    for connection, nodes in ends.items():
        if len(nodes) < 2:
            return f"has a connection {connection} with {len(nodes)} ends"
    for edge in rows[Edge]:
        if not {edge.source_id, edge.target_id} <= ends.get(edge.connection_id, set()):
            return f"has an edge of connection {edge.connection_id} between nodes that are not its ends"
    return None


def _records(kind: type[Any], content: Any, lacking: frozenset[str]) -> Iterator[Any]:
    described = {c.name: c for c in columns(kind) if f"{TABLE_OF[kind]}.{c.name}" not in lacking}
    names = content["columns"]
    if set(names) != set(described) or len(names) != len(described):
        raise ValueError(f"its columns are not {', '.join(described)}")
    for row in content["rows"]:
        values = {}
        for name, value in zip(names, row, strict=True):
            column = described[name]
            value = _from_json(column.type, value)
            column.to_sql(value)
            if column.meaning.startswith("JSON") and value is not None:
                json.loads(value)
            values[name] = value
        record = kind(**values)
        _check_record(record)
        yield record


def _check_record(record: Any) -> None:
    if hasattr(record, "id") and not is_id(record.id):
        raise ValueError(f"{record.id!r} is not an id")
    wrong = limits.fault(record)
    if wrong:
        raise ValueError(f"of {getattr(record, 'id', 'a row')}, {wrong}")
    if isinstance(record, NodeTerm) and not math.isfinite(record.coefficient):
        raise ValueError(f"a term of node {record.node_id} has the coefficient {record.coefficient}")
    if isinstance(record, Space):
        layout = Layout.from_json(record.layout)
        if layout.fingerprint != record.layout_hash or any(t.size < 0 for t in layout.tensors):
            raise ValueError(f"the layout of space {record.id} does not have its hash")
    given = record.digest if isinstance(record, Node | NodeBuffers) else None
    if given is not None and not PATTERN.fullmatch(given):
        raise ValueError(f"{given!r} is not a digest")
    if isinstance(record, Node) and (record.tensor_key is None) != (record.digest is None):
        raise ValueError(f"node {record.id} has either tensors or a digest, not both")


def _manifest(rows: Rows) -> bytes:
    try:
        writer = version("mgraph")
    except PackageNotFoundError:
        writer = "unknown"
    tables = {}
    for kind, records in rows.items():
        described = columns(kind)
        tables[TABLE_OF[kind]] = {
            "columns": [c.name for c in described],
            "rows": [[_to_json(getattr(_portable(r), c.name)) for c in described] for r in records],
        }
    document = {
        "format": "mgraph-bundle",
        "version": BUNDLE_VERSION,
        "graph_format": FORMAT_VERSION,
        "written_by": writer,
        "tables": tables,
    }
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def _portable(record: Any) -> Any:
    """Replace what only the graph it comes from can resolve, keeping the fact that there are tensors."""
    if isinstance(record, Node) and record.tensor_key is not None:
        return replace(record, tensor_key=record.digest, tensor_row=None)
    return replace(record, tensor_key=record.digest) if isinstance(record, NodeBuffers) else record


def _tensors(store: GraphStore, rows: Rows) -> Iterator[tuple[str, Iterator[NDArray[Any]]]]:
    done: set[str] = set()
    for node in rows[Node]:
        if node.tensor_key is not None and node.digest not in done:
            done.add(node.digest)
            array = store.tensor_store.open(node.tensor_key, "float32", node.tensor_row)
            yield f"tensors/{node.digest}", (chunk for _, chunk in array.chunks())
    for buffers in rows[NodeBuffers]:
        if buffers.digest not in done:
            done.add(buffers.digest)
            for dtype, array in buffer_arrays(store, buffers).items():
                yield f"buffers/{buffers.digest}/{dtype}", (chunk for _, chunk in array.chunks())


def _new_entry(archive: zipfile.ZipFile, name: str) -> Any:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return archive.open(info, "w", force_zip64=True)


def _little_endian(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).view(np.uint8).data


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return [_to_json(v) for v in value] if isinstance(value, tuple | list) else value


def _from_json(sql: str, value: Any) -> Any:
    if value is None:
        return None
    if sql.endswith("[]"):
        if not isinstance(value, list):
            raise ValueError(f"{value!r} is not a list")
        return tuple(_from_json(sql[:-2], v) for v in value)
    if isinstance(value, bool | list | dict):
        raise ValueError(f"{value!r} is not a {sql}")
    if sql == "TIMESTAMP":
        return datetime.fromisoformat(value)
    if sql == "DOUBLE":
        return float(value) if not isinstance(value, str) or value in ("nan", "inf", "-inf") else None
    return value
