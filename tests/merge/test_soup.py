"""Soups: averages of points, chosen by a score."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mgraph.merge.soup import greedy_soup, learned_soup, uniform_soup

POINTS = np.eye(4)


def test_the_uniform_soup_is_the_mean():
    coefficients = np.random.default_rng(0).dirichlet(np.ones(3), size=7)
    np.testing.assert_allclose(uniform_soup(coefficients), coefficients.mean(axis=0))
    np.testing.assert_allclose(uniform_soup(coefficients).sum(), 1.0)


def test_the_greedy_soup_tries_points_from_the_best_down_and_keeps_what_does_not_harm():
    tried = []

    def score(point):
        tried.append(tuple(np.flatnonzero(point)))
        return {(2,): 0.9, (0, 2): 0.9, (0, 2, 3): 0.8, (0, 1, 2): 0.95}[tried[-1]]

    soup = greedy_soup(POINTS, np.array([0.8, 0.5, 0.9, 0.7]), score)
    assert tried == [(2,), (0, 2), (0, 2, 3), (0, 1, 2)]
    np.testing.assert_allclose(soup, [1 / 3, 1 / 3, 1 / 3, 0])


def test_equal_points_are_tried_in_their_order_and_nan_last():
    tried = []

    def score(point):
        tried.append(int(np.flatnonzero(point)[-1]) if len(tried) == 0 else len(np.flatnonzero(point)))
        return -float(len(tried))  # nothing is ever added

    soup = greedy_soup(POINTS, np.array([np.nan, 1.0, 1.0, 0.5]), score)
    assert tried == [1, 2, 2, 2]
    np.testing.assert_array_equal(soup, POINTS[1])


@settings(max_examples=25, deadline=None)
@given(
    ranking=arrays(np.float64, 4, elements=st.floats(0, 1)),
    scores=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_a_greedy_soup_is_never_worse_than_the_best_point(ranking, scores):
    def score(point):
        return float(point @ scores)

    soup = greedy_soup(POINTS, ranking, score)
    assert score(soup) >= scores[int(np.argmax(ranking))] - 1e-12
    np.testing.assert_allclose(soup.sum(), 1.0)


def test_a_score_of_nan_is_never_added():
    soup = greedy_soup(POINTS, np.arange(4.0), lambda point: np.nan if point[1] else 1.0)
    assert soup[1] == 0


def learned(target, corners=None):
    """Learn weights that lower the squared distance to a point of the plane."""
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]) if corners is None else corners
    now = []

    def loss(weights):
        now[:] = [weights @ corners]
        return float(((now[0] - target) ** 2).sum())

    found = learned_soup(len(corners), loss, lambda: corners @ (2 * (now[0] - target)), steps=200)
    return found, loss(found)


@settings(max_examples=10, deadline=None)
@given(target=arrays(np.float64, 2, elements=st.floats(0.05, 0.45)))
def test_learned_weights_reach_a_point_inside(target):
    found, left = learned(target)
    assert found.min() >= 0
    np.testing.assert_allclose(found.sum(), 1.0)
    assert left < 1e-3


def test_learned_weights_are_never_worse_than_equal_ones_or_a_single_one():
    found, left = learned(np.array([1.0, 0.0]))
    assert left == 0.0
    np.testing.assert_array_equal(found, [0, 1, 0])
    steep = learned_soup(2, lambda w: float("nan") if w[0] != 0.5 else 1.0, lambda: np.array([1.0, -1.0]))
    np.testing.assert_array_equal(steep, [0.5, 0.5])
