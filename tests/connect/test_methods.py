"""Connection methods: their settings, how many ends they take, their phases, and what they return."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from mgraph.connect.base import Method, initial_points
from mgraph.connect.curve import BezierCurve
from mgraph.connect.linear import Linear
from mgraph.connect.registry import METHODS, method_named
from mgraph.connect.surface import BezierSurface
from mgraph.data.task import make_task
from mgraph.errors import InputError
from mgraph.families import BezierCurveFamily, BezierSurfaceFamily, Segment
from mgraph.network.flat import FlatModel
from mgraph.train.loop import silent

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 5)), np.arange(60) % 3
TASK = make_task(train=(X[:40], Y[:40]), valid=(X[40:50], Y[40:50]), test=(X[50:], Y[50:]))


def flat_network():
    torch.manual_seed(0)
    return FlatModel(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)))


def ends_of(flat, count, seed=1):
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=flat.dimension) / 3).astype(np.float32) for _ in range(count)]


def connect(method, count, seed=1):
    flat = flat_network()
    ends = ends_of(flat, count, seed)
    return method.run(flat, TASK, ends, silent), ends


def test_methods_are_known_by_name():
    assert list(METHODS.values()) == [Linear, BezierCurve, BezierSurface]
    assert list(METHODS) == ["linear", "curve", "surface"]
    assert method_named("curve") is BezierCurve
    with pytest.raises(InputError, match=r"linear, curve, surface. Did you mean surface\?"):
        method_named("surfaces")
    with pytest.raises(InputError, match=r"no method 'neb'; known are linear, curve, surface.$"):
        method_named("neb")


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_every_method_describes_itself_without_torch(method):
    assert issubclass(method, Method)
    assert method.summary
    assert all(info.help and info.kind for info in method.infos())
    defaults = method()
    typed = {info.name: info.example() for info in method.infos()}
    assert method.parse(typed) == defaults  # what is shown as a default can be typed
    assert method.parse(json.loads(defaults.to_json())) == defaults  # and what is stored can be read


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        (BezierCurve, {"bend": "2"}, r"no setting 'bend'; known are .*bends.*Did you mean bends\?"),
        (BezierCurve, {"zzz": "2"}, r"no setting 'zzz'; known are seed, lr, [a-z_, ]+\.$"),
        (Linear, {"lr": "0.1"}, "no setting 'lr'"),
        (BezierCurve, {"bends": "0"}, "bends must be at least 1, not 0"),
        (BezierCurve, {"bends": "two"}, "bends must be a whole number, not 'two'"),
        (BezierCurve, {"bends": "1.5"}, "bends must be a whole number"),
        (BezierCurve, {"bends": 1.5}, "bends must be a whole number"),
        (BezierCurve, {"bends": True}, "bends must be a whole number, not 'true'"),
        (BezierCurve, {"bends": None}, "bends must be a whole number"),
        (BezierCurve, {"epochs": "0"}, "epochs must be at least 1"),
        (BezierCurve, {"lr": "0"}, "lr must be above 0"),
        (BezierCurve, {"lr": "nan"}, "lr must be a number"),
        (BezierCurve, {"lr": "inf"}, "lr must be a number"),
        (BezierCurve, {"momentum": "1"}, "momentum must be below 1"),
        (BezierCurve, {"momentum": "-0.1"}, "momentum must be at least 0"),
        (BezierCurve, {"weight_decay": "-1"}, "weight_decay must be at least 0"),
        (BezierCurve, {"samples": "0"}, "samples must be at least 1"),
        (BezierCurve, {"seed": "-1"}, "seed must be at least 0"),
        (BezierCurve, {"update": "fast"}, "update must be one of auto, eager, compiled, not 'fast'"),
        (BezierCurve, {"update": 3}, "update must be a word"),
        (BezierSurface, {"degree": "2"}, "degree must be 2 whole numbers with commas, not '2'"),
        (BezierSurface, {"degree": "2,2,2"}, "degree must be 2 whole numbers"),
        (BezierSurface, {"degree": "0,2"}, "degree must be at least 1, not 0"),
        (BezierSurface, {"degree": 2}, "degree must be 2 whole numbers"),
        (BezierSurface, {"epochs": "1,1"}, "epochs must be 3 whole numbers"),
        (BezierSurface, {"epochs": "1,-1,1"}, "epochs must be at least 0, not -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(method, given, message):
    with pytest.raises(InputError, match=message):
        method.parse(given)


def test_settings_are_read_from_text_and_from_values_alike():
    assert BezierSurface.parse({"degree": "3,2", "lr": "1e-2"}) == BezierSurface(degree=(3, 2), lr=0.01)
    assert BezierSurface.parse({"degree": [3, 2]}).degree == (3, 2)
    assert BezierCurve.parse({"bends": 2.0, "lr": 1}) == BezierCurve(bends=2, lr=1.0)


@pytest.mark.parametrize(
    ("method", "taken"),
    [(Linear(), {2, 4}), (BezierCurve(), {2}), (BezierSurface(), {4})],
    ids=["linear", "curve", "surface"],
)
@pytest.mark.parametrize("ends", range(6))
def test_a_method_takes_its_number_of_ends_and_no_other(method, taken, ends):
    if ends in taken:
        assert len(method.family(ends).ends) == ends
        assert method.family(ends).default_grid == ((61,) if ends == 2 else (11, 11))
        return
    with pytest.raises(InputError, match=f"--{method.name} joins .*modes.*; {ends} given"):
        method.family(ends)


def test_families_of_the_methods():
    assert Linear().family(2) == Segment()
    assert Linear().family(4) == BezierSurfaceFamily((1, 1))
    assert BezierCurve(bends=3).family(2) == BezierCurveFamily(3)
    assert BezierSurface(degree=(3, 1)).family(4) == BezierSurfaceFamily((3, 1))


@pytest.mark.parametrize(
    ("degree", "outer", "inner"),
    [
        ((2, 2), {1, 7}, {3, 4, 5}),
        ((1, 1), set(), set()),
        ((2, 1), set(), {2, 3}),
        ((1, 3), {1, 2, 5, 6}, set()),
        ((3, 2), {1, 10}, {3, 4, 5, 6, 7, 8}),
    ],
)
def test_the_phases_of_a_surface_go_from_its_edges_inwards(degree, outer, inner):
    method = BezierSurface(degree=degree, epochs=(1, 2, 3))
    family = method.family(4)
    edges, cross, whole = method.phases(family)
    assert [p.epochs for p in (edges, cross, whole)] == [1, 2, 3]
    assert set(edges.free) == outer
    assert set(cross.free) == inner
    assert set(whole.free) == outer | inner == set(family.free)
    n, m = degree
    assert (len(edges.curves), len(cross.curves)) == (2, m + 1)
    t = np.linspace(0, 1, 5)[:, None]
    for u, curve in zip((0.0, 1.0), edges.curves, strict=True):
        on_surface = family.coefficients(np.concatenate([np.full_like(t, u), t], axis=1))
        np.testing.assert_array_equal(curve.coefficients(t), on_surface)
    for j, curve in enumerate(cross.curves):
        expected = np.zeros((5, family.size))
        expected[:, [i * (m + 1) + j for i in range(n + 1)]] = BezierCurveFamily(n - 1).coefficients(t)
        np.testing.assert_array_equal(curve.coefficients(t), expected)
    assert whole.curves[0].dimension == 2


CASES = [
    (BezierCurve(epochs=1), 2),
    (BezierCurve(epochs=1, bends=3, samples=2), 2),
    (BezierSurface(epochs=(1, 1, 1)), 4),
    (BezierSurface(epochs=(1, 1, 1), degree=(2, 1)), 4),
    (BezierSurface(epochs=(1, 1, 1), degree=(1, 3)), 4),
    (BezierSurface(epochs=(0, 0, 1)), 4),
    (BezierSurface(epochs=(1, 0, 0)), 4),
]


@pytest.mark.parametrize(("method", "count"), CASES)
def test_a_trained_connection_keeps_its_ends_and_moves_its_free_rows(method, count):
    outcome, ends = connect(method, count)
    family = method.family(count)
    points = outcome.control_points
    start = initial_points(family, ends)
    assert points.shape == start.shape
    assert points.dtype == np.float32
    assert np.isfinite(points).all()
    assert outcome.update == "eager"
    for row, end in zip(family.ends, ends, strict=True):
        assert points[row].tobytes() == end.tobytes()
    trained = {k for phase in method.phases(family) if phase.epochs for k in phase.free}
    moved = {k for k in family.free if points[k].tobytes() != start[k].tobytes()}
    assert moved == trained


@pytest.mark.parametrize("method", [BezierSurface(degree=(1, 1)), BezierSurface(epochs=(0, 0, 0))], ids=repr)
def test_where_nothing_is_trained_the_start_is_returned(method):
    outcome, ends = connect(method, 4)
    assert outcome.control_points.tobytes() == initial_points(method.family(4), ends).tobytes()


@pytest.mark.parametrize("count", [2, 4])
def test_a_linear_connection_is_its_ends(count):
    outcome, ends = connect(Linear(), count)
    assert outcome.control_points.tobytes() == np.stack(ends).tobytes()
    assert outcome.update is None


def test_the_same_seed_gives_the_same_control_points_and_another_seed_others():
    first, _ = connect(BezierCurve(epochs=1, seed=3), 2)
    again, _ = connect(BezierCurve(epochs=1, seed=3), 2)
    other, _ = connect(BezierCurve(epochs=1, seed=4), 2)
    assert first.control_points.tobytes() == again.control_points.tobytes() != other.control_points.tobytes()


def test_training_lowers_the_loss_half_way():
    method = BezierCurve(epochs=60, lr=0.1, batch_size=20)
    outcome, ends = connect(method, 2)
    family, flat = method.family(2), flat_network()
    x, y = TASK.train.examples(torch.arange(40))

    def middle(points):
        flat.theta.copy_(flat.pack(torch.from_numpy((family.coefficients([[0.5]]) @ points)[0].astype(np.float32))))
        return float(TASK.loss(flat.module(x), y).detach())

    assert middle(outcome.control_points) < 0.8 * middle(initial_points(family, ends))
