"""The history of a training: what is noted, when, and that it changes nothing."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mgraph.data.making import make_task
from mgraph.network.flat import FlatModel
from mgraph.train.driver import LearningRateWarning
from mgraph.train.mode import train_mode
from mgraph.train.schedules import SCHEDULES
from mgraph.train.settings import TrainSettings
from mgraph.train.state import InMemory
from mgraph.train.streams import Streams
from mgraph.train.watch import History


def task(count=60, **more):
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((count, 6)).astype(np.float32), np.arange(count) % 3
    return make_task(train=(x, y), valid=(x, y), test=(x, y), **more)


def network():
    torch.manual_seed(0)
    return FlatModel(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))


def by_quantity(trained):
    return {s.quantity: dict(zip(s.positions, s.values, strict=True)) for s in trained.history}


def test_what_is_noted_is_what_happened():
    """One entry a step: spelt out by torch's own optimiser."""
    how = TrainSettings(epochs=4, batch_size=20, lr=0.1, weight_decay=0.0, momentum=0.0)
    data, flat = task(), network()
    seen = []
    found = by_quantity(train_mode(flat, data, how, progress=lambda p: seen.append(p.loss)))
    plain = network().module
    start = torch.cat([p.detach().reshape(-1).clone() for p in plain.parameters()])
    order, step = Streams.of(0).order, 0
    for _ in range(4):
        for x, y in data.train.batches(20, order=torch.randperm(60, generator=order)):
            rate = 0.1 * SCHEDULES["curve"](step / 12)
            out = plain(x)
            loss = F.cross_entropy(out, y)
            step += 1
            if step in found["train_accuracy"]:
                assert found["train_accuracy"][step] == pytest.approx(float((out.argmax(1) == y).float().mean()))
            plain.zero_grad()
            loss.backward()
            with torch.no_grad():
                for p in plain.parameters():
                    p -= rate * p.grad
            here = torch.cat([p.detach().reshape(-1) for p in plain.parameters()])
            assert found["train_loss"][step] == pytest.approx(float(loss.detach()), rel=1e-4)
            assert found["learning_rate"][step] == pytest.approx(rate)
            assert found["distance"][step] == pytest.approx(float((here - start).norm()), rel=1e-3)
    assert list(found["train_loss"]) == list(range(1, 13))
    assert list(found["train_loss"].values()) == pytest.approx(seen)
    assert list(found["train_accuracy"]) == [1, 11]  # every tenth batch at most


@pytest.mark.parametrize(
    ("steps", "per_epoch", "expected"), [(50, 10, 1), (1000, 50, 20), (1000, 5, 5), (78200, 391, 391), (1, 1, 1)]
)
def test_entries_are_fifty_or_one_an_epoch(steps, per_epoch, expected):
    history = History(torch.zeros(2), torch.zeros(2), steps, per_epoch)
    for done in range(1, steps + 1):
        history.seen([1.0])
        history.after(done, 0.1)
    positions = history.series()[0].positions
    assert positions == tuple(range(expected, steps + 1, expected))


def test_losses_of_a_window_are_averaged_even_if_they_are_read_late():
    early, late = (History(torch.zeros(2), torch.zeros(2), 100, 50) for _ in range(2))
    for done in range(1, 8):
        early.seen([float(done)])
        early.after(done, 0.1)
        late.after(done, 0.1)
    late.seen([1.0, 2.0, 3.0])
    late.seen([4.0, 5.0, 6.0, 7.0])
    assert early.series() == late.series()
    assert early.series()[0].positions == (2, 4, 6, 7)  # the last step counts, too
    assert early.series()[0].values == (1.5, 3.5, 5.5, 7.0)


def test_a_history_goes_on_as_the_training_does():
    class Stopped(Exception):
        pass

    how = TrainSettings(epochs=4, batch_size=16, augment=None, ema=0.9)
    whole = train_mode(network(), task(), how)
    for stop in (1, 5, 11, 16):
        seen = []

        def progress(p, seen=seen, stop=stop):
            seen.append(p)
            if len(seen) == stop:
                raise Stopped

        checkpointer = InMemory(1)
        with pytest.raises(Stopped):
            train_mode(network(), task(), how, progress=progress, checkpointer=checkpointer)
        again = train_mode(network(), task(), how, checkpointer=checkpointer.again())
        assert again.history == whole.history
        assert torch.equal(again.average, whole.average)


def test_a_training_that_began_again_tells_of_its_last_attempt():
    """L(w) = 3/2·w² diverges at learning rates 2 and 1, and falls to (-1/2)^n at 0.5."""
    x, y = np.ones((40, 1), np.float32), np.zeros((40, 1), np.float32)
    data = make_task(train=(x, y), valid=(x, y), test=(x, y), loss=lambda o, t: 1.5 * F.mse_loss(o, t))
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(1.0)
    how = TrainSettings(epochs=3, batch_size=4, lr=2.0, momentum=0.0, weight_decay=0.0, schedule="constant", ema=0.5)
    with pytest.warns(LearningRateWarning):
        trained = train_mode(FlatModel(module), data, how)
    found = by_quantity(trained)
    steps = range(1, 31)
    assert list(found["train_loss"]) == list(steps)
    assert list(found["train_loss"].values()) == pytest.approx([1.5 * 0.25 ** (n - 1) for n in steps])
    assert set(found["learning_rate"].values()) == {0.5}
    assert list(found["distance"].values()) == pytest.approx([1 - (-0.5) ** n for n in steps])
    mean = 1.0
    for n in steps:
        d = min(0.5, n / (9.0 + n))
        mean = d * mean + (1 - d) * (-0.5) ** n
    assert float(trained.average[0]) == pytest.approx(mean, abs=1e-7)


def test_a_task_without_accuracy_has_none():
    x = np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32)
    data = make_task(train=(x, x[:, :3]), valid=(x, x[:, :3]), test=(x, x[:, :3]), loss=F.mse_loss)
    found = by_quantity(train_mode(network(), data, TrainSettings(epochs=2, batch_size=10)))
    assert set(found) == {"train_loss", "learning_rate", "distance"}


def test_looking_on_changes_nothing():
    how = TrainSettings(epochs=3, batch_size=16, seed=2)
    plain, watched = network(), network()
    train_mode(plain, task(), how)
    trained = train_mode(watched, task(), TrainSettings(epochs=3, batch_size=16, seed=2, ema=0.5))
    assert torch.equal(plain.theta, watched.theta)
    assert trained.average is not None
