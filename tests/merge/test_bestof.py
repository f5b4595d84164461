"""The best of many points is called better only if luck would hardly have made it so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mgraph.merge.bestof import decide, halves
from mgraph.merge.compare import paired_difference


def simulated(rng: np.random.Generator, points: int, examples: int, correlation: float, better: float = 0.0) -> tuple:
    """Whether S classifiers are right, of equal accuracy 0.9 but for the first: a shared part and one of their own."""
    shared = rng.standard_normal(examples)
    own = rng.standard_normal((points + 1, examples))
    scores = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    quantile = np.full((points + 1, 1), -1.2816)  # Φ(-1.2816) = 0.1
    quantile[0] -= better
    right = (scores > quantile).astype(float)
    return right[:-1], right[-1]


def likelihoods(rng: np.random.Generator, points: int, examples: int, correlation: float) -> tuple:
    """Log-likelihoods of S equally good classifiers: most examples are certain, a few are badly wrong."""
    shared = rng.standard_normal(examples)
    own = rng.standard_normal((points + 1, examples))
    scores = -np.logaddexp(0.0, 3.0 * (np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own) - 3.0)
    return scores[:-1], scores[-1]


@pytest.mark.parametrize(
    ("simulate", "correlation"),
    [
        pytest.param(simulated, 0.0, id="accuracy"),
        pytest.param(likelihoods, 0.9, id="likelihood", marks=pytest.mark.stress),
    ],
)
def test_of_equal_points_the_best_is_hardly_ever_called_better(simulate: Any, correlation: float) -> None:
    rng, times = np.random.default_rng(0), 80
    naive = fired = halved = 0
    searched, held_out = halves(200)
    for _ in range(times):
        points, corner = simulate(rng, 121, 200, correlation)
        best = int(points.mean(axis=1).argmax())
        fired += decide(points, best, corner).verdict == "better"
        naive += paired_difference(points[best], corner).verdict == "better"
        first = int(points[:, searched].mean(axis=1).argmax())
        halved += decide(points[[first]][:, held_out], 0, corner[held_out]).verdict == "better"
    assert fired <= 0.05 * times
    assert halved <= 0.05 * times
    assert naive > 0.25 * times  # what two standard errors alone would say


def test_a_point_that_is_truly_better_is_called_so() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(10):
        points, corner = simulated(rng, 121, 500, 0.5, better=0.8)
        found.append(decide(points, int(points.mean(axis=1).argmax()), corner))
    assert sum(d.verdict == "better" for d in found) >= 9
    assert {d.looked_at for d in found} == {121}


def test_a_wall_does_not_drown_a_good_point() -> None:
    rng = np.random.default_rng(2)
    points, corner = simulated(rng, 30, 1000, 0.5, better=0.6)
    wall = (rng.random((90, 1000)) < 0.3).astype(float)
    with_wall = decide(np.concatenate([points, wall]), 0, corner)
    assert with_wall.p == pytest.approx(decide(points, 0, corner).p, abs=0.01)


def test_a_single_point_is_judged_in_both_directions() -> None:
    rng = np.random.default_rng(3)
    corner = (rng.random(1000) < 0.9).astype(float)
    worse = corner * (rng.random(1000) < 0.95)
    assert decide([worse], 0, corner).verdict == "worse"
    assert decide([corner], 0, worse).verdict == "better"
    same = decide([corner], 0, corner)
    assert (same.verdict, same.value, same.p) == ("even", 0.0, 1.0)
    assert decide([[1.0]], 0, [0.0]).verdict == "even"  # one example says nothing


def test_it_is_the_same_each_time() -> None:
    points, corner = simulated(np.random.default_rng(4), 20, 200, 0.5)
    assert decide(points, 3, corner) == decide(points, 3, corner)


def test_what_is_asked_for_rises_with_the_points_from_two_standard_errors_on() -> None:
    rng = np.random.default_rng(5)
    points, corner = likelihoods(rng, 121, 400, 0.5)
    one, many = decide(points[:1], 0, corner), decide(points, 0, corner)
    assert one.threshold == pytest.approx(1.96, abs=0.15)
    assert one.threshold >= 1.96
    assert many.threshold > 2.5
    assert (one.value, one.standard_error) == (many.value, many.standard_error)
    assert one.errors == pytest.approx(paired_difference(points[0], corner).value / one.standard_error, rel=1e-4)


def test_halves_are_disjoint_and_the_same_each_time() -> None:
    first, second = halves(101)
    assert sorted([*first, *second]) == list(range(101))
    assert (len(first), len(second)) == (50, 51)
    assert all(np.array_equal(a, b) for a, b in zip(halves(101), (first, second), strict=True))
