"""The tangent rule against cases computed by hand from the paper's equations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mgraph.methods.neb.tangent import pulls, tangent_weights


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((1.0, 2.0, 4.0), (0.0, 1.0)),  # rising: toward p_{i+1} alone (eq. 8)
        ((4.0, 2.0, 1.0), (1.0, 0.0)),  # falling: toward p_{i-1} alone
        # A maximum, 3 between 1 and 2: differences 2 and 1. p_{i+1} is the higher neighbour: its side weighs 2, the
        # other 1 (eq. 10); divided by the larger.
        ((1.0, 3.0, 2.0), (0.5, 1.0)),
        ((2.0, 3.0, 1.0), (1.0, 0.5)),
        # A minimum, 0 between 1 and 4: again the higher neighbour's side has the larger difference.
        ((1.0, 0.0, 4.0), (0.25, 1.0)),
        ((4.0, 0.0, 1.0), (1.0, 0.25)),
        ((1.0, 3.0, 1.0), (1.0, 1.0)),  # neighbours alike: both sides
        ((2.0, 2.0, 2.0), (1.0, 1.0)),  # flat: p_{i+1} - p_{i-1}
        ((1.0, 2.0, 2.0), (0.0, 1.0)),  # a plateau on one side counts as the limit of rising
        ((2.0, 2.0, 1.0), (1.0, 0.0)),
        ((2.0, 2.0, 3.0), (0.0, 1.0)),
    ],
)
def test_weights_of_a_point_between_two_neighbours(losses, expected):
    np.testing.assert_allclose(tangent_weights(np.array(losses)), [expected])


finite = st.floats(-1e3, 1e3)


@settings(deadline=None)
@given(arrays.arrays(np.float64, st.integers(3, 12), elements=finite))
def test_the_side_of_the_higher_neighbour_never_weighs_less(losses):
    weights = tangent_weights(losses)
    left, right = losses[:-2], losses[2:]
    assert np.all(weights >= 0)
    assert np.all(weights.max(axis=1) == 1.0)
    assert np.all(weights[right > left, 1] >= weights[right > left, 0])
    assert np.all(weights[left > right, 0] >= weights[left > right, 1])


@settings(deadline=None)
@given(arrays.arrays(np.float64, st.integers(3, 12), elements=finite))
def test_a_chain_turned_round_has_the_same_tangents_turned_round(losses):
    np.testing.assert_array_equal(tangent_weights(losses[::-1]), tangent_weights(losses)[::-1, ::-1])


def pulled(points, losses, gradient, spring=None):
    """The force on the middle one of three points, by :func:`pulls`."""
    points, gradient = np.array(points, dtype=np.float64), np.array(gradient, dtype=np.float64)
    before, after = points[1] - points[0], points[2] - points[1]
    squares = np.array([before @ before, after @ after])
    slopes = np.array([[gradient @ before, gradient @ after]])
    a, b = pulls(np.array(losses), squares, np.array([before @ after]), slopes, spring)
    return -gradient + a[0] * before + b[0] * after


def test_the_force_at_a_maximum_by_hand():
    # p = (0,0), (1,0), (1,2) with losses 1, 3, 2: τ = 1·(1,0)·½ + (0,2)·1 = (½, 2), |τ|² = 17/4.
    # g = (4, 1): g·τ = 4; the part along it is 4/(17/4) τ = (8/17, 32/17).
    force = pulled([(0, 0), (1, 0), (1, 2)], (1.0, 3.0, 2.0), (4, 1))
    np.testing.assert_allclose(force, (-4 + 8 / 17, -1 + 32 / 17))


def test_the_springs_pull_along_the_tangent_alone():
    # Rising: τ̂ = (0,1); the pieces are 1 and 2 long, so k (2 - 1) τ̂ with k = 3.
    force = pulled([(0, 0), (1, 0), (1, 2)], (1.0, 2.0, 3.0), (4, 1), spring=3.0)
    np.testing.assert_allclose(force, (-4.0, 3.0))


def test_where_the_tangent_vanishes_it_is_the_difference_of_the_neighbours_and_without_that_there_is_none():
    # A hairpin: back to where it came from; both sides cancel, p_{i+1} = p_{i-1}, and the whole gradient acts.
    np.testing.assert_allclose(pulled([(0, 0), (1, 0), (0, 0)], (1.0, 1.0, 1.0), (4, 1)), (-4.0, -1.0))
    # Rising, but the higher neighbour is the same point: the tangent is p_{i+1} - p_{i-1} = (1, 0).
    np.testing.assert_allclose(pulled([(0, 0), (1, 0), (1, 0)], (1.0, 2.0, 3.0), (4, 1)), (0.0, -1.0))
