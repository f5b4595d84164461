"""Metrics of one point, and sweeps: values against NumPy, each point with its own statistics."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mgraph.data.task import make_task
from mgraph.evaluate.batchnorm import BatchNormPolicy, recompute_statistics
from mgraph.evaluate.metrics import Measured, Subset, measure
from mgraph.evaluate.sweep import sweep
from mgraph.families import BezierCurveFamily, BezierSurfaceFamily
from mgraph.network.flat import FlatModel
from mgraph.train.loop import Progress

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(90, 1, 4, 4)).astype(np.float32), np.arange(90) % 3
TASK = make_task(train=(X[:40], Y[:40]), valid=(X[40:60], Y[40:60]), test=(X[60:], Y[60:]))
POLICY = BatchNormPolicy.default(40)
EVERYWHERE = {split: Subset() for split in ("train", "valid", "test")}


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 3)
    )


def test_means_and_standard_errors_are_numpys():
    flat = FlatModel(network())
    plain = copy.deepcopy(flat.module).eval()
    for split, x, y in (("test", X[60:], Y[60:]), ("train", X[:40], Y[:40])):
        measured = measure(flat, TASK, split)
        logits = plain(torch.from_numpy(x)).detach().double().numpy()
        losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]
        right = (logits.argmax(1) == y).astype(float)
        for name, values in (("loss", losses), ("accuracy", right)):
            assert measured[name].value == pytest.approx(values.mean(), rel=1e-6)
            assert measured[name].standard_error == pytest.approx(values.std(ddof=1) / len(y) ** 0.5, rel=1e-5)
            assert measured[name].count == len(y)


def test_batches_of_evaluation_do_not_matter(monkeypatch):
    flat = FlatModel(network())
    whole = measure(flat, TASK, "train")
    monkeypatch.setattr("mgraph.evaluate.metrics._BATCH", 7)
    parts = measure(flat, TASK, "train")
    for name in whole:
        assert parts[name].value == pytest.approx(whole[name].value, rel=1e-6)


def test_a_loss_known_only_by_batches_is_weighted_by_their_sizes(monkeypatch):
    def mse(outputs, targets):
        return (outputs[:, 0] - targets).square().mean()

    target = Y.astype(np.float32)
    task = make_task(train=(X[:40], target[:40]), valid=(X[40:60], target[40:60]), test=(X[60:], target[60:]), loss=mse)
    flat = FlatModel(network())
    plain = copy.deepcopy(flat.module).eval()
    monkeypatch.setattr("mgraph.evaluate.metrics._BATCH", 16)  # 16 and 14: a mean of batch means would be wrong
    measured = measure(flat, task, "test")
    expected = float(mse(plain(torch.from_numpy(X[60:])), torch.from_numpy(target[60:])).detach())
    assert measured == {"loss": Measured(pytest.approx(expected, rel=1e-6), None, 30)}


def test_one_example_has_no_standard_error_and_nan_is_kept():
    assert Measured.of(torch.tensor([2.0])) == Measured(2.0, None, 1)
    lost = Measured.of(torch.tensor([1.0, torch.nan]))
    assert np.isnan(lost.value)
    flat = FlatModel(network())
    flat.theta[0] = torch.nan
    assert np.isnan(measure(flat, TASK, "test")["loss"].value)


def test_a_subset_is_fixed_by_its_seed_and_named_by_its_examples():
    subset = Subset.random(40, 10, seed=1)
    assert subset.name == Subset.random(40, 10, seed=1).name
    assert len({Subset.random(40, 10, seed=s).name for s in range(4)} | {"all"}) == 5
    order = subset.order.tolist()
    assert order == sorted(set(order))
    assert len(order) == 10
    assert Subset.random(40, None) == Subset.random(40, 40) == Subset.random(40, 99) == Subset("all", None)
    flat = FlatModel(network())
    plain = copy.deepcopy(flat.module).eval()
    measured = measure(flat, TASK, "train", subset)
    expected = F.cross_entropy(plain(torch.from_numpy(X[order])), torch.from_numpy(Y[order])).detach()
    assert measured["loss"].value == pytest.approx(float(expected), rel=1e-6)
    assert measured["loss"].count == 10


def rows_of(flat, size):
    generator = torch.Generator().manual_seed(0)
    return [flat.pack(torch.randn(flat.dimension, generator=generator)) for _ in range(size)]


@pytest.mark.parametrize("family", [BezierCurveFamily(1), BezierSurfaceFamily((2, 1))], ids=str)
def test_a_sweep_returns_at_its_corners_the_metrics_of_the_modes(family):
    flat = FlatModel(network())
    rows = rows_of(flat, family.size)
    coefficients = family.coefficients(family.grid(3))
    seen = []
    results = sweep(flat, TASK, rows, coefficients, policy=POLICY, subsets=EVERYWHERE, report=seen.append)
    assert seen == [Progress("sweep", i + 1, len(coefficients)) for i in range(len(coefficients))]
    corners = [int(np.flatnonzero((coefficients == np.eye(family.size)[end]).all(1))[0]) for end in family.ends]
    for corner, end in zip(corners, family.ends, strict=True):
        flat.theta.copy_(rows[end])
        recompute_statistics(flat, TASK.train, POLICY)
        assert results[corner] == {split: measure(flat, TASK, split) for split in EVERYWHERE}


def test_points_have_the_same_numbers_in_any_order():
    """Statistics of one point must never be used for another."""
    flat = FlatModel(network())
    rows = rows_of(flat, 3)
    coefficients = BezierCurveFamily(1).coefficients([[0.0], [0.3], [0.9]])
    options = {"policy": POLICY, "subsets": EVERYWHERE}
    forward = sweep(flat, TASK, rows, coefficients, **options)
    backward = sweep(flat, TASK, rows, coefficients[::-1], **options)
    assert forward == backward[::-1]
    assert len({point["test"]["loss"].value for point in forward}) == 3


def test_a_sweep_measures_the_splits_and_subsets_it_is_asked_for():
    flat = FlatModel(network())
    subset = Subset.random(40, 7)
    [point] = sweep(flat, TASK, rows_of(flat, 1), np.ones((1, 1)), policy=POLICY, subsets={"train": subset})
    assert list(point) == ["train"]
    assert point["train"]["accuracy"].count == 7


def test_a_non_finite_row_of_coefficient_zero_does_not_reach_the_point():
    flat = FlatModel(network())
    rows = [*rows_of(flat, 1), torch.full_like(flat.theta, torch.nan)]
    [point] = sweep(flat, TASK, rows, np.array([[1.0, 0.0]]), policy=POLICY, subsets={"test": Subset()})
    assert np.isfinite(point["test"]["loss"].value)
