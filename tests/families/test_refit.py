"""One family started from another: exact where it can be, else the best fit."""

import os
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgraph.errors import InputError
from mgraph.families import BezierCurveFamily as Curve
from mgraph.families import BezierSurfaceFamily as Surface
from mgraph.families import PolygonalChainFamily as Chain
from mgraph.families import Segment, SimplexFamily
from mgraph.families.refit import is_exact, refit

# the corners a, b, c, d of a square, moved by its eight symmetries: diagonals a-d and b-c stay diagonals
SYMMETRIES = [p for p in permutations(range(4)) if {p[0], p[3]} in ({0, 3}, {1, 2})]
MANY = int(os.environ.get("MGRAPH_EXAMPLES", "1"))  # so many times more of them: make stress
few = settings(max_examples=6 * MANY, deadline=None)


def laid_over(target, source, ends, t):
    """p(t), written out for each kind of domain."""
    corners = source.end_parameters()[list(ends)]
    if isinstance(target, SimplexFamily):
        weights = t
    elif target.dimension == 1:
        weights = np.concatenate([1 - t, t], axis=1)
    else:
        u, v = t.T
        weights = np.stack([(1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v], axis=1)
    return np.clip(weights @ corners, 0, 1)


def check(target, source, ends, atol=1e-12):
    """The target's map is the source's on a fine grid, its ends are one-hot, its rows sum to one."""
    rows = refit(target, source, ends)
    assert rows.shape == (target.size, source.size)
    np.testing.assert_array_equal(rows[list(target.ends)], np.eye(source.size)[np.array(source.ends)[list(ends)]])
    assert (np.abs(rows.sum(axis=1) - 1.0) <= 4e-16 * np.abs(rows).sum(axis=1)).all()
    if is_exact(target, source, ends):
        t = target.grid({1: 101, 2: 21}.get(target.dimension, 4)).points
        expected = source.coefficients(laid_over(target, source, ends, t))
        np.testing.assert_allclose(target.coefficients(t) @ rows, expected, rtol=0, atol=atol)
    return rows


def elevation(low, high):
    """The matrix that raises a Bézier curve's degree, one at a time, by the textbook."""
    total = np.eye(low + 1)
    for n in range(low, high):
        i = np.arange(n + 2)[:, None] / (n + 1)
        step = np.zeros((n + 2, n + 1))
        step[1:] += i[1:] * np.eye(n + 1)
        step[:-1] += (1 - i[:-1]) * np.eye(n + 1)
        total = step @ total
    return total


@few
@given(bends=st.integers(0, 12), more=st.integers(0, 12))
def test_raising_the_degree_of_a_curve_leaves_the_map_unchanged(bends, more):
    source, target = Curve(bends), Curve(min(12, bends + more))
    rows = check(target, source, (0, 1))
    assert is_exact(target, source, (0, 1))
    np.testing.assert_allclose(rows, elevation(bends + 1, target.bends + 1), rtol=0, atol=1e-11)
    check(target, source, (1, 0))
    assert is_exact(target, source, (1, 0))


@pytest.mark.parametrize("family", [Segment(), SimplexFamily(2), *(Curve(b) for b in (1, 5, 12)), Chain(1), Chain(12)])
def test_a_path_refitted_to_itself_or_turned_round_is_a_permutation_of_its_rows(family):
    np.testing.assert_array_equal(check(family, family, (0, 1)), np.eye(family.size))
    np.testing.assert_array_equal(check(family, family, (1, 0)), np.eye(family.size)[::-1])
    assert is_exact(family, family, (1, 0))


@pytest.mark.parametrize("symmetry", SYMMETRIES, ids=str)
@pytest.mark.parametrize("degree", [(1, 1), (2, 2), (4, 4), (8, 8)], ids=str)
def test_the_eight_symmetries_of_a_surface_are_permutations_of_its_rows(symmetry, degree):
    family = Surface(degree)
    rows = check(family, family, symmetry)
    assert is_exact(family, family, symmetry)
    np.testing.assert_array_equal(np.sort(rows, axis=1)[:, -1], 1.0)
    assert np.count_nonzero(rows) == family.size


@pytest.mark.parametrize("symmetry", SYMMETRIES, ids=str)
@pytest.mark.parametrize(("low", "high"), [((1, 1), (2, 2)), ((2, 2), (4, 3)), ((1, 3), (3, 3)), ((2, 2), (8, 8))])
def test_raising_the_degree_of_a_surface_leaves_the_map_unchanged(low, high, symmetry):
    rows = check(Surface(high), Surface(low), symmetry)
    assert is_exact(Surface(high), Surface(low), symmetry)
    if symmetry == (0, 1, 2, 3):
        np.testing.assert_allclose(
            rows, np.kron(elevation(low[0], high[0]), elevation(low[1], high[1])), rtol=0, atol=1e-11
        )


@pytest.mark.parametrize(
    "target", [Segment(), SimplexFamily(2), Curve(0), Curve(3), Curve(12), Chain(0), Chain(5)], ids=str
)
@pytest.mark.parametrize("source", [Segment(), SimplexFamily(2), Curve(0), Chain(0)], ids=str)
def test_a_straight_segment_starts_any_path(target, source):
    np.testing.assert_allclose(check(target, source, (0, 1)), target.initial(), rtol=0, atol=1e-11)
    assert is_exact(target, source, (0, 1))
    assert is_exact(target, source, (1, 0))


@pytest.mark.parametrize("source", [SimplexFamily(4), SimplexFamily(6)], ids=str)
def test_the_corners_of_a_simplex_start_what_lies_between_them_straight(source):
    for target in (Segment(), Curve(2), Chain(2), Surface((1, 1)), Surface((3, 2)), SimplexFamily(3), SimplexFamily(4)):
        ends = (3, 1, 2, 0)[: len(target.ends)]
        rows = check(target, source, ends)
        assert is_exact(target, source, ends)
        np.testing.assert_allclose(rows[:, list(ends)], target.initial(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("ends", "along"), [((0, 1), "v"), ((1, 0), "v"), ((2, 3), "v"), ((0, 2), "u"), ((3, 1), "u")], ids=str
)
def test_an_edge_of_a_surface_becomes_a_curve_of_its_degree_or_more(ends, along):
    source = Surface((3, 5))
    degree = source.degree["uv".index(along)]
    for bends in (degree - 1, degree, 12):
        rows = check(Curve(bends), source, ends)
        assert is_exact(Curve(bends), source, ends)
        touched = {k for k in range(source.size) if rows[:, k].any()}
        assert touched == {k for k in range(source.size) if source.coefficients(edge_middle(source, ends))[0, k]}
    assert not is_exact(Curve(degree - 2), source, ends)


def edge_middle(source, ends):
    return source.end_parameters()[list(ends)].mean(axis=0, keepdims=True)


def test_a_diagonal_of_a_surface_is_a_curve_of_both_degrees_together():
    source = Surface((2, 3))
    check(Curve(4), source, (0, 3))
    assert is_exact(Curve(4), source, (0, 3))
    assert is_exact(Curve(4), source, (2, 1))
    assert not is_exact(Curve(3), source, (0, 3))


@pytest.mark.parametrize(("bends", "finer"), [(0, 4), (1, 3), (1, 5), (2, 5), (2, 8), (6, 13)])
def test_a_chain_is_split_at_its_knots(bends, finer):
    source, target = Chain(bends), Chain(finer)
    for ends in ((0, 1), (1, 0)):
        rows = check(target, source, ends)
        assert is_exact(target, source, ends)
        knots = target.knots if ends == (0, 1) else 1 - target.knots
        expected = source.coefficients(np.clip(knots, 0, 1)[:, None])
        np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("target", "source", "ends"),
    [
        (Chain(2), Chain(1), (0, 1)),  # its knot is none of the target's
        (Chain(1), Chain(3), (0, 1)),
        (Curve(12), Chain(1), (0, 1)),
        (Curve(1), Curve(2), (1, 0)),
        (Segment(), Curve(1), (0, 1)),
        (Surface((2, 1)), Surface((2, 2)), (0, 1, 2, 3)),
        (Surface((2, 3)), Surface((3, 2)), (0, 1, 2, 3)),
        (Surface((2, 2)), Surface((2, 2)), (0, 1, 3, 2)),  # a bow tie
        (SimplexFamily(3), Surface((1, 1)), (0, 1, 2)),
    ],
    ids=str,
)
def test_a_target_that_cannot_hold_the_map_says_so(target, source, ends):
    check(target, source, ends)
    assert not is_exact(target, source, ends)


@pytest.mark.parametrize(
    ("target", "source", "ends"),
    [
        (Curve(1), Chain(1), (0, 1)),
        (Curve(4), Chain(3), (1, 0)),
        (Curve(12), Chain(12), (0, 1)),
        (Curve(1), Curve(4), (0, 1)),
        (Chain(2), Curve(3), (0, 1)),
        (Chain(2), Chain(4), (1, 0)),
        (Surface((2, 2)), Surface((3, 3)), (2, 0, 3, 1)),
        (Curve(2), Surface((3, 3)), (1, 2)),
    ],
    ids=str,
)
def test_no_other_free_rows_come_nearer_to_the_source(target, source, ends):
    """∫‖θ_target(t) - θ_source(p(t))‖² by a fine midpoint rule, for random control points, is at its minimum."""
    rng = np.random.default_rng(0)
    n = 2000 if target.dimension == 1 else 60
    middles = (np.arange(n) + 0.5) / n
    t = np.stack(np.meshgrid(*[middles] * target.dimension, indexing="ij"), axis=-1).reshape(-1, target.dimension)
    basis = target.coefficients(t)
    wanted = source.coefficients(laid_over(target, source, ends, t))
    rows = check(target, source, ends)
    P = rng.normal(size=(source.size, 4))

    def miss(candidate):
        return (((basis @ candidate - wanted) @ P) ** 2).sum(axis=1).mean()

    best = miss(rows)
    assert best > 1e-8
    free = list(target.free)
    for size in (1.0, 0.1, 0.01):
        for _ in range(20):
            other = rows.copy()
            other[free] += size * rng.normal(size=(len(free), source.size))
            assert miss(other) > best
    # the residual is orthogonal to every free basis function
    gradient = basis[:, free].T @ (basis @ rows - wanted) / len(t)
    assert np.abs(gradient).max() < 1e-5


def test_steep_degrees_stay_within_the_range_of_their_source():
    """Rounding is not blown up: rows that come from raising a degree are convex combinations."""
    for target, source, ends in (
        (Curve(12), Curve(6), (0, 1)),
        (Surface((8, 8)), Surface((3, 3)), (0, 1, 2, 3)),
        (Curve(12), Surface((8, 8)), (1, 3)),
    ):
        rows = check(target, source, ends)
        assert rows.min() >= 0.0
        assert rows.max() <= 1.0


@pytest.mark.parametrize("function", [refit, is_exact])
@pytest.mark.parametrize(
    ("target", "source", "ends", "message"),
    [
        (Surface(), Curve(2), (0, 1), "cannot start a surface"),
        (Surface(), Segment(), (0, 1, 0, 1), "2 dimensions or more"),
        (SimplexFamily(3), Chain(1), (0, 1), "cannot start a simplex of 3 modes"),
        (SimplexFamily(4), Surface(), (0, 1, 2, 3), "cannot start a simplex of 4 modes"),
        (Surface(), SimplexFamily(3), (0, 1, 2), "4 ends"),
        (Surface(), SimplexFamily(3), (0, 1, 2, 3), "0 to 2"),
        (Curve(2), Surface(), (0,), "2 ends"),
        (Curve(2), Surface(), (0, 1, 2), "2 ends"),
        (Curve(2), Surface(), (0, 4), "0 to 3"),
        (Curve(2), Curve(1), (-1, 0), "0 to 1"),
        (Curve(2), Curve(1), (0.0, 1.0), "0 to 1"),
        (Curve(2), Curve(1), "ab", "0 to 1"),
        (Curve(2), Surface(), (1, 1), "another end"),
        (Surface(), Surface(), (0, 1, 2, 0), "another end"),
    ],
)
def test_bad_ends_and_bad_sources_are_refused(function, target, source, ends, message):
    with pytest.raises(InputError, match=message):
        function(target, source, ends)
