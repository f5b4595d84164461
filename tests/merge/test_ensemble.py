"""Ensembles are the mean of their members' softmax outputs, each with its own BatchNorm statistics."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mgraph.data.making import make_task
from mgraph.errors import InputError
from mgraph.evaluate.batchnorm import BatchNormPolicy, recompute_statistics
from mgraph.families import BezierCurveFamily
from mgraph.merge.ensemble import Prediction, ensemble_predictions, predict
from mgraph.network.flat import FlatModel
from mgraph.progress import Progress

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(90, 5)).astype(np.float32), np.arange(90) % 3
TASK = make_task(train=(X[:40], Y[:40]), valid=(X[40:60], Y[40:60]), test=(X[60:], Y[60:]))
POLICY = BatchNormPolicy.default(40)
FAMILY = BezierCurveFamily(1)


def flat_network():
    torch.manual_seed(0)
    return FlatModel(nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)))


def points(flat):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, flat.dimension, generator=generator)


def member(flat, theta, x):
    """Softmax of one point by hand, in a module of its own."""
    own = copy.deepcopy(flat.module)
    with torch.no_grad():
        for p, part in zip(own.parameters(), theta.split([p.numel() for p in own.parameters()]), strict=True):
            p.copy_(part.view(p.shape))
    single = FlatModel(own)
    recompute_statistics(single, TASK.train, POLICY)
    logits = single.module(torch.from_numpy(x)).detach().double().numpy()
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def test_an_ensemble_is_the_mean_softmax_of_its_members():
    flat = flat_network()
    P = points(flat)
    coefficients = FAMILY.coefficients(FAMILY.grid(5).points)
    seen = []
    mean, kept = ensemble_predictions(
        flat,
        TASK,
        [flat.pack(row) for row in P],
        coefficients,
        policy=POLICY,
        splits=("valid", "test"),
        keep=(0, 4),
        progress=seen.append,
    )
    thetas = torch.from_numpy(coefficients.astype(np.float32)) @ P
    for split, x, y in (("valid", X[40:60], Y[40:60]), ("test", X[60:], Y[60:])):
        members = np.stack([member(flat, theta, x) for theta in thetas])
        expected = members.mean(axis=0)
        np.testing.assert_allclose(mean[split].votes.numpy(), expected, rtol=1e-4, atol=1e-6)
        assert torch.equal(mean[split].targets, torch.from_numpy(y))
        for i in (0, 4):
            np.testing.assert_allclose(kept[i][split].votes.numpy(), members[i], rtol=1e-4, atol=1e-6)
        measured = mean[split].measured()
        assert measured["accuracy"].value == pytest.approx((expected.argmax(1) == y).mean())
        chosen = expected[np.arange(len(y)), y]
        assert measured["loss"].value == pytest.approx(-np.log(chosen).mean(), rel=1e-4)
        assert measured["loss"].standard_error == pytest.approx(np.log(chosen).std(ddof=1) / len(y) ** 0.5, rel=1e-4)
        assert measured["loss"].count == len(y)
    assert set(kept) == {0, 4}
    assert seen == [Progress("ensemble", i, 5) for i in range(1, 6)]


def test_an_ensemble_of_one_point_repeated_is_that_point():
    flat = flat_network()
    rows = [flat.pack(row) for row in points(flat)]
    c = FAMILY.coefficients([[0.3]])
    options = {"policy": POLICY, "splits": ("test",)}
    once, _ = ensemble_predictions(flat, TASK, rows, c, **options)
    thrice, kept = ensemble_predictions(flat, TASK, rows, np.repeat(c, 3, axis=0), **options)
    torch.testing.assert_close(once["test"].votes, thrice["test"].votes, rtol=1e-12, atol=0)
    assert kept == {}
    torch.testing.assert_close(predict(flat, TASK, "test").votes, once["test"].votes)


def test_certainty_that_is_wrong_costs_much_but_not_infinitely():
    wrong = Prediction(TASK, torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64), torch.tensor([1, 0]))
    measured = wrong.measured()
    assert 100 < measured["loss"].value < 1000
    assert measured["accuracy"].value == 0.5


def test_labels_and_quantities_vote_in_ways_of_their_own():
    """By the mean of sigmoids, and of outputs; the logits of a mean probability are what the loss is given."""
    labels = (RNG.random((90, 3)) > 0.5).astype(np.float32)
    splits = {"train": (X[:40], labels[:40]), "valid": (X[40:60], labels[40:60]), "test": (X[60:], labels[60:])}
    several = make_task(**splits, loss=nn.BCEWithLogitsLoss())
    p = torch.tensor([[0.2, 0.9, 0.5], [1.0, 0.0, 0.25]], dtype=torch.float64)
    vote = Prediction(several, p, torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64))
    expected = -np.log([0.8, 0.9, 0.5, 1.0, 1.0, 0.75]).mean()
    assert vote.measured()["loss"].value == pytest.approx(expected, rel=1e-6)
    quantity = make_task(**splits, loss=nn.MSELoss())
    assert (several.combine, quantity.combine) == ("sigmoid", "mean")
    assert Prediction(quantity, p, p + 1.0).measured()["loss"].value == pytest.approx(1.0)


def test_how_members_vote_is_the_tasks_word():
    """Own losses of 0 and 1 could mean anything, so nothing is guessed; quantities are averaged, and that is said."""
    ones = np.ones((90, 1), np.float32)

    def own(outputs, targets):
        return (outputs - targets).square().mean()

    def task(target, **more):
        return make_task(train=(X[:40], target[:40]), test=(X[60:], target[60:]), loss=own, **more)

    assert task(ones).combine is None
    told = task(ones * 1.5)
    assert (told.combine, task(ones, combine="sigmoid").combine, task(ones * 1.5, combine="none").combine) == (
        "mean",
        "sigmoid",
        None,
    )
    assert any("mean of their outputs" in note for note in told.notes)
    with pytest.raises(InputError, match="does not say how members"):
        predict(FlatModel(nn.Linear(5, 1)), task(ones), "test")
    with pytest.raises(InputError, match="combined by softmax, sigmoid, mean, or None, not 'vote'"):
        task(ones, combine="vote")


def test_a_network_that_is_no_classifier_has_no_ensemble():
    target = Y.astype(np.float32)
    task = make_task(
        train=(X[:40], target[:40, None]),
        valid=(X[40:60], target[40:60, None]),
        test=(X[60:], target[60:, None]),
        loss=lambda outputs, targets: (outputs - targets).square().mean(),
        loss_name="mse",
        combine="softmax",
    )
    with pytest.raises(InputError, match="class probabilities"):
        predict(FlatModel(nn.Linear(5, 1)), task, "test")
