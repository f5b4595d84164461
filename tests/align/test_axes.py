"""Axes that share a permutation: split, cut, joined, and pinned where they have no common form."""

from __future__ import annotations

from mgraph.align.axes import Axes, Axis
from mgraph.align.blocks import blocks_of, settle


def free_sizes(axes: Axes, *value: Axis) -> list[list[int]]:
    """For every block of a tensor: the sizes of the atoms that may be permuted."""
    return [[atom.size for atom in map(axes.find, b.atoms) if not atom.fixed] for b in blocks_of(axes, value)]


def test_what_is_united_is_one() -> None:
    axes = Axes()
    a, b, c = (axes.fresh(6) for _ in range(3))
    axes.unify((a, b), (b, c))
    assert axes.factors(a) == axes.factors(c)
    axes.pin(b)
    assert axes.is_pinned(a)


def test_a_product_and_a_concatenation_of_one_axis_agree() -> None:
    axes = Axes()
    axis = axes.fresh(6)
    _, inner = axes.divide(axis, 3)
    axes.unify((axes.concatenated([axes.fresh(3), axes.fresh(3)]), axis))
    assert free_sizes(axes, axis) == [[3], [3]]  # in two halves, whose order is fixed
    first, second = (b.atoms[0] for b in blocks_of(axes, (axis,)))
    assert axes.find(first) is not axes.find(second)  # each has its own
    settle(axes, [(inner,)])  # met alone, it cannot depend on the half
    assert len({axes.find(b.atoms[0]) for b in blocks_of(axes, (axis,))}) == 1


def test_concatenations_are_cut_at_each_others_boundaries() -> None:
    axes = Axes()
    parts = [axes.fresh(2), axes.fresh(4)]
    axes.unify((axes.concatenated(parts), axes.concatenated([axes.fresh(5), axes.fresh(1)])))
    assert free_sizes(axes, parts[1]) == [[3], []]


def test_what_has_no_common_form_is_pinned() -> None:
    axes = Axes()
    axis = axes.fresh(6)
    axes.divide(axis, 2)
    axes.divide(axis, 3)
    assert axes.is_pinned(axis)
    left, right = axes.fresh(6), axes.fresh(6)
    axes.divide(left, 3)
    axes.divide(right, 2)
    axes.unify((left, right))
    assert axes.is_pinned(left)
    assert axes.is_pinned(right)


def test_what_lies_within_other_units_depends_on_them_only_where_they_are() -> None:
    axes = Axes()
    axis = axes.fresh(12)
    outer, inner = axes.divide(axis, 3)
    settle(axes, [(axis,), (outer, inner)])
    assert axes.parents(axes.factors(inner)[0]) == axes.factors(outer)
    settle(axes, [(inner,)])
    assert axes.parents(axes.factors(inner)[0]) == []


def test_parts_of_a_fused_matrix_have_units_of_their_own() -> None:
    axes = Axes()
    fused = axes.fresh(24)
    three, heads, within = axes.regroup([fused], [3, 4, 2])
    query, key = (axes.narrow([three, heads, within], 0, k, k + 1)[1:] for k in (0, 1))
    settle(axes, [tuple(query), tuple(key)])
    assert axes.factors(query[0]) != axes.factors(key[0])
    assert axes.parents(axes.factors(query[1])[0]) == axes.factors(query[0])
    axes.unify(*zip(query, key, strict=True))
    assert len(free_sizes(axes, fused)) == 3
    assert free_sizes(axes, fused)[0] == free_sizes(axes, fused)[1] == [4, 2]
