"""Training of control points spelt out, which the engine's results are compared with."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from mgraph.data.splits import ArraySplit
from mgraph.network.flat import FlatModel
from mgraph.train.engine import PathOptions, train_phases
from mgraph.train.objective import Objective
from mgraph.train.sampling import Sampling, cover
from mgraph.train.schedules import SCHEDULES
from mgraph.train.streams import Streams


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)


def data(count=44, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    return ArraySplit(torch.randn(count, 6, generator=generator, dtype=dtype), torch.arange(count) % 3)


def start(flat, family):
    """Random ends, and the rows between them where the family starts them; canonical, shape (K, D)."""
    generator = torch.Generator().manual_seed(5)
    ends = torch.randn(len(family.ends), flat.dimension, generator=generator, dtype=torch.float64) / 3
    return (torch.from_numpy(family.initial()) @ ends).to(flat.dtype)


def trained(points, phases, how, *, flat=None, split=None, loss=F.cross_entropy, **options):
    """Train with the engine; return the control points, canonical, and how it went."""
    flat = flat or FlatModel(network())
    P = torch.stack([flat.pack(p) for p in points])
    told = PathOptions(**{f.name: options.pop(f.name) for f in fields(PathOptions) if f.name in options})
    outcome = train_phases(Objective(flat, loss, split or data()), P, phases, how, told, **options)
    return torch.stack([flat.unpack(row) for row in P]), outcome


def parts_of(count, k, *, split):
    """Which examples of a batch each of k values sees."""
    if not split:
        return [slice(0, count)] * k
    ends = np.cumsum([0] + [count // k + (i < count % k) for i in range(k)])
    return [slice(a, b) for a, b in pairwise(ends)]


def named_tensors(module, theta):
    """Split a canonical point into the module's trainable parameters by name."""
    shapes = {name: p.shape for name, p in module.named_parameters() if p.requires_grad}
    parts = theta.split([shape.numel() for shape in shapes.values()])
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def speed(curve, points, t):
    """The length or area element at each t, by D-dimensional arithmetic."""
    J = curve.family.derivatives(t) @ points[list(curve.rows)]
    if J.shape[1] == 1:
        return np.linalg.norm(J[:, 0], axis=1)
    return np.sqrt(np.linalg.det(J @ J.transpose(0, 2, 1)))


def mean_speed(curve, points):
    """The mean of the element over the domain, by the rule that the engine uses: 16 Gauss nodes per axis and piece."""
    t, weights = curve.family.quadrature(16)
    return weights @ speed(curve, points, t)


class Reference:
    """The same training by torch's optimisers on the stacked control points, with autograd through all of them."""

    def __init__(self, module, points, split, how, *, sampling=None, decay="point", columns=None):
        self.module, self.split, self.how, self.decay = copy.deepcopy(module).train(), split, how, decay
        self.sampling = sampling or Sampling()
        self.points = nn.Parameter(points.clone())
        self.columns = torch.ones(points.shape[1], dtype=torch.bool) if columns is None else columns
        self.losses: list[float] = []

    def run(self, phases):
        """Train; return the control points. ``losses`` are then those of every step."""
        streams = Streams.of(self.how.seed)
        for phase in phases:
            if phase.epochs and phase.free:
                self._phase(phase, streams)
        return self.points.detach()

    def _optimiser(self):
        how, wd = self.how, self.how.weight_decay if self.decay == "control" else 0.0
        if how.optimizer == "adamw":
            return torch.optim.AdamW([self.points], lr=1.0, betas=(how.momentum, how.beta2), weight_decay=wd)
        return torch.optim.SGD([self.points], lr=1.0, momentum=how.momentum, nesterov=how.nesterov, weight_decay=wd)

    def _phase(self, phase, streams):
        how, optimiser = self.how, self._optimiser()
        rows = torch.zeros(len(self.points), 1, dtype=torch.bool)
        rows[list(phase.free)] = True
        moving = rows & self.columns
        before = self.points.detach().clone()
        coming = self._draws(phase, streams.draws)
        size = how.batch_size
        batches = -(-len(self.split) // size)
        total = phase.epochs * batches
        upcoming = next(coming)
        for step in range(total):
            if step % batches == 0:
                order = torch.randperm(len(self.split), generator=streams.order)
            x, y = self.split.examples(order[step % batches * size :][:size])
            draw, upcoming = upcoming, next(coming)  # drawn a step ahead, as the measure then shows
            lr = (phase.lr or how.lr) * SCHEDULES[how.schedule](step / total)
            self._step(optimiser, moving, x, y, lr, draw)
            with torch.no_grad():
                self.points[~moving] = before[~moving]

    def _draws(self, phase, rng) -> Iterator[list[tuple[torch.Tensor, float]]]:
        """Yield the coefficients and the weight of every sample of a step, curve after curve."""
        s = self.sampling
        steps = 256 if s.measure == "uniform" else min(256, s.gram_every)
        while True:
            now = self.points.detach().numpy().astype(np.float64)
            blocks = []
            for curve in phase.curves:
                t = cover(steps, s.samples, curve.family.dimension, s.draw, rng)
                flat = t.reshape(-1, t.shape[2])
                q = np.ones(len(flat))
                if s.measure != "uniform":
                    q = speed(curve, now, flat) / mean_speed(curve, now)
                blocks.append((curve.coefficients(flat).reshape(*t.shape[:2], -1), q.reshape(t.shape[:2])))
            for step in range(steps):
                yield [
                    (torch.from_numpy(c[step, i]).to(self.points.dtype), float(w[step, i]))
                    for c, w in blocks
                    for i in range(s.samples)
                ]

    def _step(self, optimiser, moving, x, y, lr, draw):
        how, s = self.how, self.sampling
        parts = parts_of(len(x), s.samples, split=s.split)
        curves = len(draw) // s.samples
        total, mean, shrink = 0.0, 0.0, torch.zeros_like(self.points)
        for i, (c, w) in enumerate(draw):
            part = parts[i % s.samples]
            share = (part.stop - part.start) / (len(x) if s.split else len(x) * s.samples)
            theta = c @ self.points
            buffers = {name: b.clone() for name, b in self.module.named_buffers()}
            outputs = functional_call(self.module, named_tensors(self.module, theta) | buffers, (x[part],))
            loss = F.cross_entropy(outputs, y[part])
            total = total + share * w * loss
            mean += share * loss.item() / curves
            if self.decay == "point" and how.optimizer == "sgd":
                total = total + share * w * how.weight_decay / 2 * theta.square().sum()
            if self.decay == "point" and how.optimizer == "adamw":
                shrink += share * w * how.weight_decay * torch.outer(c, theta.detach())
        self.losses.append(mean)
        optimiser.zero_grad()
        total.backward()
        self.points.grad[~moving] = 0.0
        if how.clip is not None:
            torch.nn.utils.clip_grad_norm_([self.points], how.clip)
        optimiser.param_groups[0]["lr"] = lr
        with torch.no_grad():
            self.points -= lr * shrink
        optimiser.step()


class Spelt:
    """What tests of training start from."""

    Reference = Reference
    network, data, start, trained = map(staticmethod, (network, data, start, trained))
    named_tensors, parts_of, speed = map(staticmethod, (named_tensors, parts_of, speed))


@pytest.fixture(scope="session")
def spelt() -> type[Spelt]:
    """Training spelt out, and a small network and its data."""
    return Spelt
