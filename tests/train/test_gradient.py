"""The engine's rank-one gradients against autograd through the control points, on many kinds of network."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from mgraph.architectures.loading import build_network
from mgraph.families import BezierCurveFamily, BezierSurfaceFamily, PolygonalChainFamily
from mgraph.methods.curves.surface import BezierSurface
from mgraph.network.flat import FlatModel
from mgraph.train.draws import Draw, draws, on_device
from mgraph.train.engine import PathOptions, PathTrainer
from mgraph.train.phases import Curve, Phase
from mgraph.train.sampling import Sampling
from mgraph.train.updates import UpdateRule

FAMILIES = {"curve": BezierCurveFamily(1), "surface": BezierSurfaceFamily((2, 2))}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


class TiedTransformer(nn.Module):
    """Predicts the next token; the head shares the embedding's weight."""

    def __init__(self, tokens=11, width=12):
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.block = nn.TransformerEncoderLayer(width, 3, 20, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(width, tokens, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        return self.head(self.block(self.embedding(x), src_mask=mask))[:, -1]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(5, 7, num_layers=2, batch_first=True)
        self.head = nn.Linear(7, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class TiedDense(nn.Module):
    """One weight used twice, the second time transposed."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        hidden = torch.tanh(self.inner(x.flatten(1)))
        return self.head(torch.tanh(hidden @ self.inner.weight))


def frozen_cnn():
    network = build_network("cnn?bn=true", input_shape=(1, 8, 8), classes=10, seed=0)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    convolutions[0].weight.requires_grad_(False)
    network[-1].bias.requires_grad_(False)
    return network


def _built(spec, shape):
    return lambda: build_network(spec, input_shape=shape, classes=10, seed=0)


def _tokens(seed):
    return torch.randint(11, (6, 5), generator=torch.Generator().manual_seed(seed))


def _images(*shape):
    return lambda seed: torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


NETWORKS = {
    "mlp": (_built("mlp?hidden=20,10", (1, 4, 4)), _images(8, 1, 4, 4)),
    "cnn": (_built("cnn", (1, 8, 8)), _images(8, 1, 8, 8)),
    "cnn with BatchNorm": (_built("cnn?bn=true", (1, 8, 8)), _images(8, 1, 8, 8)),
    "frozen parameters": (frozen_cnn, _images(8, 1, 8, 8)),
    "resnet18": (_built("torchvision:resnet18", (3, 48, 48)), _images(4, 3, 48, 48)),
    "tied transformer": (TiedTransformer, _tokens),
    "lstm": (Recurrent, _images(6, 3, 5)),
}
CASES = [
    (name, shape, samples)
    for name in NETWORKS
    for shape in FAMILIES
    for samples in (1, 3)
    if name != "resnet18" or (shape, samples) == ("curve", 1)  # it is large: one setting is enough
]


def control_points(flat, size):
    """Points some 10 % apart, around the network's own."""
    generator = torch.Generator().manual_seed(1)
    theta = flat.unpack(flat.theta)
    scale = 0.1 * theta.norm() / theta.numel() ** 0.5
    return torch.stack(
        [theta + scale * torch.randn(theta.shape, generator=generator, dtype=theta.dtype) for _ in range(size)]
    )


def autograd_gradient(module, points, samples):
    """The gradient of Σ w L(cᵀP; x, y) over samples (c, w, x, y), shape (K, D), by autograd through all points."""
    points = points.clone().requires_grad_()
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    rest = {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
    total = torch.zeros((), dtype=points.dtype)
    for c, w, x, y in samples:
        theta = (c[:, None] * points).sum(0)
        parts = theta.split([p.numel() for p in trainable.values()])
        named = {name: part.view(p.shape) for (name, p), part in zip(trainable.items(), parts, strict=True)}
        buffers = {name: b.clone() for name, b in module.named_buffers()}
        total = total + w * F.cross_entropy(functional_call(module, named | rest | buffers, (x,)), y)
    return torch.autograd.grad(total, points)[0], total.item()


def drawn(C, weights, free):
    """A step's samples with coefficients C and weights, as the trainer takes them."""
    return Draw(C, (C[:, list(free)] * weights[:, None]).T.contiguous(), None)


def gradients(flat, points, phase, sampling, draw, x, y, loss=F.cross_entropy):
    """One step by the engine: gradients of the free rows (canonical), the loss, and P afterwards."""
    P = torch.stack([flat.pack(p) for p in points])
    # Without momentum the momentum rows are the gradient of the step.
    trainer = PathTrainer(
        flat, loss, P, phase, rule=UpdateRule(momentum=0.0), options=PathOptions(sampling, update="eager")
    )
    trainer.begin(draw)
    value = trainer.step(x, y, 1e-3, draw, draw)
    trainer.finish()
    return torch.stack([flat.unpack(m) for m in trainer.update._M]), float(value), P


def agree(mine, expected, tolerance):
    for ours, theirs in zip(mine, expected, strict=True):
        assert float((ours - theirs).norm()) <= tolerance * float(theirs.norm())


@pytest.mark.parametrize(
    ("name", "shape", "samples", "dtype"),
    [
        # A large network takes as long as all others.
        pytest.param(*case, dtype, marks=[pytest.mark.stress] * (case[0] == "resnet18"))
        for case in CASES
        for dtype in TOLERANCE
    ],
    ids=str,
)
def test_gradient_of_every_control_point_is_autograds(name, shape, samples, dtype):
    family, (build, inputs) = FAMILIES[shape], NETWORKS[name]
    torch.manual_seed(0)
    module = build().to(dtype).train()
    plain = copy.deepcopy(module)
    x = inputs(0)
    x = x.to(dtype) if x.is_floating_point() else x
    y = torch.arange(len(x)) % 4
    rng = np.random.default_rng(2)
    C = torch.from_numpy(family.coefficients(rng.random((samples, family.dimension)))).to(dtype)
    weights = torch.from_numpy(rng.random(samples)).to(dtype)

    flat = FlatModel(module)
    points = control_points(flat, family.size)
    phase = Phase(shape, 1, (Curve.whole(family),), family.free)
    mine, _, P = gradients(flat, points, phase, Sampling(samples), drawn(C, weights, family.free), x, y)

    expected, _ = autograd_gradient(plain, points, [(c, w / samples, x, y) for c, w in zip(C, weights, strict=True)])
    agree(mine, expected[list(family.free)], TOLERANCE[dtype])
    moved = torch.stack([flat.unpack(P[k]) for k in family.free])
    started = points[list(family.free)]
    torch.testing.assert_close(moved, started - 1e-3 * mine)
    for k in family.ends:
        assert torch.equal(flat.unpack(P[k]), points[k])


SMALL = {
    "mlp": _built("mlp?hidden=7,5", (1, 4, 4)),
    "conv": _built("cnn?channels=3,4&hidden=5", (1, 4, 4)),
    "conv, BatchNorm": _built("cnn?channels=3,4&hidden=5&bn=true", (1, 4, 4)),
    "tied": TiedDense,
}


@st.composite
def phases(draw):
    """A whole family, or several curves of a surface at once, with some of its free rows."""
    family = draw(
        st.one_of(
            st.builds(BezierCurveFamily, st.integers(1, 5)),
            st.builds(PolygonalChainFamily, st.integers(1, 5)),
            st.builds(BezierSurfaceFamily, st.tuples(st.integers(1, 4), st.integers(1, 4))),
        )
    )
    curves = (Curve.whole(family),)
    if isinstance(family, BezierSurfaceFamily):
        sampled = draw(st.sampled_from(["surface", "edges", "columns"]))
        curves = BezierSurface(degree=family.degree, phases=(f"{sampled}:1",)).plan(family)[0].curves
    free = draw(st.sets(st.sampled_from(family.free), min_size=1)) if family.free else set()
    return family, Phase("some", 1, curves, tuple(sorted(free)) or (0,))


@settings(max_examples=30, deadline=None)
@given(
    chosen=phases(),
    name=st.sampled_from(sorted(SMALL)),
    samples=st.integers(1, 6),
    split=st.booleans(),
    count=st.integers(12, 17),
    how=st.sampled_from(["stratified", "lattice", "iid"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_gradients_are_autograds_for_any_family_network_and_division(chosen, name, samples, split, count, how, seed):
    family, phase = chosen
    module = SMALL[name]().double().train()
    plain, flat = copy.deepcopy(module), FlatModel(module)
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(count, 1, 4, 4)))
    y = torch.from_numpy(rng.integers(0, 4, count))
    sampling = Sampling(samples, split, how)
    points = control_points(flat, family.size)
    draw = next(on_device(draws(phase, sampling, rng), phase.free, points))
    mine, loss, _ = gradients(flat, points, phase, sampling, draw, x, y)

    sizes = [count // samples + (i < count % samples) for i in range(samples)]
    xs, ys = (torch.split(x, sizes), torch.split(y, sizes)) if split else ([x] * samples, [y] * samples)
    shares = [size / count for size in sizes] if split else [1 / samples] * samples
    terms = [(c, shares[i % samples], xs[i % samples], ys[i % samples]) for i, c in enumerate(draw.coefficients)]
    assert len(terms) == samples * len(phase.curves)
    expected, total = autograd_gradient(plain, points, terms)
    agree(mine, expected[list(phase.free)], 1e-10)
    assert loss == pytest.approx(total / len(phase.curves), rel=1e-12)


def test_a_parameter_that_the_loss_does_not_reach_has_gradient_zero():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x):
            return self.used(x)

    for samples in (1, 2):
        flat, family = FlatModel(Partly()), FAMILIES["curve"]
        rows = [flat.pack(torch.randn(flat.dimension)) for _ in range(3)]
        P = torch.stack(rows)
        phase = Phase("curve", 1, (Curve.whole(family),), (1,))
        trainer = PathTrainer(flat, F.cross_entropy, P, phase, options=PathOptions(Sampling(samples)))
        draw = drawn(torch.tensor([[0.25, 0.5, 0.25]] * samples), torch.ones(samples), (1,))
        trainer.begin(draw)
        for _ in range(2):
            trainer.step(torch.randn(5, 3), torch.arange(5) % 4, 0.1, draw, draw)
        unused = flat.columns("unused.weight")
        assert torch.equal(P[1, unused], rows[1][unused])
        assert not torch.equal(P[1, flat.columns("used.weight")], rows[1][flat.columns("used.weight")])
