"""Optimisers of torch: Muon on flat rows, and any class by its name for a mode."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mgraph.data.making import make_task
from mgraph.errors import InputError
from mgraph.methods.base import Start
from mgraph.methods.curves.path import BezierCurve
from mgraph.network.flat import FlatModel
from mgraph.progress import silent
from mgraph.train.mode import check_training, train_mode
from mgraph.train.optimisers import named_class
from mgraph.train.settings import TrainSettings, optimizer_options
from mgraph.train.state import InMemory
from mgraph.train.streams import Streams
from mgraph.train.updates import BufferedUpdate, UpdateRule

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 1, 4, 4)), np.arange(40) % 3
TASK = make_task(train=(X, Y), valid=(X, Y), test=(X, Y))
UNABLE = ("LBFGS", "SparseAdam", "Muon")  # a closure; sparse gradients; matrices alone
CLASSES = sorted(
    name
    for name, cls in vars(torch.optim).items()
    if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
)


def network(seed=0):
    """A convolution, whose weights lie in channels_last order, and a layer of matrix and vector."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3))


def settings_of(name, **changes):
    if name == "Rprop":
        changes["weight_decay"] = 0.0
    return TrainSettings(
        optimizer=f"torch.optim.{name}", **{"epochs": 3, "batch_size": 16, "lr": 0.01, "seed": 4} | changes
    )


def by_torch(make, how):
    """Train a plain network by an optimiser, as anybody would; return its parameters, and how far they moved."""
    plain = network()
    start = nn.utils.parameters_to_vector(plain.parameters()).detach()
    optimisers, order = make(plain), Streams.of(how.seed).order
    for _ in range(how.epochs):
        for x, y in TASK.train.batches(how.batch_size, order=torch.randperm(40, generator=order)):
            plain.zero_grad()
            F.cross_entropy(plain(x), y).backward()
            for optimiser in optimisers:
                optimiser.step()
    end = nn.utils.parameters_to_vector(plain.parameters()).detach()
    return end, float((end - start).norm())


def ours(how, checkpointer=None, progress=silent):
    flat = FlatModel(network())
    check_training(flat, TASK, how)
    train_mode(flat, TASK, how, checkpointer=checkpointer, progress=progress)
    return flat.unpack(flat.theta)


@pytest.mark.parametrize("name", [name for name in CLASSES if name not in UNABLE])
def test_a_mode_is_trained_by_any_class_of_torch_as_torch_does_it(name):
    how = settings_of(name, schedule="constant", weight_decay=0.01)
    decay = {} if name == "Rprop" else {"weight_decay": 0.01}
    cls = getattr(torch.optim, name)
    wanted, moved = by_torch(lambda plain: [cls(plain.parameters(), lr=0.01, **decay)], how)
    assert moved > 0
    assert float((ours(how) - wanted).norm()) <= 1e-4 * max(moved, 1e-3)


@pytest.mark.parametrize("name", [name for name in CLASSES if name not in UNABLE] + ["muon"])
def test_a_run_by_any_optimiser_goes_on_bit_for_bit(name):
    how = settings_of(name) if name != "muon" else TrainSettings(optimizer="muon", epochs=3, batch_size=16, lr=0.01)
    seen = 0

    def stop(_):
        nonlocal seen
        seen += 1
        if seen == 5:
            raise KeyboardInterrupt

    checkpointer = InMemory(every=2)
    with pytest.raises(KeyboardInterrupt):
        ours(how, checkpointer, stop)
    assert torch.equal(ours(how, checkpointer.again()), ours(how))


def test_settings_reach_the_class():
    how = settings_of("RMSprop", optimizer_settings={"alpha": 0.5, "centered": True}, schedule="constant")
    assert how.optimizer_settings == ("alpha=0.5", "centered=true")
    assert settings_of("RMSprop", optimizer_settings="alpha=0.5,centered=true", schedule="constant") == how
    wanted, moved = by_torch(
        lambda plain: [torch.optim.RMSprop(plain.parameters(), lr=0.01, alpha=0.5, centered=True, weight_decay=5e-4)],
        how,
    )
    assert float((ours(how) - wanted).norm()) <= 1e-4 * moved
    assert optimizer_options(("betas=0.9:0.99", "eps=1e-6", "foreach=none", "amsgrad=true")) == {
        "betas": (0.9, 0.99),
        "eps": 1e-6,
        "foreach": None,
        "amsgrad": True,
    }
    assert settings_of("Adam", optimizer_settings={"betas": (0.9, 0.99)}).optimizer_settings == ("betas=0.9:0.99",)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_muon_is_torchs_on_matrices_and_adamw_on_the_rest(decay):
    how = TrainSettings(
        optimizer="muon", epochs=3, batch_size=16, lr=0.02, weight_decay=decay, schedule="constant", seed=4
    )

    def make(plain):
        matrix = plain[3].weight
        rest = [p for p in plain.parameters() if p is not matrix]
        muon = torch.optim.Muon([matrix], lr=0.02, momentum=0.9, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.AdamW(rest, lr=0.02, betas=(0.9, 0.999), weight_decay=decay)]

    wanted, moved = by_torch(make, how)
    # Newton-Schulz computes in bfloat16.
    assert float((ours(how) - wanted).norm()) <= 2e-2 * moved
    adamw, _ = by_torch(lambda plain: [torch.optim.AdamW(plain.parameters(), lr=0.02, weight_decay=decay)], how)
    assert float((adamw - wanted).norm()) > 0.1 * moved


def test_muon_orthogonalises_the_matrix_of_every_control_point_on_its_own():
    """One step of a curve with two bends: the update of each matrix is what torch makes of its own gradient."""
    flat = FlatModel(network())
    torch.manual_seed(1)
    P = torch.stack([flat.pack(torch.randn(flat.dimension)) for _ in range(4)])
    before, pull = P.clone(), torch.tensor([[0.3], [0.6]])
    grad = flat.pack(torch.randn(flat.dimension))[None]
    theta = torch.zeros_like(grad)
    update = BufferedUpdate(P, (1, 2), theta, grad, UpdateRule("muon", weight_decay=0.0), flat.views)
    update.apply(pull, True, 0.1, torch.tensor([[0.0, 1.0, 0.0, 0.0]]))
    for row, share in ((1, 0.3), (2, 0.6)):
        matrix = nn.Parameter(flat.views(before[row])["3.weight"].clone())
        matrix.grad = share * flat.views(grad[0])["3.weight"]
        torch.optim.Muon([matrix], lr=0.1, momentum=0.9, weight_decay=0.0, adjust_lr_fn="match_rms_adamw").step()
        moved = flat.views(P[row])["3.weight"]
        assert torch.allclose(moved, matrix, atol=2e-3)
        assert not torch.allclose(moved, flat.views(before[row])["3.weight"], atol=1e-2)
    assert torch.equal(P[[0, 3]], before[[0, 3]])


@pytest.mark.parametrize("decay", ["point", "control"])
def test_a_path_trained_by_muon_lowers_its_loss(decay):
    method = BezierCurve(
        epochs=20, batch_size=20, optimizer="muon", lr=0.1, weight_decay=1e-3, decay=decay, train_only=("3.*",)
    )
    flat, losses = FlatModel(network()), []
    ends = [flat.unpack(FlatModel(network(seed)).theta).numpy() for seed in (1, 2)]
    family = method.family(2)
    labels = (X.reshape(40, 16) @ RNG.normal(size=(16, 3))).argmax(1)
    task = make_task(train=(X, labels), valid=(X, labels), test=(X, labels), classes=3)
    method.check(flat, task, family)
    outcome = method.run(flat, task, family, Start.between(family, ends), lambda p: losses.append(p.loss))
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])
    straight = Start.between(family, ends).points()
    assert np.array_equal(outcome.control_points[1, :30], straight[1, :30])  # the convolution stays


REFUSED = {
    "LBFGS": ({"optimizer": "torch.optim.LBFGS"}, "torch.optim.LBFGS needs a closure"),
    "unknown": (
        {"optimizer": "torch.optim.Adammm"},
        "no optimiser torch.optim.Adammm; torch.optim has ASGD, ",
    ),
    "no class": ({"optimizer": "torch.optim.lr_scheduler"}, "There is no optimiser torch.optim.lr_scheduler"),
    "base": ({"optimizer": "torch.optim.Optimizer"}, "There is no optimiser torch.optim.Optimizer"),
    "sparse": ({"optimizer": "torch.optim.SparseAdam", "weight_decay": 0}, "SparseAdam cannot train this network"),
    "matrices": ({"optimizer": "torch.optim.Muon"}, "torch.optim.Muon cannot train this network"),
    "no decay": ({"optimizer": "torch.optim.Rprop"}, "torch.optim.Rprop has no weight decay; add weight_decay=0"),
    "no setting": (
        {"optimizer": "torch.optim.Adam", "optimizer_settings": "alpha=3"},
        "torch.optim.Adam cannot train this network: .*alpha",
    ),
    "bad value": (
        {"optimizer": "torch.optim.Adam", "optimizer_settings": "eps=-1"},
        "torch.optim.Adam cannot train this network: Invalid epsilon",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_train_a_network_is_refused_by_name_before_training(case):
    given, message = REFUSED[case]
    settings, flat = TrainSettings(**given), FlatModel(network())
    with pytest.raises(InputError, match=message):
        check_training(flat, TASK, settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer": "torch.optim.Adam", "momentum": 0.5}, "momentum is for sgd, adamw, muon; what torch.optim.Adam"),
        ({"optimizer": "torch.optim.Adam", "optimizer_settings": "lr=3"}, "The learning rate is the setting lr"),
        ({"optimizer": "torch.optim.Adam", "optimizer_settings": "alpha"}, "optimizer_settings takes NAME=VALUE"),
        ({"optimizer_settings": "alpha=3"}, "optimizer_settings are for classes of torch.optim; sgd"),
        ({"optimizer": "muon", "nesterov": True}, "nesterov=true needs optimizer=sgd"),
    ],
)
def test_settings_that_would_not_count_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        TrainSettings.parse(given)


def test_every_class_of_this_torch_is_tried_or_known_to_be_unable():
    assert set(UNABLE) <= set(CLASSES)
    for name in set(CLASSES) - {"LBFGS"}:
        assert named_class(f"torch.optim.{name}") is getattr(torch.optim, name)
