"""The permutations of a network's units that change no output, and how to apply them (NumPy)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Permutations = dict[int, NDArray[np.intp]]
"""By group: σ of shape (n,), where unit i of the result is unit σ(i); over a parent, one row for each of its units."""


@dataclass(frozen=True)
class Group:
    """Units that may be permuted: ``size`` of them, found along ``place``, the first axis of a tensor that has them.

    With a ``parent``, another group, there are that many within each of its units, each with its own permutation. A
    ``fixed`` group keeps its order.
    """

    size: int
    place: str
    parent: int | None = None
    fixed: bool = False


@dataclass(frozen=True)
class Slot:
    """A group along an axis of a tensor: its units are ``stride`` apart."""

    axis: int
    group: int
    stride: int


@dataclass(frozen=True)
class Part:
    """A part of a tensor that contains whole groups along its axes: from ``offsets`` on, along ``slots``."""

    offsets: tuple[int, ...]
    slots: tuple[Slot, ...]
    sizes: tuple[int, ...]

    @cached_property
    def _places(self) -> tuple[NDArray[np.intp], ...]:
        found = []
        for axis, offset in enumerate(self.offsets):
            index = np.array([offset], dtype=np.intp)
            for slot, size in zip(self.slots, self.sizes, strict=True):
                if slot.axis == axis:
                    index = (index[:, None] + slot.stride * np.arange(size, dtype=np.intp)).reshape(-1)
            found.append(index)
        return np.ix_(*found) if found else ()

    def take(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """Return the part as an array with one dimension for each slot."""
        return np.asarray(tensor[self._places]).reshape(self.sizes)

    def put(self, tensor: NDArray[Any], block: NDArray[Any]) -> None:
        """Write the part into a tensor."""
        tensor[self._places] = block.reshape([max(place.shape) for place in self._places])

    def dims(self, group: int) -> list[int]:
        """Return the dimensions along which a group lies."""
        return [dim for dim, slot in enumerate(self.slots) if slot.group == group]

    def outer_dim(self, dim: int, parent: int) -> int:
        """Return the dimension of the parent that contains the units along ``dim``, along the same axis if possible."""
        there = self.dims(parent)
        return next((d for d in there if self.slots[d].axis == self.slots[dim].axis), there[0])


@dataclass(frozen=True)
class Symmetry:
    """The groups of a network, and the parts of each tensor.

    Slots along one axis are in the order in which they are nested, the outermost first.
    """

    groups: tuple[Group, ...]
    tensors: Mapping[str, tuple[Part, ...]]

    @property
    def free(self) -> list[int]:
        """The groups whose units may be permuted."""
        return [number for number, group in enumerate(self.groups) if not group.fixed]

    def identity(self) -> Permutations:
        """Return the permutations that leave everything in place."""
        return {g: np.broadcast_to(np.arange(self.groups[g].size), self.shape(g)).copy() for g in self.free}

    def random(self, generator: np.random.Generator) -> Permutations:
        """Draw permutations uniformly."""
        return {g: generator.permuted(rows, axis=-1) for g, rows in self.identity().items()}

    def shape(self, group: int) -> tuple[int, ...]:
        """Return the shape of a group's permutations."""
        parent = self.groups[group].parent
        own = self.groups[group].size
        return (own,) if parent is None else (self.groups[parent].size, own)

    def permuted(
        self, part: Part, block: NDArray[Any], chosen: Permutations, leave: Sequence[int] = ()
    ) -> NDArray[Any]:
        """Permute a part along all of its dimensions except those in ``leave``."""
        late: list[tuple[int, int, NDArray[np.intp]]] = []
        for dim, slot in enumerate(part.slots):
            if dim in leave or slot.group not in chosen:
                continue
            parent, order = self.groups[slot.group].parent, chosen[slot.group]
            if parent is None:
                block = np.take(block, order, axis=dim)
            else:
                late.append((dim, part.outer_dim(dim, parent), order))
        for dim, outer, order in late:
            shape = [1] * block.ndim
            shape[dim], shape[outer] = block.shape[dim], block.shape[outer]
            index = (order if outer < dim else order.T).reshape(shape)
            block = np.take_along_axis(block, np.broadcast_to(index, block.shape), axis=dim)
        return block

    def apply(self, tensors: Mapping[str, NDArray[Any]], chosen: Permutations) -> dict[str, NDArray[Any]]:
        """Return the tensors with their units reordered; tensors not known here stay as they are."""
        found = {}
        for name, tensor in tensors.items():
            found[name] = tensor
            if name in self.tensors:
                found[name] = np.array(tensor)
                for part in self.tensors[name]:
                    part.put(found[name], self.permuted(part, part.take(tensor), chosen))
        return found

    def parts(self) -> Iterator[tuple[str, Part]]:
        """Yield the parts of all tensors."""
        for name, parts in self.tensors.items():
            for part in parts:
                yield name, part
