"""Split a tensor into blocks that extend along whole atoms, and derive what that implies for the atoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mgraph.align.axes import Atom, Axes, Axis, Family, Product


@dataclass(frozen=True)
class Block:
    """A part of a tensor: along axis k it lies at ``offsets[k]`` + Σ stride · index over the slots of that axis."""

    offsets: tuple[int, ...]
    slots: tuple[tuple[int, Atom, int], ...]  # axis, atom, stride

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """The atoms along which it extends."""
        return tuple(atom for _, atom, _ in self.slots)


_Slot = tuple[int, Atom, int]


@dataclass(frozen=True)
class _Unfinished:
    """A block with slots that may still have to be split; ``chosen`` says which part of a concatenation."""

    offsets: list[int]
    done: list[_Slot]
    pending: list[_Slot]
    chosen: dict[Atom, int]

    def having(self, slot: _Slot, axis: Sequence[Atom]) -> _Unfinished:
        """Return the same with a slot replaced by the factors of an axis."""
        k, _, stride = slot
        rest = [one for one in self.pending if one is not slot]
        return _Unfinished(
            self.offsets, self.done, [*((k, atom, s) for atom, s in _strided(axis, stride)), *rest], self.chosen
        )


def blocks_of(known: Axes, axes: Sequence[Axis]) -> list[Block]:
    """Return the parts of a tensor with these axes, each extending along atoms without structure."""
    pending = [(k, atom, stride) for k, axis in enumerate(axes) for atom, stride in _strided(known.factors(axis), 1)]
    found: list[Block] = []
    stack: list[_Unfinished] = [_Unfinished([0] * len(axes), [], pending, {})]
    while stack:
        one = stack.pop()
        if not one.pending:
            found.append(Block(tuple(one.offsets), tuple(one.done)))
            continue
        stack += _opened(known, one)
    return found


def _opened(known: Axes, one: _Unfinished) -> list[_Unfinished]:
    """Split the next slot of a block."""
    later = [p for p in one.pending if not _waits(known, known.find(p[1]), one)]
    k, atom, stride = slot = (later or one.pending)[0]
    atom = known.find(atom)
    structure = atom.structure
    if structure is None:
        rest = one.having(slot, ()).pending
        return [_Unfinished(one.offsets, [*one.done, (k, atom, stride)], rest, one.chosen)]
    if isinstance(structure, Family):
        parent = known.find(structure.parent)
        if parent not in one.chosen:
            known.make_uniform(atom, parent)
            axis = known.factors((atom,))
        else:
            axis = known.factors(structure.parts[one.chosen[parent]])
        return [one.having(slot, axis)]
    if isinstance(structure, Product):
        return [one.having(slot, known.factors((atom,)))]
    opened, start = [], 0
    for number, part in enumerate(structure.parts):
        into = one.having(slot, known.factors(part))
        offsets = list(one.offsets)
        offsets[k] += start * stride
        opened.append(_Unfinished(offsets, into.done, into.pending, {**one.chosen, atom: number}))
        start += known.size(part)
    return opened[::-1]


def _waits(known: Axes, atom: Atom, one: _Unfinished) -> bool:
    return isinstance(atom.structure, Family) and known.find(atom.structure.parent) not in one.chosen


def settle(known: Axes, values: Sequence[Sequence[Axis]]) -> None:
    """Make every permutation independent of indices that are not in all of the given tensors."""
    changed = True
    while changed:
        changed = False
        if not known.any_over:
            return
        for axes in values:
            for block in blocks_of(known, axes):
                atoms = set(map(known.find, block.atoms))
                for atom in atoms:
                    if atom.structure is not None:  # it was split while this was examined
                        changed = True
                        continue
                    for parent in known.parents(atom):
                        if parent not in atoms:
                            known.make_uniform(atom, parent)
                            changed = True


def _strided(axis: Sequence[Atom], stride: int) -> list[tuple[Atom, int]]:
    found: list[tuple[Atom, int]] = []
    for atom in reversed(axis):
        found.insert(0, (atom, stride))
        stride *= atom.size
    return found
