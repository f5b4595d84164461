"""LLPF: its ticks against the definition spelt out, arrival, resuming, what is kept, and what is refused."""

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mgraph.data.making import make_task
from mgraph.errors import InputError, NonFiniteError
from mgraph.methods.base import Start
from mgraph.methods.llpf.method import LLPF
from mgraph.network.flat import FlatModel
from mgraph.progress import silent
from mgraph.train.batches import Batches
from mgraph.train.state import InMemory
from mgraph.train.streams import Streams

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(3, 5)) * 2
Y = np.arange(150) % 3
X = (CENTRES[Y] + RNG.normal(size=(150, 5))).astype(np.float32)
TASK = make_task(train=(X[:90], Y[:90]), valid=(X[90:120], Y[90:120]), test=(X[120:], Y[120:]))
FEW = {"batch_size": 16, "min_iters": 2, "max_iters": 4, "lr": 0.05, "loss_threshold": 0.3, "keep_every": 1}


def network(seed=0, *, dropout=0.0):
    torch.manual_seed(seed)
    layers = [nn.Linear(5, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(dropout), nn.Linear(12, 8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(8, 3))


@pytest.fixture(scope="module")
def ends():
    """Two trained modes, canonical."""
    found = []
    for seed in (1, 2):
        module = network(seed)
        optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        for _ in range(150):
            optimiser.zero_grad()
            F.cross_entropy(module(torch.from_numpy(X[:90])), torch.from_numpy(Y[:90])).backward()
            optimiser.step()
        flat = FlatModel(module)
        found.append(flat.unpack(flat.theta).numpy())
    return found


def walk(method, ends, *, checkpointer=None, progress=silent, module=None):
    flat = FlatModel(module or network())
    family = method.family(len(ends))
    method.check(flat, TASK, family)
    method.check_start(flat, TASK, Start(np.eye(len(ends)), ends))
    return method.run(flat, TASK, family, Start(np.eye(len(ends)), ends), progress, checkpointer)


def rows(outcome):
    return np.stack(list(outcome.control_points))


def series(outcome, quantity, subject=""):
    return next(np.array(s.values) for s in outcome.series if (s.quantity, s.subject) == (quantity, subject))


class Reference:
    """The algorithm tensor by tensor, as the methods page writes it; one point for every tick."""

    def __init__(self, how, a, b=None):
        self.how, self.module = how, network().train()
        self.names = [name for name, _ in self.module.named_parameters()]
        self.a, self.b = self.split(a), None if b is None else self.split(b)
        self.x = {name: value.clone() for name, value in self.a.items()}
        streams = Streams.of(how.seed)
        self.batches = Batches(TASK.train, how.batch_size, streams.order, torch.device("cpu"))
        self.units = {}
        for name in self.names:
            self.units.setdefault(name.rpartition(".")[0], []).append(name)

    def split(self, flat):
        shapes = [p.shape for p in self.module.parameters()]
        parts = torch.from_numpy(flat.copy()).split([s.numel() for s in shapes])
        return {name: part.view(s) for name, part, s in zip(self.names, parts, shapes, strict=True)}

    def is_weight(self, name):
        return name.endswith("weight") and not name.startswith("1.")  # module 1 is the BatchNorm

    def distance(self, p, q, names):
        return float(torch.sqrt(sum(((p[n] - q[n]).double() ** 2).sum() for n in names)))

    def train(self, rates):
        """By torch's optimiser, if it is not a plain SGD, a new one in every tick."""
        losses, how = [], self.how
        groups = [{"params": [self.x[name]], "lr": how.lr * float(rates.get(name, 1.0))} for name in self.names]
        if how.optimizer == "adamw":
            optimiser = torch.optim.AdamW(groups, betas=(how.momentum, how.beta2), weight_decay=0.0)
        else:
            optimiser = torch.optim.SGD(groups, momentum=how.momentum)
        for n in range(1, self.how.max_iters + 1):
            with torch.no_grad():
                for p, name in zip(self.module.parameters(), self.names, strict=True):
                    p.copy_(self.x[name])
            self.module.zero_grad()
            x, y = next(self.batches)
            loss = F.cross_entropy(self.module(x), y)
            loss.backward()
            for p, name in zip(self.module.parameters(), self.names, strict=True):
                if how.optimizer == "sgd" and how.momentum == 0:
                    self.x[name] -= self.how.lr * rates.get(name, 1.0) * p.grad
                else:
                    self.x[name].grad = p.grad.clone()
            optimiser.step()
            losses.append(loss.item())
            if n >= self.how.min_iters and np.mean(losses[-self.how.min_iters :]) < self.how.loss_threshold:
                break

    def correct(self, f):
        for unit, names in self.units.items():
            for name in filter(self.is_weight, names):
                before = self.a[name].var(correction=0)
                target = before + (f[unit] * (self.b[name].var(correction=0) - before) if f else 0.0)
                mean = self.x[name].mean()
                self.x[name] = mean + (self.x[name] - mean) * torch.sqrt(target / self.x[name].var(correction=0))

    def to_mode(self, ticks):
        how = self.how
        gap = {unit: self.distance(self.b, self.a, names) for unit, names in self.units.items()}
        points = []
        for _ in range(ticks):
            f = {}
            for unit, names in self.units.items():
                d = self.distance(self.b, self.x, names)
                s = min(d, max(how.step_f + how.step_c * gap[unit], how.step_a * d))
                for name in names:
                    self.x[name] = self.x[name] + (s / d) * (self.b[name] - self.x[name])
                f[unit] = min(1.0, max(0.0, 1.0 - (d - s) / gap[unit]))
            self.correct(f if how.variance_target == "blend" else {})
            self.train({})
            self.correct(f if how.variance_target == "blend" else {})
            points.append(self.point())
        return points

    def to_origin(self, ticks):
        points = []
        for _ in range(ticks):
            rates = {
                n: self.x[n].var(correction=0) / self.a[n].var(correction=0) for n in self.names if self.is_weight(n)
            }
            for name in self.names:
                if not name.startswith("1."):
                    self.x[name] = self.x[name] * (1.0 - self.how.origin_step)
            self.train(rates)
            points.append(self.point())
        return points

    def point(self):
        return np.concatenate([self.x[name].numpy().ravel() for name in self.names])


def farthest(points, expected, how):
    """The largest difference; under AdamW but for the bias before BatchNorm: its gradient is rounding, made a step."""
    apart = np.abs(points - expected)
    return np.delete(apart, np.s_[60:72], axis=-1).max() if how.optimizer == "adamw" else apart.max()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"variance_target": "start"},
        {"step_a": 0.0, "step_f": 0.1},
        {"step_a": 1e-3, "step_f": 0.01, "step_c": 0.02},
        {"step_a": 1.0},
        {"momentum": 0.6},
        {"optimizer": "adamw", "momentum": 0.7, "beta2": 0.9, "lr": 2e-3},
    ],
)
def test_ticks_towards_a_mode_are_those_of_the_definition(ends, changes):
    method = LLPF(ticks=5, groups="all", walk="m2m", **(FEW | changes))
    found = rows(walk(method, ends))
    assert np.array_equal(found[0], ends[0])
    assert np.array_equal(found[-1], ends[1])
    wanted = Reference(method, *ends).to_mode(5)
    for point, expected in zip(found[1:-1], wanted, strict=False):
        assert farthest(point, expected, method) <= (2e-4 if method.optimizer == "adamw" else 2e-5)


@pytest.mark.parametrize("changes", [{}, {"momentum": 0.6}, {"optimizer": "adamw", "momentum": 0.7, "lr": 2e-3}])
def test_ticks_towards_the_origin_are_those_of_the_definition(ends, changes):
    method = LLPF(origin_ticks=6, origin_step=0.02, walk="m2o", **(FEW | changes))
    found = rows(walk(method, ends[:1]))
    assert np.array_equal(found[0], ends[0])
    wanted = Reference(method, ends[0]).to_origin(6)
    assert farthest(found[1:], np.stack(wanted), method) <= 2e-5


def test_the_walk_arrives_and_ends_at_the_destination(ends):
    outcome = walk(LLPF(ticks=1600, **(FEW | {"keep_every": 20})), ends)
    points, family = rows(outcome), outcome.family
    assert np.array_equal(points[[0, -1]], np.stack(ends))
    assert "all: arrived after" in "; ".join(outcome.notes)
    left = series(outcome, "left")[0]
    assert 0 < left <= 0.01
    walked = [np.linalg.norm(q - p) for p, q in pairwise(points.astype(np.float64))]
    assert np.allclose(np.diff(family.knots), walked / np.sum(walked))
    distances = series(outcome, "distance", "4")
    assert distances[-1] <= 0.01 * np.linalg.norm(ends[1][96:200] - ends[0][96:200])
    assert series(outcome, "row").tolist() == list(range(len(points)))
    assert len(series(outcome, "point_loss")) == len(points)
    assert len(series(outcome, "piece_loss")) == len(points) - 1


def test_variances_are_held_between_those_of_the_ends(ends):
    blended = walk(LLPF(ticks=60, groups="all", **FEW), ends)
    pinned = walk(LLPF(ticks=60, groups="all", variance_target="start", **FEW), ends)
    for name, columns in (("0.weight", slice(0, 60)), ("4.weight", slice(96, 192))):
        first, last = (float(np.var(end[columns])) for end in ends)
        assert np.allclose(series(pinned, "variance", name), first, rtol=1e-4)
        seen = series(blended, "variance", name)
        assert np.all(seen >= min(first, last) * (1 - 1e-4))
        assert np.all(seen <= max(first, last) * (1 + 1e-4))
        assert abs(seen[-1] - last) < abs(seen[0] - last)


def test_groups_move_one_after_the_other(ends):
    method = LLPF(groups="0.*,1.*;4.*;*", ticks=4, variance_correction=False, **(FEW | {"lr": 1e-12}))
    outcome = walk(method, ends)
    steps = {layer: series(outcome, "step", layer) > 0 for layer in ("0", "4", "6")}
    assert steps["0"].tolist() == [True] * 12
    assert steps["4"].tolist() == [False] * 4 + [True] * 8
    assert steps["6"].tolist() == [False] * 8 + [True] * 4
    assert series(outcome, "phase").tolist() == [0.0] * 4 + [1.0] * 4 + [2.0] * 4


def test_a_layer_that_begins_to_move_does_not_jump(ends):
    outcome = walk(LLPF(groups="0.*,1.*;*", ticks=30, lr=0.3, **{k: v for k, v in FEW.items() if k != "lr"}), ends)
    seen = series(outcome, "variance", "6.weight")
    assert abs(seen[29] / seen[0] - 1) > 0.02  # training moved it while it was free
    assert abs(seen[30] / seen[29] - 1) < 0.2 * abs(seen[29] / seen[0] - 1)


def test_what_training_leaves_alone_stays_bit_for_bit(ends):
    outcome = walk(LLPF(groups="0.*,1.*;*", ticks=3, train="active", **FEW), ends)
    points = rows(outcome)
    assert np.array_equal(points[1:4, 96:], np.broadcast_to(ends[0][96:], (3, len(ends[0]) - 96)))
    assert not np.array_equal(points[4, 96:], ends[0][96:])


def test_across_variances_the_walk_shrinks_first_and_may_run_backwards(ends):
    larger = (ends[1] * 1.4).astype(np.float32)
    method = LLPF(walk="across", ticks=300, origin_step=0.02, **(FEW | {"keep_every": 10, "loss_threshold": 0.5}))
    for pair, backwards in (([larger, ends[0]], False), ([ends[0], larger], True)):
        outcome = walk(method, pair)
        points = rows(outcome)
        assert np.array_equal(points[[0, -1]], np.stack(pair))
        assert outcome.notes[0].startswith("towards the origin: arrived after")
        assert any("walked from the second mode" in note for note in outcome.notes) == backwards
        ticks = next(np.array(s.positions) for s in outcome.series if s.quantity == "row")
        assert np.all(np.diff(ticks) > 0)
        order = series(outcome, "row")
        assert np.all(np.diff(order) < 0) if backwards else np.all(np.diff(order) > 0)
    few = FEW | {"loss_threshold": 0.5, "ticks": 2, "origin_ticks": 2}
    chosen = LLPF(**few)
    assert walk(chosen, [larger, ends[0]]).notes[0] == "towards the origin: 2 ticks spent after 2 ticks"
    assert walk(chosen, ends).notes[0] == "all: 2 ticks spent after 2 ticks"  # of nearly one size
    assert walk(LLPF(walk="m2m", **few), [larger, ends[0]]).notes[0] == "all: 2 ticks spent after 2 ticks"


def test_a_tick_whose_training_climbs_is_taken_back_and_done_at_half_the_learning_rate(ends):
    settings = FEW | {"lr": 6.0, "ticks": 40}
    as_it_comes, taken_back = (walk(LLPF(take_back=factor, **settings), ends) for factor in (None, 2.0))
    assert series(taken_back, "train_loss").max() < series(as_it_comes, "train_loss").max() / 2
    assert re.search(r"ticks, \d+ times taken back at half the learning rate", taken_back.notes[0])
    assert "taken back" not in as_it_comes.notes[0]
    assert series(taken_back, "iterations").max() > FEW["max_iters"]  # those of all attempts
    calm = FEW | {"ticks": 10}
    assert np.array_equal(*(rows(walk(LLPF(take_back=factor, **calm), ends)) for factor in (None, 3.0)))


def test_towards_the_origin_the_norm_falls_and_norms_stay(ends):
    outcome = walk(LLPF(walk="m2o", shrink=0.7, origin_step=0.02, **FEW), ends[:1])
    assert outcome.found_end
    last, first = rows(outcome)[-1], ends[0]
    moved = np.r_[0:72, 96 : len(first)]
    assert np.linalg.norm(last[moved]) <= 0.7 * np.linalg.norm(first[moved]) * 1.001
    assert series(outcome, "step", "1").max() == 0
    norms = series(outcome, "norm")
    assert np.all(np.diff(norms) < 0)
    assert not any(s.quantity == "distance" for s in outcome.series)
    with pytest.raises(InputError, match="ended before its first tick"):
        walk(LLPF(walk="m2o", max_seconds=1e-9, **FEW), ends[:1])


@pytest.mark.stress
def test_towards_the_origin_layers_that_training_grows_again_are_moved_farther(ends):
    settings = FEW | {"walk": "m2o", "origin_step": 1e-3, "origin_ticks": 1700, "lr": 0.3, "max_iters": 15}
    settings |= {"loss_threshold": 0.12, "take_back": None}
    reasons = [walk(LLPF(origin_push=push, **settings), ends[:1]).notes[0] for push in (1.0, 10.0)]
    assert reasons[0].startswith("towards the origin: 1700 ticks spent")
    assert reasons[1].startswith("towards the origin: arrived")


class Stopped(Exception):
    pass


def stopping(after):
    seen = 0

    def progress(_):
        nonlocal seen
        seen += 1
        if seen == after:
            raise Stopped

    return progress


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"walk": "m2m"}, marks=pytest.mark.stress),  # as the next but two, with less
        {"walk": "across", "origin_step": 0.02},
        pytest.param({"walk": "m2m", "groups": "fdf", "train": "active"}, marks=pytest.mark.stress),  # as the last
        {"walk": "m2m", "lr": 6.0, "take_back": 1.5, "ticks": 30},
        {
            "walk": "m2m",
            "groups": "fdf",
            "train": "active",
            "optimizer": "adamw",
            "momentum": 0.9,
            "lr": 2e-3,
            "ticks": 7,
        },
    ],
)
def test_an_interrupted_walk_goes_on_bit_for_bit(ends, changes):
    settings = FEW | {"keep_every": 4, "piece_error": 0.001, "seed": 3, "ticks": 14, "loss_threshold": 0.7} | changes
    method = LLPF(**settings)
    pair = [(ends[0] * 1.3).astype(np.float32), ends[1]]
    whole = walk(method, pair, checkpointer=InMemory(), module=network(dropout=0.1))
    total = len(series(whole, "step"))
    rng = np.random.default_rng(1)
    for every in (1, 3, 7):
        checkpointer, begun = InMemory(every), 0
        for _ in range(3):
            try:
                walk(
                    method,
                    pair,
                    checkpointer=checkpointer,
                    progress=stopping(int(rng.integers(1, total // 2))),
                    module=network(7, dropout=0.1),
                )
            except Stopped:
                torch.rand(5)  # what happens in between must not matter
                checkpointer = checkpointer.again()
                begun += 1
        resumed = walk(method, pair, checkpointer=checkpointer, module=network(9, dropout=0.1))
        assert begun > 0
        assert np.array_equal(rows(resumed), rows(whole))
        assert resumed.family == whole.family
        assert [s for s in resumed.series if s.quantity != "seconds"] == [
            s for s in whole.series if s.quantity != "seconds"
        ]
        assert resumed.notes == whole.notes
    assert ("taken back" in whole.notes[0]) == ("take_back" in changes)


def test_a_budget_of_seconds_closes_the_path_from_where_it_is(ends):
    outcome = walk(LLPF(max_seconds=1e-9, **FEW), ends)
    assert np.array_equal(rows(outcome), np.stack(ends))
    assert "1e-09 s are spent after 0 ticks" in outcome.notes[0]


def test_the_threshold_is_chosen_by_the_modes_own_loss(ends):
    poor = [end + RNG.normal(size=len(end)).astype(np.float32) * 0.3 for end in ends]
    outcome = walk(LLPF(**(FEW | {"loss_threshold": "auto"}), ticks=3), poor)
    assert len(outcome.control_points) > 2
    with pytest.raises(InputError, match=r"loss_threshold=0\.0001 is below the modes' own train loss .*raise it above"):
        walk(LLPF(**(FEW | {"loss_threshold": 1e-4})), poor)


def test_what_cannot_be_walked_is_refused(ends):
    with pytest.raises(InputError, match="exactly the same parameters"):
        walk(LLPF(), [ends[0], ends[0].copy()])
    with pytest.raises(InputError, match="matches no parameter"):
        walk(LLPF(groups="layer9.*;*"), ends)
    with pytest.raises(InputError, match=r"No group moves 0\.weight"):
        walk(LLPF(groups="1.*"), ends)
    with pytest.raises(InputError, match="exactly 2 modes, or 1 towards the origin by --walk m2o; 1 given"):
        LLPF().family(1)
    with pytest.raises(InputError, match="exactly 2 modes, or 1 towards the origin by --walk m2o; 2 given"):
        LLPF(walk="m2o").family(2)
    with pytest.raises(InputError, match="nothing would move"):
        LLPF(step_a=0, step_f=0)
    with pytest.raises(InputError, match="min_iters=40 is more than max_iters=30"):
        LLPF(min_iters=40)
    with pytest.raises(InputError, match="ticks must be at least 1"):
        LLPF(ticks=0)
    with pytest.raises(
        NonFiniteError, match=r"became (nan|inf|\d).* in tick 1; lower the learning rate \(it was 1e\+20\)"
    ):
        walk(LLPF(lr=1e20), ends)
    with pytest.raises(InputError, match="a walk needs finite ones"):
        walk(LLPF(), [ends[0], np.full_like(ends[0], np.nan)])


@pytest.mark.parametrize("name", list(LLPF.presets))
def test_presets_are_walks(name, ends):
    method = LLPF.preset(name, ticks=2, max_seconds=20)
    text = (
        ";".join(part.partition(":")[0] + ":1" for part in method.groups.split(";"))
        if ":" in method.groups
        else method.groups
    )
    method = LLPF.preset(name, groups=text, ticks=1, batch_size=16, max_iters=method.min_iters, loss_threshold=None)
    outcome = walk(method, ends)
    assert np.array_equal(rows(outcome)[[0, -1]], np.stack(ends))
    pinned = method.variance_target == "start"
    assert pinned == (name != "quick")
