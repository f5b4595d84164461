"""Weight matching (Ainsworth et al. 2023, Git Re-Basin, §3.2): permute the units of A so that it comes close to B.

It maximises Σ ⟨A permuted, B⟩ over all trainable tensors, which minimises their distance. With all other permutations
held, the best one of a group is a linear assignment (algorithm 1); doing this for all in turn ends in a local optimum.
Groups within the units of another (the channels of a group, the dimensions of an attention head) are solved together
with it: every pair of outer units has its own best inner assignment, whose value it counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgraph.align.symmetry import Part, Permutations, Symmetry
from mgraph.progress import Progress, ProgressCallback, silent

Array = NDArray[Any]
_SWEEPS = 100  # passes through all groups; a dozen is typical
_GAIN = 1e-7  # relative to the sum of absolute products: smaller gains are rounding


@dataclass(frozen=True)
class Matched:
    """The permutations found, and ⟨A permuted, B⟩."""

    chosen: Permutations
    value: float


def match(
    symmetry: Symmetry,
    source: Mapping[str, Array],
    target: Mapping[str, Array],
    *,
    restarts: int = 3,
    seed: int = 0,
    progress: ProgressCallback = silent,
) -> Matched:
    """Return the best permutations of ``source`` found from several starts.

    The first start goes from the inputs and outputs of the network inwards: each group is matched by the tensors whose
    other axes are settled. This exactly recovers a permutation of the same network. The ``restarts`` begin with all
    units in place, and go through the groups in random orders. ``source`` and ``target`` are the trainable tensors by
    name.
    """
    problem = _Problem(symmetry, source, target)
    best = problem.descended(problem.from_outside(), np.random.default_rng([seed, 0]))
    for number in range(restarts):
        progress(Progress("align", number + 1, restarts))
        if problem.exact(best.chosen):
            break
        found = problem.descended(symmetry.identity(), np.random.default_rng([seed, number + 1]))
        best = max(best, found, key=lambda one: one.value)
    return best


@dataclass(frozen=True)
class _Piece:
    """A part of a tensor in both networks."""

    part: Part
    source: Array
    target: Array


@dataclass(frozen=True)
class _Entry:
    """A piece as it counts for a group: axes of source and target are outer units, inner units of each child, rest."""

    children: tuple[int, ...]
    source: Array
    target: Array


class _Problem:
    def __init__(self, symmetry: Symmetry, source: Mapping[str, Array], target: Mapping[str, Array]) -> None:
        self.symmetry, groups = symmetry, symmetry.groups
        self.pieces = [
            _Piece(part, part.take(source[name]), part.take(target[name]))
            for name, part in symmetry.parts()
            if name in source
        ]
        self.children: dict[int, list[int]] = {g: [] for g in range(len(groups))}
        for g in symmetry.free:
            if (parent := groups[g].parent) is not None:
                self.children[parent].append(g)
        self.units = [g for g in range(len(groups)) if self._is_unit(g)]
        self.having = {g: [p for p in self.pieces if self._has(p, g)] for g in self.units}
        self.scale = float(sum(np.abs(p.source * p.target).sum(dtype=np.float64) for p in self.pieces)) or 1.0

    def _is_unit(self, g: int) -> bool:
        group = self.symmetry.groups[g]
        return bool(self.children[g]) or (not group.fixed and group.parent is None)

    def _has(self, piece: _Piece, unit: int) -> bool:
        return any(slot.group == unit or slot.group in self.children[unit] for slot in piece.part.slots)

    def value(self, pieces: Collection[_Piece], chosen: Permutations) -> float:
        """Return ⟨A permuted, B⟩ over some pieces."""
        permuted = self.symmetry.permuted
        return float(sum(np.vdot(permuted(p.part, p.source, chosen), p.target).astype(np.float64) for p in pieces))

    def exact(self, chosen: Permutations) -> bool:
        """Return whether A permuted equals B."""
        permuted = self.symmetry.permuted
        return all(np.array_equal(permuted(p.part, p.source, chosen), p.target) for p in self.pieces)

    def from_outside(self) -> Permutations:
        """Match groups one after another, the one with the most evidence first."""
        chosen, left = self.symmetry.identity(), list(self.units)
        known = {g for g, group in enumerate(self.symmetry.groups) if group.fixed}
        while left:
            unit = max(left, key=lambda g: self._evidence(g, known))
            left.remove(unit)
            usable = [p for p in self.having[unit] if self._usable(p, unit, known)]
            chosen |= self._solved(unit, usable or self.having[unit], chosen)
            known |= {unit, *self.children[unit]}
        return chosen

    def _usable(self, piece: _Piece, unit: int, known: Collection[int]) -> bool:
        own = {unit, *self.children[unit]}
        others = {slot.group for slot in piece.part.slots} - own
        return others <= set(known) and all(len(piece.part.dims(g)) < 2 for g in own)

    def _evidence(self, unit: int, known: Collection[int]) -> float:
        """Return how many numbers per unit there are in pieces whose other axes are known."""
        size = self.symmetry.groups[unit].size
        return sum(p.source.size / size for p in self.having[unit] if self._usable(p, unit, known))

    def descended(self, chosen: Permutations, generator: np.random.Generator) -> Matched:
        """Improve one group after another, in random orders, until none can be improved."""
        for _ in range(_SWEEPS):
            if self.exact(chosen):
                break
            better = False
            for unit in generator.permutation(self.units).tolist():
                found = chosen | self._solved(unit, self.having[unit], chosen)
                if all(np.array_equal(found[g], chosen[g]) for g in (unit, *self.children[unit]) if g in chosen):
                    continue
                gain = self.value(self.having[unit], found) - self.value(self.having[unit], chosen)
                if gain > _GAIN * self.scale:
                    chosen, better = found, True
            if not better:
                break
        return Matched(chosen, self.value(self.pieces, chosen))

    def _solved(self, unit: int, pieces: Collection[_Piece], chosen: Permutations) -> Permutations:
        """Return the best permutations of a group, and of those within its units, with all others held."""
        group = self.symmetry.groups[unit]
        entries = [entry for piece in pieces for entry in self._entries(piece, unit, chosen)]
        if not self.children[unit]:
            worth = sum((e.target @ e.source.T for e in entries), np.zeros((group.size, group.size)))
            return {unit: _assigned(worth)}
        n = group.size
        pairs = [(i, j) for i in range(n) for j in range(n) if i == j or not group.fixed]
        inner = self._inner(unit, entries, pairs)
        worth = np.zeros((group.size, group.size))
        for entry in entries:
            for i, j in pairs:
                worth[i, j] += np.vdot(entry.target[i], _inner_permuted(entry, i, j, inner))
        order = np.arange(group.size) if group.fixed else _assigned(worth)
        found = {} if group.fixed else {unit: order}
        return found | {c: rows[np.arange(group.size), order] for c, rows in inner.items()}

    def _entries(self, piece: _Piece, unit: int, chosen: Permutations) -> Iterator[_Entry]:
        """Yield a piece once for each occurrence of a group along it, permuted along everything else."""
        part, groups = piece.part, self.symmetry.groups
        for dim in part.dims(unit):
            within = [
                d
                for d, slot in enumerate(part.slots)
                if slot.group in self.children[unit] and part.outer_dim(d, unit) == dim
            ]
            arrays = []
            permuted = self.symmetry.permuted(part, piece.source, chosen, leave=(dim, *within))
            for array in (permuted, piece.target):
                front = np.moveaxis(array, (dim, *within), range(1 + len(within)))
                arrays.append(front.reshape(*front.shape[: 1 + len(within)], -1))
            if not within:
                arrays = [array.reshape(groups[unit].size, -1) for array in arrays]
            yield _Entry(tuple(part.slots[d].group for d in within), arrays[0], arrays[1])

    def _inner(self, unit: int, entries: Collection[_Entry], pairs: Collection[tuple[int, int]]) -> Permutations:
        """Match the units within every pair of outer units: arrays of shape (outer, outer, inner)."""
        size = self.symmetry.groups[unit].size
        found: Permutations = {}
        several = any(len(entry.children) > 1 for entry in entries)
        for _ in range(2 if several else 1):
            for child in self.children[unit]:
                usable = [
                    e for e in entries if e.children.count(child) == 1 and {*e.children} - {child} <= found.keys()
                ]
                n = self.symmetry.groups[child].size
                rows = found.get(child, np.broadcast_to(np.arange(n), (size, size, n)).copy())
                for i, j in pairs if usable else ():
                    worth = np.zeros((n, n))
                    for entry in usable:
                        place = entry.children.index(child)
                        a = np.moveaxis(_inner_permuted(entry, i, j, found, leave=place), place, 0).reshape(n, -1)
                        worth += np.moveaxis(entry.target[i], place, 0).reshape(n, -1) @ a.T
                    rows[i, j] = _assigned(worth)
                found[child] = rows
        return found


def _assigned(worth: Array) -> Any:
    """Return the column for each row so that the sum is largest (linear assignment)."""
    from scipy.optimize import linear_sum_assignment  # takes longer than everything else that is imported with us

    return linear_sum_assignment(worth, maximize=True)[1]


def _inner_permuted(entry: _Entry, i: int, j: int, inner: Permutations, leave: int | None = None) -> Array:
    """Return the source at outer unit j, with its inner units in the order for i except along one axis."""
    array: Array = entry.source[j]
    for place, child in enumerate(entry.children):
        if place != leave and child in inner:
            array = np.take(array, inner[child][i, j], axis=place)
    return array
