"""Training uniform in length or area: weights of draws, when the geometry is looked at, and whole runs."""

import numpy as np
import pytest
import torch
from scipy import integrate

from mgraph.families import BezierCurveFamily, BezierSurfaceFamily
from mgraph.families import PolygonalChainFamily as Chain
from mgraph.families.gram import gram
from mgraph.methods.curves.path import BezierCurve, PolygonalChain
from mgraph.methods.curves.surface import BezierSurface
from mgraph.network.flat import FlatModel
from mgraph.train.controlpoints import GramMeasure, Held
from mgraph.train.draws import draws
from mgraph.train.phases import Curve, Phase
from mgraph.train.sampling import Sampling


def rows(size, dimension=40, seed=0):
    return np.random.default_rng(seed).normal(size=(size, dimension))


@pytest.mark.parametrize("family", [BezierCurveFamily(1), BezierCurveFamily(4), Chain(1), Chain(3)], ids=repr)
def test_the_weight_on_a_path_is_the_speed_over_the_mean_speed(family, spelt):
    P, curve = rows(family.size), Curve.whole(family)
    t = np.linspace(0.01, 0.99, 23)[:, None]
    pieces = zip(family.knots[:-1], family.knots[1:], strict=True)
    length = sum(integrate.quad(lambda s: spelt.speed(curve, P, [[s]])[0], a, b)[0] for a, b in pieces)
    weights = curve.relative_density(gram(list(P)), t)
    np.testing.assert_allclose(weights, spelt.speed(curve, P, t) / length, rtol=1e-6)


def test_the_weight_on_a_surface_is_the_area_element_over_the_area(spelt):
    family = BezierSurfaceFamily((2, 3))
    P, curve = rows(family.size), Curve.whole(family)
    t = np.random.default_rng(1).random((17, 2))
    nodes, weights = family.quadrature(20)
    area = weights @ spelt.speed(curve, P, nodes)
    np.testing.assert_allclose(curve.relative_density(gram(list(P)), t), spelt.speed(curve, P, t) / area, rtol=1e-5)


def test_a_curve_on_some_of_the_rows_looks_at_those_only(spelt):
    family = BezierCurveFamily(1)
    P = rows(7)
    curve = Curve(family, (5, 0, 3), 7)
    t = np.linspace(0, 1, 9)[:, None]
    expected = Curve.whole(family).relative_density(gram(list(P[[5, 0, 3]])), t)
    np.testing.assert_allclose(curve.relative_density(gram(list(P)), t), expected, rtol=1e-10)


@pytest.mark.parametrize("family", [BezierCurveFamily(2), Chain(2), BezierSurfaceFamily((2, 2))], ids=repr)
def test_where_speed_is_equal_all_weights_are_one(family):
    """Straight and evenly spaced, a parallelogram, or all points in one place."""
    ends = rows(len(family.ends))
    if len(ends) == 4:
        ends[3] = ends[1] + ends[2] - ends[0]
    t = np.random.default_rng(1).random((20, family.dimension))
    for P in (family.initial() @ ends, np.tile(ends[:1], (family.size, 1))):
        weights = Curve.whole(family).relative_density(gram(list(P)), t)
        np.testing.assert_allclose(weights, 1.0, rtol=1e-10)


def test_weighted_draws_average_like_draws_that_are_uniform_in_length(spelt):
    family = BezierCurveFamily(2)
    P = torch.from_numpy(rows(4))
    P[1] += 20 * (P[3] - P[0])
    phase = Phase("curve", 1, (Curve.whole(family),), (1, 2))
    coming = draws(phase, Sampling(8, measure="arc", gram_every=50), np.random.default_rng(0), GramMeasure(P, None))
    blocks = [next(coming) for _ in range(20)]
    assert all(c.shape == (50, 8, 4) for c, _ in blocks)  # a block per look at the geometry
    c, w = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    t = np.linspace(0, 1, 4001)[:, None]
    speed = spelt.speed(Curve.whole(family), P.numpy(), t)
    by_length = (family.coefficients(t) * speed[:, None]).sum(0) / speed.sum()
    np.testing.assert_allclose((c * w[:, :, None]).mean((0, 1)), by_length, atol=0.01)
    assert np.abs(c.mean((0, 1)) - by_length).max() > 0.05


def test_the_geometry_is_looked_at_every_so_many_steps():
    family = BezierCurveFamily(1)
    P = torch.from_numpy(rows(3))
    looks = []

    class Counted(GramMeasure):
        def gram(self):
            looks.append(P[1, 0].item())
            return super().gram()

    phase = Phase("curve", 1, (Curve.whole(family),), (1,))
    coming = draws(phase, Sampling(2, measure="arc", gram_every=7), np.random.default_rng(0), Counted(P, None))
    blocks = []
    for i in range(3):
        P[1] = 10.0 * i
        blocks.append(next(coming))
    assert [len(c) for c, _ in blocks] == [7, 7, 7]
    assert looks == [0.0, 10.0, 20.0]
    assert not np.allclose(blocks[0][1], blocks[1][1])


def test_the_present_gram_matrix_counts_held_columns_too():
    """Rows 0.1 % apart: centred in float64, where uncentred float32 would see noise."""
    family = BezierSurfaceFamily((2, 2))
    base = rows(1, 200)
    ends = base + 1e-3 * rows(4, 200, seed=1)
    points = family.initial() @ ends
    points[4, :120] += 1e-3 * rows(1, 120, seed=2)[0]
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        P, given = torch.from_numpy(points).to(dtype), torch.from_numpy(ends).to(dtype)
        expected = gram(list(points))
        whole = GramMeasure(P, None).gram()
        parts = GramMeasure(P[:, :120], Held(family.initial(), given[:, 120:])).gram()
        assert np.array_equal(P.double().numpy(), points.astype(P.numpy().dtype))  # looking changes nothing
        scale = np.abs(expected).max()
        np.testing.assert_allclose(whole, expected, atol=tolerance * scale)
        np.testing.assert_allclose(parts, expected, atol=tolerance * scale)


CASES = {
    "curve": BezierCurve(bends=2, epochs=4, measure="arc", gram_every=5, batch_size=11, samples=3),
    "chain": PolygonalChain(bends=2, epochs=4, measure="arc", gram_every=5, batch_size=11, samples=2, batch="whole"),
    "surface": BezierSurface(epochs=3, measure="area", gram_every=4, batch_size=11, samples=4, weight_decay=0.02),
    "three phases": BezierSurface(
        phases=("edges:2", "columns:1", "surface:2"), measure="area", gram_every=300, batch_size=11, samples=2
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_run_weights_its_gradients_by_the_density(spelt, name):
    """The reference finds the density from D-dimensional derivatives, the engine from the Gram matrix."""
    method = CASES[name]
    flat = FlatModel(spelt.network())
    family = method.family(4 if "phases" in vars(method) else 2)
    points = spelt.start(flat, family)
    points[1] += 2 * (points[1] - points[0])  # the speed varies
    phases, sampling = method.plan(family), method.sampling()
    result, _ = spelt.trained(points, phases, method, flat=flat, sampling=sampling)
    reference = spelt.Reference(spelt.network(), points, spelt.data(), method, sampling=sampling)
    torch.testing.assert_close(result, reference.run(phases), rtol=1e-9, atol=1e-10)

    uniform = method.parse(vars(method) | {"measure": "uniform"})
    other, _ = spelt.trained(points, phases, uniform, sampling=uniform.sampling())
    assert float((other - result).norm() / (result - points).norm()) > 0.01
