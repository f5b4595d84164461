"""What training minimises: the task's loss, label smoothing, and a user's own function."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mgraph.data.making import make_task
from mgraph.errors import InputError, NotFoundError
from mgraph.network.flat import FlatModel
from mgraph.train.losses import check_loss, training_loss
from mgraph.train.mode import check_training, train_mode
from mgraph.train.settings import Optimisation, TrainSettings

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 5)).astype(np.float32), np.arange(40) % 3
TASK = make_task(train=(X, Y), valid=(X, Y), test=(X, Y))

OWN = """
import torch
from torch.nn import functional as F

def doubled(outputs, targets):
    return 2 * F.cross_entropy(outputs, targets)

def each(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none")

def one(outputs, targets):
    return F.cross_entropy(outputs, targets)[None]

def number(outputs, targets):
    return F.cross_entropy(outputs, targets).item()

def nothing(outputs, targets):
    pass

def broken(outputs, targets):
    raise ValueError("no such\\nthing.")

def flat(outputs, targets):
    return (outputs.argmax(1) != targets).float().mean()

VALUE = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A file of losses in the working directory, importable as a module too."""
    (tmp_path / "mylosses.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def flat_network():
    torch.manual_seed(0)
    return FlatModel(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)))


def outputs():
    return torch.from_numpy(RNG.normal(size=(8, 3))), torch.arange(8) % 3


def test_by_default_it_is_the_tasks():
    outputs, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert torch.equal(training_loss(TASK, Optimisation())(outputs, targets), TASK.loss(outputs, targets))
    other = replace(TASK, loss=F.multi_margin_loss, outputs=None)
    assert training_loss(other, Optimisation()) is F.multi_margin_loss


def test_auxiliary_heads_count_in_the_default_loss():
    class Outputs(NamedTuple):
        logits: torch.Tensor
        aux_logits: torch.Tensor

    main, aux, targets = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    total = training_loss(TASK, Optimisation())(Outputs(main, aux), targets)
    assert torch.equal(total, F.cross_entropy(main, targets) + 0.4 * F.cross_entropy(aux, targets))


@pytest.mark.parametrize("amount", [0.05, 0.3])
def test_label_smoothing_is_torchs(amount):
    logits, y = outputs()
    loss = training_loss(TASK, Optimisation(label_smoothing=amount))(logits, y)
    assert loss == F.cross_entropy(logits, y, label_smoothing=amount)
    spelt = (1 - amount) * F.cross_entropy(logits, y) - amount * logits.log_softmax(1).mean()
    torch.testing.assert_close(loss, spelt)


def test_label_smoothing_is_for_the_tasks_cross_entropy_only(own):
    with pytest.raises(InputError, match="build it into your own loss"):
        training_loss(TASK, Optimisation(label_smoothing=0.1, loss="mylosses.py:doubled"))
    with pytest.raises(InputError, match="for cross-entropy, and the task's loss is hinge"):
        training_loss(replace(TASK, loss=F.multi_margin_loss, loss_name="hinge"), Optimisation(label_smoothing=0.1))


@pytest.mark.parametrize("named", ["mylosses.py:doubled", "./mylosses.py:doubled", "mylosses:doubled"])
def test_a_loss_of_ones_own_is_named_by_file_or_module(own, named):
    logits, y = outputs()
    loss = training_loss(TASK, Optimisation(loss=named))
    assert loss(logits, y) == 2 * F.cross_entropy(logits, y)
    check_loss(flat_network(), TASK, loss)


def test_training_minimises_the_loss_that_is_named(own):
    """Twice the loss at half the rate, without momentum and decay, is the same training."""
    results = []
    for changes in ({"lr": 0.1}, {"lr": 0.05, "loss": "mylosses.py:doubled"}):
        flat = flat_network()
        train_mode(flat, TASK, TrainSettings(epochs=2, batch_size=16, weight_decay=0.0, **changes))
        results.append(flat.theta.clone())
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("named", "kind", "message"),
    [
        ("doubled", InputError, "A loss is named module:function or file.py:function, not 'doubled'"),
        ("cross_entropy", InputError, "A loss is named"),
        ("mylosses.py:doubled?factor=3", InputError, "A loss is named"),
        ("nofile.py:doubled", NotFoundError, "nofile.py does not exist"),
        ("no.such.module:doubled", NotFoundError, "cannot be found"),
        ("mylosses.py:doubeld", NotFoundError, "doubled"),
        ("mylosses.py:VALUE", InputError, "must be a function"),
    ],
)
def test_a_loss_that_is_not_there_is_refused(own, named, kind, message):
    with pytest.raises(kind, match=message):
        training_loss(TASK, Optimisation(loss=named))


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("each", r"The loss each must return a scalar tensor, the batch's mean, not shape \[2\]"),
        ("one", r"must return a scalar tensor, .* not shape \[1\]"),
        ("number", r"must return a scalar tensor, .* not float"),
        ("nothing", r"must return a scalar tensor, .* not NoneType"),
        ("broken", r"The loss broken failed on two examples: ValueError: no such thing\.$"),
        ("flat", r"The loss flat has no gradient"),
    ],
)
def test_a_loss_that_cannot_be_trained_on_is_refused_before_training(own, named, message):
    settings = TrainSettings(loss=f"mylosses.py:{named}")
    with pytest.raises(InputError, match=message):
        check_training(flat_network(), TASK, settings)


def test_trying_a_loss_leaves_the_network_as_it_is():
    torch.manual_seed(0)
    flat = FlatModel(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)))
    before = {name: value.clone() for name, value in flat.module.state_dict().items()}
    with torch.no_grad():
        check_loss(flat, TASK, TASK.loss)
    assert all(torch.equal(value, before[name]) for name, value in flat.module.state_dict().items())
    assert not flat.grad.any()


def test_label_smoothing_leaves_void_labels_out():
    x, y = np.random.default_rng(0).random((40, 5)), np.arange(40) % 4
    task = make_task(train=(x, np.where(y == 3, 255, y)), test=(x, y % 3), ignore_index=255)
    loss = training_loss(task, TrainSettings(label_smoothing=0.1))
    out, targets = torch.randn(8, 3), torch.tensor([0, 1, 2, 255, 255, 1, 0, 2])
    wanted = torch.nn.functional.cross_entropy(out, targets, ignore_index=255, label_smoothing=0.1)
    torch.testing.assert_close(loss(out, targets), wanted)
