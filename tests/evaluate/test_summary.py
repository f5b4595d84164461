"""What a sweep says: hand-made numbers for the definitions, brute force for the best route."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mgraph.evaluate.summary import best_route, measure_route, statistics
from mgraph.families import BezierCurveFamily, BezierSurfaceFamily, Segment, SimplexFamily, TensorGrid
from mgraph.families.gram import gram, trapezoid_weights


def line(positions):
    """A polygonal path on a straight line: coefficients and Gram matrix of points at these positions."""
    t = np.asarray(positions, float)[:, None]
    return np.concatenate([1 - t, t], axis=1), gram([np.zeros(1), np.ones(1)])


def square(counts):
    """A flat unit square sampled on a grid."""
    family = BezierSurfaceFamily((1, 1))
    return family.coefficients(family.grid(counts).points), gram(np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]))


def neighbours(counts):
    return TensorGrid.even(counts).neighbours


def test_statistics_of_a_sweep():
    values = np.array([1.0, 5.0, 3.0])
    weights = trapezoid_weights(Segment(), line([0, 1])[1], Segment().grid(3))
    assert statistics(values, weights) == {"min": 1.0, "max": 5.0, "mean": 3.0, "integral": (0.5 + 5 + 1.5) / 2}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_makes_every_statistic_nan(bad):
    found = statistics(np.array([1.0, bad]), np.array([0.5, 0.5]))
    assert list(found) == ["min", "max", "mean", "integral"]
    assert all(math.isnan(v) for v in found.values())
    coefficients, G = line([0, 0.5, 1])
    for nodes in ([0, 1, 2], [0, 2]):  # anywhere on the grid, on the route or not
        route = measure_route(nodes, np.array([1.0, bad, 1.0]), coefficients, G)
        assert math.isnan(route.peak)
        assert math.isnan(route.barrier)
        assert math.isnan(route.drop)
        assert route.length == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("positions", "values", "peak", "barrier", "drop"),
    [
        ([0, 0.5, 1], [0.0, 1.0, 0.0], 1.0, 1.0, 1.0),
        ([0, 0.5, 1], [0.2, 1.0, 0.4], 1.0, 0.7, 0.7),
        ([0, 0.5, 1], [0.0, 0.5, 2.0], 2.0, 0.0, 1.0),  # below the chord: no barrier
        ([0, 0.25, 1], [0.0, 0.5, 1.0], 1.0, 0.25, 0.5),  # t is length, not the number of the point
        ([0, 0.9, 1], [1.0, 1.0, 0.0], 1.0, 0.9, 0.5),
        ([0, 1], [0.3, 0.1], 0.3, 0.0, 0.1),
        ([0, 0.5, 1], [1.0, 0.0, 1.0], 1.0, 0.0, 0.0),
        ([1, 1, 1], [0.0, 2.0, 1.0], 2.0, 1.5, 1.5),  # no length: the points count
    ],
)
def test_peak_barrier_and_drop_by_their_definitions(positions, values, peak, barrier, drop):
    """barrier = max L(t) - ((1-t) L(0) + t L(1)) with t the share of the length; drop = max - mean of the ends."""
    coefficients, G = line(positions)
    route = measure_route(range(len(values)), np.array(values), coefficients, G)
    assert (route.peak, route.barrier, route.drop) == pytest.approx((peak, barrier, drop))


@settings(max_examples=30, deadline=None)
@example(values=[-0.99999] * 3, seed=4)
@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9),
    seed=st.integers(0, 99),
)
def test_the_barrier_is_never_negative_and_at_most_the_range(values, seed):
    family = BezierCurveFamily(2)
    rows = np.random.default_rng(seed).normal(size=(4, 5))
    coefficients = family.coefficients(family.grid(len(values)).points)
    route = measure_route(range(len(values)), np.array(values), coefficients, gram(rows))
    rounding = 4 * np.finfo(float).eps * max(map(abs, values))
    assert 0.0 <= route.barrier <= max(values) - min(values) + rounding
    assert route.barrier == 0.0 or min(values) < max(values)
    assert route.peak == max(values)
    backwards = measure_route(range(len(values))[::-1], np.array(values), coefficients, gram(rows))
    assert backwards.barrier == pytest.approx(route.barrier, rel=1e-9, abs=1e-6)
    assert backwards.drop == route.drop


def simple_paths(start, goal, counts):
    """Every path over a grid without repeated nodes, one step in any direction."""
    cells = list(product(*map(range, counts)))

    def near(node):
        return [
            i
            for i, cell in enumerate(cells)
            if i != node and max(abs(a - b) for a, b in zip(cell, cells[node], strict=True)) == 1
        ]

    neighbours = [near(i) for i in range(len(cells))]

    def extend(path):
        if path[-1] == goal:
            yield path
            return
        for n in neighbours[path[-1]]:
            if n not in path:
                yield from extend([*path, n])

    return list(extend([start]))


PATHS = {
    (counts, start, goal): simple_paths(start, goal, counts)
    for counts in ((3, 3), (2, 4), (5,))
    for start, goal in (
        (0, math.prod(counts) - 1),
        (math.prod(counts) - 1, 0),
        (counts[-1] - 1, math.prod(counts) - counts[-1]),
    )
}


@settings(max_examples=40, deadline=None)
@given(case=st.sampled_from(sorted(PATHS)), data=st.data())
def test_the_best_route_has_the_lowest_peak_and_then_the_shortest_length(case, data):
    counts, start, goal = case
    levels = st.integers(0, 3).map(float)  # few levels, so that many routes share a peak
    values = np.array(data.draw(st.lists(levels, min_size=math.prod(counts), max_size=math.prod(counts))))
    family = BezierSurfaceFamily((2, 1)) if len(counts) == 2 else BezierCurveFamily(1)
    rows = np.random.default_rng(data.draw(st.integers(0, 9))).normal(size=(family.size, 4))
    grid = family.grid(counts)
    coefficients, G = family.coefficients(grid.points), gram(rows)
    route = best_route(start, goal, values, coefficients, G, grid.neighbours)
    theta = coefficients @ rows

    def length(path):
        return np.linalg.norm(np.diff(theta[path], axis=0), axis=1).sum()

    lowest = min(values[path].max() for path in PATHS[case])
    shortest = min(length(path) for path in PATHS[case] if values[path].max() == lowest)
    assert (route.nodes[0], route.nodes[-1]) == (start, goal)
    assert list(route.nodes) in PATHS[case]
    assert route.peak == lowest
    assert route.length == pytest.approx(shortest, rel=1e-9)
    assert values[list(route.nodes)].max() == lowest


def test_equal_routes_are_chosen_by_node_order():
    coefficients, G = square((3, 3))
    values = np.zeros(9)
    values[4] = 1.0  # a hill in the middle: round it over node 1 and 2 … or over 3 and 6
    route = best_route(0, 8, values, coefficients, G, neighbours((3, 3)))
    assert route.nodes == (0, 1, 5, 8)
    assert route.length == pytest.approx(1.0 + math.sqrt(0.5))


def test_a_route_on_a_curve_is_the_whole_curve():
    coefficients, G = line(np.linspace(0, 1, 7))
    route = best_route(0, 6, np.arange(7.0), coefficients, G, neighbours((7,)))
    assert route.nodes == tuple(range(7))
    assert best_route(6, 0, np.arange(7.0), coefficients, G, neighbours((7,))).nodes == tuple(range(6, -1, -1))


def test_with_a_nan_on_the_grid_the_route_is_the_shortest_and_its_numbers_nan():
    coefficients, G = square((4, 4))
    values = np.zeros(16)
    values[[5, 3]] = [9.0, np.nan]
    route = best_route(0, 15, values, coefficients, G, neighbours((4, 4)))
    assert route.nodes == (0, 5, 10, 15)
    assert math.isnan(route.peak)
    assert math.isnan(route.barrier)
    assert route.length == pytest.approx(math.sqrt(2))


def test_a_route_to_itself_is_one_point():
    coefficients, G = square((2, 2))
    route = best_route(1, 1, np.array([1.0, 2, 3, 4]), coefficients, G, neighbours((2, 2)))
    assert (route.nodes, route.peak, route.barrier, route.drop, route.length) == ((1,), 2.0, 0.0, 0.0, 0.0)


def test_a_route_on_a_simplex_exchanges_one_unit_at_a_time():
    """The straight edge between two corners is closed at its middle; the way round goes through the inside."""
    family = SimplexFamily(3)
    grid = family.grid(5)
    values = np.where((grid.points == [0.5, 0.5, 0]).all(axis=1), 9.0, 0.0)
    route = best_route(*grid.ends[:2], values, family.coefficients(grid.points), gram(np.eye(3)), grid.neighbours)
    places = grid.points[list(route.nodes)].tolist()
    assert places == [[1, 0, 0], [0.75, 0.25, 0], [0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.75, 0], [0, 1, 0]]
    assert route.peak == 0.0
    assert route.length == pytest.approx(5 * math.sqrt(2) / 4)


def test_beside_a_row_that_is_not_finite_there_still_is_a_route():
    coefficients, _ = square((3, 3))
    G = np.full((4, 4), np.nan)
    route = best_route(0, 8, np.r_[0.0, np.full(7, np.nan), 0.0], coefficients, G, neighbours((3, 3)))
    assert route.nodes == (0, 4, 8)
    assert math.isnan(route.peak)
    assert math.isnan(route.length)
