"""Training some of the parameters: the columns of the others are held, and stay sums of where they start."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mgraph.data.splits import ArraySplit
from mgraph.methods.curves.path import BezierCurve, PolygonalChain
from mgraph.methods.curves.surface import BezierSurface
from mgraph.network.flat import FlatModel
from mgraph.train.controlpoints import Held
from mgraph.train.draws import draws
from mgraph.train.engine import PathOptions, train_phases
from mgraph.train.objective import Objective
from mgraph.train.streams import Streams


def dense():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(16, 3)
    ).double()


def images(count=30):
    generator = torch.Generator().manual_seed(3)
    return ArraySplit(torch.randn(count, 2, 4, 4, generator=generator, dtype=torch.float64), torch.arange(count) % 3)


def train(module, family, ends, matrix, method, split, *, look=None):
    """Train only what the method names, as its run does, in the network's own type; canonical rows (K, D)."""
    flat = FlatModel(module)
    points = torch.from_numpy(matrix) @ ends
    with flat.training_only(method.trained_names(flat.names)):
        rows = torch.stack([flat.pack(p) for p in points])
        P = rows[:, : flat.trained].clone()
        held = Held(matrix, torch.stack([flat.pack(e) for e in ends])[:, flat.trained :])
        if look is not None:
            module.register_forward_pre_hook(lambda *_: look(flat))
        train_phases(
            Objective(flat, F.cross_entropy, split),
            P,
            method.plan(family),
            method,
            PathOptions(method.sampling(), method.decay, held),
        )
        rows[:, : flat.trained] = P
        return torch.stack([flat.unpack(row) for row in rows])


def columns(module, names):
    """Which canonical columns belong to the named parameters."""
    return torch.cat([torch.full((p.numel(),), name in names) for name, p in module.named_parameters()])


def ends_for(family, dimension):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(len(family.ends), dimension, generator=generator, dtype=torch.float64) / 3


HEAD = {"train_only": ("4.*",), "batch_size": 11}
CASES = {
    "curve": BezierCurve(bends=2, epochs=2, samples=1, **HEAD),
    "split": BezierCurve(bends=2, epochs=2, samples=3, weight_decay=0.05, **HEAD),
    "middle": PolygonalChain(
        bends=2, epochs=2, samples=2, batch="whole", train_only=("2.weight", "0.bias"), batch_size=11
    ),
    "clip": BezierCurve(epochs=2, clip=0.02, samples=2, **HEAD),
    "adamw": BezierCurve(bends=2, epochs=2, optimizer="adamw", lr=0.01, weight_decay=0.1, samples=2, **HEAD),
    "control": BezierCurve(epochs=2, decay="control", weight_decay=0.1, nesterov=True, **HEAD),
    "arc": BezierCurve(bends=2, epochs=3, measure="arc", gram_every=3, samples=2, **HEAD),
    "surface": BezierSurface(epochs=2, samples=4, measure="area", gram_every=4, **HEAD),
    "phases": BezierSurface(phases=("edges:1", "columns:1", "surface:1"), samples=3, fixed=(4,), **HEAD),
}


@pytest.mark.parametrize("name", CASES)
def test_the_result_is_that_of_a_full_run_without_those_gradients(spelt, name):
    method = CASES[name]
    family = method.family(4 if isinstance(method, BezierSurface) else 2)
    module, plain = dense(), dense()
    ends = ends_for(family, FlatModel(dense()).dimension)
    if name == "arc":  # an uneven start, of three given points
        ends = torch.cat([ends, ends_for(family, ends.shape[1])[:1] * -2])
        matrix = np.array([[1.0, 0, 0], [0.2, 0.1, 0.7], [0, 1.5, -0.5], [0, 1.0, 0]])
    else:
        matrix = family.initial()
    result = train(module, family, ends, matrix, method, spelt.data())
    chosen = columns(plain, method.trained_names([n for n, _ in plain.named_parameters()]))
    start = torch.from_numpy(matrix) @ ends
    reference = spelt.Reference(
        plain, start, spelt.data(), method, sampling=method.sampling(), decay=method.decay, columns=chosen
    )
    expected = reference.run(method.plan(family))
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-11)
    assert float((result - start)[:, chosen].norm()) > 1e-3
    torch.testing.assert_close(result[:, ~chosen], start[:, ~chosen], rtol=0, atol=1e-15)


def test_held_columns_are_the_interpolated_rows_at_every_t_and_have_no_gradient():
    """θ as the network sees it, at each draw of a run; among them convolutions in channels_last order."""
    method = BezierCurve(bends=2, epochs=2, samples=3, batch_size=12, train_only=("5.*", "1.weight"))
    family, module = method.family(2), convolutional()
    ends = ends_for(family, FlatModel(convolutional()).dimension)
    start = torch.from_numpy(family.initial()) @ ends
    trained = {"5.weight", "5.bias", "1.weight"}
    seen = []

    def look(flat):
        for name, p in module.named_parameters():
            assert p.requires_grad == (name in trained)
            assert (p.grad is not None) == (name in trained)
        assert len(flat.grad) == flat.trained < flat.size
        seen.append(torch.cat([p.detach().reshape(-1) for p in module.parameters()]))

    train(module, family, ends, family.initial(), method, images(), look=look)
    coming = draws(method.plan(family)[0], method.sampling(), Streams.of(method.seed).draws)
    C = torch.from_numpy(next(coming)[0]).reshape(-1, family.size)[: len(seen)]
    assert len(seen) == 2 * 3 * 3
    held = ~columns(module, trained)
    torch.testing.assert_close(torch.stack(seen)[:, held], (C @ start)[:, held], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(torch.stack(seen)[6:, ~held], (C @ start)[6:, ~held], atol=1e-4)


@pytest.mark.parametrize("samples", [1, 3])
def test_gradients_of_frozen_layers_are_not_computed(samples):
    """Nothing before the first trained layer takes part in the backward pass."""
    method = BezierCurve(epochs=1, samples=samples, batch_size=12, train_only=("5.*",))
    family, module = method.family(2), convolutional()
    reached = []
    module[4].register_forward_hook(lambda _, inputs, output: reached.append(output.requires_grad))
    train(module, family, ends_for(family, FlatModel(convolutional()).dimension), family.initial(), method, images())
    assert reached == [False] * 3 * samples
