"""Which axes of which tensors share one permutation, found by following what operations do to axes.

An axis is a product of *atoms*, the outermost first; an axis of length 1 has none. An atom is a set of units that may
be permuted freely, until it turns out to have structure: a product (a view that splits it), a concatenation (a slice of
it, or ``cat``), or a family: separate units for every part of its parent (query, key and value in one matrix). The
permutation of an inner atom may differ between indices of an outer atom (the units within an attention head, the
channels within a group), as long as the outer atom occurs in every tensor that has the inner one.

Anything without such a form is pinned, which is always correct: it then keeps its order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod

Axis = tuple["Atom", ...]


@dataclass(frozen=True)
class Product:
    """Factors, the outermost first."""

    factors: Axis


@dataclass(frozen=True)
class Concatenation:
    """Parts, one after another."""

    parts: tuple[Axis, ...]


@dataclass(frozen=True)
class Family:
    """As many axes of the same length as its parent, a concatenation, has parts."""

    parent: Atom
    parts: tuple[Axis, ...]


class Atom:
    """Some units, in order.

    ``over`` are the outer atoms on whose index their permutation may depend; None: not known to be limited.
    """

    __slots__ = ("fixed", "joined", "over", "size", "structure")

    def __init__(self, size: int, over: Iterable[Atom] | None, *, fixed: bool) -> None:
        self.size, self.fixed = size, fixed
        self.over = None if over is None else tuple(over)
        self.structure: Product | Concatenation | Family | None = None
        self.joined: Atom | None = None  # the atom into which it was merged


@dataclass(frozen=True)
class _Cut:
    """An axis cut in two; atoms over ``head``, its outermost atom, are restricted to one side."""

    sides: tuple[Axis, Axis]
    head: Atom | None
    ranges: tuple[tuple[int, int], tuple[int, int]]
    heads: tuple[Atom | None, Atom | None]


class Axes:
    """The atoms of one network and what is known about them."""

    def __init__(self) -> None:
        self._over: dict[Atom, None] = {}  # atoms that have, or had, outer atoms
        self._family: dict[Atom, None] = {}  # atoms that are, or were, families

    # Making

    def fresh(self, size: int, over: Iterable[Atom] | None = None, *, fixed: bool = False) -> Axis:
        """Return a new axis, either pinned or with nothing known about it."""
        if size == 1:
            return ()
        atom = Atom(size, () if fixed else over, fixed=fixed)
        self._place_over(atom, atom.over)
        return (atom,)

    def _place_over(self, atom: Atom, over: tuple[Atom, ...] | None) -> None:
        atom.over = over
        if over:
            self._over[atom] = None

    def _make_family(self, axis: Axis, parent: Atom, parts: tuple[Axis, ...]) -> None:
        for atom in axis:  # no atom if there is one unit
            atom.structure = Family(parent, parts)
            self._family[atom] = None

    def concatenated(self, parts: Sequence[Axis]) -> Axis:
        """Return the axis of parts placed one after another."""
        if len(parts) == 1:
            return parts[0]
        axis = self.fresh(sum(map(self.size, parts)), ())
        axis[0].structure = Concatenation(tuple(parts))
        return axis

    def stacked(self, parts: Sequence[Axis]) -> tuple[Axis, Axis]:
        """Return two axes: the number of a part, and a position along it."""
        if len({tuple(self.factors(part)) for part in parts}) == 1:
            return self.fresh(len(parts)), parts[0]
        outer = self.concatenated([()] * len(parts))
        inner = self.fresh(self.size(parts[0]), outer)
        self._make_family(inner, outer[0], tuple(parts))
        return outer, inner

    # Looking

    def size(self, axis: Axis) -> int:
        """Return the length of an axis."""
        return prod(atom.size for atom in axis)

    def find(self, atom: Atom) -> Atom:
        """Return the atom into which one was merged."""
        while atom.joined is not None:
            atom = atom.joined
        return atom

    def factors(self, axis: Axis) -> list[Atom]:
        """Return the factors of an axis as far as they are known."""
        found: list[Atom] = []
        for atom in map(self.find, axis):
            found += self.factors(atom.structure.factors) if isinstance(atom.structure, Product) else [atom]
        return found

    def is_pinned(self, axis: Axis) -> bool:
        """Return whether an axis keeps its order."""
        return all(atom.fixed for atom in self.factors(axis))

    def parents(self, atom: Atom) -> list[Atom]:
        """Return the outer atoms on which a permutation may depend."""
        return self.factors(atom.over or ())

    def _dependent(self, parent: Atom) -> list[Atom]:
        """Return the atoms over a parent that have no structure yet, outer ones first."""
        found = [a for a in self._over if a.joined is None and a.structure is None and parent in self.parents(a)]
        return sorted(found, key=lambda atom: len(self.parents(atom)))

    # Pinning

    def pin(self, *axes: Axis) -> None:
        """Make axes keep their order."""
        for axis in axes:
            for atom in self.factors(axis):
                if not atom.fixed:
                    atom.fixed = True
                    if isinstance(atom.structure, Concatenation | Family):
                        self.pin(*atom.structure.parts)

    def make_uniform(self, atom: Atom, parent: Atom) -> None:
        """Make the permutation of an atom independent of the index of a parent."""
        atom.over = tuple(p for p in self.parents(atom) if p is not parent)
        if isinstance(atom.structure, Family) and self.find(atom.structure.parent) is parent:
            first, *others = atom.structure.parts
            atom.structure = Product(first)
            for other in others:
                self.unify((first, other))

    # Splitting

    def divide(self, axis: Axis, inner: int) -> tuple[Axis, Axis]:
        """Split an axis into an outer one and an inner one of this length; pin both if that is impossible."""
        left, size = self.factors(axis), 1
        found: list[Atom] = []
        total = self.size(axis)
        while size < inner and left:
            atom = left.pop()
            if inner % (size * atom.size) == 0:
                found.insert(0, atom)
                size *= atom.size
            elif inner % size == 0 and atom.size % (inner // size) == 0:
                outer, within = self._factored(atom, inner // size)
                left += self.factors(outer)
                found = self.factors(within) + found
                size = inner
            else:
                self.pin(axis)
                return self.fresh(total // inner, fixed=True), self.fresh(inner, fixed=True)
        return tuple(left), tuple(found)

    def regroup(self, axes: Sequence[Axis], sizes: Sequence[int]) -> list[Axis]:
        """Return axes of these lengths over the same elements."""
        whole = tuple(atom for axis in axes for atom in axis)
        found: list[Axis] = []
        for size in reversed(sizes):
            whole, inner = self.divide(whole, size)
            found.insert(0, inner)
        return found

    def _factored(self, atom: Atom, inner: int) -> tuple[Axis, Axis]:
        """Make an atom a product whose last factor has this length."""
        structure, over = atom.structure, atom.over or ()
        outer_size = atom.size // inner
        if structure is None:
            outer = self.fresh(outer_size, atom.over, fixed=atom.fixed)
            within = self.fresh(inner, (*outer, *over), fixed=atom.fixed)
        elif isinstance(structure, Concatenation) and any(self.size(part) % inner for part in structure.parts):
            self.pin((atom,))
            for other in self._families(atom):
                self.make_uniform(other, atom)
            outer, within = self.fresh(outer_size, fixed=True), self.fresh(inner, fixed=True)
        else:
            assert isinstance(structure, Concatenation | Family)
            split = [self.divide(part, inner) for part in structure.parts]
            outers, inners = tuple(o for o, _ in split), tuple(self._flat(i) for _, i in split)
            outer = self.fresh(outer_size, over, fixed=atom.fixed)
            alike = all(one == inners[0] for one in inners)
            within = inners[0] if alike else self.fresh(inner, (*outer, *over), fixed=atom.fixed)
            if isinstance(structure, Concatenation):
                outer[0].structure = Concatenation(outers)
                parent = outer[0]
                for other in self._families(atom):  # they are over its parts, which are now parts of the outer one
                    assert isinstance(other.structure, Family)
                    self._make_family((other,), parent, other.structure.parts)
                    self._place_over(other, (*self.parents(other), parent))
            else:
                parent = structure.parent
                self._make_family(outer, parent, outers)
            if not alike:
                self._make_family(within, parent, inners)
        atom.structure = Product((*outer, *within))
        return outer, within

    def _flat(self, axis: Axis) -> Axis:
        return tuple(self.factors(axis))

    def _families(self, parent: Atom) -> list[Atom]:
        return [
            a
            for a in self._family
            if a.joined is None and isinstance(a.structure, Family) and self.find(a.structure.parent) is parent
        ]

    @property
    def any_over(self) -> bool:
        """Whether the permutation of any atom may depend on the index of another."""
        return any(atom.over for atom in self._over if atom.joined is None)

    # Cutting

    def narrow(self, axes: Sequence[Axis], dim: int, start: int, stop: int) -> list[Axis]:
        """Return the axes of the part of a tensor from ``start`` to ``stop`` along axis ``dim``."""
        axes = list(axes)
        for side, at in ((1, start), (0, stop - start)):
            if 0 < at < self.size(axes[dim]):
                cut = self._cut(axes[dim], at)
                axes = [cut.sides[side] if k == dim else self._restricted(x, cut, side) for k, x in enumerate(axes)]
        if start == stop:
            axes[dim] = self.fresh(0, fixed=True)
        return axes

    def _cut(self, axis: Axis, at: int) -> _Cut:
        """Cut an axis in two, pinning it if the cut divides more than its outermost atom."""
        head, *rest = self.factors(axis)
        inner = prod(atom.size for atom in rest)
        total = head.size * inner
        if at % inner or (head.fixed and head.structure is None and not rest and not self._dependent(head)):
            self.pin(axis)
            sides = self.fresh(at, fixed=True), self.fresh(total - at, fixed=True)
            return _Cut(sides, None, ((0, 0), (0, 0)), (None, None))
        boundary = self._cut_atom(head, at // inner)
        assert isinstance(head.structure, Concatenation)
        parts = head.structure.parts
        ranges = ((0, boundary), (boundary, len(parts)))
        new = [self.concatenated(parts[start:stop]) for start, stop in ranges]
        heads = tuple(a[0] if stop - start > 1 else None for a, (start, stop) in zip(new, ranges, strict=True))
        cut = _Cut(((), ()), head, ranges, (heads[0], heads[1]))
        within = [self._restricted(tuple(rest), cut, side) for side in (0, 1)]
        return _Cut(((*new[0], *within[0]), (*new[1], *within[1])), head, ranges, cut.heads)

    def _restricted(self, axis: Axis, cut: _Cut, side: int) -> Axis:
        """Return an axis of a tensor of which only one side of a cut remains."""
        if cut.head is None:
            return axis
        start, stop = cut.ranges[side]
        found: list[Atom] = []
        for atom in self.factors(axis):
            structure = atom.structure
            if isinstance(structure, Family) and self.find(structure.parent) is cut.head:
                if stop - start == 1:
                    found += structure.parts[start]
                    continue
                new_head = cut.heads[side]
                assert new_head is not None
                new = self.fresh(atom.size, (new_head,), fixed=atom.fixed)
                self._make_family(new, new_head, structure.parts[start:stop])
                found += new
            elif isinstance(structure, Concatenation | Family):
                parts = tuple(self._restricted(part, cut, side) for part in structure.parts)
                if all(tuple(self.factors(old)) == new for old, new in zip(structure.parts, parts, strict=True)):
                    found.append(atom)
                    continue
                new = self.fresh(atom.size, atom.over or (), fixed=atom.fixed)
                if isinstance(structure, Family):
                    self._make_family(new, structure.parent, parts)
                else:
                    new[0].structure = Concatenation(parts)
                found += new
            else:
                found.append(atom)
        return tuple(found)

    def _cut_atom(self, atom: Atom, at: int) -> int:
        """Make an atom a concatenation with a boundary there; return how many parts lie before it."""
        structure = atom.structure
        if structure is None:
            parts = (
                self.fresh(at, atom.over, fixed=atom.fixed),
                self.fresh(atom.size - at, atom.over, fixed=atom.fixed),
            )
            self._concatenate(atom, parts)
            return 1
        if isinstance(structure, Family):
            cuts = [self._cut(part, at) for part in structure.parts]
            halves = []
            for side, size in enumerate((at, atom.size - at)):
                half = self.fresh(size, atom.over or (), fixed=atom.fixed)
                self._make_family(half, structure.parent, tuple(cut.sides[side] for cut in cuts))
                halves.append(half)
            self._concatenate(atom, tuple(halves))
            return 1
        assert isinstance(structure, Concatenation)
        ends = list(accumulate(map(self.size, structure.parts)))
        if at in ends:
            return ends.index(at) + 1
        k = next(k for k, end in enumerate(ends) if end > at)
        cut = self._cut(structure.parts[k], at - (ends[k - 1] if k else 0))
        for other in self._families(atom):
            assert isinstance(other.structure, Family)
            halves = [self._restricted(other.structure.parts[k], cut, side) for side in (0, 1)]
            parts_of_other = other.structure.parts
            self._make_family((other,), atom, (*parts_of_other[:k], *halves, *parts_of_other[k + 1 :]))
        atom.structure = Concatenation((*structure.parts[:k], *cut.sides, *structure.parts[k + 1 :]))
        return k + 1

    def _concatenate(self, atom: Atom, parts: tuple[Axis, ...]) -> None:
        atom.structure = Concatenation(parts)
        self._make_families(atom)

    def _make_families(self, parent: Atom) -> None:
        """Give everything over a concatenation separate units for each of its parts."""
        assert isinstance(parent.structure, Concatenation)
        for atom in self._dependent(parent):
            above = [p for p in self.parents(atom) if p is not parent]
            parts = []
            for k, part in enumerate(parent.structure.parts):
                over = self.factors(part)
                for p in above:
                    s = p.structure
                    of_parent = isinstance(s, Family) and self.find(s.parent) is parent
                    over += self.factors(s.parts[k]) if of_parent and isinstance(s, Family) else [p]
                parts.append(self.fresh(atom.size, over, fixed=atom.fixed))
            self._make_family((atom,), parent, tuple(parts))

    # Uniting

    def unify(self, *pairs: tuple[Axis, Axis]) -> None:
        """Make the axes of every pair share one permutation."""
        matched = [pair for x, y in pairs for pair in self._matched(x, y)]
        matched.sort(key=lambda pair: sum(len(atom.over or ()) for atom in pair))  # outer ones first
        for a, b in matched:
            self._join(self.find(a), self.find(b))

    def _matched(self, x: Axis, y: Axis) -> list[tuple[Atom, Atom]]:
        """Split two axes into factors of the same lengths."""
        left, right = self.factors(x), self.factors(y)
        found: list[tuple[Atom, Atom]] = []
        while left and right:
            a, b = left.pop(), right.pop()
            if a is b:
                continue
            if a.size == b.size:
                found.insert(0, (a, b))
                continue
            if a.size < b.size:
                left, right, a, b = right, left, b, a
            if a.size % b.size:
                self.pin(x, y)
                return []
            outer, inner = self._factored(a, b.size)
            left += self.factors((*outer, *inner))
            right.append(b)
        return found

    def _join(self, a: Atom, b: Atom) -> None:
        if a is b:
            return
        if isinstance(a.structure, Product) or isinstance(b.structure, Product):
            self.unify(((a,), (b,)))
            return
        if a.fixed or b.fixed:
            self.pin((a,), (b,))
        if a.structure is not None and b.structure is None:
            a, b = b, a
        over = self._common(a, b)
        if isinstance(b.structure, Family) and a.structure is None:
            parent = self.find(b.structure.parent)
            if a.over is not None and parent not in self.parents(a):
                self.make_uniform(b, parent)
                self.unify(((a,), (b,)))
                return
        elif a.structure is not None and not self._same_structure(a, b):
            self.unify(((a,), (b,)))
            return
        a.joined = b
        self._place_over(b, over)
        if isinstance(b.structure, Concatenation):
            self._make_families(b)

    def _same_structure(self, a: Atom, b: Atom) -> bool:
        """Merge the parts of two atoms; return False if they first had to be brought into the same form."""
        s, t = a.structure, b.structure
        if isinstance(s, Family) and isinstance(t, Family):
            if self.find(s.parent) is self.find(t.parent):
                self.unify(*zip(s.parts, t.parts, strict=True))
                return True
            self.make_uniform(a, self.find(s.parent))
            self.make_uniform(b, self.find(t.parent))
            return False
        if isinstance(s, Family) or isinstance(t, Family):
            cut, other = (a, t) if isinstance(s, Family) else (b, s)
            assert isinstance(other, Concatenation)
            for at in list(accumulate(map(self.size, other.parts)))[:-1]:
                self._cut_atom(cut, at)
            return False
        assert isinstance(s, Concatenation)
        assert isinstance(t, Concatenation)
        for atom, other in ((a, t), (b, s)):
            for at in list(accumulate(map(self.size, other.parts)))[:-1]:
                self._cut_atom(atom, at)
        s, t = a.structure, b.structure
        assert isinstance(s, Concatenation)
        assert isinstance(t, Concatenation)
        self.unify(*zip(s.parts, t.parts, strict=True))
        return True

    def _common(self, a: Atom, b: Atom) -> tuple[Atom, ...] | None:
        if a.over is None or b.over is None:
            return b.over if a.over is None else a.over
        theirs = self.parents(b)
        return tuple(p for p in self.parents(a) if p in theirs)
