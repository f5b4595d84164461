"""Precision of computing: what is rounded, what is not, and what is refused."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mgraph.data.making import make_task
from mgraph.errors import InputError
from mgraph.methods.base import Start
from mgraph.methods.curves.path import BezierCurve
from mgraph.network.flat import FlatModel
from mgraph.network.precision import PRECISIONS, check_precision, computing_in
from mgraph.train.mode import train_mode
from mgraph.train.settings import TrainSettings

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
Y = np.arange(96) % 3
X = (RNG.normal(size=(96, 1, 6, 6)) + Y[:, None, None, None]).astype(np.float32)
TASK = make_task(train=(X, Y), valid=(X, Y), test=(X, Y))


def network():
    torch.manual_seed(0)
    return FlatModel(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3))
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tf32_is_for_nvidia_gpus(precision):
    if precision == "tf32":
        with pytest.raises(InputError, match="TF32 needs an NVIDIA GPU, and this runs on cpu; choose fp32 or bf16"):
            check_precision(precision, CPU)
        with pytest.raises(InputError, match="TF32 needs"), computing_in(precision, CPU):
            pytest.fail("entered")
    else:
        check_precision(precision, CPU)
    check_precision(precision, torch.device("cuda"))


@pytest.mark.parametrize("precision", ["fp16", "", "float32", "BF16"])
def test_a_precision_that_does_not_exist_is_refused(precision):
    with pytest.raises(InputError, match=f"one of fp32, tf32, bf16, not '{precision}'"):
        check_precision(precision, CPU)
    with pytest.raises(InputError, match="The precision must be one of"), computing_in(precision, CPU):
        pytest.fail("entered")


def test_bf16_rounds_what_the_network_computes_and_fp32_does_not():
    flat = network()
    x, _ = TASK.train.examples(torch.arange(8))
    plain = flat.module(flat.inputs(x))
    with computing_in("fp32", CPU):
        exact = flat.module(flat.inputs(x))
    with computing_in("bf16", CPU):
        rounded = flat.module(flat.inputs(x))
    assert exact.dtype == torch.float32
    torch.testing.assert_close(exact, plain, rtol=1e-6, atol=1e-6)
    assert rounded.dtype == torch.bfloat16
    assert 1e-4 < float(((rounded - plain).abs().max() / plain.abs().max()).detach()) < 0.05
    assert not torch.is_autocast_enabled("cpu")
    with computing_in("bf16", CPU), computing_in("fp32", CPU):
        assert not torch.is_autocast_enabled("cpu")


def test_weights_that_change_inside_the_block_are_seen():
    """Autocast caches the rounded weights of leaves, and would go on with the old ones."""
    flat = network()
    x, y = TASK.train.examples(torch.arange(32))
    losses = []
    with computing_in("bf16", CPU):
        for _ in range(6):
            flat.grad.zero_()
            loss = F.cross_entropy(flat.module(flat.inputs(x)), y)
            loss.backward()
            losses.append(loss.item())
            flat.theta.add_(flat.grad, alpha=-0.2)
    assert all(later < earlier for earlier, later in pairwise(losses))
    assert losses[-1] < 0.7 * losses[0]


def dtypes(flat):
    state = flat.module.state_dict().values()
    return {t.dtype for t in (flat.theta, flat.grad, *state) if t.is_floating_point()}


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.1), ("adamw", 0.02)])
def test_paths_train_in_bf16_with_parameters_in_float32(samples, optimizer, lr):
    flat, seen = network(), []
    method = BezierCurve(
        epochs=10, batch_size=64, samples=samples, precision="bf16", optimizer=optimizer, lr=lr, schedule="constant"
    )
    family = method.family(2)
    rng = np.random.default_rng(1)
    ends = [(rng.normal(size=flat.dimension) / 3).astype(np.float32) for _ in range(2)]
    outcome = method.run(flat, TASK, family, Start.between(family, ends), lambda p: seen.append(p.loss))
    assert outcome.control_points.dtype == np.float32
    assert dtypes(flat) == {torch.float32}
    assert np.mean(seen[-4:]) < 0.9 * np.mean(seen[:4])
    # Neither the points nor the losses that are told pass through bf16 themselves.
    bend = torch.from_numpy(outcome.control_points[1])
    assert not torch.equal(bend, bend.bfloat16().float())
    told = torch.tensor(seen)
    assert not torch.equal(told, told.bfloat16().float())


def test_a_mode_in_bf16_is_close_to_one_in_fp32():
    points, losses = [], []
    for precision in ("fp32", "bf16"):
        flat, seen = network(), []
        settings = TrainSettings(epochs=4, batch_size=32, precision=precision)
        train_mode(flat, TASK, settings, progress=lambda p, seen=seen: seen.append(p.loss))
        points.append(flat.unpack(flat.theta))
        losses.append(seen)
        assert dtypes(flat) == {torch.float32}
    assert losses[1][-1] < 0.7 * losses[1][0]
    assert losses[1][-1] == pytest.approx(losses[0][-1], rel=0.1)
    distance = float((points[0] - points[1]).norm() / points[0].norm())
    assert 1e-5 < distance < 0.1
