"""Ordinary training is plain SGD or AdamW: the flat view of the network changes nothing."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mgraph.architectures.loading import build_network
from mgraph.data.making import make_task
from mgraph.errors import InputError, NonFiniteError
from mgraph.network.flat import FlatModel
from mgraph.train.driver import LearningRateWarning
from mgraph.train.mode import check_training, train_mode
from mgraph.train.schedules import SCHEDULES
from mgraph.train.settings import TrainSettings
from mgraph.train.streams import Streams


def small_task(shape=(1, 8, 8)):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, *shape))
    y = np.arange(96) % 10
    return make_task(train=(x[:64], y[:64]), valid=(x[64:80], y[64:80]), test=(x[80:], y[80:]))


def felt(module):
    """All parameters, but for biases that BatchNorm subtracts again: AdamW divides their rounding by its size."""
    normalised = any(isinstance(m, nn.BatchNorm2d) for m in module)
    subtracted = {id(m.bias) for m in module if normalised and isinstance(m, nn.Conv2d)}
    return torch.cat([p.detach().reshape(-1) for p in module.parameters() if id(p) not in subtracted])


def built(spec="mlp?hidden=12"):
    return build_network(spec, input_shape=(1, 8, 8), classes=10, seed=1)


CHANGES = {
    "default": {},
    "nesterov, clip, cosine": {"nesterov": True, "clip": 0.5, "schedule": "cosine"},
    "adamw": {"optimizer": "adamw", "lr": 0.003, "weight_decay": 0.1, "beta2": 0.95},
    "smoothed": {"label_smoothing": 0.1, "schedule": "constant", "momentum": 0.5, "weight_decay": 0.0},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=list(CHANGES))
@pytest.mark.parametrize("spec", ["mlp?hidden=12", "cnn?channels=4,6&hidden=8", "cnn?channels=4&hidden=8&bn=true"])
def test_a_mode_is_trained_by_torchs_optimiser(spec, changes):
    task = small_task()
    plain = built(spec)
    flat = FlatModel(copy.deepcopy(plain))
    settings = TrainSettings(seed=4, epochs=2, batch_size=20, **{"lr": 0.05} | changes)
    train_mode(flat, task, settings)

    s = settings
    if s.optimizer == "adamw":
        betas = (s.momentum, s.beta2)
        optimiser = torch.optim.AdamW(plain.parameters(), lr=s.lr, betas=betas, weight_decay=s.weight_decay)
    else:
        optimiser = torch.optim.SGD(
            plain.parameters(), lr=s.lr, momentum=s.momentum, nesterov=s.nesterov, weight_decay=s.weight_decay
        )
    order, step = Streams.of(4).order, 0
    plain.train()
    for _ in range(2):
        for x, y in task.train.batches(20, order=torch.randperm(64, generator=order)):
            optimiser.param_groups[0]["lr"] = s.lr * SCHEDULES[s.schedule](step / 8)
            optimiser.zero_grad()
            F.cross_entropy(plain(x), y, label_smoothing=s.label_smoothing).backward()
            if s.clip is not None:
                # Weight decay is part of the gradient that is clipped, as wherever it acts on the point.
                for p in plain.parameters():
                    p.grad.add_(p.detach(), alpha=s.weight_decay)
                torch.nn.utils.clip_grad_norm_(plain.parameters(), s.clip)
                optimiser.param_groups[0]["weight_decay"] = 0.0
            optimiser.step()
            step += 1
    ours, theirs = felt(flat.module), felt(plain)
    assert float((ours - theirs).norm() / theirs.norm()) <= 3e-6
    assert step == 8


def test_the_same_seed_gives_the_same_bits():
    def run(seed):
        flat = FlatModel(built("cnn?bn=true"))
        train_mode(flat, small_task(), TrainSettings(seed=seed, epochs=1))
        return flat.unpack(flat.theta).numpy().tobytes()

    assert run(1) == run(1) != run(2)


def test_copies_are_offered_after_the_epochs_to_keep():
    """At the very point that a run of so many epochs at a constant rate ends at."""
    kept = {}

    def keep(step):
        kept[step] = flat.unpack(flat.theta)

    flat = FlatModel(built())
    train_mode(flat, small_task(), TrainSettings(epochs=4, keep=(1, 3), schedule="constant"), collect=keep)
    assert list(kept) == [1, 3]  # an epoch is one step here
    for epoch, point in kept.items():
        short = FlatModel(built())
        train_mode(short, small_task(), TrainSettings(epochs=epoch, schedule="constant"))
        assert torch.equal(short.unpack(short.theta), point)
    assert not torch.equal(kept[1], kept[3])
    assert not torch.equal(kept[3], flat.unpack(flat.theta))


def test_divergence_names_the_step():
    flat = FlatModel(built())
    with pytest.warns(LearningRateWarning), pytest.raises(NonFiniteError, match=r"step \d+ of 20"):
        train_mode(flat, small_task(), TrainSettings(epochs=20, lr=1e20))


def test_weights_that_end_not_finite_are_an_error():
    """The only update can overflow after a finite loss."""
    flat = FlatModel(built())
    steep = replace(small_task(), loss=lambda outputs, targets: 1e20 * F.cross_entropy(outputs, targets))
    with pytest.warns(LearningRateWarning), pytest.raises(NonFiniteError, match="A weight became NaN"):
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
        ({"beta2": 1}, "beta2 must be below 1"),
        ({"clip": 0}, "clip must be above 0"),
        ({"label_smoothing": 1}, "label_smoothing must be below 1"),
        ({"schedule": "linear"}, "schedule must be one of curve, cosine, constant"),
        ({"optimizer": "adam"}, "optimizer must be one of sgd, adamw, muon, or a class of torch.optim"),
        ({"precision": "fp16"}, "precision must be one of fp32, tf32, bf16"),
    ],
)
def test_settings_out_of_range_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        TrainSettings.parse(given)


@pytest.mark.parametrize("keep", [(5,), (1, 9), (2, 1), (1, 1)])
def test_epochs_to_keep_rise_and_lie_before_the_last(keep):
    with pytest.raises(InputError, match="keep takes rising epochs below epochs=5"):
        TrainSettings(epochs=5, keep=keep)
    assert TrainSettings(epochs=5, keep="1,4").keep == (1, 4)
    with pytest.raises(InputError, match="keep must be at least 1"):
        TrainSettings(epochs=5, keep=(0,))


def test_batch_statistics_need_two_examples():
    flat = FlatModel(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 2)).astype(np.float32), rng.integers(0, 2, 20)
    task = make_task(train=(x, y), test=(x, y))
    with pytest.raises(InputError, match="at least 2 examples"):
        check_training(flat, task, TrainSettings(epochs=1, batch_size=1))


def test_tf32_on_the_cpu_is_refused_before_training():
    with pytest.raises(InputError, match="TF32 needs an NVIDIA GPU"):
        check_training(FlatModel(built()), small_task(), TrainSettings(precision="tf32"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"momentum": 0.0},
        {"nesterov": True},
        {"clip": 0.5},
        {"optimizer": "adamw", "lr": 0.003},
        {"optimizer": "muon", "lr": 0.003},
    ],
    ids=str,
)
def test_biases_and_norms_need_not_decay(changes):
    task, settings = small_task(), {"seed": 4, "epochs": 2, "batch_size": 20, "lr": 0.05, "weight_decay": 0.1} | changes
    spec = "cnn?channels=4&hidden=8&bn=true"

    def trained(**more):
        flat = FlatModel(built(spec))
        train_mode(flat, task, TrainSettings(**settings | more))
        return flat

    some, all_, none = trained(decay_norms=False), trained(), trained(weight_decay=0.0)
    assert not torch.equal(some.theta, all_.theta)
    assert not torch.equal(some.theta, none.theta)

    # by torch's optimiser with two groups
    if settings.get("optimizer") == "muon" or "clip" in changes:
        return
    plain = built(spec)
    groups = [
        {"params": [p for p in plain.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in plain.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    if changes.get("optimizer") == "adamw":
        optimiser = torch.optim.AdamW(groups, lr=0.003, betas=(0.9, 0.999))
    else:
        optimiser = torch.optim.SGD(
            groups, lr=0.05, momentum=changes.get("momentum", 0.9), nesterov="nesterov" in changes
        )
    order, step = Streams.of(4).order, 0
    plain.train()
    for _ in range(2):
        for x, y in task.train.batches(20, order=torch.randperm(64, generator=order)):
            for group in optimiser.param_groups:
                group["lr"] = settings["lr"] * SCHEDULES["curve"](step / 8)
            optimiser.zero_grad()
            F.cross_entropy(plain(x), y).backward()
            optimiser.step()
            step += 1
    assert torch.allclose(felt(some.module), felt(plain), atol=2e-5)


def test_decay_norms_is_not_for_classes_of_torch():
    with pytest.raises(InputError, match=r"decay_norms=false is for sgd, adamw, muon"):
        TrainSettings(optimizer="torch.optim.Adam", decay_norms=False)
