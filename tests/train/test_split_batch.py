"""A batch split between several parameter values: on average the gradient is that of whole batches.

True of networks that do not couple examples and of losses that are means over examples.
"""

import os
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mgraph.families import BezierCurveFamily, BezierSurfaceFamily, PolygonalChainFamily
from mgraph.families.quadrature import gauss_legendre
from mgraph.network.flat import FlatModel
from mgraph.train.draws import draws, on_device
from mgraph.train.engine import PathOptions, PathTrainer
from mgraph.train.phases import Curve, Phase
from mgraph.train.sampling import Sampling
from mgraph.train.updates import UpdateRule

MANY = int(os.environ.get("MGRAPH_EXAMPLES", "1"))  # so many times more of them: make stress


def network(kind="dense"):
    torch.manual_seed(0)
    if kind == "dense":
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(27, 3)
    ).double()


def examples(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (count,), generator=generator)


class Gradient:
    """The gradient of the free rows for given parameter values and a given order of examples."""

    def __init__(self, family, samples, *, split, kind="dense"):
        self.family, self.flat = family, FlatModel(network(kind))
        generator = torch.Generator().manual_seed(1)
        points = torch.randn(family.size, self.flat.dimension, generator=generator, dtype=torch.float64) / 2
        self.P = torch.stack([self.flat.pack(p) for p in points])
        self.phase = Phase("whole", 1, (Curve.whole(family),), family.free)
        # Without momentum the momentum rows are the gradient; at learning rate 0 nothing moves.
        self.trainer = PathTrainer(
            self.flat,
            F.cross_entropy,
            self.P,
            self.phase,
            rule=UpdateRule(momentum=0.0),
            options=PathOptions(Sampling(samples, split), update="eager"),
        )

    def __call__(self, t, x, y):
        C = self.family.coefficients(t)
        draw = next(on_device(iter([(C[None], np.ones((1, len(t))))]), self.phase.free, self.P))
        self.trainer.begin(draw)
        self.trainer.step(x, y, 0.0, draw, draw)
        return self.trainer.update._M.clone()


def values(family, samples):
    inside = np.random.default_rng(5).random((samples, family.dimension))
    return (np.arange(samples)[:, None] + inside) / samples


@pytest.mark.parametrize("samples", [2, 3, pytest.param(4, marks=pytest.mark.stress)])
def test_over_all_assignments_of_examples_and_values_the_mean_is_the_full_gradient(samples):
    """Every order of 4 examples, every order of the values; slices of 3 values are uneven: 2, 1, 1."""
    family, (x, y) = BezierCurveFamily(2), examples(4)
    t = values(family, samples)
    split, whole = Gradient(family, samples, split=True), Gradient(family, samples, split=False)
    full = whole(t, x, y)
    each = torch.stack(
        [
            split(t[list(p)], x[list(q)], y[list(q)])
            for p in permutations(range(samples))
            for q in permutations(range(4))
        ]
    )
    torch.testing.assert_close(each.mean(0), full, rtol=1e-10, atol=1e-13)
    assert float(each.std(0).norm()) > 0.1 * float(full.norm())  # one by one they differ


@settings(max_examples=10 * MANY, deadline=None)
@given(
    family=st.one_of(
        st.builds(BezierCurveFamily, st.integers(1, 4)),
        st.builds(PolygonalChainFamily, st.integers(1, 3)),
        st.builds(BezierSurfaceFamily, st.tuples(st.integers(1, 3), st.integers(2, 3))),
    ),
    kind=st.sampled_from(["dense", "conv"]),
    numbers=st.tuples(st.integers(1, 6), st.integers(0, 9)),
)
def test_the_mean_is_the_full_gradient_for_any_batch_and_number_of_values(family, kind, numbers):
    """Cyclic shifts are enough: they bring every example, and every slice's size, to every value equally often."""
    samples, more = numbers
    count = samples + more
    x, y = examples(count)
    t = values(family, samples)
    split = Gradient(family, samples, split=True, kind=kind)
    full = Gradient(family, samples, split=False, kind=kind)(t, x, y)
    total = torch.zeros_like(full)
    for i in range(samples):
        for j in range(count):
            total += split(np.roll(t, i, axis=0), x.roll(j, 0), y.roll(j, 0))
    torch.testing.assert_close(total / (samples * count), full, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("family", "how"),
    [
        (BezierCurveFamily(1), "lattice"),
        (BezierCurveFamily(1), "iid"),
        (BezierSurfaceFamily((2, 1)), "stratified"),
        pytest.param(BezierCurveFamily(1), "stratified", marks=pytest.mark.stress),
        pytest.param(BezierSurfaceFamily((2, 1)), "lattice", marks=pytest.mark.stress),
        pytest.param(BezierSurfaceFamily((2, 1)), "iid", marks=pytest.mark.stress),
    ],
    ids=str,
)
def test_over_shuffles_and_draws_the_mean_is_the_integral_over_the_domain(family, how):
    """Within the statistical error of 400 steps, against quadrature of whole-batch gradients; uneven slices."""
    samples, count, steps = 4, 7, 400
    x, y = examples(count)
    axis, weights = gauss_legendre(family.knots, 12)
    nodes = np.stack(np.meshgrid(*[axis] * family.dimension, indexing="ij"), -1).reshape(-1, family.dimension)
    for _ in range(family.dimension - 1):
        weights = np.outer(weights, weights).ravel()
    whole = Gradient(family, 1, split=False)
    full = sum(w * whole(node[None], x, y) for node, w in zip(nodes, weights, strict=True))

    split = Gradient(family, samples, split=True)
    generator = torch.Generator().manual_seed(8)
    coming = on_device(draws(split.phase, Sampling(samples, True, how), np.random.default_rng(9)), family.free, split.P)
    seen = []
    upcoming = next(coming)
    split.trainer.begin(upcoming)
    for _ in range(steps):
        order = torch.randperm(count, generator=generator)
        current, upcoming = upcoming, next(coming)
        split.trainer.step(x[order], y[order], 0.0, current, upcoming)
        seen.append(split.trainer.update._M.clone())
    each = torch.stack(seen)
    error = each.std(0) / steps**0.5
    z = ((each.mean(0) - full) / error.clamp_min(1e-12))[full != 0]
    assert float(z.abs().max()) < 5.0
    assert float(z.square().mean().sqrt()) < 1.6
    assert float(error.norm()) < 0.2 * float(full.norm())  # else this would say little
