"""Paired comparison of two models on the same examples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgraph.merge.compare import Difference, paired_difference


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(2, 60))
def test_mean_and_standard_error_are_those_of_the_paired_t_test(seed, count):
    rng = np.random.default_rng(seed)
    candidate, baseline = rng.normal(0.3, 1, count), rng.normal(size=count)
    mine = paired_difference(candidate, baseline)
    from scipy import stats  # takes a second, in every process that collects this file

    test = stats.ttest_rel(candidate, baseline)
    assert mine.value == pytest.approx((candidate - baseline).mean())
    assert mine.value / mine.standard_error == pytest.approx(test.statistic)


def test_what_both_models_share_does_not_blur_the_difference():
    hard = 100 * np.random.default_rng(0).normal(size=50)
    assert paired_difference(hard + 1, hard).standard_error == pytest.approx(0.0, abs=1e-12)
    assert paired_difference(hard + 1, hard).verdict == "better"


@pytest.mark.parametrize(
    ("value", "error", "verdict"),
    [
        (0.1, 0.04, "better"),
        (-0.1, 0.04, "worse"),
        (0.1, 0.05, "even"),
        (0.0, 0.0, "even"),
        (1.0, float("inf"), "even"),
    ],
)
def test_a_verdict_needs_more_than_two_standard_errors(value, error, verdict):
    assert Difference(value, error).verdict == verdict


def test_numbers_that_are_none_are_no_improvement():
    lost = paired_difference([1.0, np.nan, 1.0], [0.0, 0.0, 0.0])
    assert np.isnan(lost.value)
    assert lost.verdict == "even"


def test_one_example_proves_nothing():
    assert paired_difference([1.0], [0.0]) == Difference(1.0, float("inf"))


def test_a_difference_is_written_with_its_error_and_verdict():
    assert str(Difference(0.1, 0.04)) == "+0.1000 ± 0.0400: better"
