"""Which members count: weights that maximise a likelihood, and greedy selection under a budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from mgraph.errors import InputError
from mgraph.merge.weights import convex_weights, greedy_members, mixture_nll


def some(seed: int, members: int = 4, examples: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).beta(2.0, 1.0, size=(members, examples))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999))
def test_learned_weights_are_those_of_a_general_optimiser(seed: int) -> None:
    p = some(seed)
    found = convex_weights(p, steps=20000, tolerance=1e-5)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1.0)
    equal = np.full(4, 0.25)
    known = minimize(
        lambda w: mixture_nll(p, w),
        equal,
        method="SLSQP",
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
    )
    assert mixture_nll(p, found) == pytest.approx(known.fun, abs=2e-5)
    assert mixture_nll(p, found) <= mixture_nll(p, equal) + 1e-12


def test_a_member_that_is_best_everywhere_gets_everything() -> None:
    p = np.stack([np.full(30, 0.9), np.full(30, 0.2), np.full(30, 0.1)])
    np.testing.assert_allclose(convex_weights(p, steps=5000, tolerance=0), [1, 0, 0], atol=1e-6)
    assert greedy_members(p, 3) == [0]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), most=st.integers(1, 5))
def test_greedy_keeps_to_its_budget_and_every_member_helps(seed: int, most: int) -> None:
    p = some(seed)
    chosen = greedy_members(p, most)
    assert 1 <= len(chosen) <= min(most, 4)
    assert len(set(chosen)) == len(chosen)
    values = [mixture_nll(p[chosen[: n + 1]], np.full(n + 1, 1 / (n + 1))) for n in range(len(chosen))]
    assert values == sorted(values, reverse=True)
    assert values[0] == min(mixture_nll(p[[i]], [1.0]) for i in range(4))


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1 member, not 0"):
        greedy_members(some(0), 0)
