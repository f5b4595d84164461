"""Refinement: afterwards linear interpolation errs by less than promised, with no more points than allowed."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgraph.errors import InputError
from mgraph.evaluate.refine import Refinement, interpolation_error, interval_errors, refined
from mgraph.families import Grid, SimplexFamily, SimplexGrid, TensorGrid

Function = Callable[[np.ndarray], np.ndarray]

DENSE = np.linspace(0.0, 1.0, 20001)


def refine(grid: Grid, f: Function, bound: float, most: int = 2000) -> tuple[Grid, np.ndarray]:
    """Refine as a sweep does, with every point of the old grid kept."""
    while True:
        values = f(grid.points)
        finer = refined(grid, values, bound, most)
        if finer is grid:
            return grid, values
        old, new = ({tuple(p) for p in g.points.tolist()} for g in (grid, finer))
        assert old < new
        assert len(finer) <= most
        grid = finer


def curve(f: Function) -> Function:
    return lambda points: f(points[:, 0])


def true_error(grid: Grid, values: np.ndarray, f: Function) -> float:
    return float(np.abs(np.interp(DENSE, grid.axes[0], values) - f(DENSE)).max())


def kink(c: float) -> Function:
    return lambda t: np.abs(t - c)


def tent(c: float, width: float) -> Function:
    return lambda t: np.maximum(0.0, 1.0 - np.abs(t - c) / width)


def gaussian(c: float, width: float) -> Function:
    return lambda t: np.exp(-(((t - c) / width) ** 2) / 2)


def wave(phase: float, length: float) -> Function:
    return lambda t: np.sin(2 * np.pi * t / length + phase)


PLACES = st.floats(0.0, 1.0)
# What is narrower than three steps of the first grid may lie between its points.
POINTS = st.integers(9, 61)
BOUNDS = st.sampled_from([0.05, 0.01, 0.003, 0.001])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([kink, tent, gaussian, wave]), PLACES, st.floats(0.4, 2.0), POINTS, BOUNDS)
def test_the_true_error_is_below_twice_the_bound(shape, place, width, points, bound):
    f = shape(place) if shape is kink else shape(place, width)
    grid, values = refine(TensorGrid.even((points,)), curve(f), bound)
    assert interpolation_error(grid, values) <= bound
    assert true_error(grid, values, f) < 2 * bound


@settings(max_examples=60, deadline=None)
@given(PLACES, PLACES, st.integers(5, 12), st.integers(5, 40), BOUNDS)
def test_there_are_never_more_points_than_allowed(one, other, start, room, bound):
    def jump(points):
        return (points[:, 0] > one) + np.sin(9 * points[:, -1] * other)

    most = start + room
    grid, _ = refine(TensorGrid.even((start,)), jump, bound, most)
    assert start <= len(grid) <= most
    surface, _ = refine(TensorGrid.even((start, 3)), jump, bound, 3 * most)
    assert len(surface) <= 3 * most
    simplex, _ = refine(SimplexGrid(3, 2), jump, bound, most)
    assert len(simplex) <= most


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.001, 1.0), min_size=3, max_size=12), st.floats(-5, 5))
def test_the_estimate_of_a_parabola_is_safe_on_any_axis(steps, bend):
    axis = np.concatenate([[0.0], np.cumsum(steps)]) / sum(steps)
    axis[-1] = 1.0
    errors = interval_errors(axis, bend * axis**2)
    true = np.abs(bend) * np.diff(axis) ** 2 / 4.0
    assert np.all(errors >= true - 1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 40), st.floats(0.01, 5))
def test_on_an_even_grid_the_estimate_is_twice_the_error_of_a_parabola(points, bend):
    axis = np.linspace(0.0, 1.0, points)
    errors = interval_errors(axis, bend * axis**2)
    true = bend * np.diff(axis) ** 2 / 4.0
    np.testing.assert_allclose(errors[1:-1], 2.0 * true[1:-1], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(errors[[0, -1]], 4.0 * true[[0, -1]], rtol=1e-6, atol=1e-12)  # seen from one side only


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 40), st.floats(0.0, 1.0), st.data())
def test_the_estimate_of_a_kink_is_at_least_half_its_error(points, along, data):
    axis = np.linspace(0.0, 1.0, points)
    at = data.draw(st.integers(1, points - 3))
    step = axis[at + 1] - axis[at]
    errors = interval_errors(axis, np.abs(axis - (axis[at] + along * step)))
    assert errors[at] == pytest.approx(step / 4.0)
    assert errors[at] >= 2.0 * along * (1.0 - along) * step / 2.0 - 1e-12


def test_straight_lines_need_no_points():
    grid = TensorGrid.even((3,))
    assert refined(grid, 2 - 3 * grid.points[:, 0], 1e-9, 2000) is grid
    surface = TensorGrid.even((3, 4))
    assert refined(surface, surface.points @ [1.0, -2.0], 1e-9, 2000) is surface
    assert interpolation_error(surface, surface.points @ [1.0, -2.0]) == pytest.approx(0.0, abs=1e-15)


def test_two_points_tell_nothing_so_there_must_be_more():
    grid = TensorGrid.even((2,))
    assert interpolation_error(grid, np.zeros(2)) == np.inf
    assert refined(grid, np.zeros(2), 0.1, 2000).axes[0].tolist() == [0.0, 0.5, 1.0]
    corners = SimplexFamily(3).grid(2)
    assert interpolation_error(corners, np.zeros(3)) == np.inf
    assert refined(corners, np.zeros(3), 0.1, 2000).steps == 2


def test_points_go_where_it_bends():
    grid, _ = refine(TensorGrid.even((9,)), curve(gaussian(0.3, 0.05)), 0.003)
    inside = (grid.axes[0] > 0.15) & (grid.axes[0] < 0.45)
    assert inside.sum() > 0.7 * len(grid)
    surface, values = refine(TensorGrid.even((5, 5)), lambda p: p[:, 0] ** 2 * p[:, 1], 0.01)
    u, v = surface.counts
    assert (u > 9, v) == (True, 5)  # bent in one direction, straight in the other
    dense = TensorGrid.even((81, 81)).points
    f = dense[:, 0] ** 2 * dense[:, 1]
    cube = values.reshape(u, v)
    along = np.stack([np.interp(np.linspace(0, 1, 81), surface.axes[0], column) for column in cube.T], axis=1)
    shown = np.stack([np.interp(np.linspace(0, 1, 81), surface.axes[1], row) for row in along])
    assert np.abs(shown.ravel() - f).max() < 2 * 0.01


def test_the_worst_intervals_come_first_where_room_is_short():
    grid = TensorGrid.even((9,))
    f = curve(lambda t: np.abs(t - 0.3) + 0.2 * np.abs(t - 0.8))
    (axis,) = refined(grid, f(grid.points), 1e-4, 10).axes
    (added,) = set(axis) - set(grid.axes[0])
    assert 0.25 < added < 0.375


def test_a_simplex_doubles_its_steps_until_the_estimate_is_within_the_bound():
    def bump(points):
        return np.exp(-((points - [0.5, 0.3, 0.2]) ** 2).sum(axis=1) * 8)

    grid, values = refine(SimplexFamily(3).grid(5), bump, 0.01)
    assert grid.steps in (16, 32)
    assert interpolation_error(grid, values) <= 0.01
    coarse, values = refine(SimplexFamily(3).grid(5), bump, 0.005, most=100)
    assert (coarse.steps, len(coarse)) == (8, 45)
    assert interpolation_error(coarse, values) > 0.005
    # On three points of an edge it is what a path says.
    edge = SimplexFamily(2).grid(3)
    assert interpolation_error(edge, np.array([0.0, 1.0, 0.0])) == 0.5


def test_what_is_not_finite_is_not_refined():
    for grid in (TensorGrid.even((5,)), SimplexGrid(3, 4)):
        values = np.zeros(len(grid))
        values[2] = np.nan
        assert np.isnan(interpolation_error(grid, values))
        assert refined(grid, values, 0.1, 2000) is grid


def test_a_step_is_not_halved_for_ever():
    grid, values = refine(TensorGrid.even((5,)), curve(lambda t: (t > 1 / 3).astype(float)), 1e-3)
    assert len(grid) < 200
    assert interpolation_error(grid, values) > 1e-3


def test_what_a_refinement_may_be():
    assert Refinement.of(0.1) == Refinement.of(0.1, "train:loss") == Refinement(0.1, "train", "loss", 2000)
    for bound in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="positive number"):
            Refinement.of(bound)
    for on in ("loss", "train loss now", ""):
        with pytest.raises(InputError, match="split and a metric"):
            Refinement.of(0.1, on)
    with pytest.raises(InputError, match="at least 2 points"):
        Refinement.of(0.1, max_points=1)
    wish = Refinement.of(0.1, "valid:ece", 50)
    wish.check(["valid"], ["loss", "ece"], 50)
    with pytest.raises(InputError, match="does not measure the split valid; it measures train"):
        wish.check(["train"], ["ece"], 5)
    with pytest.raises(InputError, match="does not measure the metric ece"):
        wish.check(["valid"], ["loss"], 5)
    with pytest.raises(InputError, match="51 points, more than the 50"):
        wish.check(["valid"], ["ece"], 51)
