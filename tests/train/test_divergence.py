"""A phase that leaves the finite numbers begins again with half the learning rate, and says so."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mgraph.data.making import make_task
from mgraph.errors import NonFiniteError
from mgraph.families import BezierCurveFamily
from mgraph.methods.base import Start
from mgraph.methods.curves.path import BezierCurve
from mgraph.methods.curves.surface import BezierSurface
from mgraph.network.flat import FlatModel
from mgraph.progress import silent
from mgraph.train.driver import LearningRateWarning
from mgraph.train.mode import train_mode
from mgraph.train.phases import Curve, Phase
from mgraph.train.sampling import Sampling
from mgraph.train.settings import Optimisation, TrainSettings

CURVE = BezierCurveFamily(1)
PHASE = Phase("curve", 2, (Curve.whole(CURVE),), CURVE.free)


def quadratic_task(curvature):
    """L(w) = curvature/2·w² for every batch: gradient descent multiplies w by 1 - lr·curvature."""
    x, y = np.ones((40, 1), np.float32), np.zeros((40, 1), np.float32)

    def loss(outputs, targets):
        return curvature / 2 * F.mse_loss(outputs, targets)

    return make_task(train=(x, y), valid=(x, y), test=(x, y), loss=loss)


def one_weight(value=1.0):
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(value)
    return FlatModel(module)


def test_a_mode_that_diverges_is_trained_at_a_rate_at_which_it_is_stable():
    """At lr·curvature = 6 and 3 the factors are -5 and -2, at 1.5 it is -1/2: exactly two halvings."""
    flat, seen = one_weight(), []
    settings = TrainSettings(
        epochs=10, batch_size=4, lr=2.0, momentum=0.0, weight_decay=0.0, schedule="constant", optimizer="sgd"
    )
    with pytest.warns(LearningRateWarning) as caught:
        trained = train_mode(flat, quadratic_task(3.0), settings, progress=seen.append)
    assert trained.notes == (
        "phase train diverged and began again at learning rate 1",
        "phase train diverged and began again at learning rate 0.5",
    )
    assert [str(w.message) for w in caught] == [
        f"The loss became {1.5 * factor ** (2 * (at - 1)):g} at step {at} of 100 (train): the phase begins again with "
        f"half the learning rate, {lr}."
        for factor, at, lr in zip((-5, -2), starts(seen), (1, 0.5), strict=True)
    ]
    assert flat.theta[0].item() == (-0.5) ** 100  # from the start: nothing is left of the first attempts
    assert seen[-1].done == 100


def starts(seen):
    """The steps at which attempts broke off: one after the last that was reported."""
    done = [p.done for p in seen] + [1]
    return [a + 1 for a, b in pairwise(done) if b == 1][:-1]


@pytest.mark.parametrize("samples", [1, 4])
def test_a_path_that_diverges_lowers_its_learning_rate_and_ends_finite(samples):
    method = BezierCurve(epochs=60, batch_size=8, lr=64.0, momentum=0.0, schedule="constant", samples=samples)
    family, flat = method.family(2), one_weight()
    ends = [np.array([v], np.float32) for v in (1.0, -3.0)]
    with pytest.warns(LearningRateWarning, match=r"step \d+ of 300 \(curve\).*half the learning rate") as caught:
        outcome = method.run(flat, quadratic_task(3.0), family, Start.between(family, ends), silent)
    assert 1 <= len(caught) == len(outcome.notes) <= 6
    rates = [64 / 2 ** (i + 1) for i in range(len(caught))]
    assert outcome.notes == tuple(f"phase curve diverged and began again at learning rate {r:g}" for r in rates)
    assert np.isfinite(outcome.control_points).all()
    assert abs(outcome.control_points[1, 0]) < 100
    assert outcome.control_points[[0, 2], 0].tolist() == [1.0, -3.0]


def test_a_phase_that_diverges_starts_where_the_phase_before_it_ended():
    """Only the second phase is too fast; what the first has trained stays."""
    ends = [np.array([v], np.float32) for v in (1.0, -3.0, 2.0, 1.0)]

    def run(*phases):
        method = BezierSurface(phases=phases, batch_size=8, lr=0.1, momentum=0.0, schedule="constant")
        family = method.family(4)
        return method.run(one_weight(), quadratic_task(3.0), family, Start.between(family, ends), silent)

    first = run("edges:2")
    with pytest.warns(LearningRateWarning, match="columns"):
        both = run("edges:2", "columns:20@64")
    assert all("columns" in note for note in both.notes)
    assert np.array_equal(both.control_points[[1, 7]], first.control_points[[1, 7]])
    assert np.isfinite(both.control_points).all()
    assert not np.array_equal(both.control_points[3:6], first.control_points[3:6])


def test_hopeless_divergence_is_an_error_after_six_halvings(spelt):
    flat = FlatModel(spelt.network(torch.float32))
    with (
        pytest.warns(LearningRateWarning) as caught,
        pytest.raises(NonFiniteError, match=r"step \d+ of 6 \(curve\); lower the learning rate \(it was 1.5625e\+28\)"),
    ):
        spelt.trained(
            spelt.start(flat, CURVE),
            (PHASE,),
            Optimisation(lr=1e30, batch_size=16),
            flat=flat,
            split=spelt.data(dtype=torch.float32),
        )
    assert len(caught) == 6


def test_a_mode_beyond_help_is_an_error():
    settings = TrainSettings(epochs=5, batch_size=8, lr=1e30)
    with pytest.warns(LearningRateWarning), pytest.raises(NonFiniteError, match=r"step \d+ of 25 \(train\)"):
        train_mode(one_weight(), quadratic_task(1.0), settings)


def counting_loss(bad):
    calls = []

    def loss(outputs, targets):
        calls.append(len(targets))
        return F.cross_entropy(outputs, targets) * (torch.nan if len(calls) in bad else 1.0)

    return loss, calls


@pytest.mark.parametrize("samples", [1, 2])
def test_a_loss_that_is_nan_at_the_very_first_step_is_an_error_at_once(spelt, samples):
    """The learning rate had no part in it; no warning either, which here would be an error."""
    loss, calls = counting_loss({1})
    flat = FlatModel(spelt.network())
    with pytest.raises(NonFiniteError, match=r"nan at step 1 of 6 \(curve\)"):
        spelt.trained(
            spelt.start(flat, CURVE),
            (PHASE,),
            Optimisation(batch_size=16),
            loss=loss,
            flat=flat,
            sampling=Sampling(samples),
        )
    assert len(calls) == samples


def test_a_loss_that_turns_nan_names_the_step_and_is_tried_again(spelt):
    loss, calls = counting_loss({5})
    flat = FlatModel(spelt.network())
    with pytest.warns(LearningRateWarning, match=r"nan at step 5 of 6 \(curve\): .* half the learning rate, 0.05"):
        points, trained = spelt.trained(
            spelt.start(flat, CURVE), (PHASE,), Optimisation(batch_size=16), loss=loss, flat=flat
        )
    assert len(calls) == 5 + 6
    assert len(trained.notes) == 1
    assert torch.isfinite(points).all()


def test_a_control_point_that_ends_not_finite_is_an_error(spelt):
    """The last update can overflow after a last finite loss."""

    def loss(outputs, targets):
        return F.cross_entropy(outputs, targets) * 1e290

    flat = FlatModel(spelt.network())
    phase = Phase("curve", 1, PHASE.curves, PHASE.free)
    with (
        pytest.warns(LearningRateWarning, match="A weight became NaN or infinite in training: the phase begins again"),
        pytest.raises(NonFiniteError, match="A weight became NaN"),
    ):
        spelt.trained(spelt.start(flat, CURVE), (phase,), Optimisation(lr=1e30, batch_size=100), loss=loss, flat=flat)


def test_nothing_of_a_diverged_attempt_stays_in_running_statistics(spelt):
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
    flat = FlatModel(module)
    calls = []

    def spoil(_, inputs):
        calls.append(1)
        return inputs[0] * (torch.nan if len(calls) == 4 else 1.0)

    module[1].register_forward_pre_hook(spoil)
    with pytest.warns(LearningRateWarning):
        spelt.trained(spelt.start(flat, CURVE), (PHASE,), Optimisation(batch_size=16), flat=flat)
    assert len(calls) == 4 + 6
    assert torch.isfinite(module[1].running_mean).all()
    assert module[1].num_batches_tracked == 6
