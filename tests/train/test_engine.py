"""Training of control points: the arithmetic of whole runs, which rows move, and what stops a run."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mgraph.data.splits import ArraySplit
from mgraph.errors import NonFiniteError
from mgraph.families import BezierCurveFamily, BezierSurfaceFamily
from mgraph.methods.curves.path import BezierCurve, PolygonalChain
from mgraph.methods.curves.surface import BezierSurface
from mgraph.network.flat import FlatModel
from mgraph.train import driver, engine, updates
from mgraph.train.draws import Draw
from mgraph.train.engine import PathOptions, PathTrainer, train_phases
from mgraph.train.objective import Objective
from mgraph.train.parallel import Workers
from mgraph.train.phases import Curve, Phase
from mgraph.train.sampling import Sampling
from mgraph.train.settings import Optimisation
from mgraph.train.updates import UpdateRule

CURVE, SURFACE = BezierCurveFamily(1), BezierSurfaceFamily((2, 2))
WHOLE = {"batch": "whole", "batch_size": 16}
THREE = ("edges:2", "columns:2", "surface:3")


def family_of(method):
    return method.family(4 if isinstance(method, BezierSurface) else 2)


def run(spelt, method, *, flat=None, split=None, points=None, **options):
    """Train with the engine as the method would; return the control points, canonical."""
    family, flat = family_of(method), flat or FlatModel(spelt.network())
    points = spelt.start(flat, family) if points is None else points
    sampling = method.sampling()
    return spelt.trained(
        points, method.plan(family), method, flat=flat, split=split, sampling=sampling, decay=method.decay, **options
    )[0]


def expected(spelt, method, *, module=None, split=None, losses=None):
    module = module or spelt.network()
    flat, family = FlatModel(module), family_of(method)
    reference = spelt.Reference(
        module,
        spelt.start(flat, family),
        split or spelt.data(),
        method,
        sampling=method.sampling(),
        decay=method.decay,
    )
    points = reference.run(method.plan(family))
    if losses is not None:
        losses.extend(reference.losses)
    return points


METHODS = {
    "curve": BezierCurve(epochs=3, bends=2, **WHOLE),
    "chain": PolygonalChain(epochs=3, bends=3, **WHOLE),
    "surface": BezierSurface(epochs=3, **WHOLE),
    "3x3": BezierSurface(phases=THREE, **WHOLE),
    "4x2": BezierSurface(degree=(3, 1), phases=("edges:1", "columns:2", "surface:2"), **WHOLE),
    "2x3": BezierSurface(degree=(1, 2), phases=("edges:1", "columns:2"), **WHOLE),
}
# A surface in one phase does what the last phase of others does, and one degree what another does.
_PLAIN = {"surface", "2x3"}
CHANGES = {
    "plain": {},
    "3 samples": {"samples": 3},
    "split": {"samples": 3, "batch": "split"},
    "split, lattice, decay": {"samples": 5, "batch": "split", "draw": "lattice", "weight_decay": 0.05},
    "decay on the point": {"weight_decay": 0.05, "samples": 2},
    "decay on the control points": {"weight_decay": 0.05, "decay": "control", "samples": 2},
    "cosine, no momentum": {"schedule": "cosine", "momentum": 0.0},
    "nesterov": {"nesterov": True, "weight_decay": 0.05, "samples": 2},
    "nesterov, control": {"nesterov": True, "weight_decay": 0.05, "decay": "control"},
    "clip": {"clip": 0.05, "samples": 2, "batch": "split", "weight_decay": 0.01},
    "adamw": {"optimizer": "adamw", "lr": 0.01},
    "adamw, point, split": {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1, "samples": 3, "batch": "split"},
    "adamw, control, clip": {
        "optimizer": "adamw",
        "lr": 0.01,
        "weight_decay": 0.1,
        "decay": "control",
        "clip": 0.1,
        "beta2": 0.9,
        "momentum": 0.8,
    },
}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        pytest.param(
            name,
            CHANGES[change],
            id=f"{name}-{change}",
            marks=[pytest.mark.stress] * (name in _PLAIN and change != "plain"),
        )
        for name in METHODS
        for change in CHANGES
    ],
)
def test_a_run_is_torchs_optimiser_on_the_stacked_control_points(spelt, name, changes):
    method = METHODS[name].parse(vars(METHODS[name]) | changes)
    losses, theirs = [], []
    result = run(spelt, method, progress=lambda p: losses.append(p.loss))
    points = expected(spelt, method, losses=theirs)
    moved = float((points - spelt.start(FlatModel(spelt.network()), family_of(method))).norm())
    assert moved > 0.01
    torch.testing.assert_close(result, points, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(losses, theirs, rtol=1e-10)


def test_batches_that_no_k_divides_are_split_as_the_reference_splits_them(spelt):
    """44 examples in batches of 13, the last of 5: slices of 4, 3, 3, 3 and of 2, 1, 1, 1, weighted by size."""
    method = BezierCurve(epochs=3, bends=2, samples=4, batch_size=13)
    torch.testing.assert_close(run(spelt, method), expected(spelt, method), rtol=1e-10, atol=1e-11)


def test_more_samples_than_points_fit_in_memory_go_in_groups(spelt, monkeypatch):
    method = BezierSurface(phases=THREE, samples=3, batch_size=16, weight_decay=0.02, batch="whole")
    whole = run(spelt, method)  # columns: 9 points, 8 at once
    for most in (1, 2, 5):
        monkeypatch.setattr(engine, "_MOST_LANES", most)
        torch.testing.assert_close(run(spelt, method), whole, rtol=1e-10, atol=1e-12)


def test_each_phase_starts_without_momentum_and_may_have_its_own_learning_rate(spelt):
    phases = [Phase("curve", 2, (Curve.whole(CURVE),), CURVE.free, lr) for lr in (None, 0.01, 0.2)]
    how = Optimisation(batch_size=16)
    flat = FlatModel(spelt.network())
    points = spelt.start(flat, CURVE)
    result, _ = spelt.trained(points, phases, how, flat=flat)
    reference = spelt.Reference(spelt.network(), points, spelt.data(), how).run(phases)
    torch.testing.assert_close(result, reference, rtol=1e-10, atol=1e-12)
    slow, _ = spelt.trained(points, [phases[0], phases[1]], how)
    same, _ = spelt.trained(points, [phases[0], phases[0]], how)
    assert not torch.allclose(slow, same)


def surface(spelt, *phases, **options):
    flat = FlatModel(spelt.network(torch.float32))
    method = BezierSurface(phases=phases, epochs=0, batch_size=16, **options)
    return run(spelt, method, flat=flat, split=spelt.data(dtype=torch.float32))


def test_each_of_the_three_phases_moves_its_rows_and_no_others(spelt):
    assert [text.partition(":")[0] for text in BezierSurface.presets["three-phase"]["phases"]] == [
        "edges",
        "columns",
        "surface",
    ]
    untouched = surface(spelt)
    first = surface(spelt, "edges:1")
    second = surface(spelt, "edges:1", "columns:1")
    third = surface(spelt, "edges:1", "columns:1", "surface:1")
    assert moved(untouched, first) == [SURFACE.row(0, 1), SURFACE.row(2, 1)]
    assert moved(first, second) == [SURFACE.row(1, j) for j in range(3)]
    assert moved(second, third) == list(SURFACE.free)
    assert moved(untouched, surface(spelt, "surface:1")) == list(SURFACE.free)


def test_phases_move_what_they_say_and_fixed_rows_stay_bit_for_bit(spelt):
    untouched = surface(spelt)
    assert moved(untouched, surface(spelt, "surface:1/1+4")) == [1, 4]
    assert moved(untouched, surface(spelt, "columns:1/all")) == list(SURFACE.free)
    assert moved(untouched, surface(spelt, "edges:1/all")) == [1, 7]  # no edge pulls at the others
    assert moved(untouched, surface(spelt, "surface:2/inner", "edges:0")) == [3, 4, 5]
    assert moved(untouched, surface(spelt, "surface:1", fixed=(1, 4))) == [3, 5, 7]
    assert moved(untouched, surface(spelt, "edges:1", "columns:1", fixed=(1, 7))) == [3, 4, 5]
    assert moved(untouched, surface(spelt, "edges:1", fixed=(1, 7))) == []


def moved(before, after):
    return [k for k, (a, b) in enumerate(zip(before, after, strict=True)) if a.numpy().tobytes() != b.numpy().tobytes()]


@pytest.mark.parametrize("samples", [1, 4])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(spelt, samples):
    def once(seed):
        flat = FlatModel(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)))
        method = BezierCurve(epochs=2, seed=seed, batch_size=16, samples=samples)
        return run(spelt, method, flat=flat, split=spelt.data(dtype=torch.float32))

    torch.manual_seed(7)
    first = once(1)
    torch.manual_seed(7)
    assert first.numpy().tobytes() == once(1).numpy().tobytes()
    torch.manual_seed(7)
    assert not torch.equal(first, once(2))


def test_the_networks_own_randomness_comes_from_the_seed_and_differs_between_processes(spelt, monkeypatch):
    def seen(seed, rank=0):
        monkeypatch.setattr(driver, "present", lambda: Workers(rank, 1))
        flat, seeds = FlatModel(spelt.network()), []
        flat.module.register_forward_pre_hook(lambda *_: seeds.append(torch.initial_seed()))
        run(spelt, BezierCurve(epochs=1, seed=seed, **WHOLE), flat=flat)
        return seeds[0]

    assert seen(1) == seen(1)
    assert len({seen(1), seen(2), seen(1, rank=1), seen(2, rank=1)}) == 4


def test_training_leaves_the_global_generator_alone(spelt):
    flat = FlatModel(nn.Sequential(spelt.network(), nn.Dropout(0.5)))
    before = torch.get_rng_state()
    run(spelt, BezierCurve(epochs=1, **WHOLE), flat=flat)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("samples", [1, 3])
def test_afterwards_the_network_computes_in_its_own_buffer_again(spelt, samples):
    flat = FlatModel(spelt.network())
    before = {name: (p, p.data_ptr(), p.grad.data_ptr()) for name, p in flat.module.named_parameters()}
    run(spelt, BezierCurve(epochs=1, samples=samples, batch_size=16), flat=flat)
    for name, p in flat.module.named_parameters():
        assert (p, p.data_ptr(), p.grad.data_ptr()) == before[name]
    x = torch.randn(4, 6, dtype=torch.float64)
    flat.theta.zero_()
    assert not flat.module(x).any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("samples", [1, 4])
def test_a_control_point_that_is_not_finite_fails_at_the_first_step(spelt, row, value, samples):
    points = spelt.start(FlatModel(spelt.network()), CURVE)
    points[row, 3] = value
    with pytest.raises(NonFiniteError, match="step 1 of 3"):
        run(spelt, BezierCurve(epochs=1, samples=samples, batch_size=16), points=points)


@pytest.mark.parametrize("samples", [1, 4])
def test_dropout_and_batchnorm_are_in_train_mode(spelt, samples):
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).double().eval()
    flat = FlatModel(module)
    modes = []
    module.register_forward_pre_hook(lambda m, _: modes.append([part.training for part in m]))
    run(spelt, BezierCurve(epochs=1, samples=samples, batch_size=16), flat=flat)
    assert modes == [[True] * 4] * 3 * samples


def test_no_slice_is_too_small_for_batch_statistics(spelt):
    """The last batch, of 5, is split into two slices, of 3 and 2; the other two values see nothing of it."""
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
    sizes = []
    module.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    points = run(spelt, BezierCurve(epochs=1, samples=4, batch_size=13), flat=FlatModel(module), split=spelt.data(18))
    assert sizes == [4, 3, 3, 3, 3, 2]
    assert torch.isfinite(points).all()


@pytest.mark.parametrize("samples", [1, 3])
def test_channels_last_convolutions_train_as_others(spelt, samples):
    """Steps of a convolutional network, checked against autograd in the canonical order."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, (2, 3)), nn.Flatten(), nn.Linear(2 * 6, 3))
    module = module.double()
    assert FlatModel(module).channels_last
    split = ArraySplit(torch.randn(12, 3, 6, 6, dtype=torch.float64), torch.arange(12) % 3)
    method = BezierCurve(epochs=2, batch_size=5, samples=samples, batch="whole")
    result = run(spelt, method, flat=FlatModel(module), split=split)
    torch.testing.assert_close(result, expected(spelt, method, module=module, split=split), rtol=1e-10, atol=1e-11)


def test_progress_is_reported_step_by_step(spelt):
    seen = []
    run(spelt, BezierCurve(epochs=2, **WHOLE), progress=seen.append)
    assert [(p.phase, p.done, p.total) for p in seen] == [("curve", i, 6) for i in range(1, 7)]
    assert all(np.isfinite(p.loss) for p in seen)


def test_the_weights_of_samples_are_the_factors_of_their_gradients(spelt):
    """Two samples at one point, weights w and 2 - w, are two of weight 1, and one of weight 1."""
    x, y = spelt.data().examples(torch.arange(10))
    c = torch.from_numpy(CURVE.coefficients([[0.3]]))
    phase = Phase("curve", 1, (Curve.whole(CURVE),), CURVE.free)
    results = []
    for weights in ([1.0], [1.0, 1.0], [0.25, 1.75]):
        flat = FlatModel(spelt.network())
        P = torch.stack([flat.pack(p) for p in spelt.start(flat, CURVE)])
        trainer = PathTrainer(
            flat, F.cross_entropy, P, phase, rule=UpdateRule(), options=PathOptions(Sampling(len(weights)))
        )
        repeated = c.repeat(len(weights), 1)
        draw = Draw(repeated, repeated[:, [1]].T * torch.tensor(weights), None)
        trainer.begin(draw)
        for _ in range(3):
            trainer.step(x, y, 0.1, draw, draw)
        results.append(P)
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(results[0], results[2], rtol=1e-12, atol=1e-14)


# What torch itself warns about while compiling is not ours.
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_network_trains_as_it_does_uncompiled(spelt):
    if not updates._compiler_works():
        pytest.skip("torch.compile does not work on this machine")
    results = []
    for compiled in (False, True):
        flat = FlatModel(spelt.network(torch.float32))
        method = BezierCurve(epochs=2, samples=2, batch_size=22, compile=compiled)
        results.append(run(spelt, method, flat=flat, split=spelt.data(dtype=torch.float32)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(results[0], spelt.start(flat, CURVE), atol=1e-3)


def test_nothing_to_train_is_no_training(spelt):
    flat = FlatModel(spelt.network())
    P = torch.stack([flat.pack(p) for p in spelt.start(flat, CURVE)])
    before = P.clone()
    phases = (Phase("a", 0, (Curve.whole(CURVE),), (1,)), Phase("b", 3, (Curve.whole(CURVE),), ()))
    outcome = train_phases(Objective(flat, lambda *_: pytest.fail("called"), spelt.data()), P, phases, Optimisation())
    assert torch.equal(P, before)
    assert outcome.notes == ()
