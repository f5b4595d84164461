"""Ensembles are the mean of their members' softmax outputs, each with its own BatchNorm statistics."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mgraph.data.making import make_task
from mgraph.errors import InputError
from mgraph.evaluate.batchnorm import BatchNormPolicy, recompute_statistics
from mgraph.evaluate.metrics import outputs
from mgraph.merge.ensemble import Prediction, Tally, targets_of
from mgraph.network.flat import FlatModel
from mgraph.operations.voted import class_table

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(90, 5)).astype(np.float32), np.arange(90) % 3
TASK = make_task(train=(X[:40], Y[:40]), valid=(X[40:60], Y[40:60]), test=(X[60:], Y[60:]))
POLICY = BatchNormPolicy.default(TASK.train)


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


def all_outputs(flat, theta, split):
    flat.theta.copy_(flat.pack(theta))
    recompute_statistics(flat, TASK.train, POLICY)
    return torch.cat([out for out, _ in outputs(flat, TASK.splits[split])])


def test_an_ensemble_is_the_weighted_mean_softmax_of_its_members():
    flat = flat_network()
    P = points(flat)
    for split, x, y in (("valid", X[40:60], Y[40:60]), ("test", X[60:], Y[60:])):
        tally = Tally(TASK, targets_of(TASK.splits[split]), 2)
        for weight, theta in zip((1.0, 1.0, 2.0), P, strict=True):
            out = all_outputs(flat, theta, split)
            tally.add(0, out)
            tally.add(1, out, weight)
        members = np.stack([member(flat, theta, x) for theta in P])
        for ensemble, weights in ((0, [1, 1, 1]), (1, [1, 1, 2])):
            vote = tally.prediction(ensemble)
            expected = np.average(members, axis=0, weights=weights)
            np.testing.assert_allclose(vote.votes.numpy(), expected, rtol=1e-4, atol=1e-6)
            assert torch.equal(vote.targets, torch.from_numpy(y))
            measured = vote.measured()
            assert measured["accuracy"].value == pytest.approx((expected.argmax(1) == y).mean())
            chosen = expected[np.arange(len(y)), y]
            assert measured["loss"].value == pytest.approx(-np.log(chosen).mean(), rel=1e-4)
            error = np.log(chosen).std(ddof=1) / len(y) ** 0.5
            assert measured["loss"].standard_error == pytest.approx(error, rel=1e-4)
            assert measured["loss"].count == len(y)


def test_a_member_repeated_changes_nothing_and_a_temperature_does():
    flat = flat_network()
    out = all_outputs(flat, points(flat)[0], "test")
    tally = Tally(TASK, targets_of(TASK.test), 3)
    tally.add(0, out)
    for _ in range(3):
        tally.add(1, out)
    tally.add(2, out, temperature=4.0)
    once, thrice, warm = (tally.prediction(i).votes for i in range(3))
    torch.testing.assert_close(once, thrice, rtol=1e-12, atol=0)
    torch.testing.assert_close(warm, (out.double() / 4.0).softmax(1))


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
        Tally(task(ones), targets_of(task(ones).test), 1).add(0, torch.zeros(30, 1))
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
        Tally(task, targets_of(task.test), 1).add(0, torch.zeros(30, 1))


def test_outputs_that_are_no_class_of_the_data_are_predictions_of_none():
    said, y = torch.tensor([0, 1, 4, 4, 2, 0]), torch.tensor([0, 1, 1, 2, 2, 1])
    rows = class_table(said, y, 3, torch.ones(6, dtype=torch.bool))
    assert [(row["examples"], row["precision"], row["recall"]) for row in rows] == [
        (1, 0.5, 1.0),
        (3, 1.0, pytest.approx(1 / 3)),
        (2, 1.0, 0.5),
    ]
