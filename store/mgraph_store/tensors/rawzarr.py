"""Write and recognise, without Zarr, Zarr v3 arrays of raw little-endian numbers with a CRC32C for each chunk.

The bytes are those that Zarr writes, so anyone can read them with it. Arrays whose description differs in a single
byte, other than in their attributes, are left to Zarr: compressed arrays, and those written by another program.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgraph_store.flushing import NewTree
from mgraph_store.tensors.chunkfiles import checksum, chunks_of

GROUP = b'{\n  "attributes": {},\n  "zarr_format": 3,\n  "node_type": "group"\n}'
"""The description of an object's group."""

DESCRIPTION = "zarr.json"
_CODECS: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
_LONGEST = 1 << 20  # most bytes in a description
_LONGEST_HEAD = 1 << 12  # and before the attributes; ours have some hundred

_ATTRIBUTES = b',\n  "attributes": '
_JSON = json.JSONDecoder()
_END = b',\n  "zarr_format": 3,\n  "node_type": "array",\n  "storage_transformers": []\n}'


@dataclass(frozen=True)
class RawArray:
    """An array's shape, dtype, and number of elements per chunk; in a segment, a chunk is one row of its shard."""

    shape: tuple[int, ...]
    dtype: str
    chunk: int

    @property
    def is_segment(self) -> bool:
        """Whether it is a batch of rows in one shard."""
        return len(self.shape) == 2

    def describe(self, attributes: str = "{}") -> bytes:
        """Return the description as Zarr writes it, with these attributes in JSON, indented as they stand there."""
        return _head(self) + _ATTRIBUTES + attributes.encode() + _END


@lru_cache(maxsize=256)
def _head(array: RawArray) -> bytes:
    """Return the description up to the attributes."""
    fill = "NaN" if array.dtype.startswith("float") else int(np.iinfo(array.dtype).min)
    codecs = _CODECS
    outer = [array.chunk]
    if array.is_segment:
        outer = list(array.shape)
        inner = {"chunk_shape": [1, array.chunk], "codecs": _CODECS, "index_codecs": _CODECS}
        codecs = [{"name": "sharding_indexed", "configuration": {**inner, "index_location": "end"}}]
    document = {
        "shape": list(array.shape),
        "data_type": array.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": outer}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": codecs,
    }
    return json.dumps(document, indent=2).removesuffix("\n}").encode()


def recognised(description: bytes) -> RawArray | None:
    """Parse a description; return None unless it is, byte for byte and apart from its attributes, one of ours."""
    if len(description) > _LONGEST or sys.byteorder != "little" or not description.endswith(_END):
        return None
    head, _, attributes = description.removesuffix(_END).partition(_ATTRIBUTES)
    if len(head) > _LONGEST_HEAD:  # what is parsed is kept
        return None
    try:
        text = attributes.decode()
        said, end = _JSON.raw_decode(text)
        return _parsed(head) if isinstance(said, dict) and end == len(text) else None
    except (ValueError, RecursionError):
        return None


@lru_cache(maxsize=256)
def _parsed(head: bytes) -> RawArray | None:
    """Parse a description up to the attributes, which is the same for all nodes of a space."""
    try:
        document = json.loads(head + b"}")
        shape = tuple(document["shape"])
        chunks = document["chunk_grid"]["configuration"]["chunk_shape"]
        found = RawArray(shape, document["data_type"], int(chunks[-1]))
        known = found.dtype in ("float32", "float64", "int64") and len(shape) in (1, 2) and len(chunks) == len(shape)
        sound = known and found.chunk > 0 and all(type(n) is int and n > 0 for n in shape)
        return found if sound and _head(found) == head else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def write_array(tree: NewTree, place: str, data: NDArray[Any], chunk: int, attributes: str = "{}") -> None:
    """Write a flat array into a new folder, in chunks of ``chunk`` elements, with its attributes in JSON."""
    array = RawArray(data.shape, data.dtype.name, chunk)
    tree.write(f"{place}/{DESCRIPTION}", [memoryview(array.describe(attributes))])
    fill = np.nan if data.dtype.kind == "f" else np.iinfo(data.dtype).min
    for i, parts in enumerate(chunks_of(data, chunk, fill)):
        tree.write(f"{place}/c/{i}", parts)


def write_segment(tree: NewTree, rows: Sequence[NDArray[np.float32]], attributes: str = "{}") -> None:
    """Write rows of equal length, as one shard, with its attributes in JSON."""
    array = RawArray((len(rows), rows[0].shape[0]), "float32", rows[0].shape[0])
    tree.write(DESCRIPTION, [memoryview(array.describe(attributes))])
    parts: list[memoryview] = []
    places, at = np.empty((len(rows), 2), "<u8"), 0
    for i, row in enumerate(rows):
        numbers = np.ascontiguousarray(row).view(np.uint8)
        parts += [numbers.data, memoryview(checksum(numbers))]
        places[i] = at, numbers.nbytes + 4
        at += numbers.nbytes + 4
    index = places.reshape(-1).view(np.uint8)
    tree.write("c/0/0", [*parts, index.data, memoryview(checksum(index))])


def write_group(tree: NewTree) -> None:
    """Write the description of an object's group."""
    tree.write(DESCRIPTION, [memoryview(GROUP)])
