"""How alike two modes are, layer by layer."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgraph.evaluate.similarity import Similarity, similarities
from mgraph_store import TensorSpec


def mode(seed):
    rng = np.random.default_rng(seed)
    return {
        "conv.weight": rng.normal(size=(8, 4, 3, 3)).astype(np.float32),
        "conv.bias": rng.normal(size=8).astype(np.float32),
        "norm.weight": np.ones(8, np.float32),
        "head.weight": rng.normal(size=(10, 40)).astype(np.float32),
    }


def compare(*points, step=None):
    """Compare points as the store gives them: flat arrays, block by block."""
    tensors = [TensorSpec(name, t.shape, "float32", "parameter") for name, t in points[0].items()]
    flat = [np.concatenate([t.ravel() for t in point.values()]) for point in points]
    step = step or len(flat[0])
    blocks = ((start, [x[start : start + step] for x in flat]) for start in range(0, len(flat[0]), step))
    return similarities(tensors, len(points), blocks)


def two(left, right) -> Similarity:
    return compare(left, right)[0, 1]


def test_every_tensor_is_compared_as_the_formulas_say():
    left, right = mode(0), mode(1)
    found = two(left, right)
    assert [t.name for t in found.tensors] == list(left)
    for t in found.tensors:
        x, y = left[t.name].ravel().astype(float), right[t.name].ravel().astype(float)
        assert t.cosine == pytest.approx(x @ y / np.sqrt((x @ x) * (y @ y)))
        assert t.distance == pytest.approx(np.linalg.norm(x - y))
        assert t.relative == pytest.approx(np.linalg.norm(x - y) / np.sqrt(x @ x + y @ y))
        assert t.norms == pytest.approx((np.linalg.norm(x), np.linalg.norm(y)))
        assert t.variances == pytest.approx((x.var(), y.var()), abs=1e-15)
        assert t.shape == left[t.name].shape
    assert [t.name for t in found.weights] == ["conv.weight", "head.weight"]
    x, y = (np.concatenate([t.ravel() for t in point.values()]).astype(float) for point in (left, right))
    whole = found.whole
    assert whole.cosine == pytest.approx(x @ y / np.sqrt((x @ x) * (y @ y)))
    lengths = np.linalg.norm([x - y, x, y], axis=1)
    assert (whole.distance, *whole.norms) == pytest.approx(tuple(lengths))


def test_the_whole_vector_misleads_where_there_is_normalisation():
    rng = np.random.default_rng(3)
    modes = [
        {"w": (0.05 * rng.normal(size=(20, 20))).astype(np.float32), "gamma": np.ones(20, np.float32)} for _ in "ab"
    ]
    found = two(*modes)
    assert abs(found.median_cosine) < 0.2
    assert found.whole.cosine > 0.9
    assert not found.same_run


@given(st.integers(1, 800), st.integers(0, 50))
def test_blocks_of_any_size_give_the_same(step, seed):
    points = [mode(seed), mode(seed + 1), mode(seed + 2)]
    at_once, in_blocks = compare(*points), compare(*points, step=step)
    assert list(at_once) == list(in_blocks) == list(combinations(range(3), 2))
    for pair, found in at_once.items():
        for a, b in zip(found.tensors, in_blocks[pair].tensors, strict=True):
            assert (b.cosine, b.distance) == pytest.approx((a.cosine, a.distance), rel=1e-12, abs=1e-13)
            assert (*b.norms, *b.variances) == pytest.approx((*a.norms, *a.variances), rel=1e-12, abs=1e-13)


def test_a_small_variance_about_a_large_mean_is_not_lost():
    rng = np.random.default_rng(0)
    tensor = (1000 + 1e-3 * rng.normal(size=5000)).astype(np.float32)
    found = compare({"t": tensor}, {"t": tensor}, step=7)[0, 1].tensors[0]
    assert found.variances[0] == pytest.approx(tensor.astype(float).var(), rel=1e-9)


def test_equal_opposite_and_orthogonal_tensors():
    left = {"w": np.eye(4, dtype=np.float32)[:2]}
    (same,) = two(left, left).tensors
    assert (same.cosine, same.distance, same.relative) == (pytest.approx(1), 0, 0)
    (opposite,) = two(left, {"w": -left["w"]}).tensors
    assert (opposite.cosine, opposite.relative) == (pytest.approx(-1), pytest.approx(np.sqrt(2)))
    (orthogonal,) = two(left, {"w": np.eye(4, dtype=np.float32)[2:]}).tensors
    assert (orthogonal.cosine, orthogonal.relative) == (0, pytest.approx(1))


def test_the_ratio_of_variances_is_that_of_the_weights():
    left = mode(0)
    right = {name: 2 * t if t.ndim > 1 else 7 * t for name, t in left.items()}
    assert two(left, right).variance_ratio == pytest.approx(4)
    assert two({"b": np.ones(3, np.float32)}, {"b": np.ones(3, np.float32)}).variance_ratio is None


def same_run(left, right):
    return two(left, right).same_run


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
        found = two(left, right)
        assert {t.cosine for t in found.tensors} == {None}
        assert found.median_cosine is None
        assert not found.same_run
