"""Fast ensembles, weight averages, sharpness-aware steps and simplices, beside the same spelt out in plain torch."""

import copy
from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mgraph.data.making import make_task
from mgraph.errors import InputError
from mgraph.network.flat import FlatModel
from mgraph.train.mode import check_training, train_mode
from mgraph.train.plan import Plan
from mgraph.train.schedules import Span, averaged, lowest, schedule_of
from mgraph.train.settings import TrainSettings
from mgraph.train.state import InMemory
from mgraph.train.streams import Streams


def task(count=60):
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((count, 6)).astype(np.float32), np.arange(count) % 3
    return make_task(train=(x, y), valid=(x, y), test=(x, y))


def network(seed=0):
    torch.manual_seed(seed)
    return FlatModel(nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)))


def weights(module):
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def passes(data, epochs, batch=20, seed=0):
    """The batches that a training sees."""
    order = Streams.of(seed).order
    for _ in range(epochs):
        yield from data.train.batches(batch, order=torch.randperm(len(data.train), generator=order))


# When copies are made


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.integers(2, 60), st.floats(0, 0.9))
def test_members_of_fge_are_where_the_rate_is_lowest(epochs, period, low):
    """i mod c = c/2 in [G] algorithm 1."""
    span, text = Span(7 * epochs + 60, 7), f"cyclic?period={period}&low={low:.3f}"
    rate = schedule_of(text, span)
    factors = [rate(done / span.steps) for done in range(span.steps)]
    places = lowest(text, span)
    assert list(places) == [i for i in range(1, span.steps + 1) if i % period == period // 2 % period]
    assert all(factors[i - 1] == pytest.approx(min(factors)) for i in places)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(70, 400), st.integers(0, 20))
def test_snapshots_are_taken_before_every_restart(cycles, grow, steps, warmup):
    text = f"restarts?cycles={cycles}&grow={grow}" + (f"&warmup={warmup}" if warmup else "")
    if grow**cycles > steps // 2:
        return
    rate = schedule_of(text, Span(steps, 10))
    factors = [rate(done / steps) for done in range(steps)]
    rises = [done for done in range(max(1, warmup + 1), steps) if factors[done] > factors[done - 1]]
    assert list(lowest(text, Span(steps, 10))) == [*rises, steps]


@pytest.mark.parametrize(("period", "members", "epochs"), [(2, 11, 21), (4, 6, 22)])
def test_fge_stops_at_its_last_member_and_counts_as_the_paper_does(period, members, epochs):
    """[G] appendix A.5: in 22 epochs 11 members for cycles of 2 epochs, 6 for cycles of 4."""
    plan = Plan.of(TrainSettings(fge=True, schedule=f"cyclic?period={period}ep", epochs=22), 10)
    assert (len(plan.copies), plan.steps, plan.ends_in_member) == (members, 10 * epochs, True)
    assert [copied.facts["cycle"] for copied in plan.copies.values()] == list(range(1, members + 1))
    assert [copied.facts["epoch"] for copied in plan.copies.values()] == list(range(period // 2, 23, period))


def test_averages_are_taken_at_a_rate_that_stays_or_at_the_end_of_cycles():
    span = Span(80, 10)
    assert averaged("swa?from=0.75&low=0.5", span) == (60, 70, 80)
    assert averaged("constant", span) == tuple(range(10, 81, 10))
    assert averaged("cyclic?period=2ep", span) == (10, 30, 50, 70)
    assert averaged("restarts?cycles=4", span) == (20, 40, 60, 80)
    rate = schedule_of("swa?from=0.75&low=0.5", span)  # the code of Izmailov et al.
    for done in range(80):
        t = done / 80 / 0.75
        expected = 1.0 if t <= 0.5 else 1.0 - 0.5 * (t - 0.5) / 0.4 if t <= 0.9 else 0.5
        assert rate(done / 80) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"fge": True, "snapshot": True}, "fge and snapshot are trainings of different kinds"),
        ({"swa": True, "simplex": 3}, "swa and simplex are trainings"),
        ({"fge": True, "schedule": "cosine"}, "fge needs a schedule cyclic, not cosine"),
        ({"snapshot": True, "schedule": "cyclic?period=2ep"}, "snapshot needs a schedule restarts, not cyclic"),
        ({"swa": True, "schedule": "cosine"}, "swa needs a schedule swa or constant .* others decay to nothing"),
        ({"swa": True, "schedule": "curve"}, "not curve"),
        ({"fge": True, "keep": (2,)}, "keep and fge would both give the names NAME-1"),
        ({"simplex": 3, "ema": 0.9}, "ema averages one point"),
        ({"simplex": 1}, "simplex must be at least 2"),
        ({"sam": 0}, "sam must be above 0"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(asked, message):
    with pytest.raises(InputError, match=message):
        TrainSettings.parse(asked)


def test_a_training_too_short_for_its_schedule_is_refused():
    for asked, message in (
        ({"fge": True, "epochs": 3}, "4ep is 12 steps, and the phase has only 9"),
        ({"snapshot": True, "schedule": "restarts?cycles=20"}, "a cycle without a step of its own"),
        ({"fge": True, "schedule": "cyclic?period=1"}, "a cycle without a step of its own"),
        ({"swa": True, "schedule": "restarts?cycles=20"}, "a cycle without a step"),
    ):
        with pytest.raises(InputError, match=message):
            check_training(network(), task(), TrainSettings(batch_size=20, **{"epochs": 4} | asked))


def test_the_schedule_is_what_was_asked_for():
    assert TrainSettings().schedule == "curve"
    assert TrainSettings(fge=True).schedule == "cyclic?period=4ep&low=0.01"
    assert TrainSettings(snapshot=True).schedule == "restarts?cycles=5"
    assert TrainSettings(swa=True).schedule == "swa?from=0.75&low=0.5"
    assert TrainSettings(swa=True, schedule="constant").schedule == "constant"


# What is trained


def test_members_and_the_mean_are_those_of_plain_torch():
    settings = TrainSettings(epochs=4, batch_size=20, lr=0.2, swa=True, schedule="cyclic?period=1ep&low=0.1")
    data, flat, kept = task(), network(), {}
    trained = train_mode(flat, data, settings)
    fge = network()
    members = TrainSettings(epochs=4, batch_size=20, lr=0.2, fge=True, schedule="cyclic?period=1ep&low=0.1")
    train_mode(fge, data, members, collect=lambda step: kept.update({step: weights(fge.module)}))
    plain = network().module
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.2, momentum=0.9, weight_decay=5e-4)
    averages = torch.optim.swa_utils.AveragedModel(plain)
    rate, expected = schedule_of(settings.schedule, Span(12, 3)), {}
    for step, (x, y) in enumerate(passes(data, 4)):
        optimiser.param_groups[0]["lr"] = 0.2 * rate(step / 12)
        optimiser.zero_grad()
        F.cross_entropy(plain(x), y).backward()
        optimiser.step()
        if (step + 1) % 3 == 1:
            averages.update_parameters(plain)
            expected[step + 1] = weights(plain)
    assert list(kept) == list(expected) == [1, 4, 7, 10]
    for step, point in kept.items():
        assert torch.allclose(point, expected[step], atol=1e-6)
    assert torch.equal(weights(fge.module), kept[10])  # it ends there
    assert trained.taken == 4
    assert torch.allclose(flat.unpack(trained.mean), weights(averages.module), atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adamw", "lr": 0.01}, {"clip": 0.1, "nesterov": True}], ids=str)
def test_a_sharpness_aware_step_is_that_of_the_paper(changes):
    how = {"epochs": 3, "batch_size": 20, "lr": 0.1, "schedule": "constant", "sam": 0.2, "weight_decay": 0.01} | changes
    data, flat, settings = task(), network(), TrainSettings(**how)
    history = {s.quantity: s for s in train_mode(flat, data, settings).history}
    plain = network().module
    if settings.optimizer == "adamw":
        optimiser = torch.optim.AdamW(plain.parameters(), lr=0.01, betas=(0.9, 0.999), weight_decay=0.01)
    else:
        optimiser = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, nesterov=settings.nesterov)
    losses, right = [], []
    for x, y in passes(data, 3):
        out = plain(x)
        loss = F.cross_entropy(out, y)
        losses.append(float(loss.detach()))
        right.append(float((out.argmax(1) == y).float().mean()))
        optimiser.zero_grad()
        loss.backward()
        statistics = {k: b.clone() for k, b in plain.named_buffers()}
        here = [p.detach().clone() for p in plain.parameters()]
        norm = torch.sqrt(sum(p.grad.square().sum() for p in plain.parameters()))
        with torch.no_grad():
            for p in plain.parameters():
                p.add_(0.2 * p.grad / norm)
        optimiser.zero_grad()
        F.cross_entropy(plain(x), y).backward()
        with torch.no_grad():
            for p, value in zip(plain.parameters(), here, strict=True):
                p.copy_(value)
                if settings.optimizer == "sgd":
                    p.grad.add_(p, alpha=0.01)
            for name, buffer in plain.named_buffers():  # those of the point itself
                buffer.copy_(statistics[name])
        if settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(plain.parameters(), settings.clip)
        optimiser.step()
    assert torch.allclose(weights(flat.module), weights(plain), atol=2e-5)
    for mine, other in zip(flat.module.buffers(), plain.buffers(), strict=True):
        assert torch.allclose(mine, other, atol=1e-5)
    assert history["train_loss"].values == pytest.approx(losses, abs=1e-5)
    assert history["train_accuracy"].values == pytest.approx([right[0]])


def test_a_simplex_is_that_of_learning_subspaces():
    """Wortsman et al. 2021, algorithm 1 without its regulariser, at n times the learning rate."""
    settings = TrainSettings(epochs=3, batch_size=20, lr=0.1, schedule="constant", simplex=3, weight_decay=0.01)
    data, vertices = task(), [network(seed) for seed in range(3)]
    trained = train_mode(vertices[0], data, settings, others=[v.theta.clone() for v in vertices[1:]])
    plain = network().module
    points = torch.stack([weights(network(seed).module) for seed in range(3)]).requires_grad_()
    optimiser = torch.optim.SGD([points], lr=0.3, momentum=0.9)
    draws, shapes = Streams.of(0).draws, [p.shape for p in plain.parameters()]
    t = draws.random((256, 1, 2))
    for (x, y), at in zip(passes(data, 3), t[:, 0], strict=False):
        a, b = sorted(at)
        theta = torch.tensor([a, b - a, 1 - b], dtype=torch.float32) @ points
        parts = torch.split(theta, [s.numel() for s in shapes])
        named = {n: p.view(s) for (n, _), p, s in zip(plain.named_parameters(), parts, shapes, strict=True)}
        loss = F.cross_entropy(torch.func.functional_call(plain, named, (x,)), y)
        optimiser.zero_grad()
        (loss + 0.005 * theta.square().sum()).backward()
        optimiser.step()
    found = torch.stack([vertices[0].unpack(v) for v in trained.vertices])
    assert torch.allclose(found, points, atol=2e-5)
    assert torch.allclose(weights(vertices[0].module), points.mean(dim=0), atol=2e-5)
    distance = next(s for s in trained.history if s.quantity == "distance").values[-1]
    moved = points.mean(dim=0) - torch.stack([weights(network(seed).module) for seed in range(3)]).mean(dim=0)
    assert distance == pytest.approx(float(moved.detach().norm()), rel=1e-3)


def test_points_of_a_simplex_in_training_are_uniform():
    from mgraph.train.mode import _Between

    c = _Between(4).coefficients(np.random.default_rng(0).random((20_000, 3)))
    assert (c >= 0).all()
    assert np.allclose(c.sum(axis=1), 1)
    assert np.allclose(c.mean(axis=0), 0.25, atol=0.01)
    assert np.allclose((c**2).mean(axis=0), 2 / 20, atol=0.005)  # of Dirichlet(1, 1, 1, 1)


@pytest.mark.parametrize(
    "changes",
    [{"fge": True, "schedule": "cyclic?period=1ep"}, {"snapshot": True, "sam": 0.1}, {"swa": True}, {"simplex": 3}],
    ids=lambda c: next(iter(c)),
)
def test_all_go_on_bit_for_bit(changes):
    class Stopped(Exception):
        pass

    settings = TrainSettings(epochs=5, batch_size=20, lr=0.2, augment=None, **changes)
    others = [network(seed).theta.clone() for seed in range(1, settings.simplex or 1)]

    def run(checkpointer, stop=None):
        flat, seen = network(), count(1)

        def progress(_):
            if next(seen) == stop:
                raise Stopped

        def collect(step):
            checkpointer.append({"theta": flat.theta.numpy(), **{k: b.numpy() for k, b in flat.module.named_buffers()}})

        trained = train_mode(
            flat, task(), settings, others=others, collect=collect, progress=progress, checkpointer=checkpointer
        )
        kept = [checkpointer.appended(i) for i in range(checkpointer.count)]
        mean = [] if trained.mean is None else [trained.mean]
        buffers = list(flat.module.buffers())
        tensors = [t.numpy().tobytes() for t in (flat.theta, *buffers, *mean, *trained.vertices)]
        return tensors, [{k: a.tobytes() for k, a in one.items()} for one in kept], trained.history, trained.taken

    whole = run(InMemory())
    for stop in (2, 9):
        checkpointer = InMemory(2)
        with pytest.raises(Stopped):
            run(checkpointer, stop)
        assert run(copy.copy(checkpointer.again())) == whole
