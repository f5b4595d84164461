"""A node as a mapping from names to tensors, read only when looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgraph_store.layout import Layout


class TensorView(Mapping[str, NDArray[Any]]):
    """Names in the order of the layout, then tied names; values are views of one flat array per dtype."""

    def __init__(
        self,
        layout: Layout,
        parameters: Callable[[], NDArray[np.float32]],
        buffers: Callable[[], Mapping[str, NDArray[Any]]] | None,
    ) -> None:
        self._layout, self._parameters, self._buffers = layout, parameters, buffers
        own = [t.name for t in layout.tensors if buffers is not None or t.role == "parameter"]
        self._target = dict(zip(own, own, strict=True))
        self._target |= {alias: name for alias, name in layout.aliases.items() if name in self._target}
        self._trainable = {t.name for t in layout.parameters}

    def __getitem__(self, name: str) -> NDArray[Any]:
        target = self._target[name]
        return (self._parameter_views if target in self._trainable else self._buffer_views)[target]

    def __iter__(self) -> Iterator[str]:
        return iter(self._target)

    def __len__(self) -> int:
        return len(self._target)

    @cached_property
    def _parameter_views(self) -> dict[str, NDArray[Any]]:
        return self._layout.parameter_views(self._parameters())

    @cached_property
    def _buffer_views(self) -> dict[str, NDArray[Any]]:
        return {} if self._buffers is None else self._layout.buffer_views(self._buffers())
