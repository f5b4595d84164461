"""Every family: coefficients, derivatives, ends and starts, in one body for all of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mgraph.errors import InputError
from mgraph.families import FAMILIES, BezierCurveFamily, BezierSurfaceFamily, Segment, family_from
from mgraph.network.flat import combine as combine_torch
from mgraph_store.kernel import combine as combine_store

CURVES = [Segment(), *(BezierCurveFamily(bends) for bends in (0, 1, 2, 3, 4))]
SURFACES = [BezierSurfaceFamily(degree) for degree in ((1, 1), (2, 1), (1, 3), (2, 2), (3, 2))]
every_family = pytest.mark.parametrize("family", CURVES + SURFACES, ids=str)
every_surface = pytest.mark.parametrize("family", SURFACES, ids=str)

few = settings(max_examples=20, deadline=None)
floats32 = st.floats(width=32, allow_nan=False)
# what a caller may pass, with what float32 rounds to 0 or to 1 among it
awkward = st.sampled_from([0.0, -0.0, 1.0, 1e-60, 1e-45, 1e-40, 1 - 1e-12, -1.0])


def parameters(family, low=0.0, high=1.0):
    return arrays(np.float64, (5, family.dimension), elements=st.floats(low, high))


def rows_of(size, seed, columns=37):
    return list(np.random.default_rng(seed).normal(size=(size, columns)).astype(np.float32))


def both_sums(coefficients, rows):
    """The sum of float32 rows as the store's kernel and as the engine compute it."""
    out = torch.empty(rows[0].shape[0])
    combine_torch(coefficients, [torch.from_numpy(row) for row in rows], out)
    return combine_store(coefficients, rows), out.numpy()


def test_every_registered_family_is_tested_here():
    assert {type(family) for family in CURVES + SURFACES} == set(FAMILIES.values())


@every_family
@few
@given(data=st.data())
def test_coefficients_sum_to_one_and_derivatives_to_zero(family, data):
    t = data.draw(parameters(family))
    c, d = family.coefficients(t), family.derivatives(t)
    assert c.shape == (5, family.size)
    assert d.shape == (5, family.dimension, family.size)
    assert (c >= 0).all()
    np.testing.assert_allclose(c.sum(axis=1), 1.0, atol=1e-14)
    np.testing.assert_allclose(d.sum(axis=2), 0.0, atol=1e-13)


@every_family
@few
@given(data=st.data())
def test_derivative_is_the_finite_difference(family, data):
    t, h = data.draw(parameters(family, 0.01, 0.99)), 1e-5
    for axis in range(family.dimension):
        step = h * np.eye(family.dimension)[axis]
        difference = (family.coefficients(t + step) - family.coefficients(t - step)) / (2 * h)
        np.testing.assert_allclose(family.derivatives(t)[:, axis], difference, atol=1e-7)


@every_family
def test_ends_are_reproduced_bit_for_bit_whatever_the_other_rows_hold(family):
    coefficients = family.coefficients(family.end_parameters())
    np.testing.assert_array_equal(coefficients, np.eye(family.size)[list(family.ends)])
    for c, end in zip(coefficients.tolist(), family.ends, strict=True):
        rows = [np.full(5, np.nan, np.float32) for _ in range(family.size)]
        rows[end] = np.array([-0.0, 1e-45, np.inf, 3.4e38, -1.5], np.float32)
        for total in both_sums(c, rows):
            assert total.tobytes() == rows[end].tobytes()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_engine_and_store_sum_to_the_same_bits(data):
    size = data.draw(st.integers(1, 5))
    coefficients = data.draw(st.lists(awkward | st.floats(-2, 2), min_size=size, max_size=size))
    rows = data.draw(arrays(np.float32, (size, 9), elements=floats32))
    stored, engine = both_sums(coefficients, list(rows))
    assert stored.tobytes() == engine.tobytes()


@every_family
@few
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


@every_family
@few
@given(data=st.data())
def test_a_family_starts_straight(family, data):
    """Curves start as the segment; a degree-(n, m) surface starts with the bilinear weights of its corners."""
    t = data.draw(parameters(family))
    start = family.initial()
    np.testing.assert_array_equal(start[list(family.ends)], np.eye(len(family.ends)))
    if family.dimension == 1:
        expected = np.concatenate([1 - t, t], axis=1)
    else:
        u, v = t.T
        expected = np.stack([(1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v], axis=1)
    np.testing.assert_allclose(family.coefficients(t) @ start, expected, rtol=1e-6, atol=1e-15)


@every_family
def test_description_is_plain_and_comes_back(family):
    description = family.describe()
    assert family_from(description) == family
    assert family_from({k: list(v) if isinstance(v, tuple) else v for k, v in description.items()}) == family


@every_family
def test_ends_and_free_rows_share_out_the_rows(family):
    assert sorted(family.ends + family.free) == list(range(family.size))
    assert len(family.ends) == 2**family.dimension == len(family.end_parameters())


@few
@given(t=parameters(Segment()))
def test_a_curve_without_bends_is_the_segment(t):
    straight, curve = Segment(), BezierCurveFamily(0)
    np.testing.assert_array_equal(curve.coefficients(t), straight.coefficients(t))
    np.testing.assert_array_equal(curve.derivatives(t), straight.derivatives(t))
    np.testing.assert_array_equal(curve.initial(), straight.initial())


@few
@given(t=parameters(Segment()))
def test_a_bezier_curve_of_one_bend_is_the_formula_of_the_paper(t):
    t1 = t[:, 0]
    expected = np.stack([(1 - t1) ** 2, 2 * t1 * (1 - t1), t1**2], axis=1)  # [G] eq. 6
    np.testing.assert_allclose(BezierCurveFamily(1).coefficients(t), expected, atol=1e-15)


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


def test_grids_hold_their_corners_with_the_last_parameter_fastest():
    np.testing.assert_array_equal(Segment().grid(3), [[0.0], [0.5], [1.0]])
    surface = BezierSurfaceFamily()
    np.testing.assert_array_equal(surface.grid((2, 3)), [[0, 0], [0, 0.5], [0, 1], [1, 0], [1, 0.5], [1, 1]])
    np.testing.assert_array_equal(surface.grid(2), surface.end_parameters())


@every_family
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e-9, 1 + 1e-9])
def test_parameters_outside_the_domain_are_refused(family, value):
    t = np.full((2, family.dimension), 0.5)
    t[1, -1] = value
    for function in (family.coefficients, family.derivatives):
        with pytest.raises(InputError, match=r"\[0, 1\]"):
            function(t)


@every_family
@pytest.mark.parametrize("t", [[[0.1, 0.2, 0.3]], np.zeros((2, 1, 2)), "half", [[0.1], [0.1, 0.2]]])
def test_parameters_of_another_shape_are_refused(family, t):
    with pytest.raises(InputError, match=family.name):
        family.coefficients(t)


@every_family
@pytest.mark.parametrize("counts", [1, 0, -3, (3, 3, 3), (), "many", 2.5])
def test_bad_grids_are_refused(family, counts):
    with pytest.raises(InputError, match="at least 2"):
        family.grid(counts)


@pytest.mark.parametrize(
    "build",
    [
        lambda: BezierCurveFamily(-1),
        lambda: BezierSurfaceFamily((0, 2)),
        lambda: BezierSurfaceFamily((2,)),
        lambda: BezierSurfaceFamily((2, 2, 2)),
        lambda: family_from({"family": "spiral"}),
    ],
)
def test_bad_families_are_refused(build):
    with pytest.raises(InputError):
        build()
