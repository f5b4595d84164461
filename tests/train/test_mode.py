"""Ordinary training is plain SGD: the flat view of the network changes nothing."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mgraph.architectures.loading import build_network
from mgraph.data.task import make_task
from mgraph.errors import InputError, NonFiniteError
from mgraph.network.flat import FlatModel
from mgraph.train.loop import Streams
from mgraph.train.mode import train_mode
from mgraph.train.schedules import curve_schedule
from mgraph.train.settings import TrainSettings


def small_task(shape=(1, 8, 8)):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, *shape))
    y = np.arange(96) % 10
    return make_task(train=(x[:64], y[:64]), valid=(x[64:80], y[64:80]), test=(x[80:], y[80:]))


def canonical(module):
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


@pytest.mark.parametrize("spec", ["mlp?hidden=12", "cnn?channels=4,6&hidden=8", "cnn?channels=4&hidden=8&bn=true"])
def test_a_mode_is_trained_by_torchs_sgd(spec):
    task = small_task()
    plain = build_network(spec, input_shape=(1, 8, 8), classes=10, seed=1)
    flat = FlatModel(copy.deepcopy(plain))
    settings = TrainSettings(seed=4, epochs=2, lr=0.05, batch_size=20)
    train_mode(flat, task, settings)

    optimiser = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    order, step = Streams.of(4).order, 0
    plain.train()
    for _ in range(2):
        for x, y in task.train.batches(20, order=torch.randperm(64, generator=order)):
            optimiser.param_groups[0]["lr"] = 0.05 * curve_schedule(step / 8)
            optimiser.zero_grad()
            task.loss(plain(x), y).backward()
            optimiser.step()
            step += 1
    ours, theirs = flat.unpack(flat.theta), canonical(plain)
    assert float((ours - theirs).norm() / theirs.norm()) <= 1e-6
    assert step == 8


def test_the_same_seed_gives_the_same_bits():
    def run(seed):
        network = build_network("cnn?bn=true", input_shape=(1, 8, 8), classes=10, seed=1)
        flat = FlatModel(network)
        train_mode(flat, small_task(), TrainSettings(seed=seed, epochs=1))
        return flat.unpack(flat.theta).numpy().tobytes()

    assert run(1) == run(1) != run(2)


def test_divergence_names_the_step():
    flat = FlatModel(build_network("mlp?hidden=12", input_shape=(1, 8, 8), classes=10, seed=1))
    with pytest.raises(NonFiniteError, match=r"step \d+ of 20"):
        train_mode(flat, small_task(), TrainSettings(epochs=20, lr=1e20))


def test_weights_that_end_not_finite_are_an_error():
    """The only update can overflow after a finite loss."""
    flat = FlatModel(build_network("mlp?hidden=12", input_shape=(1, 8, 8), classes=10, seed=1))
    steep = replace(small_task(), loss=lambda outputs, targets: 1e20 * F.cross_entropy(outputs, targets))
    with pytest.raises(NonFiniteError, match="A weight became NaN"):
        train_mode(flat, steep, TrainSettings(epochs=1, batch_size=len(steep.train), lr=1e30))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"lr": 0}, "lr must be above 0"),
        ({"lr": 1e300}, "lr must be at most 1e"),
        ({"momentum": 1}, "momentum must be below 1"),
        ({"lr": "fast"}, "lr must be a number"),
        ({"epoch": 3}, "Did you mean epochs"),
    ],
)
def test_settings_out_of_range_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        TrainSettings.parse(given)


def test_batch_statistics_need_two_examples() -> None:
    flat = FlatModel(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 2)).astype(np.float32), rng.integers(0, 2, 20)
    task = make_task(train=(x, y), test=(x, y))
    with pytest.raises(InputError, match="at least 2 examples"):
        train_mode(flat, task, TrainSettings(epochs=1, batch_size=1))
