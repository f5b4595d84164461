"""Every family: coefficients, derivatives, ends and starts, in one body for all of them."""

import os
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mgraph.errors import InputError
from mgraph.families import (
    FAMILIES,
    BezierCurveFamily,
    BezierSurfaceFamily,
    CompositePath,
    PlaneFamily,
    PolygonalChainFamily,
    Segment,
    SimplexFamily,
    family_from,
)
from mgraph.families.composite import Piece, path_waypoints
from mgraph.network.flat import combine as combine_torch
from mgraph_store.tensors.kernel import combine as combine_store

CURVES = [Segment(), *(BezierCurveFamily(bends) for bends in (0, 1, 2, 3, 4, 12))]
CHAINS = [*(PolygonalChainFamily(bends) for bends in (0, 1, 2, 6)), PolygonalChainFamily(3, (0.05, 0.625, 0.75))]
SURFACES = [BezierSurfaceFamily(degree) for degree in ((1, 1), (2, 1), (1, 3), (2, 2), (3, 2), (8, 8))]
SIMPLICES = [SimplexFamily(corners) for corners in (2, 3, 4, 6)]
ONCE = (((0.0,), (1.0,)), ((1.0,), (0.0,)))  # a path's domain, in both directions
COMPOSITES = [
    CompositePath((Piece(Segment(), (0, 1), ONCE[0]),)),
    CompositePath((Piece(Segment(), (0, 2), ONCE[0]), Piece(Segment(), (1, 2), ONCE[1])), (0.3,)),
    CompositePath(
        (
            Piece(PolygonalChainFamily(1), (3, 1, 0), path_waypoints(PolygonalChainFamily(1), backwards=True)),
            Piece(SimplexFamily(2), (3, 2), path_waypoints(SimplexFamily(2))),
        ),
        (0.25, 0.5),
    ),
    CompositePath(
        (Piece(BezierCurveFamily(2), (0, 1, 2, 3), ONCE[0]), Piece(BezierCurveFamily(2), (6, 5, 4, 3), ONCE[1])),
        (0.75,),
    ),
]
PLANES = [
    PlaneFamily(),
    PlaneFamily(  # of three nodes on it, two are ends
        (1.3, -0.2, -0.1), (-1.0, 1.0, 0.0), (-1.25, 0.0, 1.25), (0, 2), ((0.2, 0.08), (0.2, 0.88)), (-1.0, 4.0)
    ),
    PlaneFamily(
        (-0.475, 0.2125, 0.2125, 1.05), (0.5, -0.25, -0.25, 0.0), (0.9, -0.35, -0.35, -0.2), (3,), ((0.5, 0.25),)
    ),
]
EVERY = CURVES + CHAINS + SURFACES + SIMPLICES + COMPOSITES + PLANES
every_family = pytest.mark.parametrize("family", EVERY, ids=str)
every_smooth_family = pytest.mark.parametrize("family", CURVES + SURFACES + SIMPLICES + PLANES, ids=str)
every_cube = pytest.mark.parametrize("family", CURVES + CHAINS + SURFACES + COMPOSITES + PLANES, ids=str)
every_chain = pytest.mark.parametrize("family", CHAINS, ids=str)
every_surface = pytest.mark.parametrize("family", SURFACES, ids=str)
every_simplex = pytest.mark.parametrize("family", SIMPLICES, ids=str)

MANY = int(os.environ.get("MGRAPH_EXAMPLES", "1"))  # so many times more of them: make stress
few = settings(max_examples=8 * MANY, deadline=None)
floats32 = st.floats(width=32, allow_nan=False)
# what a caller may pass, with what float32 rounds to 0 or to 1 among it
awkward = st.sampled_from([0.0, -0.0, 1.0, 1e-60, 1e-45, 1e-40, 1 - 1e-12, -1.0])


@st.composite
def parameters(draw, family, low=0.0, high=1.0):
    """Five parameters; on a simplex, coordinates of at least ``low``."""
    numbers = draw(arrays(np.float64, (5, family.coordinates), elements=st.floats(low, high)))
    if isinstance(family, SimplexFamily):
        numbers += 1e-12 if low == 0 else low
        numbers /= numbers.sum(axis=1, keepdims=True)
    return numbers


def moves(family):
    """A step along each direction of the domain, shape (d, coordinates)."""
    if isinstance(family, SimplexFamily):  # at the expense of the last corner
        return np.concatenate([np.eye(family.dimension), -np.ones((family.dimension, 1))], axis=1)
    return np.eye(family.dimension)


def bilinear(u, v):
    return np.stack([(1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v], axis=1)


def rows_of(size, seed, columns=37):
    return list(np.random.default_rng(seed).normal(size=(size, columns)).astype(np.float32))


def both_sums(coefficients, rows):
    """The sum of float32 rows as the store's kernel and as the engine compute it."""
    out = torch.empty(rows[0].shape[0])
    combine_torch(coefficients, [torch.from_numpy(row) for row in rows], out)
    return combine_store(coefficients, rows), out.numpy()


def test_every_registered_family_is_tested_here():
    assert {type(family) for family in EVERY} == set(FAMILIES.values())
    assert [name for name, family in FAMILIES.items() if family.name != name] == []


@every_family
@few
@given(data=st.data())
def test_coefficients_sum_to_one_and_derivatives_to_zero(family, data):
    t = data.draw(parameters(family))
    c, d = family.coefficients(t), family.derivatives(t)
    assert c.shape == (5, family.size)
    assert d.shape == (5, family.dimension, family.size)
    np.testing.assert_allclose(c.sum(axis=1), 1.0, atol=1e-14)
    np.testing.assert_allclose(d.sum(axis=2), 0.0, atol=1e-13)


@every_surface
@few
@given(data=st.data())
def test_coefficients_on_a_grid_are_products_of_their_factors(family, data):
    """Bit for bit, so that either of them may be stored."""
    axes = [np.array([0.0, *sorted(data.draw(st.sets(st.floats(1e-3, 0.999), max_size=6))), 1.0]) for _ in range(2)]
    along_u, along_v = family.factors(axes)
    products = (along_u[:, None] * along_v[None]).reshape(-1, family.size)
    assert products.tobytes() == family.coefficients(family.grid_on(axes).points).tobytes()


@pytest.mark.parametrize("family", CURVES + CHAINS + SURFACES + SIMPLICES, ids=str)
@few
@given(data=st.data())
def test_points_lie_between_the_control_points(family, data):
    assert (family.coefficients(data.draw(parameters(family))) >= 0).all()


@every_smooth_family
@few
@given(data=st.data())
def test_derivative_is_the_finite_difference(family, data):
    t, h = data.draw(parameters(family, 0.01, 0.99)), 1e-5
    for axis, move in enumerate(moves(family)):
        difference = (family.coefficients(t + h * move) - family.coefficients(t - h * move)) / (2 * h)
        np.testing.assert_allclose(family.derivatives(t)[:, axis], difference, atol=1e-6)


@every_chain
@few
@given(data=st.data())
def test_derivative_of_a_chain_is_the_finite_difference_between_knots(family, data):
    piece = data.draw(st.integers(0, family.bends))
    left, right = family.knots[piece : piece + 2]
    t, h = left + (right - left) * data.draw(parameters(family, 0.01, 0.99)), 1e-5
    difference = (family.coefficients(t + h) - family.coefficients(t - h)) / (2 * h)
    np.testing.assert_allclose(family.derivatives(t)[:, 0], difference, atol=1e-7)


@every_chain
def test_derivative_of_a_chain_is_the_right_one_at_knots_and_the_left_one_at_the_end(family):
    h, knots = 1e-5, family.knots[:, None]
    right = (family.coefficients(knots[:-1] + h) - family.coefficients(knots[:-1])) / h
    left = (family.coefficients(knots[-1:]) - family.coefficients(knots[-1:] - h)) / h
    np.testing.assert_allclose(family.derivatives(knots)[:, 0], np.concatenate([right, left]), atol=1e-9)


@every_family
def test_ends_are_reproduced_bit_for_bit_whatever_the_other_rows_hold(family):
    coefficients = family.coefficients(family.end_parameters())
    np.testing.assert_array_equal(coefficients, np.eye(family.size)[list(family.ends)])
    for c, end in zip(coefficients.tolist(), family.ends, strict=True):
        rows = [np.full(5, np.nan, np.float32) for _ in range(family.size)]
        rows[end] = np.array([-0.0, 1e-45, np.inf, 3.4e38, -1.5], np.float32)
        for total in both_sums(c, rows):
            assert total.tobytes() == rows[end].tobytes()


@settings(max_examples=40 * MANY, deadline=None)
@given(data=st.data())
def test_engine_and_store_sum_to_the_same_bits(data):
    size = data.draw(st.integers(1, 5))
    coefficients = data.draw(st.lists(awkward | st.floats(-2, 2), min_size=size, max_size=size))
    rows = data.draw(arrays(np.float32, (size, 9), elements=floats32))
    stored, engine = both_sums(coefficients, list(rows))
    assert stored.tobytes() == engine.tobytes()


@every_family
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_points_of_a_family_have_the_same_bits_in_engine_and_store(family, data):
    rows = rows_of(family.size, data.draw(st.integers(0, 99)))
    for c in family.coefficients(data.draw(parameters(family))).tolist():
        stored, engine = both_sums(c, rows)
        assert stored.tobytes() == engine.tobytes()


@pytest.mark.parametrize("nothing", [0.0, -0.0, 1e-60])
def test_a_row_whose_coefficient_is_zero_does_not_leak(nothing):
    rows = [np.array([1.0, -0.0], np.float32), np.array([np.nan, np.inf], np.float32)]
    for total in both_sums([1.0, nothing], rows):
        assert total.tobytes() == rows[0].tobytes()


@pytest.mark.parametrize("family", CURVES + CHAINS + SURFACES + SIMPLICES + COMPOSITES, ids=str)
@few
@given(data=st.data())
def test_a_family_starts_straight(family, data):
    """Paths start as the segment; a degree-(n, m) surface starts with the bilinear weights of its corners."""
    t = data.draw(parameters(family))
    start = family.initial()
    np.testing.assert_array_equal(start[list(family.ends)], np.eye(len(family.ends)))
    if isinstance(family, SimplexFamily):
        expected = t
    elif family.dimension == 1:
        expected = np.concatenate([1 - t, t], axis=1)
    else:
        expected = bilinear(*t.T)
    np.testing.assert_allclose(family.coefficients(t) @ start, expected, rtol=1e-6, atol=1e-15)


@every_family
def test_description_is_plain_and_comes_back(family):
    description = family.describe()
    assert family_from(description) == family
    assert family_from({k: list(v) if isinstance(v, tuple) else v for k, v in description.items()}) == family


@every_family
def test_ends_and_free_rows_share_out_the_rows(family):
    assert sorted(family.ends + family.free) == list(range(family.size))
    corners = family.coordinates if isinstance(family, SimplexFamily) else 2**family.dimension
    if isinstance(family, PlaneFamily):  # its ends lie anywhere
        corners = len(family.rows)
    assert len(family.ends) == corners == len(family.end_parameters())


@every_family
def test_order_is_the_degree_along_a_line_between_knots(family):
    """Differences of order + 1 vanish; along the diagonal of the domain those of the order do not."""
    first, last = family.end_parameters()[[0, -1]]
    if isinstance(family, PlaneFamily):
        first, last = np.zeros(2), np.ones(2)
    for left, right in pairwise(family.knots):
        s = np.linspace(left, right, family.order + 4)[1:-1, None]
        c = family.coefficients((1 - s) * first + s * last)
        assert np.abs(np.diff(c, family.order + 1, axis=0)).max() < 1e-10
        assert np.abs(np.diff(c, family.order, axis=0)).max() > 1e-5


@few
@given(t=parameters(Segment()))
def test_families_without_bends_are_the_segment(t):
    straight = Segment()
    for family in (BezierCurveFamily(0), PolygonalChainFamily(0)):
        np.testing.assert_array_equal(family.coefficients(t), straight.coefficients(t))
        np.testing.assert_array_equal(family.derivatives(t), straight.derivatives(t))
        np.testing.assert_array_equal(family.initial(), straight.initial())


@few
@given(t=parameters(Segment()))
def test_one_bend_gives_the_formulas_of_the_paper(t):
    t1 = t[:, 0]
    expected = np.stack([(1 - t1) ** 2, 2 * t1 * (1 - t1), t1**2], axis=1)  # [G] eq. 6
    np.testing.assert_allclose(BezierCurveFamily(1).coefficients(t), expected, atol=1e-15)
    first, second = t1 <= 0.5, t1 > 0.5
    expected = np.zeros((5, 3))  # [G] eq. 5
    expected[first, 0], expected[first, 1] = 2 * (0.5 - t1[first]), 2 * t1[first]
    expected[second, 1], expected[second, 2] = 2 * (1 - t1[second]), 2 * (t1[second] - 0.5)
    np.testing.assert_allclose(PolygonalChainFamily(1).coefficients(t), expected, atol=1e-15)


@every_chain
def test_a_chain_passes_through_its_control_points_and_is_straight_between(family):
    np.testing.assert_array_equal(family.coefficients(family.knots[:, None]), np.eye(family.size))
    middles = (family.knots[1:] + family.knots[:-1]) / 2
    c = family.coefficients(middles[:, None])
    np.testing.assert_allclose(c, (np.eye(family.size)[1:] + np.eye(family.size)[:-1]) / 2, atol=1e-14)


@every_surface
@few
@given(data=st.data())
def test_the_edges_of_a_surface_are_bezier_curves(family, data):
    n, m = family.degree
    t = data.draw(parameters(Segment()))
    for end in (0, 1):
        fixed = np.full_like(t, float(end))
        along_v = family.coefficients(np.concatenate([fixed, t], axis=1))
        rows = [family.row(end * n, j) for j in range(m + 1)]
        np.testing.assert_array_equal(along_v[:, rows], BezierCurveFamily(m - 1).coefficients(t))
        assert np.count_nonzero(np.delete(along_v, rows, axis=1)) == 0
        along_u = family.coefficients(np.concatenate([t, fixed], axis=1))
        rows = [family.row(i, end * m) for i in range(n + 1)]
        np.testing.assert_array_equal(along_u[:, rows], BezierCurveFamily(n - 1).coefficients(t))


@every_cube
def test_parameters_outside_the_domain_are_refused(family):
    t = np.full((2, family.dimension), 0.5)
    for value, name in product((float("nan"), float("inf"), -1e-9, 1 + 1e-9), ("coefficients", "derivatives")):
        t[1, -1] = value
        function = getattr(family, name)
        with pytest.raises(InputError, match=r"\[0, 1\]"):
            function(t)


@every_simplex
def test_coordinates_that_are_not_barycentric_are_refused(family):
    t = np.eye(family.corners)[:2]
    for value, name in product((float("nan"), float("inf"), -1e-6, 1e-6), ("coefficients", "derivatives")):
        t[1, 0] = value
        function = getattr(family, name)
        with pytest.raises(InputError, match="sum to 1"):
            function(t)


@every_simplex
def test_typed_coordinates_may_miss_one_by_rounding(family):
    family.coefficients(np.full((1, family.corners), round(1 / family.corners, 12)))


@every_family
def test_parameters_of_another_shape_are_refused(family):
    for t in (np.full((1, 7), 1 / 7), np.zeros((2, 1, 2)), "half", [[0.1], [0.1, 0.2]]):
        with pytest.raises(InputError, match=f"{family.name} is {family.parameter_format}"):
            family.coefficients(t)


@every_family
def test_bad_grids_are_refused(family):
    for counts in (1, 0, -3, (3, 3, 3), (), "many", 2.5, (2, "3")):
        with pytest.raises(InputError, match="at least 2"):
            family.grid(counts)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BezierCurveFamily(-1), "bends"),
        (lambda: BezierCurveFamily(1.5), "bends"),
        (lambda: BezierCurveFamily("3"), "bends"),
        (lambda: PolygonalChainFamily(-1), "bends"),
        (lambda: PolygonalChainFamily(2.0), "bends"),
        (lambda: SimplexFamily(1), "corners"),
        (lambda: SimplexFamily("abc"), "corners"),
        (lambda: BezierSurfaceFamily((0, 2)), "degree"),
        (lambda: BezierSurfaceFamily((2,)), "degree"),
        (lambda: BezierSurfaceFamily((2, 2, 2)), "degree"),
        (lambda: BezierSurfaceFamily((2, 2.5)), "degree"),
        (lambda: BezierSurfaceFamily(2), "degree"),
        (lambda: family_from({"family": "spiral"}), "spiral"),
        (lambda: family_from({}), "None"),
        (lambda: family_from({"family": "segment", "bends": 1}), "bends"),
        (lambda: family_from({"family": "bezier-curve", "knots": 1}), "knots"),
    ],
)
def test_bad_families_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()
