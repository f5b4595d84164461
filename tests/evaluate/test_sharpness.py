"""Sharpness: the profile and the relative flatness against formulas worked out by hand and dense Hessians."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mgraph.data.making import make_task
from mgraph.errors import InputError, NonFiniteError
from mgraph.evaluate.batchnorm import BatchNormPolicy, recompute_statistics
from mgraph.evaluate.flatness import linear_head, relative_flatness
from mgraph.evaluate.metrics import Subset, measure
from mgraph.evaluate.profile import direction, sharpness_profile
from mgraph.evaluate.sharpness import RADII, SharpnessSettings
from mgraph.network.flat import FlatModel

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 5)).astype(np.float32), np.arange(60) % 3
POLICY = BatchNormPolicy(40, 20)


def task_of(**more):
    return make_task(train=(X[:40], Y[:40]), valid=(X[40:50], Y[40:50]), test=(X[50:], Y[50:]), **more)


TASK = task_of()


class Bowl(nn.Module):
    """Its loss is ½ Σ h w² whatever the data: a bowl of known curvature."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[3.0, -1.0], [0.5, 2.0]]))
        self.b = nn.Parameter(torch.tensor([2.0, 0.0]))
        self.zero = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return (torch.cat([self.w.flatten(), self.b, self.zero]).square() @ CURVATURE / 2).expand(len(x), 1)


CURVATURE = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.5, 0.25, 7.0, 7.0, 7.0])
SIZES = (4, 2, 3)


def bowl_task():
    return task_of(loss=lambda outputs, _: outputs.mean(), loss_name="bowl", metrics={})


def profile(flat, task, parameters, sizes, **changes):
    settings = SharpnessSettings(**{"radii": RADII, "directions": 6, "seed": 3} | changes)
    return sharpness_profile(flat, task, parameters, sizes, settings, subset=Subset(), policy=POLICY)


def test_a_direction_moves_every_tensor_by_its_norm():
    theta = RNG.normal(size=9).astype(np.float32)
    theta[6:] = 0
    moved = direction(theta, SIZES, 5, 2)
    for start, stop in ((0, 4), (4, 6), (6, 9)):
        assert np.linalg.norm(moved[start:stop]) == pytest.approx(np.linalg.norm(theta[start:stop]), rel=1e-6)
    assert np.array_equal(moved, direction(theta, SIZES, 5, 2))
    assert not np.array_equal(moved, direction(theta, SIZES, 5, 3))
    assert not np.array_equal(moved, direction(theta, SIZES, 6, 2))


def test_the_profile_of_a_bowl_is_what_its_formula_says():
    flat = FlatModel(Bowl())
    theta = flat.unpack(flat.theta).numpy()
    found = profile(flat, bowl_task(), theta, SIZES)
    h = CURVATURE.numpy().astype(float)
    assert found.loss == pytest.approx(h @ theta.astype(float) ** 2 / 2)
    expected = []
    for number in range(6):
        delta = direction(theta, SIZES, 3, number).astype(float)
        # L(θ + rδ) - L(θ) = r θᵀHδ + r²/2 δᵀHδ
        expected.append([abs(r * h @ (theta * delta) + r * r / 2 * h @ delta**2) for r in RADII])
    assert found.changes == pytest.approx(np.array(expected), rel=1e-3, abs=2e-6)
    assert found.mean == pytest.approx(np.mean(expected, axis=0), rel=1e-3, abs=2e-6)
    assert found.std == pytest.approx(np.std(expected, axis=0, ddof=1), rel=1e-3, abs=2e-6)
    assert found.max == pytest.approx(np.max(expected, axis=0), rel=1e-3, abs=2e-6)
    assert np.array_equal(flat.unpack(flat.theta).numpy(), theta)  # the network is left where it was


def test_more_directions_keep_the_first_ones_and_one_has_no_deviation():
    flat = FlatModel(Bowl())
    theta = flat.unpack(flat.theta).numpy()
    few, one = (profile(flat, bowl_task(), theta, SIZES, directions=n) for n in (2, 1))
    assert np.array_equal(one.changes, few.changes[:1])
    assert one.std is None


def test_statistics_are_those_of_every_perturbed_point():
    torch.manual_seed(0)
    flat = FlatModel(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)))
    theta = flat.unpack(flat.theta).numpy()
    sizes = [p.numel() for p in flat.module.parameters()]
    found = profile(flat, TASK, theta, sizes, radii=(0.1, 0.5), directions=2)

    def loss(point):
        flat.theta.copy_(flat.pack(torch.from_numpy(point)))
        recompute_statistics(flat, TASK.train, POLICY)
        return measure(flat, TASK, "train")["loss"].value

    base = loss(theta)
    assert found.loss == pytest.approx(base)
    for number in range(2):
        moved = direction(theta, sizes, 3, number)
        losses = [abs(loss(theta + np.float32(r) * moved) - base) for r in (0.1, 0.5)]
        assert found.changes[number] == pytest.approx(losses, rel=1e-4, abs=1e-6)


def test_a_loss_that_is_no_number_is_no_sharpness():
    class Cliff(Bowl):
        def forward(self, x):
            out = super().forward(x)
            return torch.where(out > 21.0, torch.nan, out)

    flat = FlatModel(Cliff())
    theta = flat.unpack(flat.theta).numpy()
    with pytest.raises(NonFiniteError, match=r"became NaN or infinite at radius 0\.5"):
        profile(flat, bowl_task(), theta, SIZES, radii=(0.001, 0.5), directions=20)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"radii": "0.1,0.01"}, "radii takes rising numbers above 0"),
        ({"radii": ""}, "radii takes rising numbers above 0"),
        ({"radii": "0"}, "radii must be above 0"),
        ({"directions": "0"}, "directions must be at least 1"),
        ({"split": "all"}, "split must be one of train, valid, test"),
        ({"examples": "1"}, "examples must be at least 2"),
        ({"what": "kappa"}, "what must be one of auto, both, profile, flatness"),
    ],
)
def test_settings_out_of_range(given, message):
    with pytest.raises(InputError, match=message):
        SharpnessSettings.parse(given)


# Relative flatness


def network(head=None, statistics=False):
    torch.manual_seed(1)
    middle = nn.BatchNorm1d(4) if statistics else nn.Tanh()
    return nn.Sequential(nn.Linear(5, 4), middle, head or nn.Linear(4, 3))


def dense_kappa(module, head, x, y):
    """Σ_ss' ⟨w_s, w_s'⟩ Tr(H_ss') from the whole Hessian of the head's weight, in float64."""
    module = module.double().eval()
    phi = module[:-1](x.double()).detach()

    def loss(w):
        return F.cross_entropy(F.linear(phi, w, head.bias.detach()), y)

    weight = head.weight.detach().clone()
    H = torch.autograd.functional.hessian(loss, weight)  # (C, d, C, d)
    blocks = torch.einsum("sjtj->st", H)
    return float((blocks * (weight @ weight.T)).sum())


@pytest.mark.parametrize("statistics", [False, True])
def test_relative_flatness_is_the_definition_on_the_dense_hessian(statistics):
    flat = FlatModel(network(statistics=statistics))
    recompute_statistics(flat, TASK.train, POLICY)
    name, head = linear_head(flat, TASK)
    assert name == "2"
    found = relative_flatness(flat, TASK, head, "train", Subset())
    x, y = TASK.train.examples(torch.arange(40))
    assert found.count == 40
    assert found.value == pytest.approx(dense_kappa(flat.module, head, x, y), rel=1e-5)


def test_relative_flatness_by_hand():
    """Two classes, one feature, W = (1, -1), φ = 2: p = σ(4), κ = 4 · (w₁ - w₂)² p(1 - p) = 16 p(1 - p)."""

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(1, 2, bias=False)
            self.head.weight.data = torch.tensor([[1.0], [-1.0]])

        def forward(self, x):
            return self.head(torch.full((len(x), 1), 2.0))

    flat = FlatModel(Head())
    task = make_task(train=(X[:40], Y[:40] % 2), valid=(X[40:50], Y[40:50] % 2), test=(X[50:], Y[50:] % 2))
    _, head = linear_head(flat, task)
    p = 1 / (1 + np.exp(-4.0))
    assert relative_flatness(flat, task, head, "train", Subset()).value == pytest.approx(16 * p * (1 - p), rel=1e-6)


def test_relative_flatness_does_not_see_a_rescaling_of_the_layers():
    """What the measure is for: a ReLU network that computes the same with other scales is as flat as before."""
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    values = []
    for scale in (1.0, 5.0):
        with torch.no_grad():
            module[0].weight *= scale
            module[0].bias *= scale
            module[2].weight /= scale
        flat = FlatModel(module)
        values.append(relative_flatness(flat, TASK, linear_head(flat, TASK)[1], "valid", Subset()).value)
    assert values[1] == pytest.approx(values[0], rel=1e-4)


def test_what_passes_the_head_on_unchanged_does_not_hide_it():
    module = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.Dropout(0.5), nn.Identity())
    assert linear_head(FlatModel(module), TASK)[0] == "2"


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x):
        return self.layer(self.layer(x).relu())


torch.manual_seed(3)  # outputs that a ReLU changes


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Linear(5, 3), nn.ReLU()), r"linear last layer.*last came 1, a ReLU"),
        (nn.Sequential(nn.Linear(5, 3), nn.LogSoftmax(1)), r"last came 1, a LogSoftmax"),
        (nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 3, 5), nn.Flatten()), r"last came 2, a Flatten"),
        (Bowl(), r"last came the network itself, a Bowl|no layer of its own"),
        (Twice(), "layer runs several times"),
    ],
    ids=["relu", "log-softmax", "convolution", "no layers", "twice"],
)
def test_a_last_layer_that_is_not_linear_is_refused(module, message):
    with pytest.raises(InputError, match=message):
        linear_head(FlatModel(module), TASK)


def test_another_loss_is_refused():
    task = task_of(loss=F.multi_margin_loss)
    with pytest.raises(InputError, match=r"mean cross-entropy, and the task's loss is multi_margin_loss; measure the"):
        linear_head(FlatModel(network()), task)
