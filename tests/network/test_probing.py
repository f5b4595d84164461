"""The probe: what each kind of odd network is found to do, which module is named, and that nothing is changed by it."""

from __future__ import annotations

import copy
import random
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mgraph.errors import InputError
from mgraph.network.flat import FlatModel
from mgraph.network.probing.habits import observe, static_habits
from mgraph.network.probing.probe import Finding, Judged, probe
from mgraph.network.probing.untouched import untouched
from mgraph.network.spectral import recompute_vectors, spectral_vectors

N, WIDTH, CLASSES = 8, 4, 3
CROSS_ENTROPY = Judged(F.cross_entropy, "cross_entropy")


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(N, WIDTH, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(N) % CLASSES


def build(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def probed(make: Callable[[], nn.Module], judged: Judged = CROSS_ENTROPY, y: torch.Tensor | None = None) -> Any:
    x, labels = data()
    return probe(build(make, 0), build(make, 1), x, labels if y is None else y, judged, arch="net", data="data")


def kinds(found: list[Finding]) -> dict[str, str]:
    return {f.kind: f.module for f in found}


class Body(nn.Module):
    """A layer, something odd in the module ``odd``, and a head."""

    def __init__(self, odd: nn.Module) -> None:
        super().__init__()
        self.first, self.odd, self.head = nn.Linear(WIDTH, 6), odd, nn.Linear(6, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.odd(self.first(x)))


class Function(nn.Module):
    """A module that computes a function of (itself, x)."""

    def __init__(self, function: Callable[[Any, torch.Tensor], Any], **attributes: Any) -> None:
        super().__init__()
        self.function = function
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, x)


def body(function: Callable[[Any, torch.Tensor], Any], **attributes: Callable[[], Any]) -> Callable[[], nn.Module]:
    return lambda: Body(Function(function, **{name: make() for name, make in attributes.items()}))


class Encoder(nn.Module):
    """Attention that takes examples for positions: batch_first was forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x[:, None], x[:, None], x[:, None], need_weights=False)[0][:, 0]


FINE = {
    "linear": lambda: nn.Linear(WIDTH, CLASSES),
    "batchnorm": lambda: Body(nn.BatchNorm1d(6)),
    "dropout": lambda: Body(nn.Dropout(0.5)),
    "layernorm": lambda: Body(nn.LayerNorm(6)),
    "constant not saved": lambda: Body(Fixed()),
    "spectral": lambda: Body(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))),
    "weight norm": lambda: Body(nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))),
    "orthogonal": lambda: Body(nn.utils.parametrizations.orthogonal(nn.Linear(6, 6))),
    "noise in training": body(lambda m, x: x + torch.rand_like(x) if m.training else x),
    "a random generator that nobody draws from": body(lambda m, x: x, generator=lambda: np.random.default_rng()),
    "lstm": lambda: Body(Function(lambda m, x: m.lstm(x[:, None])[0][:, 0], lstm=nn.LSTM(6, 6, batch_first=True))),
}


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positions", torch.linspace(0, 1, 6), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.positions


@pytest.mark.parametrize("name", FINE)
def test_ordinary_networks_give_nothing_to_say(name: str) -> None:
    assert probed(FINE[name]) == []


class Frozen(nn.BatchNorm1d):
    def train(self, mode: bool = True) -> Any:
        return super().train(False)


def evaluating(m: Any, x: torch.Tensor) -> torch.Tensor:
    m.norm.eval()
    return m.norm(x)


SAID = {
    "input changed": (
        lambda: nn.Sequential(Function(lambda m, x: x.sub_(1)), nn.Linear(WIDTH, 3)),
        "changes-input",
        "0",
    ),
    "input changed by itself": (lambda: InPlace(), "changes-input", ""),
    "input changed in training": (
        lambda: nn.Sequential(Function(lambda m, x: x.mul_(2) if m.training else x), nn.Linear(WIDTH, 3)),
        "changes-input",
        "0",
    ),
    "input changed through numpy": (
        lambda: nn.Sequential(Function(lambda m, x: (np.add(x.numpy(), 1, out=x.numpy()), x)[1]), nn.Linear(WIDTH, 3)),
        "changes-input",
        "0",
    ),
    "train() overridden": (lambda: Body(Frozen(6)), "frozen-statistics", "odd"),
    "eval() in forward": (body(evaluating, norm=lambda: nn.BatchNorm1d(6)), "frozen-statistics", "odd.norm"),
    "momentum 0": (lambda: Body(nn.BatchNorm1d(6, momentum=0.0)), "frozen-statistics", "odd"),
    "no running statistics": (lambda: Body(nn.BatchNorm1d(6, track_running_stats=False)), "couples-examples", "odd"),
    "softmax over the batch": (body(lambda m, x: x.softmax(0)), "couples-examples", "odd"),
    "batch_first forgotten": (lambda: Body(Encoder()), "couples-examples", "odd.attention"),
    "unused layer": (body(lambda m, x: x, spare=lambda: nn.Linear(6, 6)), "without-gradient", "odd.spare"),
    "tuple in training": (lambda: Auxiliary(), "other-outputs-in-training", ""),
    "overwrites what backward needs": (lambda: Overwriting(), "no-backward", ""),
    "drawn, for training alone": (
        body(lambda m, x: x + m.shift if m.training else x, shift=lambda: torch.randn(6)),
        "unstored-in-training",
        "",
    ),
}


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x -= 0.5
        return self.head(x)


class Overwriting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x).tanh().mul_(2)


class Auxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> Any:
        return (self.a(x), self.b(x)) if self.training else self.a(x)


@pytest.mark.parametrize("name", SAID)
def test_what_is_handled_is_said_with_the_module(name: str) -> None:
    make, kind, module = SAID[name]
    found = kinds(probed(make))
    assert found[kind] == module
    assert set(found) <= {kind, "without-gradient"}


def growing(m: Any, x: torch.Tensor) -> torch.Tensor:
    if not hasattr(m, "late"):
        m.late = nn.Linear(6, 6)
    return m.late(x)


def hiding(m: Any, x: torch.Tensor) -> torch.Tensor:
    if not m.drawn:
        m.drawn.append(torch.randn(6, 6))
    return x @ m.drawn[0]


def clamping(m: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        m.inner.weight.clamp_(-0.01, 0.01)
    return m.inner(x)


def counting(m: Any, x: torch.Tensor) -> torch.Tensor:
    m.calls += 1
    return x * m.calls


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "functional dropout": (body(lambda m, x: F.dropout(x, 0.5)), "random in evaluation.*first in module odd"),
    "noise of numpy": (body(lambda m, x: x + np.random.rand()), "random in evaluation.*module odd"),
    "noise of python": (body(lambda m, x: x + random.random()), "random in evaluation.*module odd"),
    "its own generator": (
        body(lambda m, x: x + torch.rand(6, generator=m.g), g=lambda: torch.Generator().manual_seed(1)),
        "random in evaluation.*module odd",
    ),
    "counts its calls": (body(counting, calls=lambda: 0), "random in evaluation.*no state that evaluation moves"),
    "buffer not saved": (
        lambda: Body(Drawn("buffer")),
        r"no checkpoint holds \(odd\.B \(a buffer with persistent=False",
    ),
    "plain tensor": (lambda: Body(Drawn("tensor")), r"no checkpoint holds \(odd\.B \(a plain tensor"),
    "numpy array": (lambda: Body(Drawn("array")), r"odd\.B \(a plain ndarray"),
    "python number": (body(lambda m, x: x * m.scale, scale=random.random), r"odd\.scale \(a plain float"),
    "layers in a list": (
        body(lambda m, x: m.layers[0](x), layers=lambda: [nn.Linear(6, 6)]),
        r"odd\.layers \(modules in a plain list: use nn\.ModuleList",
    ),
    "layers in a dict": (body(lambda m, x: m.layers["a"](x), layers=lambda: {"a": nn.Linear(6, 6)}), "nn.ModuleDict"),
    "drawn in the first forward": (body(hiding, drawn=list), "no checkpoint holds"),
    "layer made in forward": (
        body(growing),
        r"makes tensors in its forward pass \(odd\.late\.weight, odd\.late\.bias\)",
    ),
    "parameter changed in forward": (
        body(clamping, inner=lambda: nn.Linear(6, 6)),
        r"changes its parameter odd\.inner\.w",
    ),
    "not finite": (body(lambda m, x: (x * 0) / 0), "loss cross_entropy.*is nan.*first in module odd"),
    "wrong shape": (lambda: nn.Linear(WIDTH + 1, CLASSES), r"cannot be run on the data.*shape \[8, 4\]"),
    "complex": (body(lambda m, x: torch.complex(x, x)), "cannot be run|of type"),
}


class Drawn(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind == "buffer":
            self.register_buffer("B", torch.randn(6, 6), persistent=False)
        else:
            self.B: Any = torch.randn(6, 6) if kind == "tensor" else torch.randn(6, 6).numpy()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ torch.as_tensor(self.B)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_handled_is_refused_by_name(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        probed(make)


REAL = torch.randn(N, generator=torch.Generator().manual_seed(3))
LOSSES: dict[str, tuple[Any, str]] = {
    "mse broadcast": (F.mse_loss, "every output with every target.*y\\[:, None\\]"),
    "own broadcast": (lambda o, t: ((o - t) ** 2).mean(), "every output with every target"),
    "absolute, halved": (lambda o, t: (o - t).abs().mean() / 2, "every output with every target"),
    "none": (lambda o, t: None, "must return a scalar tensor.*NoneType"),
    "per example": (lambda o, t: o[:, 0] - t, r"scalar tensor.*shape \[8\]"),
    "integer": (lambda o, t: (o > 0).sum(), "of type torch.int64"),
    "infinite": (lambda o, t: o.sum() / 0, "is inf|is -inf"),
    "changes targets": (lambda o, t: (o[:, 0] - t.clamp_(max=0)).pow(2).mean(), "changes the targets in place"),
    "changes outputs": (lambda o, t: (o.sub_(1)[:, 0] - t).pow(2).mean(), "changes the outputs in place"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_that_are_none_are_refused(name: str) -> None:
    loss, message = LOSSES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=message):
            probed(lambda: nn.Linear(WIDTH, 1), Judged(loss, "mine"), REAL.clone())


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (lambda o, t: F.mse_loss(o[:, 0], t), REAL),
        (lambda o, t: F.mse_loss(o.squeeze(), t), REAL),
        (F.mse_loss, REAL[:, None]),
        (lambda o, t: F.binary_cross_entropy(o.sigmoid()[:, 0], t), (REAL > 0).float()),
        (lambda o, t: (o[:, 0] * t).exp().mean().log(), REAL),  # no mean of single losses
    ],
)
def test_losses_that_pair_outputs_with_targets_pass(loss: Any, y: torch.Tensor) -> None:
    assert probed(lambda: nn.Linear(WIDTH, 1), Judged(loss, "mine"), y.clone()) == []


def test_an_example_loss_gives_one_number_for_each() -> None:
    judged = Judged(lambda o, t: F.mse_loss(o[:, 0], t), "mine", lambda o, t: (o - t) ** 2)
    with pytest.raises(InputError, match=r"example_loss of mine.*shape \[8\] here, not shape \[8, 8\]"):
        probed(lambda: nn.Linear(WIDTH, 1), judged, REAL.clone())


class Busy(nn.Module):
    """Everything a forward pass may change, at once."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm = nn.Linear(WIDTH, CLASSES), nn.BatchNorm1d(CLASSES)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(CLASSES, CLASSES))
        self.calls, self.seen, self.table = 0, [], {"last": None}
        self.plain, self.generator = torch.zeros(2), torch.Generator().manual_seed(3)
        self.register_buffer("counter", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen.append(len(x))
        self.table["last"] = self.calls
        self.plain += 1
        self.counter += 1
        torch.rand(2, generator=self.generator)
        np.random.rand()
        random.random()
        if not hasattr(self, "late"):
            self.late = nn.Linear(CLASSES, CLASSES)
        with torch.no_grad():
            self.inner.weight.mul_(0.9)
        return self.late(self.spectral(self.norm(self.inner(x))))


def test_nothing_is_left_behind() -> None:
    network, (x, _) = build(Busy, 0), data()
    before = copy.deepcopy(network.state_dict())
    objects = {name: id(p) for name, p in network.named_parameters()}
    plain = network.plain
    generator = network.generator.get_state()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    assert observe(network, x).changes_input is False
    with untouched(network):
        network.eval()(x)
        torch.rand(3)
    assert network.training
    assert {name: id(p) for name, p in network.named_parameters()} == objects
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert (network.calls, network.seen, network.table) == (0, [], {"last": None})
    assert network.plain is plain
    assert torch.equal(plain, torch.zeros(2))
    assert torch.equal(network.generator.get_state(), generator)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]


def test_a_network_that_cannot_run_is_judged_without() -> None:
    habits = observe(Body(Frozen(6)), torch.zeros(2, WIDTH + 1))
    assert habits == static_habits(Body(Frozen(6)))
    assert habits.frozen == ("odd",)
    assert not habits.needs_two


@pytest.mark.parametrize("kind", ["present", "older"])
def test_vectors_of_spectral_normalisation_follow_from_the_weight(kind: str) -> None:
    add = nn.utils.parametrizations.spectral_norm if kind == "present" else nn.utils.spectral_norm
    network = nn.Sequential(add(nn.Linear(5, 7)), nn.ReLU(), add(nn.ConvTranspose1d(7, 3, 2)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    found = spectral_vectors(network)
    assert [name for one in found for name in one.names] == [
        name for name in network.state_dict() if name.endswith(("_u", "_v"))
    ]
    recompute_vectors(found)
    for one in found:
        sigma = torch.dot(one.u, one.matrix() @ one.v)
        assert sigma.item() == pytest.approx(torch.linalg.matrix_norm(one.matrix(), 2).item(), rel=1e-5)
    first = [one.u.clone() for one in found]
    for one in found:
        one.u.normal_()
        one.v.normal_()
    recompute_vectors(found)
    assert all(torch.equal(one.u, u) for one, u in zip(found, first, strict=True))
    flat = FlatModel(network)
    assert flat.recomputes
    assert set(flat.constants) == set()


def test_a_probe_is_cheap() -> None:
    started = time.perf_counter()
    probed(lambda: Body(nn.BatchNorm1d(6)))
    assert time.perf_counter() - started < 1.0


def test_as_many_outputs_as_classes_are_wanted() -> None:
    """Fewer are refused, for one label as for one a pixel; more are told, once, and count nowhere else."""
    y = torch.tensor([0, 1, 2, 2, 0, 1, 2, 0])
    judged = replace(CROSS_ENTROPY, classes=3)
    assert probed(lambda: nn.Linear(WIDTH, 3), judged, y) == []
    with pytest.raises(InputError, match=r"gives 2 outputs for a label \(shape \[8, 2\]\), and the data have 3"):
        probed(lambda: nn.Linear(WIDTH, 2), judged, y)
    (told,) = probed(lambda: nn.Linear(WIDTH, 5), judged, y)
    assert told.kind == "more-outputs-than-classes"
    assert "gives 5 outputs, and the data have 3 classes" in told.text
