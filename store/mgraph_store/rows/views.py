"""A node as a mapping from names to tensors, of which only what is accessed is read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from mgraph_store.rows.layout import Layout, TensorSpec

_KEPT = 2  # chunks, because a tensor may begin in the chunk where the one before it ended


class Source(Protocol):
    """Anything that can be read in parts: a stored, derived or partial node."""

    size: int
    chunk: int

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Read the elements from ``start`` up to ``stop``; a new array."""


class TensorView(Mapping[str, NDArray[Any]]):
    """Names in the order of the layout, then tied names.

    A tensor within one chunk is a view of it, so going through all in order reads every chunk once; one that spans
    several chunks is read into its own memory.
    """

    def __init__(
        self,
        layout: Layout,
        parameters: Callable[[], Source],
        buffers: Callable[[], Mapping[str, NDArray[Any]]] | None,
    ) -> None:
        self._layout, self._open, self._buffers = layout, parameters, buffers
        own = [t.name for t in layout.tensors if buffers is not None or t.role == "parameter"]
        self._target = dict(zip(own, own, strict=True))
        self._target |= {alias: name for alias, name in layout.aliases.items() if name in self._target}
        self._chunks: OrderedDict[int, NDArray[np.float32]] = OrderedDict()
        self._in_use: WeakValueDictionary[str, NDArray[np.float32]] = WeakValueDictionary()

    @override
    def __getitem__(self, name: str) -> NDArray[Any]:
        target = self._target[name]
        place = self._places.get(target)
        if place is None:
            return self._buffer_views[target]
        tensor = self._in_use.get(target)
        if tensor is None:
            tensor = self._in_use[target] = self._read(*place)
        return tensor

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._target)

    @override
    def __len__(self) -> int:
        return len(self._target)

    def _read(self, start: int, t: TensorSpec) -> NDArray[np.float32]:
        stop, source = start + t.size, self._parameters
        if t.size == 0:
            return np.empty(t.shape, np.float32)
        first, last = start // source.chunk, (stop - 1) // source.chunk
        if first == last:
            begin = first * source.chunk
            return self._chunk(first)[start - begin : stop - begin].reshape(t.shape)
        return source.read(start, stop).reshape(t.shape)

    def _chunk(self, i: int) -> NDArray[np.float32]:
        if i not in self._chunks:
            begin = i * self._parameters.chunk
            stop = min(begin + self._parameters.chunk, self._parameters.size)
            self._chunks[i] = self._parameters.read(begin, stop)
            if len(self._chunks) > _KEPT:
                self._chunks.popitem(last=False)
        self._chunks.move_to_end(i)
        return self._chunks[i]

    @cached_property
    def _places(self) -> dict[str, tuple[int, TensorSpec]]:
        places, offset = {}, 0
        for t in self._layout.parameters:
            places[t.name] = (offset, t)
            offset += t.size
        return places

    @cached_property
    def _parameters(self) -> Source:
        return self._open()

    @cached_property
    def _buffer_views(self) -> dict[str, NDArray[Any]]:
        return {} if self._buffers is None else self._layout.buffer_views(self._buffers())
