"""Metrics of one point, and sweeps: values against NumPy, each point with its own statistics."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mgraph.data.making import make_task
from mgraph.errors import InputError, NotFoundError
from mgraph.evaluate.batchnorm import BatchNormPolicy, recompute_statistics
from mgraph.evaluate.classification import brier, expected_calibration_error, nll, top_k
from mgraph.evaluate.metric_names import resolve_metrics
from mgraph.evaluate.metrics import Measured, Subset, measure
from mgraph.evaluate.sweep import Measuring, sweep
from mgraph.families import BezierCurveFamily, BezierSurfaceFamily
from mgraph.network.flat import FlatModel
from mgraph.progress import Progress

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(90, 1, 4, 4)).astype(np.float32), np.arange(90) % 3
TASK = make_task(train=(X[:40], Y[:40]), valid=(X[40:60], Y[40:60]), test=(X[60:], Y[60:]))
POLICY = BatchNormPolicy.default(TASK.train)
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
    coefficients = family.coefficients(family.grid(3).points)
    seen = []
    results = list(
        sweep(flat, TASK, rows, coefficients, how=Measuring(POLICY), subsets=EVERYWHERE, progress=seen.append)
    )
    steps = range(1, len(coefficients) + 1)
    assert seen == [Progress("sweep", i, len(steps), examples=90, called="images") for i in steps]
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
    options = {"how": Measuring(POLICY), "subsets": EVERYWHERE}
    forward = list(sweep(flat, TASK, rows, coefficients, **options))
    backward = list(sweep(flat, TASK, rows, coefficients[::-1], **options))
    assert forward == backward[::-1]
    assert len({point["test"]["loss"].value for point in forward}) == 3


def test_a_sweep_measures_the_splits_and_subsets_it_is_asked_for():
    flat = FlatModel(network())
    subset = Subset.random(40, 7)
    [point] = sweep(flat, TASK, rows_of(flat, 1), np.ones((1, 1)), how=Measuring(POLICY), subsets={"train": subset})
    assert list(point) == ["train"]
    assert point["train"]["accuracy"].count == 7
    each = [{"train": subset}, {"valid": Subset()}]
    first, second = sweep(flat, TASK, rows_of(flat, 1), np.ones((2, 1)), how=Measuring(POLICY), subsets=each)
    assert (first, list(second)) == (point, ["valid"])


def test_a_point_is_reported_when_it_has_been_taken():
    flat = FlatModel(network())
    said = []
    points = sweep(
        flat, TASK, rows_of(flat, 1), np.ones((3, 1)), how=Measuring(POLICY), subsets={}, progress=said.append
    )
    next(points)
    assert said == []
    next(points)
    assert said == [Progress("sweep", 1, 3, called="images")]


def test_a_non_finite_row_of_coefficient_zero_does_not_reach_the_point():
    flat = FlatModel(network())
    rows = [*rows_of(flat, 1), torch.full_like(flat.theta, torch.nan)]
    [point] = sweep(flat, TASK, rows, np.array([[1.0, 0.0]]), how=Measuring(POLICY), subsets={"test": Subset()})
    assert np.isfinite(point["test"]["loss"].value)


# Metrics beside the task's own

LOGITS = torch.from_numpy(RNG.normal(size=(200, 6)) * 2)
LABELS = torch.from_numpy(RNG.integers(0, 6, 200))


def softmax(logits):
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def test_built_in_metrics_are_those_of_their_definitions():
    p, y = softmax(LOGITS.numpy()), LABELS.numpy()
    chosen = p[np.arange(200), y]
    assert nll(LOGITS, LABELS).numpy() == pytest.approx(-np.log(chosen))
    assert brier(LOGITS, LABELS).numpy() == pytest.approx(((p - np.eye(6)[y]) ** 2).sum(1))
    rank = (p > chosen[:, None]).sum(1)
    for k in (1, 2, 5, 6):
        assert top_k(k)(LOGITS, LABELS).tolist() == (rank < k).astype(float).tolist()
    confidence, right = p.max(1), p.argmax(1) == y
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert float(expected_calibration_error(LOGITS, LABELS)) == pytest.approx(expected)
    # Sure and always right, sure and always wrong.
    sure = torch.eye(6)[LABELS] * 1000
    assert float(expected_calibration_error(sure, LABELS)) == pytest.approx(0, abs=1e-12)
    assert float(expected_calibration_error(sure, (LABELS + 1) % 6)) == pytest.approx(1)


def test_built_in_metrics_average_over_the_pixels_of_an_example():
    logits, labels = LOGITS.reshape(8, 5, 5, 6).permute(0, 3, 1, 2), LABELS.reshape(8, 5, 5)
    for metric in (nll, brier, top_k(2)):
        assert metric(logits, labels).numpy() == pytest.approx(metric(LOGITS, LABELS).reshape(8, 25).mean(1).numpy())
    whole = expected_calibration_error(LOGITS, LABELS)
    assert float(expected_calibration_error(logits, labels)) == pytest.approx(float(whole))


def test_metrics_are_measured_beside_loss_and_accuracy():
    flat = FlatModel(network())
    metrics = resolve_metrics(["loss", "accuracy", "top1", "top3", "nll", "ece"], TASK)
    assert [m.name for m in metrics] == ["top1", "top3", "nll", "ece"]  # the first two are always there
    found = measure(flat, TASK, "test", metrics=metrics)
    plain = measure(flat, TASK, "test")
    assert {name: found[name] for name in plain} == plain
    assert found["top1"] == found["accuracy"]
    assert found["top3"] == Measured(1.0, 0.0, 30)
    assert found["nll"].value == pytest.approx(found["loss"].value)
    assert found["nll"].standard_error == pytest.approx(found["loss"].standard_error)
    assert (found["ece"].standard_error, found["ece"].count) == (None, 30)


OWN = """
import torch
import beside

def margin(outputs, targets):
    top = outputs.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]

def spread(outputs, targets):
    assert outputs.shape == (30, 3) and targets.shape == (30,)
    return float(outputs.std()) * beside.ONE

def wrong(outputs, targets):
    return outputs

def nothing(outputs, targets):
    pass

def broken(outputs, targets):
    return 1 / 0

def ece(outputs, targets):
    return 0.0

def accuracy(outputs, targets):
    return 0.0

def top7(outputs, targets):
    return 0.0

NUMBER = 3
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "beside.py").write_text("ONE = 1.0")
    (tmp_path / "again.py").write_text("def margin(outputs, targets):\n    return 0.0\n")
    return tmp_path


def test_a_metric_of_ones_own_sees_the_whole_split(own, monkeypatch):
    monkeypatch.setattr("mgraph.evaluate.metrics._BATCH", 7)
    flat = FlatModel(network())
    metrics = resolve_metrics(["own.py:margin", "own.py:spread", max], TASK, base=own)
    assert [m.name for m in metrics] == ["margin", "spread", "max"]
    assert metrics[0].identity == metrics[1].identity != metrics[2].identity is None
    found = measure(flat, TASK, "test", metrics=metrics[:2])
    plain = copy.deepcopy(flat.module).eval()
    logits = plain(torch.from_numpy(X[60:])).detach().double()
    margins = np.diff(np.sort(logits.numpy(), axis=1))[:, -1]
    assert found["margin"].value == pytest.approx(margins.mean(), rel=1e-5)
    assert found["margin"].standard_error == pytest.approx(margins.std(ddof=1) / 30**0.5, rel=1e-5)
    assert found["spread"].value == pytest.approx(float(logits.std()), rel=1e-5)
    assert found["spread"].standard_error is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["f1"], "There is no metric 'f1'; choose from loss, accuracy, top5"),
        (["top0"], "There is no metric 'top0'"),
        (["top"], "There is no metric 'top'"),
        (["eve"], "did you mean 'ece'"),
        (["top4"], "top4 needs at least 4 classes, and the task has 3"),
        (["top2", "top2"], "Two metrics are called top2"),
        (["own.py:margin", "again.py:margin"], "Two metrics are called margin"),
        (["own.py:ece"], "The name ece already belongs"),
        (["own.py:accuracy"], "The name accuracy already belongs"),
        (["own.py:top7"], "The name top7 already belongs"),
        (["own.py:margin?k=2"], "takes no parameters"),
        (["own.py:NUMBER"], "'NUMBER' in own.py is a int"),
    ],
)
def test_metrics_that_cannot_be_named(own, names, message):
    with pytest.raises(InputError, match=message):
        resolve_metrics(names, TASK, base=own)


def test_functions_that_are_not_there(own):
    for name in ("own.py:none", "none.py:margin", "no.such.module:margin"):
        with pytest.raises(NotFoundError):
            resolve_metrics([name], TASK, base=own)


def test_labels_are_needed_for_what_is_of_labels():
    target = Y.astype(np.float32)
    splits = {"train": (X[:40], target[:40]), "valid": (X[40:60], target[40:60]), "test": (X[60:], target[60:])}
    task = make_task(**splits, loss=F.mse_loss)
    for name in ("accuracy", "top1", "ece", "brier", "nll"):
        with pytest.raises(InputError, match=f"The metric {name} needs class labels"):
            resolve_metrics([name], task)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("wrong", r"The metric wrong returned torch.float32 of shape \[30, 3\] for 30 examples"),
        ("nothing", "The metric nothing failed: RuntimeError"),
        ("broken", "The metric broken failed: ZeroDivisionError: division by zero"),
    ],
)
def test_metrics_that_return_something_else(own, function, message):
    metrics = resolve_metrics([f"own.py:{function}"], TASK, base=own)
    with pytest.raises(InputError, match=message):
        measure(FlatModel(network()), TASK, "test", metrics=metrics)


def test_less_precision_gives_nearly_the_same_numbers_in_full_types():
    flat = FlatModel(network())
    full, half = (measure(flat, TASK, "test", precision=p)["loss"] for p in ("fp32", "bf16"))
    assert full.value != half.value == pytest.approx(full.value, rel=0.02)
    with pytest.raises(InputError, match="The precision must be one of"):
        measure(flat, TASK, "test", precision="fp8")
