"""Layer-specific training by name patterns, as a method does it."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from mgraph.data.making import make_task
from mgraph.errors import InputError, NonFiniteError
from mgraph.methods.base import Start
from mgraph.methods.curves.path import BezierCurve
from mgraph.methods.curves.surface import BezierSurface
from mgraph.network.flat import FlatModel
from mgraph.progress import silent

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 5)), np.arange(40) % 3
TASK = make_task(train=(X, Y), valid=(X, Y), test=(X, Y))
NAMES = ("body.0.weight", "body.0.bias", "norm.weight", "norm.bias", "fc.weight", "fc.bias")


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.norm, self.fc = nn.Sequential(nn.Linear(5, 6)), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(self.norm(torch.relu(self.body(x))))


def ends_of(flat, count):
    rng = np.random.default_rng(1)
    return [(rng.normal(size=flat.dimension) / 3).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        ((), set(NAMES)),
        (("*",), set(NAMES)),
        (("fc.*",), {"fc.weight", "fc.bias"}),
        (("fc.weight",), {"fc.weight"}),
        (("*.bias", "norm.*"), {"body.0.bias", "norm.bias", "norm.weight", "fc.bias"}),
        (("body.[01].*",), {"body.0.weight", "body.0.bias"}),
        (("n?rm.weight", "n*.weight"), {"norm.weight"}),
    ],
)
def test_patterns_choose_parameters_by_name(patterns, chosen):
    assert BezierCurve(train_only=patterns).trained_names(NAMES) == chosen


@pytest.mark.parametrize("patterns", ["layer4.*", "fc.*,layer4.*", "fc", "FC.*", "fc."])
def test_a_pattern_that_matches_nothing_is_refused_by_name(patterns):
    method, flat = BezierCurve(train_only=patterns), FlatModel(Network())
    wrong = patterns.rpartition(",")[2].replace("*", r"\*")
    with pytest.raises(InputError, match=f"pattern '{wrong}' matches no trainable parameter; there are body.0.weight"):
        method.check(flat, TASK, method.family(2))


def test_a_frozen_parameter_cannot_be_trained():
    module = Network()
    module.body[0].weight.requires_grad_(False)
    method = BezierCurve(train_only="body.0.weight")
    with pytest.raises(InputError, match=r"matches no trainable parameter; there are body.0.bias, norm"):
        method.check(FlatModel(module), TASK, method.family(2))


@pytest.mark.parametrize("patterns", ["fc.*", "fc.*,norm.weight", "body.*"])
@pytest.mark.parametrize(
    "method",
    [
        BezierCurve(bends=2, epochs=2, batch_size=16, samples=1),
        BezierSurface(epochs=2, batch_size=20, samples=2, measure="area", weight_decay=0.1, optimizer="adamw"),
        BezierSurface(phases=("edges:1", "columns:1"), batch_size=20, samples=1, lr=0.01),
    ],
    ids=["curve", "surface", "phases"],
)
def test_columns_of_other_layers_never_change(method, patterns):
    method = method.parse(vars(method) | {"train_only": patterns})
    family, flat = method.family(4 if isinstance(method, BezierSurface) else 2), FlatModel(Network())
    start = Start.between(family, ends_of(flat, len(family.ends)))
    before, names = start.points(), method.trained_names(flat.names)
    outcome = method.run(flat, TASK, family, start, silent)
    after = outcome.control_points
    assert outcome.trained == names
    offset = 0
    for name, p in flat.module.named_parameters():
        part = slice(offset, offset + p.numel())
        offset += p.numel()
        for row in range(family.size):
            changed = after[row, part].tobytes() != before[row, part].tobytes()
            assert changed == (name in names and row in family.free), (name, row)
    assert np.isfinite(after).all()


def test_all_layers_by_pattern_are_an_ordinary_run():
    method = BezierCurve(epochs=2, batch_size=16, samples=1)
    results = []
    for patterns in ((), ("body.*", "norm.*", "fc.*")):
        flat, family = FlatModel(Network()), method.family(2)
        chosen = method.parse(vars(method) | {"train_only": patterns})
        results.append(chosen.run(flat, TASK, family, Start.between(family, ends_of(flat, 2)), silent))
    assert results[0].control_points.tobytes() == results[1].control_points.tobytes()
    assert results[0].trained is results[1].trained is None


@pytest.mark.parametrize("fails", [False, True])
def test_afterwards_all_parameters_are_trainable_again(fails):
    method = BezierCurve(epochs=2, batch_size=16, samples=1, train_only="fc.*")
    flat, family = FlatModel(Network()), method.family(2)
    ends = ends_of(flat, 2)
    if fails:
        ends[1][0] = np.nan
    with pytest.raises(NonFiniteError) if fails else nullcontext():
        method.run(flat, TASK, family, Start.between(family, ends), silent)
    assert flat.trained == flat.size
    assert all(p.requires_grad and p.grad is not None for p in flat.module.parameters())
    point = ends_of(flat, 1)[0]
    flat.theta.copy_(flat.pack(torch.from_numpy(point)))
    assert torch.cat([p.detach().reshape(-1) for p in flat.module.parameters()]).numpy().tobytes() == point.tobytes()
    flat.grad.zero_()
    x, y = TASK.train.examples(torch.arange(8))
    TASK.loss(flat.module(x), y).backward()
    assert all(flat.grad[flat.columns(name)].any() for name in flat.names)
