"""Lengths and areas from the Gram matrix, against the same figures computed in all D dimensions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgraph.families import BezierCurveFamily, BezierSurfaceFamily, Segment
from mgraph.families.gram import arc_length, area, density, distance, gram, length_ratio, trapezoid_weights

CURVES = [Segment(), *(BezierCurveFamily(bends) for bends in (1, 2, 3, 4))]
SURFACES = [BezierSurfaceFamily(degree) for degree in ((1, 1), (2, 2), (3, 2))]
every_curve = pytest.mark.parametrize("family", CURVES, ids=str)
every_surface = pytest.mark.parametrize("family", SURFACES, ids=str)
# 1: independent points; 1e-3: points 0.1 % apart, where an uncentred Gram matrix in float32 is noise
apart = pytest.mark.parametrize("spread", [1.0, 1e-3])
seeds = st.integers(0, 1000)


def some_rows(family, spread, seed, columns=40):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=columns) + spread * rng.normal(size=(family.size, columns))).astype(np.float32)


def polyline(family, rows, points=1500):
    theta = family.coefficients(family.grid(points)) @ rows.astype(np.float64)
    return np.linalg.norm(np.diff(theta, axis=0), axis=1).sum()


def triangles(family, rows, points=121):
    """Sum of the areas of two triangles per cell of a fine grid."""
    theta = (family.coefficients(family.grid(points)) @ rows.astype(np.float64)).reshape(points, points, -1)

    def areas(corner, first, second):
        a, b = first - corner, second - corner
        return np.sqrt((a * a).sum(-1) * (b * b).sum(-1) - (a * b).sum(-1) ** 2).sum() / 2

    lower = areas(theta[:-1, :-1], theta[1:, :-1], theta[:-1, 1:])
    return lower + areas(theta[1:, 1:], theta[1:, :-1], theta[:-1, 1:])


@every_curve
@apart
@settings(max_examples=5, deadline=None)
@given(seed=seeds)
def test_arc_length_is_that_of_a_fine_polyline(family, spread, seed):
    rows = some_rows(family, spread, seed)
    length = polyline(family, rows)
    assert arc_length(family, gram(rows)) == pytest.approx(length, rel=1e-5)
    chord = np.linalg.norm(rows[0].astype(np.float64) - rows[-1])
    assert length_ratio(family, gram(rows)) == pytest.approx(length / chord, rel=1e-5)


@every_surface
@apart
@settings(max_examples=3, deadline=None)
@given(seed=seeds)
def test_area_is_that_of_many_triangles(family, spread, seed):
    rows = some_rows(family, spread, seed)
    assert area(family, gram(rows)) == pytest.approx(triangles(family, rows), rel=1e-3)


def test_a_plane_square_has_its_area_and_sides():
    family = BezierSurfaceFamily((2, 2))
    corners = np.array([[5.0, 5, 0], [5, 8, 0], [7, 5, 0], [7, 8, 0]])
    G = gram(family.initial() @ corners)
    assert area(family, G) == pytest.approx(6.0)
    np.testing.assert_allclose(density(family, G, family.grid(4)), 6.0)


@every_curve
def test_density_is_the_speed_in_all_dimensions(family):
    rows, t = some_rows(family, 1e-3, 0), family.grid(7)
    speed = np.linalg.norm(family.derivatives(t)[:, 0] @ rows.astype(np.float64), axis=1)
    np.testing.assert_allclose(density(family, gram(rows), t), speed, rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_distance_of_points_from_their_coefficients(seed):
    family = BezierCurveFamily(2)
    rows = some_rows(family, 1e-3, seed)
    c = family.coefficients(family.grid(5))
    theta = c @ rows.astype(np.float64)
    np.testing.assert_allclose(
        distance(gram(rows), c[1:], c[:-1]), np.linalg.norm(theta[1:] - theta[:-1], axis=1), rtol=1e-6
    )


def test_the_gram_matrix_of_long_rows_is_the_sum_over_its_blocks():
    rows = some_rows(BezierCurveFamily(1), 1e-3, 0, columns=(1 << 18) + 5)
    centred = rows.astype(np.float64) - rows[0].astype(np.float64)
    np.testing.assert_allclose(gram(rows), centred @ centred.T, rtol=1e-12)


def test_coinciding_control_points_have_length_zero_and_the_uniform_measure():
    for family in (BezierCurveFamily(2), BezierSurfaceFamily((2, 2))):
        G = gram([np.ones(4, np.float32)] * family.size)
        np.testing.assert_array_equal(density(family, G, family.grid(3)), 1.0)
        counts = (3,) * family.dimension
        assert trapezoid_weights(family, G, family.grid(counts), counts).sum() == pytest.approx(1.0)
    assert arc_length(BezierCurveFamily(2), np.zeros((4, 4))) == 0.0
    assert np.isnan(length_ratio(BezierCurveFamily(2), np.zeros((4, 4))))


def test_trapezoid_weights_integrate_under_the_arc_measure():
    family = BezierCurveFamily(1)
    rows = some_rows(family, 1.0, 3)
    G, t = gram(rows), family.grid(201)
    weights = trapezoid_weights(family, G, t, (201,))
    theta = family.coefficients(family.grid(4001)) @ rows.astype(np.float64)
    steps = np.linalg.norm(np.diff(theta, axis=0), axis=1)
    middles = (family.grid(4001)[1:, 0] + family.grid(4001)[:-1, 0]) / 2
    assert weights @ np.cos(3 * t[:, 0]) == pytest.approx(steps @ np.cos(3 * middles) / steps.sum(), abs=1e-4)


def test_trapezoid_weights_of_a_flat_surface_are_the_product_rule():
    family = BezierSurfaceFamily((1, 1))
    G = gram(np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]))
    weights = trapezoid_weights(family, G, family.grid((3, 2)), (3, 2))
    np.testing.assert_allclose(weights, np.array([1, 1, 2, 2, 1, 1]) / 8)
