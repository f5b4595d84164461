"""How alike two modes are, layer by layer."""

import numpy as np
import pytest

from mgraph.evaluate.similarity import layer_cosines, looks_like_same_run


def mode(seed):
    rng = np.random.default_rng(seed)
    return {
        "conv.weight": rng.normal(size=(8, 4, 3, 3)).astype(np.float32),
        "conv.bias": rng.normal(size=8).astype(np.float32),
        "norm.weight": np.ones(8, np.float32),
        "head.weight": rng.normal(size=(10, 40)).astype(np.float32),
    }


def test_cosines_of_the_weight_tensors_alone():
    left, right = mode(0), mode(1)
    cosines = layer_cosines(left, right)
    assert list(cosines) == ["conv.weight", "head.weight"]
    for name, cosine in cosines.items():
        x, y = left[name].ravel().astype(float), right[name].ravel().astype(float)
        assert cosine == pytest.approx(x @ y / np.sqrt((x @ x) * (y @ y)))


def same_run(left, right):
    return looks_like_same_run(layer_cosines(left, right), {name: t.size for name, t in left.items()})


def perturbed(mode, noise):
    rng = np.random.default_rng(2)
    return {name: (t + noise * rng.normal(size=t.shape)).astype(np.float32) for name, t in mode.items()}


@pytest.mark.parametrize("seed", range(1, 20))
def test_independent_modes_do_not_look_like_one_run(seed):
    assert not same_run(mode(0), mode(seed))


@pytest.mark.parametrize(("noise", "same"), [(0.0, True), (0.3, True), (1.0, True), (20.0, False)])
def test_a_perturbed_mode_looks_like_the_same_run_unless_little_is_left_of_it(noise, same):
    assert same_run(mode(0), perturbed(mode(0), noise)) is same


def test_an_opposite_mode_is_another_run():
    assert not same_run(mode(0), {name: -t for name, t in mode(0).items()})


def test_most_layers_decide():
    left, right = {f"layer{i}": mode(i)["head.weight"] for i in range(5)}, {}
    for alike, expected in ((2, False), (3, True)):
        right = {name: left[name] if i < alike else mode(9 + i)["head.weight"] for i, name in enumerate(left)}
        assert same_run(left, right) is expected


def test_a_small_layer_may_be_alike_by_chance():
    """Cosines of 16 numbers have a standard deviation of 1/4: no such layer says anything by itself."""
    left = {"tiny": np.ones((4, 4), np.float32)}
    assert not same_run(left, perturbed(left, 1.0))


def test_zero_and_non_finite_tensors_have_no_direction():
    left = mode(0)
    for value in (0.0, np.nan):
        right = {name: np.full_like(t, value) for name, t in left.items()}
        assert layer_cosines(left, right) == {}
        assert not same_run(left, right)
