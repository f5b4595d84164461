"""Which parameter values a step sees: each uniform on its own, all of a step spread over the domain together."""

from itertools import pairwise
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgraph.families import BezierCurveFamily, BezierSurfaceFamily
from mgraph.train.draws import draws
from mgraph.train.phases import Curve, Phase
from mgraph.train.sampling import DRAWS, Sampling, cover

STEPS = 2000
COUNTS = (1, 2, 3, 4, 5, 9)


@pytest.fixture
def stats():
    from scipy import stats  # takes a second, in every process that collects this file

    return stats


def some(samples, dimension, how, seed=0, steps=STEPS):
    return cover(steps, samples, dimension, how, np.random.default_rng(seed))


@pytest.mark.parametrize("how", DRAWS)
@pytest.mark.parametrize("dimension", [1, 2])
@pytest.mark.parametrize("samples", COUNTS)
def test_every_value_is_uniform_and_none_repeats(samples, dimension, how, stats):
    t = some(samples, dimension, how)
    assert t.shape == (STEPS, samples, dimension)
    assert t.min() >= 0
    assert t.max() < 1
    for sample in range(samples):
        for axis in range(dimension):
            assert stats.kstest(t[:, sample, axis], "uniform").pvalue > 1e-4
        if dimension == 2:
            cells = np.histogram2d(*t[:, sample].T, bins=4, range=[[0, 1]] * 2)[0]
            assert stats.chisquare(cells.ravel()).pvalue > 1e-4
    assert len(np.unique(t.reshape(-1, dimension), axis=0)) == STEPS * samples


@pytest.mark.parametrize("how", DRAWS)
@pytest.mark.parametrize("dimension", [1, 2])
def test_steps_are_independent_of_one_another(dimension, how):
    t = some(4, dimension, how).reshape(STEPS, -1)
    correlations = np.corrcoef(t[:-1].T, t[1:].T)[: t.shape[1], t.shape[1] :]
    assert np.abs(correlations).max() < 0.1


@settings(max_examples=20, deadline=None)
@given(samples=st.integers(1, 30), seed=st.integers(0, 999))
def test_stratified_values_on_a_path_lie_one_in_each_interval(samples, seed):
    t = some(samples, 1, "stratified", seed, steps=20)[:, :, 0]
    assert np.array_equal(np.sort(np.floor(t * samples), axis=1), np.tile(np.arange(samples), (20, 1)))


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (2, 3), (2, 4), (3, 3), (3, 4), (4, 4)])
def test_a_composite_number_of_values_on_a_surface_lies_one_in_each_cell(rows, columns):
    """Of the most square grid, either way round, both about equally often."""
    samples = rows * columns
    t = some(samples, 2, "stratified")

    def fills(a, b):
        u, v = np.floor(t[:, :, 0] * a), np.floor(t[:, :, 1] * b)
        return (np.sort(u * b + v, axis=1) == np.arange(samples)).all(axis=1)

    one, other = fills(rows, columns), fills(columns, rows)
    assert (one | other).all()
    assert abs(one.mean() - other.mean()) < 0.1


@settings(max_examples=20, deadline=None)
@given(samples=st.integers(2, 30).filter(lambda n: all(n % d for d in range(2, n))), seed=st.integers(0, 999))
def test_a_prime_number_on_a_surface_is_a_latin_hypercube(samples, seed):
    t = some(samples, 2, "stratified", seed, steps=20)
    for axis in (0, 1):
        strata = np.sort(np.floor(t[:, :, axis] * samples), axis=1)
        assert np.array_equal(strata, np.tile(np.arange(samples), (20, 1)))
    if samples > 4:  # and the two axes are paired at random
        assert len({tuple(np.floor(step[np.argsort(step[:, 0]), 1] * samples)) for step in t}) > 10


@pytest.mark.parametrize("samples", [2, 3, 4, 5, 8, 13])
@pytest.mark.parametrize("dimension", [1, 2])
def test_a_lattice_keeps_its_differences(samples, dimension):
    """All values of a step are one fixed lattice, shifted: evenly spaced along each axis, and far apart."""
    t = some(samples, dimension, "lattice", steps=200)
    shapes = set()
    for step in t:
        ordered = step[np.argsort(step[:, 0])]
        for axis in range(dimension):
            gaps = np.diff(np.sort(ordered[:, axis]))
            np.testing.assert_allclose(gaps, 1 / samples, atol=1e-12)
        from_first = np.rint((step - step[0]) % 1.0 * samples).astype(int) % samples
        shapes.add(tuple(map(tuple, sorted(from_first.tolist()))))
    assert len(shapes) == 1
    if dimension == 2:
        index = np.array(sorted(shapes.pop()))[1:] / samples
        least = np.linalg.norm(np.minimum(index, 1 - index), axis=1).min()
        diagonal = 2**0.5 / samples  # the worst lattice
        assert least >= diagonal - 1e-12
        if samples in (5, 8, 13):
            assert least > 1.4 * diagonal


@pytest.mark.parametrize("how", ["stratified", "lattice"])
@pytest.mark.parametrize("dimension", [1, 2])
@pytest.mark.parametrize("samples", [4, 5])
def test_the_values_of_a_step_come_in_random_order(samples, dimension, how, stats):
    """So no slice of the batch, and no remainder of it, belongs to one part of the domain."""
    order = np.argsort(some(samples, dimension, how)[:, :, 0], axis=1)
    for place in range(samples):
        counts = np.bincount(order[:, place], minlength=samples)
        assert stats.chisquare(counts).pvalue > 1e-4
    assert len(np.unique(order, axis=0)) == factorial(samples)  # a shifted lattice alone has as many as values


@pytest.mark.parametrize("how", DRAWS)
def test_draws_are_reproducible(how):
    for dimension in (1, 2):
        assert np.array_equal(some(4, dimension, how, 3), some(4, dimension, how, 3))
        assert not np.array_equal(some(4, dimension, how, 3), some(4, dimension, how, 4))


def test_spread_draws_integrate_better_than_independent_ones():
    def variance(how):
        return np.var(np.exp(some(4, 1, how)).mean(axis=(1, 2)))

    assert variance("stratified") < 0.1 * variance("iid")  # 1/16 for straight lines
    assert variance("lattice") < 0.35 * variance("iid")  # 1/4


def test_a_phase_draws_on_every_curve_by_itself(stats):
    """Where c(t) = (1 - t, t), each curve shows the parameters that it was given, in rows of its own."""
    line = BezierCurveFamily(0)
    phase = Phase("edges", 1, (Curve(line, (0, 2), 5), Curve(line, (1, 4), 5)), (0,))
    coming = draws(phase, Sampling(3, draw="iid"), np.random.default_rng(0))
    blocks = [next(coming) for _ in range(8)]
    assert all(np.array_equal(w, np.ones(c.shape[:2])) for c, w in blocks)
    stacked = np.concatenate([c for c, _ in blocks])
    assert stacked.shape[1:] == (6, 5)
    assert not stacked[:, :, 3].any()
    assert not stacked[:, :3, [1, 4]].any()
    assert not stacked[:, 3:, [0, 2]].any()
    parameters = np.concatenate([stacked[:, :3, 2], stacked[:, 3:, 4]], axis=1)
    np.testing.assert_allclose(stacked.sum(axis=2), 1.0)
    assert len(np.unique(parameters)) == parameters.size
    for column in range(6):
        assert stats.kstest(parameters[:, column], "uniform").pvalue > 1e-3
    correlations = np.corrcoef(parameters.T) - np.eye(6)
    assert np.abs(correlations).max() < 0.15


def test_a_phase_spreads_the_values_of_each_curve():
    line = BezierCurveFamily(0)
    phase = Phase("edges", 1, (Curve(line, (0, 1), 2), Curve(line, (0, 1), 2)), (0,))
    c, _ = next(draws(phase, Sampling(4), np.random.default_rng(0)))
    for curve in (c[:, :4, 1], c[:, 4:, 1]):
        assert np.array_equal(np.sort(np.floor(curve * 4), axis=1), np.tile(np.arange(4), (len(c), 1)))
    assert all(not np.array_equal(a, b) for a, b in pairwise((c[:, :4], c[:, 4:])))


def test_coefficients_are_the_familys():
    family = BezierSurfaceFamily((2, 1))
    rng, again = np.random.default_rng(1), np.random.default_rng(1)
    c, _ = next(draws(Phase("s", 1, (Curve.whole(family),), (2, 3)), Sampling(3), rng))
    t = cover(len(c), 3, 2, "stratified", again)
    np.testing.assert_array_equal(c.reshape(-1, 6), family.coefficients(t.reshape(-1, 2)))
