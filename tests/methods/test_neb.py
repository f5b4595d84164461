"""NEB on landscapes whose saddles are known, from its own earlier bands and other connections, and bad input."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import root

import mgraph
from mgraph.architectures.landscapes import POTENTIALS
from mgraph.errors import InputError, NonFiniteError


def landscape(path, potential, *places):
    g = mgraph.create(path / f"{potential}.mgraph", arch=f"toy?potential={potential}", data="toy", device="cpu")
    for name, place in zip("abc", places, strict=False):
        g.add_point(place, name=name)
    return g


def rows(connected):
    return np.array([connected._session.store.read_parameters(n) for n in nodes(connected)])


def nodes(connected):
    from mgraph.session.members import rows_of

    with connected._session.store.reading() as reader:
        return rows_of(reader, connected.record)


def band(**settings):
    return mgraph.NudgedElasticBand(**({"weight_decay": 0.0, "pivots": 9, "cycles": ("1x200@0.02",)} | settings))


def saddle(connected):
    """The train loss's largest value on the connection, and where it is."""
    swept = connected.swept()
    worst = int(swept.values["train", "loss"].argmax())
    return float(swept.values["train", "loss"][worst]), swept.coefficients[worst] @ rows(connected)


@pytest.fixture
def ring(tmp_path):
    return landscape(tmp_path, "ring", (-1, 0), (1, 0))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.stress)])
def test_the_ring_from_the_exact_straight_line(ring, seed):
    connected = ring.connect("a", "b", method=band(seed=seed), name="x")
    points = rows(connected)
    assert len(points) == 11
    assert np.abs(np.linalg.norm(points, axis=1) - 1.0).max() < 1e-2
    assert saddle(connected)[0] < 1e-3
    assert [n.kind for n in nodes(connected)] == ["mode", *["pivot"] * 9, "mode"]
    assert connected.swept().parameters.shape == (101, 1)  # nine points in every gap
    (edge,) = [e for e in connected.describe()["edges"] if e["split"] == "train"]
    assert edge["peak"] == saddle(connected)[0]
    assert edge["resolution"] == 101


def test_without_a_push_the_exact_straight_line_stays_where_it_is(ring):
    connected = ring.connect("a", "b", method=band(noise=0.0, cycles=("1x20@0.02",)))
    assert np.abs(rows(connected)[:, 1]).max() == 0.0
    assert saddle(connected)[0] == pytest.approx(1.0)


def test_springs_hold_the_ring_too(ring):
    connected = ring.connect("a", "b", method=band(spring=1.0))
    assert np.abs(np.linalg.norm(rows(connected), axis=1) - 1.0).max() < 1e-2
    lengths = np.linalg.norm(np.diff(rows(connected), axis=0), axis=1)
    assert lengths.max() / lengths.min() < 1.05


@pytest.mark.stress
def test_the_saddle_of_the_bent_valley(tmp_path):
    g = landscape(tmp_path, "valley", (-1, 0), (1, 0))
    connected = g.connect("a", "b", method=band(cycles=("3x60@0.02",), pivots=7))
    value, place = saddle(connected)
    assert value == pytest.approx(1.28663, rel=5e-3)
    assert place == pytest.approx((-0.1, -0.99), abs=0.05)
    straight = g.connect("a", "b", method=mgraph.Linear())
    assert saddle(straight)[0] > 5


@pytest.mark.stress
def test_muller_and_browns_saddle_is_the_one_that_scipy_finds(tmp_path):
    potential = POTENTIALS["muller-brown"]

    def gradient(w):
        return torch.func.grad(potential)(torch.tensor(w)).numpy()

    wells = [root(gradient, start).x for start in ((-0.6, 1.5), (0.6, 0.0))]
    highest = root(gradient, (-0.8, 0.6)).x
    g = landscape(tmp_path, "muller-brown", *wells)
    connected = g.connect("a", "b", method=band(pivots=7, cycles=("4x60@0.003",), gap=0.02))
    value, place = saddle(connected)
    assert value == pytest.approx(float(potential(torch.tensor(highest))), rel=0.02)
    assert place == pytest.approx(highest, abs=0.05)


# What is stored


def history(connected, quantity):
    return {r["position"]: r["value"] for r in connected.series() if r["quantity"] == quantity}


def test_the_connection_is_a_chain_by_length_with_its_history(ring):
    connected = ring.connect("a", "b", method=band(cycles=("2x50@0.02",), pivots=3), name="x")
    points = rows(connected)
    lengths = np.linalg.norm(np.diff(points.astype(np.float64), axis=0), axis=1)
    knots = np.array(connected.describe()["family"]["at"])
    np.testing.assert_allclose(knots, (np.cumsum(lengths) / lengths.sum())[:-1], rtol=1e-12)
    assert list(history(connected, "pivots")) == [0.0, 1.0, 2.0]
    assert history(connected, "saddle")[2.0] == pytest.approx(saddle(connected)[0])
    assert history(connected, "length")[2.0] == pytest.approx(lengths.sum())
    reason = connected.describe()["reason"]
    assert "ended because all its cycles are done" in reason
    assert "2 cycles" in reason
    assert connected.describe()["control_points"][1]["kind"] == "pivot"


def test_points_in_every_gap_can_be_chosen(ring):
    connected = ring.connect("a", "b", method=band(pivots=2), inner=3)
    assert len(connected.swept().parameters) == 13
    assert len(connected.sweep(inner=0).parameters) == 4
    with pytest.raises(InputError, match="grid or the number of inner"):
        connected.sweep(5, inner=1)
    with pytest.raises(InputError, match="whole number of points"):
        connected.sweep(inner=-1)
    curve = ring.connect("a", "b", method=mgraph.BezierCurve(epochs=0), sweep=False)
    with pytest.raises(InputError, match="pieces"):
        curve.sweep(inner=3)
    with pytest.raises(InputError, match="pieces"):
        ring.connect("a", "b", method=mgraph.Linear(), inner=3, name="never")
    assert [c["name"] for c in ring.connections()].count("never") == 0


# Where it starts


@pytest.mark.stress
def test_a_finished_band_goes_on_with_its_pivots_and_more_cycles(ring):
    first = ring.connect("a", "b", method=band(pivots=3, cycles=("2x60@0.02",)), name="first")
    more = ring.connect("a", "b", method=band(cycles=("2x60@0.02",)), init=first)
    assert history(more, "saddle")[0] == pytest.approx(saddle(first)[0], rel=1e-6)
    # Its gaps are filled at once, and again after its first cycle.
    pivots = history(more, "pivots")
    assert pivots[0] == first.describe()["family"]["bends"]
    assert pivots[1] > pivots[0]
    assert saddle(more)[0] < saddle(first)[0]
    turned = ring.connect("b", "a", method=band(cycles=("1x1@1e-9",), insert=0), init=first)
    np.testing.assert_allclose(rows(turned), rows(first)[::-1], atol=1e-5)


def test_it_starts_at_points_of_a_curve(ring):
    curve = ring.connect("a", "b", method=mgraph.BezierCurve(bends=2, epochs=0), name="curve", sweep=False)
    low = ring.connect("a", "b", method=mgraph.BezierCurve(bends=2, epochs=40, lr=0.05, seed=1), init=curve)
    started = ring.connect("a", "b", method=band(pivots=3, cycles=("1x1@1e-9",), noise=0.0, insert=0), init=low)
    expected = low.swept().family.coefficients(np.linspace(0, 1, 5)[:, None]) @ rows(low)
    lengths = np.linalg.norm(np.diff(rows(started), axis=0), axis=1)
    assert np.abs(rows(started) - expected).max() < 1e-5
    assert lengths.min() > 0


def test_it_starts_on_a_chain_and_on_an_edge_of_a_surface(template, tmp_path):
    import shutil

    g = mgraph.open(shutil.copytree(template, tmp_path / "digits.mgraph"), device="cpu")
    quick = mgraph.NudgedElasticBand(cycles=("1x1@1e-9",), pivots=2, noise=0.0, dense=1)
    started = g.connect("c", "a", method=quick, init="s", sweep=False)
    surface = g.connection("s")
    family = surface.swept().family
    expected = family.coefficients([(1, 0), (2 / 3, 0), (1 / 3, 0), (0, 0)]) @ rows(surface)
    np.testing.assert_allclose(rows(started), expected, atol=1e-4)
    np.testing.assert_array_equal(rows(started)[0], g.node("c")._session.store.read_parameters(g.node("c").record))


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": 1e-9}, "below the train loss of the modes themselves"),
        ({"label_smoothing": 0.1}, "label_smoothing is for cross-entropy"),
        ({"precision": "tf32"}, "TF32 needs an NVIDIA GPU"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_stored(tmp_path, snapshot, settings, message):
    g = landscape(tmp_path, "valley", (-1, 0), (1, 0))
    before = snapshot(g.path)
    with pytest.raises(InputError, match=message):
        g.connect("a", "b", method=band(**settings))
    assert snapshot(g.path) == before


@pytest.mark.filterwarnings("ignore::mgraph.operations.modes.SimilarModeWarning")
def test_ends_that_are_one_point_are_refused(tmp_path, snapshot):
    g = landscape(tmp_path, "ring", (-1, 0), (-1, 0))
    before = snapshot(g.path)
    with pytest.raises(InputError, match="the same point"):
        g.connect("a", "b", method=band())
    assert snapshot(g.path) == before


@pytest.mark.filterwarnings("ignore::mgraph.train.driver.LearningRateWarning")
def test_a_line_that_leaves_the_finite_numbers_is_a_failed_run_and_no_connection(tmp_path):
    g = landscape(tmp_path, "ring", (-1, 0), (1e9, 0))  # 1e36 there
    with pytest.raises(NonFiniteError, match="lower the learning rate"):
        g.connect("a", "b", method=band())
    assert g.connections() == []
    assert g.runs()[-1]["status"] == "failed"


@pytest.mark.parametrize("ends", ["abc", pytest.param("a", marks=pytest.mark.stress)])
def test_it_joins_two_modes(tmp_path, ends):
    g = landscape(tmp_path, "ring", (-1, 0), (1, 0), (0, 1))
    with pytest.raises(InputError, match="exactly 2 modes"):
        g.connect(*ends, method=band())


def test_presets_are_the_published_schedules_and_the_default():
    standard = mgraph.NudgedElasticBand.preset("standard")
    stages = standard.stages()
    assert [(s.cycles, s.steps, s.lr) for s in stages] == [
        (4, 1000, 0.1),
        (2, 2000, 0.1),
        (4, 1000, 0.01),
        (4, 1000, 0.001),
    ]
    assert (standard.pivots, standard.insert, standard.momentum, standard.weight_decay) == (3, 2, 0.9, 1e-4)
    fast = mgraph.NudgedElasticBand.preset("fast")
    assert fast.pivots == 15
    assert sum(s.cycles for s in fast.stages()) == 7
    assert all(a.lr >= b.lr for a, b in pairwise(fast.stages()))
    quick = mgraph.NudgedElasticBand.preset("quick")
    assert quick.stages()[0].cycles * quick.stages()[0].steps == 300
    assert json.loads(quick.to_json()) | {"cycles": 0} == json.loads(mgraph.NudgedElasticBand().to_json()) | {
        "cycles": 0
    }
