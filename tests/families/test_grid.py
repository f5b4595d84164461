"""Grids: which points, who is next to whom, and weights that integrate over the domain."""

import os
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgraph.errors import InputError
from mgraph.families import BezierCurveFamily, BezierSurfaceFamily, PolygonalChainFamily, Segment, SimplexFamily
from mgraph.families.grid import SimplexGrid, TensorGrid, simplex_steps

EVERY = [
    Segment(),
    PolygonalChainFamily(2),
    BezierCurveFamily(2),
    BezierSurfaceFamily((3, 2)),
    SimplexFamily(2),
    SimplexFamily(3),
]
MANY = int(os.environ.get("MGRAPH_EXAMPLES", "1"))  # so many times more of them: make stress
few = settings(max_examples=10 * MANY, deadline=None)


@st.composite
def axes(draw):
    inner = draw(st.lists(st.integers(1, 999), unique=True, max_size=6))
    return np.array([0.0, *np.sort(inner) / 1000, 1.0])


tensor_grids = st.lists(axes(), min_size=1, max_size=2).map(lambda a: TensorGrid(tuple(a)))
simplex_grids = st.builds(SimplexGrid, corners=st.integers(2, 5), steps=st.integers(1, 5))


def test_grids_hold_their_corners_with_the_last_parameter_fastest():
    np.testing.assert_array_equal(Segment().grid(3).points, [[0.0], [0.5], [1.0]])
    surface = BezierSurfaceFamily()
    np.testing.assert_array_equal(surface.grid((2, 3)).points, [[0, 0], [0, 0.5], [0, 1], [1, 0], [1, 0.5], [1, 1]])
    np.testing.assert_array_equal(surface.grid(2).points, surface.end_parameters())
    np.testing.assert_array_equal(SimplexFamily(2).grid(3).points, [[1, 0], [0.5, 0.5], [0, 1]])
    np.testing.assert_array_equal(SimplexFamily(4).grid(2).points, np.eye(4))


@pytest.mark.parametrize("family", [*EVERY, SimplexFamily(5)], ids=str)
def test_the_ends_of_a_grid_are_the_ends_of_the_family(family):
    for grid in (family.grid(2), family.grid(4), family.grid(family.default_grid)):
        np.testing.assert_array_equal(grid.points[list(grid.ends)], family.end_parameters())
        assert len(grid) == len(grid.points) == len(grid.weights) == len(grid.neighbours)


@pytest.mark.parametrize(
    ("family", "counts", "size"),
    [
        (Segment(), (61,), 61),
        (PolygonalChainFamily(3), (61,), 61),
        (BezierSurfaceFamily(), (11, 11), 121),
        (SimplexFamily(2), (11,), 11),
        (SimplexFamily(3), (11,), 66),
        (SimplexFamily(4), (8,), 120),
        (SimplexFamily(40), (2,), 40),
    ],
)
def test_default_grids(family, counts, size):
    grid = family.grid(family.default_grid)
    assert grid.counts == counts == family.default_grid
    assert len(grid) == size


def test_default_steps_of_a_simplex_are_the_most_within_the_bound():
    for corners in range(2, 40):
        steps = simplex_steps(corners)
        assert steps in (1, 10) or comb(steps + corners - 1, corners - 1) <= 121 < comb(steps + corners, corners - 1)


@few
@given(grid=tensor_grids | simplex_grids)
def test_neighbours_are_mutual_others_and_hang_together(grid):
    for point, near in enumerate(grid.neighbours):
        assert point not in near
        assert list(near) == sorted(set(near))
        assert all(point in grid.neighbours[n] for n in near)
    reached, fresh = {0}, [0]
    while fresh:
        fresh = [n for p in fresh for n in grid.neighbours[p] if n not in reached]
        reached.update(fresh)
    assert len(reached) == len(grid)


@few
@given(grid=tensor_grids)
def test_neighbours_on_a_tensor_grid_are_one_step_away(grid):
    places = np.stack([np.searchsorted(a, p) for a, p in zip(grid.axes, grid.points.T, strict=True)], axis=1)
    for point, near in enumerate(grid.neighbours):
        apart = np.abs(places - places[point]).max(axis=1)
        assert list(near) == np.flatnonzero(apart == 1).tolist()


@few
@given(grid=simplex_grids)
def test_a_simplex_grid_holds_every_multiple_once_and_neighbours_exchange_one_unit(grid):
    units = np.rint(grid.points * grid.steps)
    np.testing.assert_allclose(grid.points * grid.steps, units, atol=1e-12)
    np.testing.assert_allclose(grid.points.sum(axis=1), 1.0)
    assert (units >= 0).all()
    assert len(np.unique(units, axis=0)) == len(grid) == comb(grid.steps + grid.corners - 1, grid.steps)
    assert grid.counts == (grid.steps + 1,)
    for point, near in enumerate(grid.neighbours):
        apart = np.abs(units - units[point])
        exchanged = (apart.sum(axis=1) == 2) & (apart.max(axis=1) == 1)
        assert list(near) == np.flatnonzero(exchanged).tolist()


@few
@given(grid=tensor_grids | simplex_grids, seed=st.integers(0, 99))
def test_weights_integrate_linear_functions_exactly(grid, seed):
    assert (grid.weights > 0).all()
    assert grid.weights.sum() == pytest.approx(1.0)
    slope = np.random.default_rng(seed).normal(size=grid.points.shape[1])
    centre = np.full(len(slope), 0.5 if isinstance(grid, TensorGrid) else 1 / len(slope))
    assert grid.weights @ (grid.points @ slope) == pytest.approx(centre @ slope, abs=1e-12)


@few
@given(grid=tensor_grids, seed=st.integers(0, 99))
def test_weights_of_uneven_axes_are_the_trapezoid_rule(grid, seed):
    values = np.random.default_rng(seed).normal(size=grid.counts)
    integral = values
    for axis in reversed(grid.axes):
        integral = np.trapezoid(integral, axis, axis=-1)
    assert grid.weights @ values.ravel() == pytest.approx(float(integral), abs=1e-12)


def test_weights_of_a_triangle_are_those_of_the_small_triangles():
    """Every point gets a third of the area of each small triangle that it is a corner of."""
    grid = SimplexFamily(3).grid(4)
    expected = np.zeros(len(grid))
    for a, near in enumerate(grid.neighbours):
        for b in near:
            for c in set(near) & set(grid.neighbours[b]):
                expected[a] += 1.0 if a not in (b, c) and b != c else 0.0
    np.testing.assert_allclose(grid.weights, expected / expected.sum())


def test_one_number_of_points_stands_for_every_direction():
    assert BezierSurfaceFamily().grid(4).counts == BezierSurfaceFamily().grid((4, 4)).counts == (4, 4)
    assert BezierSurfaceFamily().grid((4,)).counts == (4, 4)
    assert SimplexFamily(4).grid((3,)).counts == (3,)
    assert Segment().grid(np.int64(5)).counts == (5,)


def test_even_grids_say_so():
    assert BezierSurfaceFamily().grid((4, 7)).is_even
    assert TensorGrid((np.array([0.0, 0.5, 1.0]),)).is_even
    assert not TensorGrid((np.array([0.0, 0.4, 1.0]),)).is_even


@pytest.mark.parametrize(
    "axis",
    [[0.0], [0.0, 0.5], [0.1, 1.0], [0.0, 0.5, 0.5, 1.0], [0.0, 0.6, 0.4, 1.0], [0.0, np.nan, 1.0], [[0.0, 1.0]]],
)
def test_bad_axes_are_refused(axis):
    with pytest.raises(InputError, match="must rise from 0 to 1"):
        TensorGrid((np.array([0.0, 1.0]), np.array(axis)))


@pytest.mark.parametrize(
    "build",
    [
        lambda: TensorGrid(()),
        lambda: TensorGrid.even((3, 1)),
        lambda: SimplexGrid(1, 3),
        lambda: SimplexGrid(3, 0),
    ],
)
def test_bad_grids_are_refused(build):
    with pytest.raises(InputError):
        build()
