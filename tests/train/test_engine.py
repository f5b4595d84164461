"""Training of control points: the arithmetic of whole runs, which rows move, and what stops a run."""

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from mgraph.connect.curve import BezierCurve
from mgraph.connect.surface import BezierSurface
from mgraph.data.splits import ArraySplit
from mgraph.errors import NonFiniteError
from mgraph.families import BezierCurveFamily, BezierSurfaceFamily
from mgraph.network.flat import FlatModel
from mgraph.train.engine import Curve, PathTrainer, Phase, draws, train_phases
from mgraph.train.loop import Streams
from mgraph.train.schedules import curve_schedule

CURVE, SURFACE = BezierCurveFamily(1), BezierSurfaceFamily((2, 2))
SETTINGS = {"lr": 0.1, "batch_size": 16, "samples": 1, "momentum": 0.9, "weight_decay": 0.0, "seed": 0}


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)


def data(count=44, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    return ArraySplit(torch.randn(count, 6, generator=generator, dtype=dtype), torch.arange(count) % 3)


def start(flat, family):
    """Random ends, and the rows between them where the family starts them; canonical, shape (K, D)."""
    generator = torch.Generator().manual_seed(5)
    ends = torch.randn(len(family.ends), flat.dimension, generator=generator, dtype=flat.dtype) / 3
    return torch.from_numpy(family.initial()).to(flat.dtype) @ ends


def pack(flat, points):
    return torch.stack([flat.pack(p) for p in points])


def unpack(flat, P):
    return torch.stack([flat.unpack(row) for row in P])


def phases_of(method, ends):
    return method.phases(method.family(ends))


def trained(family, phases, *, flat=None, split=None, loss=F.cross_entropy, **settings):
    flat = flat or FlatModel(network())
    P = pack(flat, start(flat, family))
    train_phases(flat, loss, split or data(), P, phases, **SETTINGS | settings)
    return unpack(flat, P)


def reference(module, points, split, phases, *, lr, batch_size, samples, momentum, weight_decay, seed):
    """The same training spelt out: torch's SGD on the stacked control points, autograd through all of them."""
    points = nn.Parameter(points.clone())
    shapes = {name: p.shape for name, p in module.named_parameters()}
    streams = Streams.of(seed)
    for phase in phases:
        if not phase.free or not phase.epochs:
            continue
        optimiser = torch.optim.SGD([points], lr=lr, momentum=momentum)
        frozen = [k for k in range(len(points)) if k not in phase.free]
        coming = draws(phase, samples, streams.draws)
        batches = -(-len(split) // batch_size)
        for step in range(phase.epochs * batches):
            if step % batches == 0:
                order = torch.randperm(len(split), generator=streams.order)
            chosen = order[step % batches * batch_size :][:batch_size]
            x, y = split.examples(chosen)
            loss = 0.0
            for c in torch.from_numpy(next(coming)):
                theta = c @ points
                parts = theta.split([shape.numel() for shape in shapes.values()])
                named = {n: part.view(s) for (n, s), part in zip(shapes.items(), parts, strict=True)}
                loss = loss + F.cross_entropy(functional_call(module, named, (x,)), y) / samples
                loss = loss + weight_decay / 2 * theta.square().sum() / samples
            optimiser.zero_grad()
            loss.backward()
            points.grad[frozen] = 0.0
            optimiser.param_groups[0]["lr"] = lr * curve_schedule(step / (phase.epochs * batches))
            optimiser.step()
    return points.detach()


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize(
    "method",
    [
        BezierCurve(epochs=3, bends=2),
        BezierSurface(epochs=(2, 2, 3)),
        BezierSurface(degree=(3, 1), epochs=(1, 2, 2)),
        BezierSurface(degree=(1, 2), epochs=(1, 2, 0)),
    ],
    ids=["curve", "3x3", "4x2", "2x3"],
)
def test_a_run_is_sgd_with_momentum_on_the_stacked_control_points(method, weight_decay, samples):
    ends = 2 if isinstance(method, BezierCurve) else 4
    family, phases = method.family(ends), phases_of(method, ends)
    changed = {"weight_decay": weight_decay, "samples": samples}
    module = network()
    plain, flat = copy.deepcopy(module), FlatModel(module)
    result = trained(family, phases, flat=flat, **changed)
    expected = reference(plain, start(flat, family), data(), phases, **SETTINGS | changed)
    assert float((expected - start(flat, family)).norm()) > 0.01
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)


def test_draws_are_uniform_on_every_curve_and_never_repeat():
    """With t as the coefficient in a column of its own, each curve shows the parameters it was given."""

    def show(column):
        return Curve(1, lambda t: np.concatenate([t * (column == i) for i in range(2)], axis=1))

    phase = Phase("edges", 1, (show(0), show(1)), (0,))
    steps = [c for c, _ in zip(draws(phase, 3, np.random.default_rng(0)), range(1000), strict=False)]
    assert all(c.shape == (6, 2) for c in steps)
    stacked = np.stack(steps)
    assert not stacked[:, :3, 1].any()
    assert not stacked[:, 3:, 0].any()
    parameters = stacked.sum(axis=2)
    assert len(np.unique(parameters)) == parameters.size
    for column in range(6):
        assert stats.kstest(parameters[:, column], "uniform").pvalue > 1e-3
    correlations = np.corrcoef(parameters.T) - np.eye(6)
    assert np.abs(correlations).max() < 0.15


def test_momentum_starts_anew_in_every_phase():
    phase = Phase("curve", 2, (Curve(1, CURVE.coefficients),), CURVE.free)
    flat = FlatModel(network())
    twice = trained(CURVE, (phase, phase), flat=flat)
    expected = reference(network(), start(flat, CURVE), data(), (phase, phase), **SETTINGS)
    torch.testing.assert_close(twice, expected, rtol=1e-10, atol=1e-12)


def test_each_phase_of_a_surface_moves_its_rows_and_no_others():
    def surface(*epochs):
        method = BezierSurface(epochs=epochs)
        return trained(
            SURFACE, phases_of(method, 4), split=data(dtype=torch.float32), flat=FlatModel(network(torch.float32))
        )

    untouched = surface(0, 0, 0)
    first = surface(1, 0, 0)
    second = surface(1, 1, 0)
    third = surface(1, 1, 1)
    assert moved(untouched, first) == [SURFACE.row(0, 1), SURFACE.row(2, 1)]
    assert moved(first, second) == [SURFACE.row(1, j) for j in range(3)]
    assert moved(second, third) == list(SURFACE.free)
    assert moved(untouched, surface(0, 0, 1)) == list(SURFACE.free)


def moved(before, after):
    return [k for k, (a, b) in enumerate(zip(before, after, strict=True)) if a.numpy().tobytes() != b.numpy().tobytes()]


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    def run(seed):
        flat = FlatModel(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)))
        phases = phases_of(BezierCurve(epochs=2), 2)
        return trained(CURVE, phases, flat=flat, split=data(dtype=torch.float32), seed=seed)

    first = run(1)
    assert first.numpy().tobytes() == run(1).numpy().tobytes()
    assert not torch.equal(first, run(2))


def test_training_leaves_the_global_generator_alone():
    flat = FlatModel(nn.Sequential(network(), nn.Dropout(0.5)))
    before = torch.get_rng_state()
    trained(CURVE, phases_of(BezierCurve(epochs=1), 2), flat=flat)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_that_turns_nan_stops_the_run_and_names_the_step():
    calls = []

    def loss(outputs, targets):
        calls.append(len(targets))
        return F.cross_entropy(outputs, targets) * (torch.nan if len(calls) == 5 else 1.0)

    with pytest.raises(NonFiniteError, match=r"nan at step 5 of 6 \(curve\)"):
        trained(CURVE, phases_of(BezierCurve(epochs=2), 2), loss=loss)
    assert len(calls) == 5


def test_divergence_is_an_error():
    with pytest.raises(NonFiniteError, match=r"step \d+ of 30 .*lower the learning rate \(it was 1e\+200\)"):
        trained(CURVE, phases_of(BezierCurve(epochs=10), 2), lr=1e200)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("row", [0, 1])
def test_a_control_point_that_is_not_finite_fails_at_the_first_step(row, value):
    flat = FlatModel(network())
    P = pack(flat, start(flat, CURVE))
    P[row, 3] = value
    with pytest.raises(NonFiniteError, match="step 1 of 3"):
        train_phases(flat, F.cross_entropy, data(), P, phases_of(BezierCurve(epochs=1), 2), **SETTINGS)


def test_a_control_point_that_ends_not_finite_is_an_error():
    """The last update can overflow after a last finite loss."""

    def loss(outputs, targets):
        return F.cross_entropy(outputs, targets) * 1e200

    with pytest.raises(NonFiniteError, match="A weight became NaN"):
        trained(CURVE, phases_of(BezierCurve(epochs=1), 2), loss=loss, lr=1e200, batch_size=100)


def test_dropout_and_batchnorm_are_in_train_mode():
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).double().eval()
    flat = FlatModel(module)
    modes = []
    module.register_forward_pre_hook(lambda m, _: modes.append([part.training for part in m]))
    trained(CURVE, phases_of(BezierCurve(epochs=1), 2), flat=flat)
    assert modes == [[True] * 4] * 3


def test_channels_last_convolutions_train_as_others():
    """One step of a convolutional network, checked against autograd in the canonical order."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, (2, 3)), nn.Flatten(), nn.Linear(2 * 6, 3))
    module = module.double()
    plain, flat = copy.deepcopy(module), FlatModel(module)
    assert flat.channels_last
    split = ArraySplit(torch.randn(12, 3, 6, 6, dtype=torch.float64), torch.arange(12) % 3)
    phases = phases_of(BezierCurve(epochs=2), 2)
    result = trained(CURVE, phases, flat=flat, split=split, batch_size=5)
    expected = reference(plain, start(flat, CURVE), split, phases, **SETTINGS | {"batch_size": 5})
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)


def test_progress_is_reported_step_by_step():
    seen = []
    trained(CURVE, phases_of(BezierCurve(epochs=2), 2), report=seen.append)
    assert [(p.phase, p.done, p.total) for p in seen] == [("curve", i, 6) for i in range(1, 7)]
    assert all(np.isfinite(p.loss) for p in seen)


def test_the_weights_of_samples_are_the_factors_of_their_gradients():
    """Two samples at one point, weights w and 1 - w, are one sample of weight 1."""
    x, y = data().examples(torch.arange(10))
    c = CURVE.coefficients([[0.3]])
    results = []
    for weights in ([1.0], [0.25, 0.75]):
        flat = FlatModel(network())
        P = pack(flat, start(flat, CURVE))
        trainer = PathTrainer(flat, F.cross_entropy, P, CURVE.free)
        repeated = np.repeat(c, len(weights), axis=0)
        trainer.begin(c[0].tolist())
        for _ in range(3):
            trainer.step(x, y, 0.1, repeated, np.array(weights), c[0].tolist())
        results.append(P)
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-14)
