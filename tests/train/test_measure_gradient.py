"""The exact gradient of a loss averaged over a path's length, against autograd through length and loss together."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from mgraph.data.making import make_task
from mgraph.errors import InputError
from mgraph.families import BezierCurveFamily, PolygonalChainFamily
from mgraph.families.gram import gram
from mgraph.methods.curves.path import BezierCurve, PolygonalChain
from mgraph.methods.curves.surface import BezierSurface
from mgraph.network.flat import FlatModel
from mgraph.train.draws import Draw, draws
from mgraph.train.engine import PathOptions, PathTrainer, train_phases
from mgraph.train.objective import Objective
from mgraph.train.phases import Curve, Phase
from mgraph.train.sampling import Sampling
from mgraph.train.state import InMemory
from mgraph.train.streams import Streams
from mgraph.train.updates import UpdateRule

FAMILIES = [BezierCurveFamily(1), BezierCurveFamily(3), PolygonalChainFamily(2)]


def at(spelt, module, theta, x, y):
    return F.cross_entropy(functional_call(module, spelt.named_tensors(module, theta), (x,)), y)


def objective(spelt, module, family, P, x, y, t, weights):
    """∫ L ‖θ'‖ dt / ∫ ‖θ'‖ dt by the quadrature (t, weights), differentiable in P."""
    c = torch.from_numpy(family.coefficients(t))
    speed = (torch.from_numpy(family.derivatives(t)[:, 0]) @ P).norm(dim=1) * torch.from_numpy(weights)
    losses = torch.stack([at(spelt, module, row @ P, x, y) for row in c])
    return (losses * speed).sum() / speed.sum()


def problem(spelt, family, seed=0):
    flat = FlatModel(spelt.network())
    P = torch.from_numpy(np.random.default_rng(seed).normal(size=(family.size, flat.dimension)) / 3)
    x, y = spelt.data().examples(torch.arange(20))
    return flat, P, x, y


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
@pytest.mark.parametrize(
    "rule", [UpdateRule(momentum=0.0), UpdateRule(momentum=0.0, nesterov=False, clip=1e9)], ids=["plain", "kept"]
)
def test_the_gradient_of_the_weighted_objective_is_autograds(spelt, family, rule):
    flat, P, x, y = problem(spelt, family)
    module = copy.deepcopy(flat.module)
    t, weights = family.quadrature(16)  # as many as the engine takes for the mean length element
    variable = P.clone().requires_grad_()
    value = objective(spelt, module, family, variable, x, y, t, weights)
    value.backward()

    curve, n = Curve.whole(family), len(t)
    phase = Phase("curve", 1, (curve,), family.free)
    G = gram(list(P.numpy()))
    w = curve.relative_density(G, t) * weights * n
    slopes = curve.slopes(G, t) * np.sqrt(weights * n)[:, None]
    c = family.coefficients(t)
    tensors = [torch.from_numpy(a) for a in (c, (c[:, family.free] * w[:, None]).T.copy(), w, slopes)]
    draw = Draw(tensors[0], tensors[1], None, tensors[2], tensors[3])
    rows = torch.stack([flat.pack(p) for p in P])
    trainer = PathTrainer(flat, F.cross_entropy, rows, phase, rule=rule, options=PathOptions(Sampling(n, exact=True)))
    trainer.begin(draw)
    trainer.step(x, y, 1.0, draw, draw)
    trainer.finish()
    moved = P - torch.stack([flat.unpack(row) for row in rows])
    assert not moved[list(family.ends)].any()
    expected = variable.grad[list(family.free)]
    assert torch.allclose(moved[list(family.free)], expected, rtol=1e-8, atol=1e-10)
    assert float(trainer.state()["level"]) == pytest.approx(float(value.detach()), rel=1e-10)
    # And it is another one than with the length element held constant.
    before = torch.stack([flat.pack(p) for p in P])
    held = PathTrainer(flat, F.cross_entropy, before, phase, rule=rule, options=PathOptions(Sampling(n)))
    without = replace(draw, weights=None, slopes=None)
    held.begin(without)
    held.step(x, y, 1.0, without, without)
    held.finish()
    shorter = torch.stack([flat.unpack(row) for row in before])[list(family.free)]
    assert not torch.allclose(P[list(family.free)] - shorter, expected, rtol=1e-2, atol=1e-4)


def test_a_training_step_uses_it(spelt):
    """One step of a whole training: three draws, level and density those of the step's own beginning."""
    method = BezierCurve(epochs=1, batch_size=44, samples=3, batch="whole", measure="arc", measure_gradient="exact",
                         momentum=0.0, lr=0.5, schedule="constant", seed=4)  # fmt: skip
    family = method.family(2)
    flat, P, x, y = problem(spelt, family)
    x, y = spelt.data().examples(torch.arange(44))
    module = copy.deepcopy(flat.module)
    rows = torch.stack([flat.pack(p) for p in P])
    objective, options = Objective(flat, F.cross_entropy, spelt.data()), PathOptions(method.sampling())
    train_phases(objective, rows, method.plan(family), method, options)
    moved = torch.stack([flat.unpack(row) for row in rows])

    c = next(draws(method.plan(family)[0], Sampling(3), Streams.of(4).draws))[0][0]
    t = (c[:, 2] + c[:, 1] / 2)[:, None]
    nodes, weights = family.quadrature(16)
    mean = weights @ spelt.speed(Curve.whole(family), P.numpy(), nodes)
    variable = P.clone().requires_grad_()
    speed = (torch.from_numpy(family.derivatives(t)[:, 0]) @ variable).norm(dim=1) / mean
    losses = torch.stack([at(spelt, module, torch.from_numpy(row) @ variable, x, y) for row in c])
    level = (losses * speed).mean().detach()
    ((losses - level) * speed).mean().backward()
    # The term with the level has no part that moves the points: what autograd gives is all of it.
    assert torch.allclose(moved[1], P[1] - 0.5 * variable.grad[1], rtol=1e-7, atol=1e-9)


def test_an_interrupted_training_goes_on_with_the_same_level(spelt):
    method = PolygonalChain(
        bends=2, epochs=2, batch_size=16, samples=2, measure="arc", measure_gradient="exact", gram_every=3
    )
    family = method.family(2)

    def train(checkpointer):
        flat, P, *_ = problem(spelt, family)
        rows = torch.stack([flat.pack(p) for p in P])
        train_phases(
            Objective(flat, F.cross_entropy, spelt.data()),
            rows,
            method.plan(family),
            method,
            PathOptions(method.sampling()),
            checkpointer=checkpointer,
        )
        return rows

    checkpointer = InMemory(every=4)
    whole = train(checkpointer)
    assert "method.update.level" in checkpointer.last.arrays
    assert torch.equal(train(checkpointer.again()), whole)


def test_where_the_length_element_is_zero_nothing_is_added():
    family = BezierCurveFamily(1)
    curve = Curve.whole(family)
    rows = np.tile(np.random.default_rng(0).normal(size=(1, 5)), (3, 1))
    assert not curve.slopes(gram(list(rows)), np.linspace(0, 1, 5)[:, None]).any()
    turning = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])  # it turns back, and stands still in the middle
    slopes = curve.slopes(gram(list(turning)), np.array([[0.25], [0.5]]))
    assert slopes[0].any()
    assert not slopes[1].any()


@pytest.mark.parametrize(
    "method",
    [
        BezierCurve(measure_gradient="exact"),
        BezierCurve(measure="arc", measure_gradient="exact", update="compiled"),
        BezierSurface(measure="area", measure_gradient="exact"),
    ],
)
def test_it_is_for_lengths_and_the_eager_update(spelt, method):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(60, 6)), np.arange(60) % 3
    task = make_task(train=(X[:40], Y[:40]), valid=(X[40:50], Y[40:50]), test=(X[50:], Y[50:]))
    ends = 4 if isinstance(method, BezierSurface) else 2
    with pytest.raises(InputError, match="measure_gradient=exact is for measure=arc and the eager update"):
        method.check(FlatModel(spelt.network(torch.float32)), task, method.family(ends))
