"""Lengths, areas and volumes from the Gram matrix, against the same figures computed in all D dimensions."""

from math import factorial, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgraph.errors import InputError
from mgraph.families import (
    BezierCurveFamily,
    BezierSurfaceFamily,
    PolygonalChainFamily,
    Segment,
    SimplexFamily,
    TensorGrid,
)
from mgraph.families.gram import arc_length, area, density, distance, extent, gram, length_ratio, trapezoid_weights

CHAINS = [PolygonalChainFamily(bends) for bends in (0, 1, 2, 6)]
PATHS = [Segment(), *(BezierCurveFamily(bends) for bends in (1, 2, 3, 4)), *CHAINS]
SURFACES = [BezierSurfaceFamily(degree) for degree in ((1, 1), (2, 2), (3, 2))]
SIMPLICES = [SimplexFamily(corners) for corners in (2, 3, 4, 6)]
every_family = pytest.mark.parametrize("family", PATHS + SURFACES + SIMPLICES, ids=str)
every_path = pytest.mark.parametrize("family", PATHS, ids=str)
every_chain = pytest.mark.parametrize("family", CHAINS, ids=str)
every_surface = pytest.mark.parametrize("family", SURFACES, ids=str)
every_simplex = pytest.mark.parametrize("family", SIMPLICES, ids=str)
# 1: independent points; 1e-3: points 0.1 % apart, where an uncentred Gram matrix in float32 is noise
apart = pytest.mark.parametrize("spread", [1.0, 1e-3])
seeds = st.integers(0, 1000)


def some_rows(family, spread, seed, columns=40):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=columns) + spread * rng.normal(size=(family.size, columns))).astype(np.float32)


def path_points(family, rows, points=2101):
    """Points along a path, the knots of every chain here among them."""
    return family.coefficients(family.grid(points).points) @ rows.astype(np.float64)


def polyline(family, rows):
    return np.linalg.norm(np.diff(path_points(family, rows), axis=0), axis=1).sum()


def triangles(family, rows, points=121):
    """Sum of the areas of two triangles per cell of a fine grid."""
    theta = (family.coefficients(family.grid(points).points) @ rows.astype(np.float64)).reshape(points, points, -1)

    def areas(corner, first, second):
        a, b = first - corner, second - corner
        return np.sqrt((a * a).sum(-1) * (b * b).sum(-1) - (a * b).sum(-1) ** 2).sum() / 2

    lower = areas(theta[:-1, :-1], theta[1:, :-1], theta[:-1, 1:])
    return lower + areas(theta[1:, 1:], theta[1:, :-1], theta[:-1, 1:])


def volume_of_a_simplex(rows):
    """Base times height, corner by corner: the lengths of the edges from row 0 made orthogonal, over d!."""
    edges = rows[1:].astype(np.float64) - rows[0].astype(np.float64)
    return np.abs(np.diag(np.linalg.qr(edges.T)[1])).prod() / factorial(len(edges))


@every_path
@apart
@settings(max_examples=5, deadline=None)
@given(seed=seeds)
def test_arc_length_is_that_of_a_fine_polyline(family, spread, seed):
    rows = some_rows(family, spread, seed)
    G, length = gram(rows), polyline(family, rows)
    assert arc_length(family, G) == pytest.approx(length, rel=1e-5)
    chord = np.linalg.norm(rows[0].astype(np.float64) - rows[-1])
    assert length_ratio(family, G) == pytest.approx(length / chord, rel=1e-5)
    assert extent(family, G) == {"length": arc_length(family, G), "length_ratio": length_ratio(family, G)}


@every_chain
@apart
def test_the_length_of_a_chain_is_exact(family, spread):
    rows = some_rows(family, spread, 0)
    pieces = np.linalg.norm(np.diff(rows.astype(np.float64), axis=0), axis=1)
    assert arc_length(family, gram(rows)) == pytest.approx(pieces.sum(), rel=1e-13)
    assert arc_length(family, gram(rows), nodes=1) == pytest.approx(pieces.sum(), rel=1e-13)


@every_path
@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_arc_length_is_invariant_under_reversal(family, seed):
    rows = some_rows(family, 1e-3, seed)
    assert arc_length(family, gram(rows)) == pytest.approx(arc_length(family, gram(rows[::-1])), rel=1e-12)


@every_surface
@apart
@settings(max_examples=3, deadline=None)
@given(seed=seeds)
def test_area_is_that_of_many_triangles(family, spread, seed):
    rows = some_rows(family, spread, seed)
    assert area(family, gram(rows)) == pytest.approx(triangles(family, rows), rel=1e-3)
    assert extent(family, gram(rows)) == {"area": area(family, gram(rows))}


@every_simplex
@apart
@settings(max_examples=5, deadline=None)
@given(seed=seeds)
def test_the_extent_of_a_simplex_is_its_length_area_or_volume(family, spread, seed):
    rows = some_rows(family, spread, seed)
    found, expected = extent(family, gram(rows)), pytest.approx(volume_of_a_simplex(rows), rel=1e-6)
    if family.corners == 2:
        assert found == {"length": expected, "length_ratio": pytest.approx(1.0)}
    else:
        assert found == {"area" if family.corners == 3 else "volume": expected}


def test_shapes_of_known_size():
    surface = BezierSurfaceFamily((2, 2))
    G = gram(surface.initial() @ np.array([[5.0, 5, 0], [5, 8, 0], [7, 5, 0], [7, 8, 0]]))
    assert area(surface, G) == pytest.approx(6.0)
    np.testing.assert_allclose(density(surface, G, surface.grid(4).points), 6.0)
    assert extent(SimplexFamily(3), gram(np.eye(3))) == {"area": pytest.approx(sqrt(3) / 4 * 2)}
    assert extent(SimplexFamily(4), gram(np.r_[np.zeros((1, 3)), np.eye(3)])) == {"volume": pytest.approx(1 / 6)}
    corner = gram(np.array([[0.0, 0], [3, 0], [3, 4]]))
    assert extent(PolygonalChainFamily(1), corner) == pytest.approx({"length": 7.0, "length_ratio": 7 / 5})


def test_a_simplex_of_many_far_modes_stays_within_range():
    """Its squared volume is far above the largest float64, its volume is not."""
    rows = 1e4 * np.r_[np.zeros((1, 60)), np.eye(60)]
    assert extent(SimplexFamily(61), gram(rows))["volume"] == pytest.approx(1e240 / factorial(60), rel=1e-9)


@every_family
@apart
@settings(max_examples=5, deadline=None)
@given(seed=seeds)
def test_density_is_that_of_the_jacobian_in_all_dimensions(family, spread, seed):
    """The product of the diagonal of R in J = QR; so no Gram matrix is formed."""
    rows = some_rows(family, spread, seed)
    t = family.grid(5).points
    jacobian = family.derivatives(t) @ (rows.astype(np.float64) - rows[0])
    elements = [np.abs(np.diag(np.linalg.qr(J.T)[1])).prod() for J in jacobian]
    np.testing.assert_allclose(density(family, gram(rows), t), elements, rtol=1e-6)


@every_path
@apart
@settings(max_examples=5, deadline=None)
@given(seed=seeds)
def test_density_of_a_path_is_the_finite_difference_of_its_points(family, spread, seed):
    rows, h = some_rows(family, spread, seed), 1e-6
    t = (family.knots[:-1, None] + np.diff(family.knots)[:, None] * [0.2, 0.7]).reshape(-1, 1)
    ahead, behind = (family.coefficients(t + e) @ rows.astype(np.float64) for e in (h, -h))
    speed = np.linalg.norm(ahead - behind, axis=1) / (2 * h)
    np.testing.assert_allclose(density(family, gram(rows), t), speed, rtol=1e-5)


@every_family
@settings(max_examples=5, deadline=None)
@given(seed=seeds)
def test_distance_of_points_from_their_coefficients(family, seed):
    rows = some_rows(family, 1e-3, seed)
    c = family.coefficients(family.grid(4).points)
    theta = c @ rows.astype(np.float64)
    np.testing.assert_allclose(
        distance(gram(rows), c[1:], c[:-1]), np.linalg.norm(theta[1:] - theta[:-1], axis=1), rtol=1e-6
    )


def test_the_gram_matrix_of_long_rows_is_the_sum_over_its_blocks():
    rows = some_rows(BezierCurveFamily(1), 1e-3, 0, columns=(1 << 18) + 5)
    centred = rows.astype(np.float64) - rows[0].astype(np.float64)
    np.testing.assert_allclose(gram(rows), centred @ centred.T, rtol=1e-12)


@every_family
def test_coinciding_control_points_have_no_extent_and_the_uniform_measure(family):
    G, grid = gram([np.ones(4, np.float32)] * family.size), family.grid(3)
    np.testing.assert_array_equal(density(family, G, grid.points), 1.0)
    np.testing.assert_allclose(trapezoid_weights(family, G, grid), grid.weights)
    sizes = {name: size for name, size in extent(family, G).items() if name != "length_ratio"}
    assert list(sizes.values()) == [0.0]
    if family.dimension == 1:
        assert np.isnan(length_ratio(family, G))


@every_surface
@settings(max_examples=5, deadline=None)
@given(seed=seeds)
def test_a_surface_without_area_has_the_uniform_measure(family, seed):
    """All control points on a line: what rounding leaves of E·G - F² is not an area."""
    rng = np.random.default_rng(seed)
    G = gram(rng.normal(size=20) + np.outer(rng.normal(size=family.size), rng.normal(size=20)))
    np.testing.assert_array_equal(density(family, G, family.grid(3).points), 1.0)
    assert area(family, G) == 0.0


def test_a_simplex_of_modes_in_a_plane_has_no_volume():
    rng = np.random.default_rng(0)
    G = gram(rng.normal(size=(4, 2)) @ rng.normal(size=(2, 20)))
    assert extent(SimplexFamily(4), G) == {"volume": 0.0}
    twice = rng.normal(size=(6, 20))
    twice[5] = twice[2]
    assert extent(SimplexFamily(6), gram(twice)) == {"volume": 0.0}


def test_the_density_on_a_piece_without_length_is_zero_where_the_rest_has_some():
    """It is the whole measure that must be 0 for the uniform one, not the measure at the points asked for."""
    G = gram(np.array([[0.0], [0.0], [1.0]]))
    np.testing.assert_array_equal(density(PolygonalChainFamily(1), G, np.array([[0.2]])), 0.0)
    np.testing.assert_array_equal(
        trapezoid_weights(PolygonalChainFamily(1), G, PolygonalChainFamily(1).grid(3)), [0, 0.5, 0.5]
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_gives_no_number(bad):
    for family in (PolygonalChainFamily(1), BezierSurfaceFamily((1, 1)), SimplexFamily(4)):
        rows = np.ones((family.size, 4), np.float32)
        rows[1, 2] = bad
        assert np.isnan(density(family, gram(rows), family.grid(3).points)).all()
        assert np.isnan(next(iter(extent(family, gram(rows)).values())))


@pytest.mark.parametrize("family", [*PATHS, SimplexFamily(2)], ids=str)
@settings(max_examples=5, deadline=None)
@given(seed=seeds, inner=st.lists(st.integers(1, 2099), unique=True, max_size=8))
def test_trapezoid_weights_of_a_path_are_halves_of_its_intervals(family, seed, inner):
    """On any axis, whether or not a chain's knots are on it."""
    places = np.array([0, *sorted(inner), 2100])
    grid = TensorGrid((places / 2100,))
    rows = some_rows(family, 1.0, seed)
    if family == SimplexFamily(2):
        grid, places = family.grid(6), np.linspace(0, 2100, 6).astype(int)
    steps = np.linalg.norm(np.diff(path_points(family, rows, points=21001), axis=0), axis=1)
    lengths = np.add.reduceat(steps, 10 * places[:-1])
    expected = (np.r_[lengths, 0] + np.r_[0, lengths]) / (2 * lengths.sum())
    np.testing.assert_allclose(trapezoid_weights(family, gram(rows), grid), expected, rtol=1e-4, atol=1e-6)


@every_chain
def test_trapezoid_weights_of_a_chain_on_its_knots_are_exact(family):
    rows = some_rows(family, 1e-3, 1)
    pieces = np.linalg.norm(np.diff(rows.astype(np.float64), axis=0), axis=1) / 5
    intervals = np.repeat(pieces, 5)
    expected = (np.r_[intervals, 0] + np.r_[0, intervals]) / (2 * intervals.sum())
    grid = family.grid(5 * (family.bends + 1) + 1)
    np.testing.assert_allclose(trapezoid_weights(family, gram(rows), grid), expected, rtol=1e-12)


@pytest.mark.parametrize("family", [BezierCurveFamily(1), BezierCurveFamily(3), PolygonalChainFamily(2)], ids=str)
def test_trapezoid_weights_integrate_to_second_order_under_the_arc_measure(family):
    rows = some_rows(family, 1.0, 3)
    G, fine = gram(rows), family.grid(12001).points
    steps = np.linalg.norm(np.diff(family.coefficients(fine) @ rows.astype(np.float64), axis=0), axis=1)
    exact = steps @ np.cos(3 * (fine[1:, 0] + fine[:-1, 0]) / 2) / steps.sum()

    def error(points):
        grid = family.grid(points)
        return abs(trapezoid_weights(family, G, grid) @ np.cos(3 * grid.points[:, 0]) - exact)

    assert error(61) < 1e-3
    assert error(121) == pytest.approx(error(61) / 4, rel=0.05)


def test_trapezoid_weights_of_surfaces_and_simplices():
    flat = BezierSurfaceFamily((1, 1))
    G = gram(np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]))
    np.testing.assert_allclose(trapezoid_weights(flat, G, flat.grid((3, 2))), np.array([1, 1, 2, 2, 1, 1]) / 8)
    bent = BezierSurfaceFamily((2, 2))
    rows, grid = some_rows(bent, 1.0, 0), bent.grid((4, 3))
    weights = grid.weights * density(bent, gram(rows), grid.points)
    np.testing.assert_allclose(trapezoid_weights(bent, gram(rows), grid), weights / weights.sum())
    for family in SIMPLICES:  # of constant density
        grid = family.grid(4)
        G = gram(some_rows(family, 1e-3, 0))
        np.testing.assert_allclose(trapezoid_weights(family, G, grid), grid.weights, rtol=1e-9)


def test_trapezoid_weights_integrate_under_the_area_measure():
    family = BezierSurfaceFamily((2, 2))
    rows = some_rows(family, 1.0, 5)
    points, shares = family.quadrature(24)
    shares = shares * density(family, gram(rows), points)
    exact = shares @ np.cos(points @ [2.0, 1.0]) / shares.sum()
    grid = family.grid(41)
    weights = trapezoid_weights(family, gram(rows), grid)
    assert weights @ np.cos(grid.points @ [2.0, 1.0]) == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize("family", [Segment(), BezierSurfaceFamily(), SimplexFamily(3)], ids=str)
def test_a_grid_of_another_domain_is_refused(family):
    for other in (Segment(), BezierSurfaceFamily(), SimplexFamily(3)):
        if other.coordinates != family.coordinates:
            with pytest.raises(InputError, match=family.name):
                trapezoid_weights(family, np.zeros((family.size,) * 2), other.grid(3))


@every_family
def test_the_quadrature_of_a_family_integrates_over_its_domain(family):
    points, weights = family.quadrature(5)
    family.points(points)
    volume = 1 / factorial(family.dimension) if isinstance(family, SimplexFamily) else 1.0
    assert weights.sum() == pytest.approx(volume)
    slope = np.arange(1.0, family.coordinates + 1)
    centre = family.end_parameters().mean(axis=0)
    assert weights @ (points @ slope) == pytest.approx(volume * (centre @ slope))
    if not isinstance(family, SimplexFamily):
        assert weights @ (points**9).prod(axis=1) == pytest.approx(0.1**family.dimension)
