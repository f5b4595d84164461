"""The band's step against the formulas spelt out in float64, point by point."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from mgraph.methods.neb import band as band_module
from mgraph.methods.neb.band import Band, BandRule
from mgraph.network.flat import FlatModel

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.arange(24) % 3


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)


def chain(n, size, seed=2):
    """Points along a bent path, shape (n, size)."""
    generator = torch.Generator().manual_seed(seed)
    return 0.4 * torch.randn(n, size, generator=generator, dtype=torch.float64).cumsum(0)


class Spelt:
    """NEB with loops and whole vectors: tangent, projection, springs or redistribution, SGD or AdamW."""

    def __init__(self, module, points, rule, spacing=None):
        self.module, self.rule = module, rule
        self.points = points.numpy().copy()
        self.momentum, self.squares, self.steps = np.zeros_like(self.points), np.zeros_like(self.points), 0
        lengths = np.linalg.norm(np.diff(self.points, axis=0), axis=1)
        self.spacing = (lengths if spacing is None else np.asarray(spacing)) / np.sum(
            lengths if spacing is None else spacing
        )

    def loss_and_gradient(self, theta):
        shapes = {name: p.shape for name, p in self.module.named_parameters()}
        point = torch.tensor(theta, requires_grad=True)
        parts = point.split([s.numel() for s in shapes.values()])
        named = {name: part.view(s) for (name, s), part in zip(shapes.items(), parts, strict=True)}
        loss = F.cross_entropy(functional_call(self.module, named, (X,)), Y)
        loss.backward()
        return float(loss.detach()), point.grad.numpy() + (
            self.rule.weight_decay * theta if self.rule.optimizer == "sgd" else 0.0
        )

    def redistribute(self):
        old = self.points.copy()
        reached = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(old, axis=0), axis=1))])
        for i, share in enumerate(np.cumsum(self.spacing)[:-1], start=1):
            self.points[i] = [np.interp(share * reached[-1], reached, column) for column in old.T]

    def step(self, lr):
        if self.rule.spring is None:
            self.redistribute()
        found = [self.loss_and_gradient(p) for p in self.points]
        losses = [loss for loss, _ in found]
        p, forces = self.points, {}
        for i in range(1, len(p) - 1):
            before, after = p[i] - p[i - 1], p[i + 1] - p[i]
            left, here, right = losses[i - 1 : i + 2]
            if left < here < right:
                tangent = after
            elif left > here > right:
                tangent = before
            else:
                larger = max(abs(left - here), abs(right - here))
                smaller = min(abs(left - here), abs(right - here))
                tangent = after * larger + before * smaller if right > left else after * smaller + before * larger
            if not tangent.any():
                tangent = p[i + 1] - p[i - 1]
            tangent = tangent / np.linalg.norm(tangent)
            gradient = found[i][1]
            forces[i] = -gradient + (gradient @ tangent) * tangent
            if self.rule.spring is not None:
                forces[i] += self.rule.spring * (np.linalg.norm(after) - np.linalg.norm(before)) * tangent
        self.steps += 1
        for i, force in forces.items():
            self.points[i] = self.points[i] - lr * self.direction(i, -force)
        return losses

    def direction(self, i, gradient):
        rule, first, second = self.rule, self.momentum[i], self.squares[i]
        if rule.optimizer == "sgd":
            first[:] = rule.momentum * first + gradient
            return gradient + rule.momentum * first if rule.nesterov else first
        first[:] = rule.momentum * first + (1 - rule.momentum) * gradient
        second[:] = rule.beta2 * second + (1 - rule.beta2) * gradient**2
        scale = np.sqrt(second / (1 - rule.beta2**self.steps)) + 1e-8
        return first / (1 - rule.momentum**self.steps) / scale + rule.weight_decay * self.points[i]


@pytest.mark.parametrize("columns", [16, 1 << 14])
@pytest.mark.parametrize(
    "rule",
    [
        BandRule(0.9, 0.0),
        BandRule(0.0, 0.05),
        BandRule(0.9, 0.01, spring=0.3),
        BandRule(0.9, 0.05, nesterov=True),
        BandRule(0.9, 0.05, spring=0.3, nesterov=True),
        BandRule(0.8, 0.1, optimizer="adamw", beta2=0.95),
        BandRule(0.8, 0.1, spring=0.3, optimizer="adamw"),
    ],
    ids=["redistributed", "decay, no momentum", "springs", "nesterov", "nesterov, springs", "adamw", "adamw, springs"],
)
def test_ten_steps_are_those_of_the_formulas(rule, columns, monkeypatch):
    monkeypatch.setitem(band_module._COLUMNS, "cpu", columns)
    flat = FlatModel(network())
    points = chain(6, flat.dimension)
    spelt = Spelt(network(), points, rule)
    band = Band(flat, F.cross_entropy, torch.stack([flat.pack(p) for p in points]), rule=rule)
    lr = 0.1 if rule.optimizer == "sgd" else 0.01
    for _ in range(10):
        np.testing.assert_allclose(band.step(X, Y, lr), spelt.step(lr), rtol=1e-9)
    found = torch.stack([flat.unpack(row) for row in band.points]).numpy()
    np.testing.assert_allclose(found, spelt.points, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found[[0, -1]], points[[0, -1]].numpy())
    np.testing.assert_allclose(band.lengths(), np.linalg.norm(np.diff(found, axis=0), axis=1), rtol=1e-12)


@pytest.mark.parametrize("place", [1, 2, 4])
def test_of_two_pivots_in_one_place_each_looks_to_the_other_side(place):
    flat, rule = FlatModel(network()), BandRule(0.9, 0.01, spring=0.3)
    points = chain(6, flat.dimension)
    points[place] = points[place - 1]  # equal losses: the tangent is the difference between them, which is none
    spelt = Spelt(network(), points, rule)
    band = Band(flat, F.cross_entropy, torch.stack([flat.pack(p) for p in points]), rule=rule)
    for _ in range(3):
        np.testing.assert_allclose(band.step(X, Y, 0.1), spelt.step(0.1), rtol=1e-9)
    found = torch.stack([flat.unpack(row) for row in band.points]).numpy()
    np.testing.assert_allclose(found, spelt.points, rtol=1e-9, atol=1e-12)


def test_the_force_has_no_part_along_the_tangent_of_a_rising_chain():
    flat = FlatModel(network())
    points = chain(3, flat.dimension)
    band = Band(flat, F.cross_entropy, torch.stack([flat.pack(p) for p in points]), rule=BandRule(0.0, 0.0))
    losses = band.step(X, Y, 0.1)
    moved = (torch.stack([flat.unpack(row) for row in band.points]) - points)[1]
    before, after = points[1] - points[0], points[2] - points[1]
    left, here, right = losses
    weights = (0, 1) if left < here < right else (1, 0) if left > here > right else None
    assert weights is not None, "the chain of this seed is monotone"
    tangent = weights[0] * before + weights[1] * after
    assert abs(float(moved @ tangent)) < 1e-12 * float(moved.norm() * tangent.norm())
    assert float(moved.norm()) > 1e-3


def test_pivots_keep_their_shares_of_the_length():
    flat = FlatModel(network())
    points = chain(5, flat.dimension)
    rows = torch.stack([flat.pack(p) for p in points])
    band = Band(flat, F.cross_entropy, rows, rule=BandRule(), spacing=np.array([1.0, 1.0, 2.0, 4.0]))
    band._redistribute()
    # Along the old chain; the new one cuts corners, so lengths are shares up to that.
    for _ in range(30):
        band._redistribute()
    np.testing.assert_allclose(band.lengths() / band.lengths().sum(), [0.125, 0.125, 0.25, 0.5], rtol=1e-6)


def test_an_inserted_pivot_divides_its_gap_where_it_is_put_and_has_no_momentum():
    flat = FlatModel(network())
    points = chain(5, flat.dimension)
    band = Band(flat, F.cross_entropy, torch.stack([flat.pack(p) for p in points]), rule=BandRule())
    band.step(X, Y, 0.1)
    before, momentum = band.points.clone(), band.moments["momentum_buffer"].clone()
    lengths, spacing = band.lengths(), band.spacing
    grown = band.grown([(0, 0.25), (3, 0.5)])
    assert len(grown.points) == 7
    torch.testing.assert_close(grown.points[1], before[0] + 0.25 * (before[1] - before[0]))
    torch.testing.assert_close(grown.points[5], (before[3] + before[4]) / 2)
    torch.testing.assert_close(grown.points[[0, 2, 3, 4, 6]], before, rtol=0, atol=0)
    assert not grown.moments["momentum_buffer"][[0, 4]].any()
    torch.testing.assert_close(grown.moments["momentum_buffer"][1:4], momentum, rtol=0, atol=0)
    np.testing.assert_allclose(grown.lengths()[:2], [0.25 * lengths[0], 0.75 * lengths[0]])
    np.testing.assert_allclose(grown.spacing[:2], [0.25 * spacing[0], 0.75 * spacing[0]])
    np.testing.assert_allclose(grown.spacing.sum(), spacing.sum())


def test_an_inserted_pivot_begins_anew_in_adamw():
    flat = FlatModel(network())
    rows = torch.stack([flat.pack(p) for p in chain(5, flat.dimension)])
    band = Band(flat, F.cross_entropy, rows, rule=BandRule(optimizer="adamw"))
    band.step(X, Y, 0.01)
    grown = band.grown([(1, 0.5)])
    assert grown.moments["step"].tolist() == [1, 0, 1, 1]
    assert not grown.moments["exp_avg"][1].any()
    grown.step(X, Y, 0.01)
    assert grown.moments["step"].tolist() == [2, 1, 2, 2]


def test_running_statistics_are_no_coordinates():
    torch.manual_seed(0)
    flat = FlatModel(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double())
    assert flat.dimension == 6 * 8 + 8 + 8 + 8 + 8 * 3 + 3
    points = torch.stack([flat.pack(p) for p in chain(4, flat.dimension)])
    losses = []
    for mean in (0.0, 50.0):  # what they are has no influence on a step
        flat.module.train()
        flat.module[1].running_mean.fill_(mean)
        band = Band(flat, F.cross_entropy, points, rule=BandRule())
        losses.append([band.step(X, Y, 0.1) for _ in range(3)])
        band.leave()
    np.testing.assert_array_equal(*losses)


def test_a_step_from_a_point_that_is_not_finite_moves_nothing():
    flat = FlatModel(network())
    points = torch.stack([flat.pack(p) for p in chain(4, flat.dimension)])
    points[2, 0] = float("inf")
    band = Band(flat, F.cross_entropy, points, rule=BandRule(spring=1.0))
    assert not np.isfinite(band.step(X, Y, 0.1)).all()
    torch.testing.assert_close(band.points, points, rtol=0, atol=0)


def test_the_network_gets_its_own_point_back():
    flat = FlatModel(network())
    own = flat.theta.clone()
    band = Band(flat, F.cross_entropy, torch.stack([flat.pack(p) for p in chain(4, flat.dimension)]))
    band.step(X, Y, 0.1)
    band.leave()
    torch.testing.assert_close(flat.theta, own, rtol=0, atol=0)
    assert next(flat.module.parameters()).data_ptr() == flat.theta.data_ptr()
