"""Chains whose bends sit where the path's length puts them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgraph.errors import InputError
from mgraph.families import PolygonalChainFamily, family_from

lengths = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12)


@given(lengths)
def test_knots_are_the_length_so_far_over_the_total(pieces):
    family = PolygonalChainFamily.by_length(pieces)
    assert family.size == len(pieces) + 1
    assert np.allclose(family.knots, np.concatenate([[0.0], np.cumsum(pieces)]) / sum(pieces))
    assert family_from(family.describe()) == family
    assert np.array_equal(family.coefficients(family.knots[:, None]), np.eye(family.size))


@given(lengths, st.integers(0, 9))
def test_a_grid_on_the_pieces_has_every_knot_and_as_many_points_between(pieces, inner):
    family = PolygonalChainFamily.by_length(pieces)
    axis = family.pieces_grid(inner).points[:, 0]
    assert len(axis) == len(pieces) * (inner + 1) + 1
    assert np.array_equal(axis[:: inner + 1], family.knots)
    on_pieces = (family.coefficients(axis[:, None]) > 0).sum(axis=1)
    assert np.array_equal(on_pieces > 1, np.arange(len(axis)) % (inner + 1) != 0)


def test_the_default_sweep_sees_every_bend_of_such_a_chain():
    assert len(PolygonalChainFamily(3, (0.2, 0.3, 0.9)).sweep_grid) == 4 * 10 + 1
    assert len(PolygonalChainFamily.by_length([1.0] * 300).sweep_grid) == 300 * 2 + 1
    assert len(PolygonalChainFamily(3).sweep_grid) == 61


@pytest.mark.parametrize("at", [(0.5,), (0.5, 0.5), (0.0, 0.5), (0.5, 1.0), (0.6, 0.4), (float("nan"), 0.5)])
def test_bends_must_rise_inside_the_interval(at):
    with pytest.raises(InputError, match="rising values between 0 and 1"):
        PolygonalChainFamily(2, at)


@pytest.mark.parametrize("pieces", [[], [1.0, 0.0], [float("nan")], [float("inf"), 1.0], [-1.0], [1.0, 1e-30]])
def test_pieces_without_length_make_no_chain(pieces):
    with pytest.raises(InputError):
        PolygonalChainFamily.by_length(pieces)


@pytest.mark.parametrize("inner", [-1, 1.5])
def test_points_between_are_a_whole_number(inner):
    with pytest.raises(InputError, match="whole number of points"):
        PolygonalChainFamily(1, (0.5,)).pieces_grid(inner)
