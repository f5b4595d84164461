"""Connection methods: their settings, how many ends they take, what they check, and what they return."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mgraph.data.making import make_task
from mgraph.errors import InputError, MGraphWarning, NotFoundError
from mgraph.families import BezierCurveFamily, BezierSurfaceFamily, PolygonalChainFamily, Segment, SimplexFamily
from mgraph.methods.base import Method, Start
from mgraph.methods.curves.path import BezierCurve, PolygonalChain
from mgraph.methods.curves.surface import BezierSurface
from mgraph.methods.curves.trained import LEAST_WORK
from mgraph.methods.linear import Linear, Simplex
from mgraph.methods.llpf.method import LLPF
from mgraph.methods.neb.method import NudgedElasticBand
from mgraph.methods.registry import METHODS, method_named
from mgraph.network.cost import multiply_adds
from mgraph.network.flat import FlatModel
from mgraph.progress import silent
from mgraph.train import parallel
from mgraph.train.engine import PathOptions, train_phases
from mgraph.train.objective import Objective
from mgraph.train.sampling import Sampling

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 5)), np.arange(60) % 3
TASK = make_task(train=(X[:40], Y[:40]), valid=(X[40:50], Y[40:50]), test=(X[50:], Y[50:]))


def flat_network(*, statistics=False):
    torch.manual_seed(0)
    return FlatModel(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6) if statistics else nn.ReLU(), nn.Linear(6, 3)))


def ends_of(flat, count, seed=1):
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=flat.dimension) / 3).astype(np.float32) for _ in range(count)]


def connect(method, count, seed=1, flat=None):
    flat = flat or flat_network()
    family, ends = method.family(count), ends_of(flat, count, seed)
    method.check(flat, TASK, family)
    return method.run(flat, TASK, family, Start.between(family, ends), silent), ends


def check(method, count, *, flat=None, task=TASK):
    method.check(flat or flat_network(), task, method.family(count))


def start_of(family, ends):
    return Start.between(family, ends).points()


def test_methods_are_known_by_name():
    known = [Linear, Simplex, PolygonalChain, BezierCurve, BezierSurface, NudgedElasticBand, LLPF]
    assert list(METHODS.values()) == known
    assert list(METHODS) == ["linear", "simplex", "chain", "curve", "surface", "neb", "llpf"]
    assert method_named("curve") is BezierCurve
    with pytest.raises(InputError, match=r"linear, simplex, chain, curve, surface, neb, llpf. Did you mean surface\?"):
        method_named("surfaces")
    with pytest.raises(InputError, match=r"no method 'magic'; known are linear, .*, llpf.$"):
        method_named("magic")


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_every_method_describes_itself_and_reads_what_it_writes(method):
    assert issubclass(method, Method)
    assert method.summary
    assert all(info.help and info.kind for info in method.infos())
    for settings in (method(), *(method.preset(name) for name in method.presets)):
        assert method.parse(json.loads(settings.to_json())) == settings  # what is stored can be read
    typed = {info.name: info.example() for info in method.infos()}
    assert method.parse(typed) == method()  # what is shown as a default can be typed


def test_methods_are_described_without_torch(python):
    loaded = python("import sys, mgraph.methods.registry; print('torch' in sys.modules)")
    assert loaded.strip() == "False"


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        (BezierCurve, {"bend": "2"}, r"no setting 'bend'; known are .*bends.*Did you mean bends\?"),
        (BezierCurve, {"zzz": "2"}, r"no setting 'zzz'; known are seed, optimizer, lr, [a-z_0-9, ]+\.$"),
        (Linear, {"lr": "0.1"}, "no setting 'lr'"),
        (Simplex, {"lr": "0.1"}, "no setting 'lr'"),
        (BezierCurve, {"bends": "0"}, "bends must be at least 1, not 0"),
        (BezierCurve, {"bends": "101"}, "bends must be at most 100, not 101"),
        (BezierCurve, {"bends": "two"}, "bends must be a whole number, not 'two'"),
        (BezierCurve, {"bends": "1.5"}, "bends must be a whole number"),
        (BezierCurve, {"bends": 1.5}, "bends must be a whole number"),
        (BezierCurve, {"bends": True}, "bends must be a whole number, not 'true'"),
        (BezierCurve, {"bends": None}, "bends must be a whole number"),
        (PolygonalChain, {"bends": "0"}, "bends must be at least 1, not 0"),
        (PolygonalChain, {"bends": "-3"}, "bends must be at least 1, not -3"),
        (BezierCurve, {"epochs": "-1"}, "epochs must be at least 0"),
        (BezierCurve, {"lr": "0"}, "lr must be above 0"),
        (BezierCurve, {"lr": "nan"}, "lr must be a number"),
        (BezierCurve, {"lr": "inf"}, "lr must be a number"),
        (BezierCurve, {"momentum": "1"}, "momentum must be below 1"),
        (BezierCurve, {"momentum": "-0.1"}, "momentum must be at least 0"),
        (BezierCurve, {"weight_decay": "-1"}, "weight_decay must be at least 0"),
        (BezierCurve, {"samples": "0"}, "samples must be at least 1"),
        (BezierCurve, {"samples": "some"}, "samples must be a whole number or nothing, not 'some'"),
        (BezierCurve, {"batch": "half"}, "batch must be one of split, whole, not 'half'"),
        (BezierCurve, {"draw": "sobol"}, "draw must be one of stratified, lattice, iid"),
        (BezierCurve, {"measure": "length"}, "measure must be one of uniform, arc, area"),
        (BezierCurve, {"gram_every": "0"}, "gram_every must be at least 1"),
        (BezierCurve, {"decay": "both"}, "decay must be one of point, control"),
        (BezierCurve, {"fixed": "-1"}, "fixed must be at least 0"),
        (BezierCurve, {"fixed": "one"}, "fixed must be whole numbers with commas, not 'one'"),
        (BezierCurve, {"seed": "-1"}, "seed must be at least 0"),
        (BezierCurve, {"update": "fast"}, "update must be one of auto, eager, compiled, not 'fast'"),
        (BezierCurve, {"update": 3}, "update must be a word"),
        (BezierSurface, {"degree": "2"}, "degree must be 2 whole numbers with commas, not '2'"),
        (BezierSurface, {"degree": "2,2,2"}, "degree must be 2 whole numbers"),
        (BezierSurface, {"degree": "0,2"}, "degree must be at least 1, not 0"),
        (BezierSurface, {"degree": "2,31"}, "degree must be at most 30, not 31"),
        (BezierSurface, {"degree": 2}, "degree must be 2 whole numbers"),
        (BezierSurface, {"epochs": "1,1"}, "epochs must be a whole number"),
        (BezierSurface, {"epochs": "-1"}, "epochs must be at least 0, not -1"),
        (BezierSurface, {"phases": 3}, "phases must be words with commas"),
    ],
)
def test_settings_that_cannot_be_are_refused(method, given, message):
    with pytest.raises(InputError, match=message):
        method.parse(given)


def test_settings_are_read_from_text_and_from_values_alike():
    assert BezierSurface.parse({"degree": "3,2", "lr": "1e-2"}) == BezierSurface(degree=(3, 2), lr=0.01)
    assert BezierSurface.parse({"degree": [3, 2]}).degree == (3, 2)
    assert BezierCurve.parse({"bends": 2.0, "lr": 1}) == BezierCurve(bends=2, lr=1.0)
    assert BezierCurve.parse({"samples": "auto", "fixed": "2,1"}) == BezierCurve(fixed=(2, 1))
    assert BezierCurve.parse({"samples": "8"}).samples == 8
    assert BezierSurface.parse({"phases": "edges:2,surface:3"}).phases == ("edges:2", "surface:3")


@pytest.mark.parametrize(
    ("method", "taken"),
    [
        (Linear(), {2, 4}),
        (Simplex(), {3, 4, 5}),
        (PolygonalChain(), {2}),
        (BezierCurve(), {2}),
        (BezierSurface(), {4}),
    ],
    ids=["linear", "simplex", "chain", "curve", "surface"],
)
@pytest.mark.parametrize("ends", range(6))
def test_a_method_takes_its_number_of_ends_and_no_other(method, taken, ends):
    if ends in taken:
        family = method.family(ends)
        assert len(family.ends) == ends
        if not isinstance(method, Simplex):
            assert family.default_grid == ((61,) if ends == 2 else (11, 11))
        return
    with pytest.raises(InputError, match=f"--{method.name} joins .*modes.*; {ends} given"):
        method.family(ends)


def test_families_of_the_methods():
    assert Linear().family(2) == Segment()
    assert Linear().family(4) == BezierSurfaceFamily((1, 1))
    assert Simplex().family(5) == SimplexFamily(5)
    assert PolygonalChain(bends=3).family(2) == PolygonalChainFamily(3)
    assert BezierCurve(bends=3).family(2) == BezierCurveFamily(3)
    assert BezierSurface(degree=(3, 1)).family(4) == BezierSurfaceFamily((3, 1))


CASES = [
    (BezierCurve(epochs=1), 2),
    (BezierCurve(epochs=1, bends=3, samples=2), 2),
    (BezierCurve(epochs=1, bends=3, samples=2, fixed=(1, 3)), 2),
    (BezierCurve(epochs=1, bends=2, optimizer="adamw", measure="arc", gram_every=1), 2),
    (PolygonalChain(epochs=1), 2),
    (PolygonalChain(epochs=1, bends=4, batch="whole", samples=3, draw="lattice"), 2),
    (BezierSurface(epochs=1), 4),
    (BezierSurface(epochs=1, degree=(2, 1), measure="area"), 4),
    (BezierSurface(epochs=1, degree=(4, 4), nesterov=True, clip=1.0), 4),
    (BezierSurface(phases=("edges:1", "columns:1", "surface:1"), degree=(1, 3)), 4),
    (BezierSurface(phases=("edges:0", "columns:1", "surface:0")), 4),
    (BezierSurface(phases=("edges:1",)), 4),
    (BezierSurface(phases=("edges:1", "surface:1/3+5"), fixed=(5,)), 4),
]


@pytest.mark.parametrize(("method", "count"), CASES)
def test_a_trained_connection_keeps_its_ends_and_moves_its_free_rows(method, count):
    outcome, ends = connect(method, count)
    family = method.family(count)
    points = outcome.control_points
    start = start_of(family, ends)
    assert points.shape == start.shape
    assert points.dtype == np.float32
    assert np.isfinite(points).all()
    assert outcome.update == "eager"
    assert outcome.trained is None
    for row, end in zip(family.ends, ends, strict=True):
        assert points[row].tobytes() == end.tobytes()
    trained = {k for phase in method.plan(family) if phase.epochs for k in phase.free}
    assert trained
    moved = {k for k in family.free if points[k].tobytes() != start[k].tobytes()}
    assert moved == trained


@pytest.mark.parametrize(
    ("method", "count"),
    [
        (BezierSurface(degree=(1, 1)), 4),
        (BezierSurface(epochs=0), 4),
        (BezierSurface(phases=("edges:0", "columns:0")), 4),
        (BezierSurface(phases=("edges:5",), degree=(3, 1)), 4),
        (BezierCurve(epochs=0, bends=3), 2),
        (PolygonalChain(epochs=0, bends=2), 2),
        (BezierCurve(fixed=(1,)), 2),
    ],
    ids=repr,
)
def test_where_nothing_is_trained_the_start_is_returned(method, count):
    outcome, ends = connect(method, count)
    assert outcome.control_points.tobytes() == start_of(method.family(count), ends).tobytes()


@pytest.mark.parametrize(("method", "count"), [(Linear(), 2), (Linear(), 4), (Simplex(), 3), (Simplex(), 6)])
def test_a_straight_connection_is_its_ends(method, count):
    outcome, ends = connect(method, count)
    assert outcome.control_points.tobytes() == np.stack(ends).tobytes()
    assert outcome.update is None


@pytest.mark.parametrize(
    "method",
    [
        BezierCurve(bends=2, epochs=2, batch_size=20, samples=3, decay="control", weight_decay=0.1, lr=0.03),
        PolygonalChain(
            bends=2, epochs=2, batch_size=20, samples=2, batch="whole", draw="lattice", update="eager", seed=5
        ),
        BezierSurface(
            phases=("edges:1@0.01", "surface:1"),
            optimizer="adamw",
            lr=0.02,
            label_smoothing=0.1,
            measure="area",
            fixed=(4,),
        ),
    ],
    ids=["curve", "chain", "surface"],
)
def test_a_run_is_the_engine_with_the_methods_settings(method):
    count = 4 if isinstance(method, BezierSurface) else 2
    outcome, ends = connect(method, count)
    family, flat = method.family(count), flat_network()
    P = torch.stack([flat.pack(torch.from_numpy(row)) for row in start_of(family, ends)])
    trained = train_phases(
        Objective(
            flat,
            lambda outputs, y: F.cross_entropy(outputs, y, label_smoothing=method.label_smoothing),
            TASK.train,
        ),
        P,
        method.plan(family),
        method,
        PathOptions(method.sampling(), method.decay, update=method.update),
    )
    assert torch.stack([flat.unpack(row) for row in P]).numpy().tobytes() == outcome.control_points.tobytes()
    assert (trained.update, trained.notes) == (outcome.update, outcome.notes)


def test_where_weight_decay_acts_makes_a_difference():
    settings = {"epochs": 2, "batch_size": 20, "weight_decay": 0.5}
    point, _ = connect(BezierCurve(**settings), 2)
    control, _ = connect(BezierCurve(decay="control", **settings), 2)
    assert not np.allclose(point.control_points, control.control_points, atol=1e-4)


def test_training_starts_where_it_is_told_to():
    """Rows are any sums of given points; the ends' rows are then given points too."""
    flat, method = flat_network(), BezierCurve(bends=2, epochs=1, lr=1e-30)
    rows = ends_of(flat, 3)
    matrix = np.array([[1.0, 0, 0], [0.5, 0.25, 0.25], [0, 1.0, 0], [0, 0, 1.0]])
    outcome = method.run(flat, TASK, method.family(2), Start(matrix, rows), silent)
    assert outcome.control_points[0].tobytes() == rows[0].tobytes()
    assert outcome.control_points[3].tobytes() == rows[2].tobytes()
    np.testing.assert_allclose(outcome.control_points, matrix @ np.stack(rows), rtol=1e-6, atol=1e-7)


def test_the_same_seed_gives_the_same_control_points_and_another_seed_others():
    first, _ = connect(BezierCurve(epochs=1, seed=3), 2)
    again, _ = connect(BezierCurve(epochs=1, seed=3), 2)
    other, _ = connect(BezierCurve(epochs=1, seed=4), 2)
    assert first.control_points.tobytes() == again.control_points.tobytes() != other.control_points.tobytes()


@pytest.mark.parametrize("method", [BezierCurve(epochs=60, batch_size=20), PolygonalChain(epochs=60, batch_size=20)])
def test_training_lowers_the_loss_half_way(method):
    outcome, ends = connect(method, 2)
    family, flat = method.family(2), flat_network()
    x, y = TASK.train.examples(torch.arange(40))

    def middle(points):
        flat.theta.copy_(flat.pack(torch.from_numpy((family.coefficients([[0.5]]) @ points)[0].astype(np.float32))))
        return float(TASK.loss(flat.module(x), y).detach())

    assert middle(outcome.control_points) < 0.8 * middle(start_of(family, ends))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Sampling(2, True)),  # 64 examples: 32 for each of two values
        ({"batch_size": 128}, Sampling(4, True)),
        ({"batch_size": 127}, Sampling(3, True)),
        ({"batch_size": 256}, Sampling(8, True)),
        ({"batch_size": 512}, Sampling(8, True)),
        ({"batch_size": 63}, Sampling(1, False)),
        ({"batch_size": 1}, Sampling(1, False)),
        ({"batch": "whole", "batch_size": 512}, Sampling(1, False)),
        ({"batch": "whole", "samples": 5, "draw": "iid"}, Sampling(5, False, "iid")),
        ({"samples": 1}, Sampling(1, False)),
        ({"samples": 7, "measure": "arc", "gram_every": 9}, Sampling(7, True, "stratified", "arc", 9)),
    ],
)
def test_how_many_values_split_a_batch(settings, expected):
    assert BezierCurve(**settings).sampling() == expected


def test_a_paths_batch_is_split_by_default_only_where_a_pass_is_worth_it():
    alone, split = Sampling(1, False), Sampling(2, True)
    for method in (BezierCurve(), PolygonalChain()):
        assert method.sampling(LEAST_WORK - 1) == alone
        assert method.sampling(LEAST_WORK) == split
        assert method.sampling_for(flat_network(), TASK) == alone
    assert BezierCurve(samples=2).sampling_for(flat_network(), TASK) == split
    assert BezierSurface().sampling_for(flat_network(), TASK) == split
    flat = flat_network()
    work = multiply_adds(flat.module, TASK.train.examples(torch.arange(1))[0])
    enough = -(-int(LEAST_WORK) // int(work))
    assert BezierCurve(batch_size=enough - 1).sampling_for(flat, TASK) == alone
    assert BezierCurve(batch_size=enough).sampling_for(flat, TASK) == Sampling(8, True)


@pytest.mark.parametrize(
    ("settings", "statistics", "message"),
    [
        (
            {"samples": 9, "batch_size": 8},
            False,
            "A batch of 8 cannot be split between 9 parameter values of at least 1",
        ),
        ({"samples": 5, "batch_size": 8}, True, r"between 5 .* of at least 2 examples \(BatchNorm needs two\)"),
        ({"batch_size": 1}, True, r"A step needs at least 2 examples \(BatchNorm needs two\), not 1"),
    ],
)
def test_a_batch_too_small_to_be_split_is_refused(settings, statistics, message):
    with pytest.raises(InputError, match=message):
        check(BezierCurve(**settings), 2, flat=flat_network(statistics=statistics))


def test_several_processes_need_batch_statistics_each(monkeypatch):
    monkeypatch.setattr(parallel, "present", lambda: parallel.Workers(0, 4))
    method = BezierCurve(batch_size=16, samples=4)
    check(method, 2)
    with pytest.raises(InputError, match="at least 8 examples"):
        check(method, 2, flat=flat_network(statistics=True))


def test_values_that_see_few_examples_of_a_batchnorm_network_are_warned_of():
    method = BezierCurve(batch_size=64, samples=4)
    with pytest.warns(MGraphWarning, match="4 parameter values sees 16 examples.* want 32 or more"):
        check(method, 2, flat=flat_network(statistics=True))
    check(method, 2)
    check(BezierCurve(batch_size=64, samples=4, batch="whole"), 2, flat=flat_network(statistics=True))
    check(BezierCurve(batch_size=16), 2, flat=flat_network(statistics=True))


def test_whole_batches_take_any_number_of_values():
    check(BezierCurve(samples=100, batch="whole", batch_size=8), 2)
    outcome, _ = connect(BezierCurve(samples=20, batch="whole", batch_size=20, epochs=1), 2)
    assert np.isfinite(outcome.control_points).all()


@pytest.mark.parametrize(
    ("method", "count", "message"),
    [
        (BezierCurve(fixed=(0,)), 2, r"fixed: row 0 is not one of the free control points \[1\]"),
        (BezierCurve(bends=2, fixed=(1, 3)), 2, r"row 3 is not one of the free control points \[1, 2\]"),
        (BezierCurve(fixed=(7,)), 2, "row 7 is not one of"),
        (BezierSurface(fixed=(8,)), 4, r"row 8 is not one of the free control points \[1, 3, 4, 5, 7\]"),
        (BezierSurface(degree=(1, 1), fixed=(1,)), 4, r"row 1 is not one of the free control points \[\]"),
        (BezierCurve(measure="area"), 2, "measure of a bezier-curve is uniform or arc, not area"),
        (PolygonalChain(measure="area"), 2, "measure of a polygonal-chain is uniform or arc, not area"),
        (BezierSurface(measure="arc"), 4, "measure of a bezier-surface is uniform or area, not arc"),
        (BezierCurve(precision="tf32"), 2, "TF32 needs an NVIDIA GPU, and this runs on cpu"),
        (BezierCurve(update="compiled", optimizer="adamw"), 2, "update=compiled is for SGD without Nesterov"),
        (BezierCurve(update="compiled", clip=1.0), 2, "update=compiled is for SGD without Nesterov"),
        (BezierCurve(update="compiled", nesterov=True), 2, "update=compiled is for SGD without Nesterov"),
        (
            BezierCurve(train_only=("0.*", "layer4.*")),
            2,
            r"'layer4.\*' matches no trainable parameter; there are 0.weight",
        ),
        (BezierCurve(loss="word"), 2, "A loss is named module:function"),
    ],
)
def test_what_does_not_suit_is_refused_before_anything_runs(method, count, message):
    with pytest.raises(InputError, match=message):
        check(method, count)


def test_a_loss_that_does_not_suit_is_refused_before_anything_runs(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text("def vector(outputs, targets):\n    return outputs.sum(1)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"The loss vector must return a scalar tensor.*shape \[2\]"):
        check(BezierCurve(loss="own.py:vector"), 2)
    with pytest.raises(NotFoundError, match=r"other\.py does not exist"):
        check(BezierCurve(loss="other.py:vector"), 2)
    with pytest.raises(InputError, match="build it into your own loss"):
        check(BezierCurve(loss="own.py:vector", label_smoothing=0.1), 2)
    other = make_task(train=(X, Y), test=(X, Y), loss=F.multi_margin_loss, loss_name="margin")
    with pytest.raises(InputError, match="the task's loss is margin"):
        check(BezierCurve(label_smoothing=0.1), 2, task=other)
