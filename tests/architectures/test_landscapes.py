"""The toy landscapes: their wells and saddles, found by SciPy, and as spaces of a graph."""

import numpy as np
import pytest
import torch
from scipy.optimize import root

import mgraph
from mgraph.architectures.landscapes import POTENTIALS
from mgraph.errors import InputError, MGraphWarning

WELL, SADDLE = 0, 1  # negative directions of the second derivative

KNOWN = [
    ("ring", (1.0, 0.0), 0.0, None),
    ("ring", (-0.6, 0.8), 0.0, None),
    ("ring", (0.0, 0.0), 1.0, 2),
    ("valley", (-1.0, 0.0), 8 / 15, WELL),
    ("valley", (1.0, 0.0), 0.0, WELL),
    ("valley", (-0.1, -0.99), 1.28663, SADDLE),
    ("muller-brown", (-0.558, 1.442), 0.0, WELL),
    ("muller-brown", (0.623, 0.028), 0.385, WELL),
    ("muller-brown", (-0.050, 0.467), 0.659, WELL),
    ("muller-brown", (-0.822, 0.624), 1.060, SADDLE),
    ("muller-brown", (0.212, 0.293), 0.744, SADDLE),
]


@pytest.mark.parametrize(("name", "place", "value", "negative"), KNOWN)
def test_stationary_points_are_where_they_are_said_to_be(name, place, value, negative):
    def gradient(w):
        return torch.func.grad(POTENTIALS[name])(torch.tensor(w)).numpy()

    found = root(gradient, np.array(place), tol=1e-10)
    w = torch.tensor(found.x)
    assert found.x == pytest.approx(place, abs=1e-3)
    assert float(POTENTIALS[name](w)) == pytest.approx(value, abs=1e-3)
    if negative is not None:
        curvature = torch.linalg.eigvalsh(torch.autograd.functional.hessian(POTENTIALS[name], w))
        assert int((curvature < 0).sum()) == negative


def test_a_landscape_is_a_space_whose_train_loss_is_the_potential(tmp_path):
    g = mgraph.create(tmp_path / "toy.mgraph", arch="toy?potential=valley", data="toy", device="cpu")
    left, right = g.add_point([-1, 0], name="left"), g.add_point([1, 0])
    np.testing.assert_array_equal(left.tensors()["w"], [-1, 0])
    job = mgraph.AddPointJob(space=left.record.space_id, coordinates=(-1.0, 0.0), name="same")
    with pytest.warns(MGraphWarning, match="exactly the parameters of left"):
        assert g.run(mgraph.read_job(job.to_json())).digest == left.digest
    line = g.connect(left, right, method=mgraph.Linear(), grid=5)
    swept = line.swept()
    w = torch.tensor(np.linspace(-1, 1, 5))
    expected = POTENTIALS["valley"](torch.stack([w, torch.zeros(5)], dim=1))
    assert swept.values["train", "loss"] == pytest.approx(expected.numpy(), rel=1e-5, abs=1e-6)
    trained = g.train(seed=0, lr=0.02, epochs=300, weight_decay=0.0)
    assert trained.evaluate()["loss"].value < 0.54  # one of the wells


def test_a_point_needs_as_many_finite_coordinates_as_the_space_has(tmp_path):
    g = mgraph.create(tmp_path / "toy.mgraph", arch="toy", data="toy", device="cpu")
    with pytest.raises(InputError, match="has 2 coordinates; 3 given"):
        g.add_point([1, 2, 3])
    with pytest.raises(InputError, match="finite"):
        g.add_point([1, float("nan")])
    assert g.nodes() == []
    with pytest.raises(InputError, match="no potential 'rung'; did you mean 'ring'"):
        mgraph.create(tmp_path / "other.mgraph", arch="toy?potential=rung", data="toy")
