"""Write a safetensors file while its numbers are being computed, so that a model may be larger than memory.

The format (https://github.com/huggingface/safetensors): length of the header (8 bytes, little-endian), header (JSON:
name → type, shape, offsets), then the tensors one after another without gaps. So every tensor's position is known
before the first number, and chunks can be written in any order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgraph.errors import InputError
from mgraph.network.checkpoints import write_whole
from mgraph.network.layout import dtype_name, to_numpy
from mgraph_store.rows.layout import Layout, TensorSpec

Write = Callable[[int, NDArray[np.float32]], None]

_TYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def stream_safetensors(
    path: Path | str,
    layout: Layout,
    stream: Callable[[Write], None],
    buffers: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, str] | None = None,
    *,
    further: Mapping[str, Tensor] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a node to a safetensors file, either completely or not at all, with the types of its network.

    ``stream(write)`` calls ``write(offset, values)`` with the parameters, shape (D,), in chunks that cover them, in any
    order and from any thread. ``buffers`` are the other tensors by stored type, ``further`` ones that are not in the
    layout. Tied tensors are repeated under each name. Raises InputError if the file exists (unless ``overwrite``),
    cannot be written, or lacks such a type.
    """
    further = further or {}
    header, regions = _plan(layout, metadata or {}, further)
    parameters = {t.name for t in layout.parameters}
    spans = list(_spans(layout, [r for r in regions if r.tensor.name in parameters]))
    views = layout.buffer_views(buffers) | {name: to_numpy(tensor) for name, tensor in further.items()}

    def save(temporary: Path) -> None:
        with temporary.open("wb", buffering=0) as file:
            descriptor = file.fileno()
            file.truncate(len(header) + sum(r.nbytes for r in regions))
            _write_at(descriptor, header, 0)

            def write(offset: int, values: NDArray[np.float32]) -> None:
                for span in spans:
                    a, b = max(offset, span.start), min(offset + values.shape[0], span.stop)
                    if a < b:
                        place = len(header) + span.place + (a - span.start) * span.itemsize
                        _write_at(descriptor, _bytes(values[a - offset : b - offset], span.dtype), place)

            stream(write)
            for region in regions:
                if region.tensor.name not in parameters:
                    data = _bytes(views[region.tensor.name].reshape(-1), region.tensor.dtype)
                    _write_at(descriptor, data, len(header) + region.place)

    write_whole(path, save, overwrite)


@dataclass(frozen=True)
class _Region:
    """A tensor in the file: its name, and its position after the header."""

    name: str
    tensor: TensorSpec
    place: int
    nbytes: int


@dataclass(frozen=True)
class _Span:
    """Parameters that are contiguous both in the node and in the file: [start, stop), from ``place`` on."""

    start: int
    stop: int
    place: int
    dtype: str
    itemsize: int


def _plan(layout: Layout, metadata: Mapping[str, str], further: Mapping[str, Tensor]) -> tuple[bytes, list[_Region]]:
    tensors = {t.name: t for t in layout.tensors}
    named = [(t.name, t) for t in layout.tensors] + [(alias, tensors[name]) for alias, name in layout.aliases.items()]
    for name, value in further.items():
        named.append((name, TensorSpec(name, tuple(value.shape), dtype_name(value.dtype), "buffer")))
    for name, t in named:
        if t.dtype not in _TYPES:
            raise InputError(f"{name} is of type {t.dtype}, which this export does not write; export to .pt.")
    # The widest types come first, so that every tensor is aligned for readers that map it into memory.
    named.sort(key=lambda pair: -_itemsize(pair[1].dtype))
    regions, place = [], 0
    for name, t in named:
        regions.append(_Region(name, t, place, t.size * _itemsize(t.dtype)))
        place += regions[-1].nbytes
    document: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for r in regions:
        offsets = [r.place, r.place + r.nbytes]
        document[r.name] = {"dtype": _TYPES[r.tensor.dtype], "shape": list(r.tensor.shape), "data_offsets": offsets}
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, regions


def _spans(layout: Layout, regions: list[_Region]) -> Iterator[_Span]:
    starts, offset = {}, 0
    for t in layout.parameters:
        starts[t.name] = offset
        offset += t.size
    span: _Span | None = None
    for r in regions:
        start, size = starts[r.tensor.name], _itemsize(r.tensor.dtype)
        if span and (span.dtype, span.stop) == (r.tensor.dtype, start) and _end(span) == r.place:
            span = _Span(span.start, start + r.tensor.size, span.place, span.dtype, size)
            continue
        if span:
            yield span
        span = _Span(start, start + r.tensor.size, r.place, r.tensor.dtype, size)
    if span:
        yield span


def _end(span: _Span) -> int:
    return span.place + (span.stop - span.start) * span.itemsize


def _itemsize(dtype: str) -> int:
    return int(getattr(torch, dtype).itemsize)


def _bytes(values: NDArray[Any], dtype: str) -> memoryview:
    if values.dtype.name == dtype:
        return np.ascontiguousarray(values).view(np.uint8).data
    converted = torch.from_numpy(np.ascontiguousarray(values)).to(getattr(torch, dtype))
    return converted.view(torch.uint8).numpy().data


def _write_at(descriptor: int, data: bytes | memoryview, place: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, place)
        data, place = data[count:], place + count
