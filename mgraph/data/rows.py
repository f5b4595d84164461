"""The rows of a table of Hugging Face's ``datasets`` as a map-style Dataset, or as arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mgraph.data.columns import Column, DamagedError, Encoder
from mgraph.data.digests import SIZE, read_files, remembered, whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AT_ONCE = 256


class TableRows:
    """A split as a map-style Dataset, read by rows; ``targets`` are all of its targets."""

    def __init__(self, table: Any, inputs: Encoder, target: Encoder, told: str) -> None:
        self._table, self._inputs, self._target, self._told = table, inputs, target, told

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, place: int) -> Any:
        (item,) = self.__getitems__([place])
        return item

    def __getitems__(self, places: Sequence[int]) -> list[Any]:
        x, y = self.rows(places)
        if isinstance(x, dict):
            return [({key: value[i] for key, value in x.items()}, y[i]) for i in range(len(y))]
        return list(zip(x, y, strict=True))

    def rows(self, places: Sequence[int]) -> tuple[Any, NDArray[Any]]:
        """Read some rows as arrays."""
        rows = self._table[list(places)]
        return self._inputs(rows, places), self._target(rows, places)

    def all(self) -> tuple[Any, NDArray[Any]]:
        """Read all rows as arrays."""
        parts = list(self._read())
        y = np.concatenate([y for _, y in parts])
        if isinstance(parts[0][0], dict):
            return {key: np.concatenate([x[key] for x, _ in parts]) for key in parts[0][0]}, y
        return np.concatenate([x for x, _ in parts]), y

    def look(self) -> None:
        """Read all rows, only once as long as the files do not change, and check that they can be used."""
        remembered(f"read {self.examples_digest().hex()}", lambda: f"{sum(len(y) for _, y in self._read())} rows")

    def _read(self) -> Iterator[tuple[Any, NDArray[Any]]]:
        """Yield all rows in blocks; damaged images are counted first."""
        damaged: list[str] = []
        column: Column | None = None
        for block in _blocks(len(self)):
            try:
                rows = self.rows(block)
            except DamagedError as error:
                damaged += error.damaged
                column = error.column
                continue
            if column is None:
                yield rows
        if column is not None:
            raise DamagedError(column, damaged, len(self))

    @cached_property
    def targets(self) -> NDArray[Any]:
        """All targets."""
        only = self._table.select_columns(self._table.column_names[-1:])
        return np.concatenate([self._target(only[list(block)], block) for block in _blocks(len(self))])

    def examples_digest(self, places: NDArray[np.int64] | None = None) -> bytes:
        """Return what identifies these rows: the contents of the Arrow files, and which of their rows they are."""
        hasher = hashlib.blake2b(f"{self._told} {len(self)}".encode(), digest_size=SIZE)
        hasher.update(self._files)
        chosen = self._table._indices
        if chosen is not None:
            hasher.update(np.ascontiguousarray(chosen.column(0).to_numpy()).data)
        if places is not None:
            hasher.update(np.ascontiguousarray(places).data)
        return hasher.digest()

    @cached_property
    def _files(self) -> bytes:
        hasher = hashlib.blake2b(digest_size=SIZE)
        for file in (Path(entry["filename"]) for entry in self._table.cache_files):
            hasher.update(np.ascontiguousarray(read_files(file.parent, [file.name], whole)["digest"]).data)
        return hasher.digest()


def _blocks(length: int) -> Iterator[range]:
    for start in range(0, length, _AT_ONCE):
        yield range(start, min(start + _AT_ONCE, length))
