"""The engine's rank-one gradients against autograd through the control points, on many kinds of network."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from mgraph.architectures.loading import build_network
from mgraph.families import BezierCurveFamily, BezierSurfaceFamily
from mgraph.network.flat import FlatModel
from mgraph.train.engine import PathTrainer

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


def autograd_gradient(module, points, draws, weights, x, y):
    """The gradient of Σ w L(cᵀP), shape (K, D), by autograd through the control points."""
    points = points.clone().requires_grad_()
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    rest = {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
    total = torch.zeros((), dtype=points.dtype)
    for c, w in zip(draws, weights, strict=True):
        theta = (torch.from_numpy(c).to(points.dtype)[:, None] * points).sum(0)
        parts = theta.split([p.numel() for p in trainable.values()])
        named = {name: part.view(p.shape) for (name, p), part in zip(trainable.items(), parts, strict=True)}
        buffers = {name: b.clone() for name, b in module.named_buffers()}
        total = total + w * F.cross_entropy(functional_call(module, named | rest | buffers, (x,)), y)
    return torch.autograd.grad(total, points)[0], total.item()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("name", "shape", "samples"), CASES)
def test_gradient_of_every_control_point_is_autograds(name, shape, samples, dtype):
    family, (build, inputs) = FAMILIES[shape], NETWORKS[name]
    torch.manual_seed(0)
    module = build().to(dtype).train()
    plain = copy.deepcopy(module)
    x = inputs(0)
    x = x.to(dtype) if x.is_floating_point() else x
    y = torch.arange(len(x)) % 4
    rng = np.random.default_rng(2)
    draws = family.coefficients(rng.random((samples, family.dimension)))
    weights = rng.random(samples)

    flat = FlatModel(module)
    points = control_points(flat, family.size)
    P = torch.stack([flat.pack(p) for p in points])
    # Without momentum the momentum rows are the gradient of the step.
    trainer = PathTrainer(flat, F.cross_entropy, P, family.free, momentum=0.0, update="eager")
    trainer.begin(draws[0].tolist())
    trainer.step(x, y, 1e-3, draws, weights, draws[0].tolist())
    mine = torch.stack([flat.unpack(m) for m in trainer.update._M])

    expected, _ = autograd_gradient(plain, points, draws, weights, x, y)
    expected = expected[list(family.free)]
    for ours, theirs in zip(mine, expected, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) <= TOLERANCE[dtype]
    moved = torch.stack([flat.unpack(P[k]) for k in family.free])
    started = points[list(family.free)]
    torch.testing.assert_close(moved, started - 1e-3 * mine)
    for k in family.ends:
        assert torch.equal(flat.unpack(P[k]), points[k])


def test_the_loss_of_a_step_is_the_mean_over_its_samples():
    module = _built("cnn", (1, 8, 8))().double()
    plain, flat = copy.deepcopy(module), FlatModel(module)
    x, y = _images(8, 1, 8, 8)(0), torch.arange(8)
    points = control_points(flat, 3)
    family = FAMILIES["curve"]
    draws = family.coefficients([[0.2], [0.7]])
    trainer = PathTrainer(flat, F.cross_entropy, torch.stack([flat.pack(p) for p in points]), (1,))
    trainer.begin(draws[0].tolist())
    loss = trainer.step(x, y, 1e-3, draws, np.full(2, 0.5), draws[0].tolist())
    _, expected = autograd_gradient(plain, points, draws, [0.5, 0.5], x, y)
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_a_parameter_that_the_loss_does_not_reach_has_gradient_zero():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x):
            return self.used(x)

    flat = FlatModel(Partly())
    rows = [flat.pack(torch.randn(flat.dimension)) for _ in range(3)]
    P = torch.stack(rows)
    trainer = PathTrainer(flat, F.cross_entropy, P, (1,))
    draws = FAMILIES["curve"].coefficients([[0.5]])
    trainer.begin(draws[0].tolist())
    for _ in range(2):
        trainer.step(torch.randn(5, 3), torch.arange(5) % 4, 0.1, draws, np.ones(1), draws[0].tolist())
    unused = flat.columns("unused.weight")
    assert torch.equal(P[1, unused], rows[1][unused])
    assert not torch.equal(P[1, flat.columns("used.weight")], rows[1][flat.columns("used.weight")])
