"""The driver: batches, schedules, progress, divergence, budgets and saved states, of whatever goes step by step."""

import math
import os
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mgraph.data.splits import ArraySplit
from mgraph.errors import InputError, NonFiniteError
from mgraph.network.flat import FlatModel
from mgraph.progress import Progress
from mgraph.train.driver import Driver, LearningRateWarning
from mgraph.train.schedules import SCHEDULES, constant_schedule, cosine_schedule, curve_schedule
from mgraph.train.settings import Optimisation
from mgraph.train.snapshots import to_array, to_tensor
from mgraph.train.state import InMemory, State
from mgraph.train.stepper import DivergedError, Stepper, TrainingSegment
from mgraph.train.streams import Streams

MANY = int(os.environ.get("MGRAPH_EXAMPLES", "1"))  # so many times more of them: make stress


class Descent(Stepper):
    """Gradient descent in two phases: all that a method has to say for itself."""

    def __init__(self, driver, flat, phases):
        self.driver, self.flat, self.left = driver, flat, list(phases)

    def start(self):
        self.driver.notes.append("begun")

    def segment(self):
        return self.left[0] if self.left else None

    def begin(self, segment, *, anew):
        pass

    def step(self, batches, lr):
        x, y = next(batches)
        self.flat.grad.zero_()
        loss = F.mse_loss(self.flat.module(x), y)
        loss.backward()
        self.flat.theta.sub_(self.flat.grad, alpha=lr)
        return loss.detach()

    def mark(self):
        self.before = self.flat.theta.clone()

    def back(self):
        self.flat.theta.copy_(self.before)

    def state(self):
        return {"left": len(self.left)}, {"theta": to_array(self.flat.theta), "before": to_array(self.before)}

    def load(self, values, arrays):
        self.left = self.left[-values["left"] :]
        self.flat.theta.copy_(to_tensor(arrays["theta"]))
        self.before = to_tensor(arrays["before"])

    def end(self, segment, why):
        if why:
            self.driver.notes.append(why)
        self.left = [] if why else self.left[1:]

    def leave(self):
        pass


GENERATOR = torch.Generator().manual_seed(1)
DATA = ArraySplit(torch.randn(30, 3, generator=GENERATOR), torch.randn(30, 1, generator=GENERATOR))
HOW = Optimisation(batch_size=8, seed=4)
PHASES = (TrainingSegment("first", 7, 0.1), TrainingSegment("second", 5, 0.05, schedule=cosine_schedule))


def descended(how=HOW, phases=PHASES, checkpointer=None, progress=lambda _: None):
    """Return the weights and the driver after a descent."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        flat = FlatModel(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1)))
    driver = Driver(flat, DATA, how, least=2, checkpointer=checkpointer, progress=progress)
    driver.run(Descent(driver, flat, phases))
    return flat.theta.clone(), driver


class Recording(Descent):
    """Notes what it is given; ``losses`` says by the number of the step what comes of it."""

    def __init__(self, driver, flat, phases, losses, after):
        super().__init__(driver, flat, phases)
        self.batches, self.rates, self.losses, self.told = [], [], losses, after

    halvings = 0

    def begin(self, segment, *, anew):
        self.driver.batches.begin_pass()

    def step(self, batches, lr):
        x, _ = next(batches)
        self.batches.append(x[:, 0].int().tolist())
        self.rates.append(lr)
        return torch.tensor(1.0 if self.losses is None else self.losses(len(self.batches)))

    def after(self, done):
        self.told(done)


def run(count, batch_size, epochs=1, losses=None, least=2, phase="train", schedule=curve_schedule, **further):
    """Return the batches, as lists of example numbers, and the learning rates."""
    split = ArraySplit(torch.arange(count).float()[:, None], torch.zeros(count, dtype=torch.int64))
    after = further.pop("after", lambda done: None)
    flat = FlatModel(nn.Linear(1, 1))
    driver = Driver(flat, split, Optimisation(batch_size=batch_size), least=least, **further)
    segment = TrainingSegment(phase, epochs * driver.batches.per_pass, 2.0, schedule=schedule)
    method = Recording(driver, flat, [segment], losses, after)
    driver.run(method)
    return method.batches, method.rates


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [
        (8, 4, [4, 4]),
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 4]),  # a last batch of one has no batch statistics
        (1, 4, [1]),
        (3, 8, [3]),
        (3, 1, [1, 1, 1]),  # asked for, so it is not a leftover
        (1, 1, [1]),
    ],
)
def test_batches_cover_the_data_but_for_a_last_single_example(count, batch_size, sizes):
    batches, _ = run(count, batch_size, epochs=2)
    assert [len(b) for b in batches] == sizes * 2
    for epoch in (batches[: len(sizes)], batches[len(sizes) :]):
        seen = [example for batch in epoch for example in batch]
        assert len(set(seen)) == len(seen) == sum(sizes)


@pytest.mark.parametrize(("least", "sizes"), [(3, [5, 5, 3]), (4, [5, 5]), (1, [5, 5, 3])])
def test_a_last_batch_that_is_too_small_is_left_out(least, sizes):
    batches, _ = run(13, 5, epochs=2, least=least)
    assert [len(b) for b in batches] == sizes * 2
    only, _ = run(3, 5, least=least)
    assert [len(b) for b in only] == [3]


def test_every_epoch_is_shuffled_anew():
    batches, _ = run(20, 20, epochs=3)
    assert len({tuple(b) for b in batches}) == 3


def test_what_follows_a_step_comes_after_its_report():
    told = []
    run(20, 5, epochs=3, after=lambda done: told.append((done, len(seen))), progress=(seen := []).append)
    assert told == [(done, done) for done in range(1, 13)]


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
@pytest.mark.parametrize(("count", "per_epoch"), [(20, 5), (21, 5)])
def test_the_schedule_runs_over_all_steps(count, per_epoch, schedule):
    reports = []
    _, rates = run(count, 4, epochs=4, progress=reports.append, phase="edge", schedule=schedule)
    total = 4 * per_epoch
    assert rates == [2.0 * schedule(i / total) for i in range(total)]
    assert reports == [Progress("edge", i, total, 1.0, examples=4) for i in range(1, total + 1)]


def test_the_curve_schedule_is_constant_then_linear_then_one_percent():
    assert [curve_schedule(p) for p in (0.0, 0.49, 0.5)] == [1.0] * 3
    assert curve_schedule(0.7) == pytest.approx((1 + 0.01) / 2)
    assert curve_schedule(0.9 - 1e-12) == pytest.approx(0.01)
    assert [curve_schedule(p) for p in (0.9, 0.999)] == [0.01] * 2


def test_the_cosine_schedule_is_half_a_cosine():
    assert cosine_schedule(0.0) == 1.0
    assert cosine_schedule(0.5) == pytest.approx(0.5)
    assert cosine_schedule(0.25) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert 0 < cosine_schedule(0.999) < 1e-5


def test_the_constant_schedule_is_one():
    assert [constant_schedule(p) for p in (0.0, 0.5, 0.999)] == [1.0] * 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_stops_at_its_step(value):
    with pytest.raises(NonFiniteError, match=r"step 3 of 10 \(train\).*\(it was 2\)") as error:
        run(20, 4, epochs=2, losses=lambda i: value if i >= 3 else 1.0)
    assert str(value) in str(error.value)
    assert isinstance(error.value.__context__, DivergedError)
    assert error.value.__context__.steps == 3


def test_streams_of_a_seed_are_reproducible_and_independent():
    def first(seed):
        streams = Streams.of(seed)
        return torch.randperm(50, generator=streams.order).tolist(), streams.draws.random(5).tolist(), streams.network

    assert first(3) == first(3)
    for mine, other in zip(first(3), first(4), strict=True):
        assert mine != other
    streams = Streams.of(3)
    torch.randperm(1000, generator=streams.order)
    assert streams.draws.random(5).tolist() == first(3)[1]


# Divergence


def test_a_segment_that_diverges_begins_again_where_it_began_at_half_the_rate():
    fast = TrainingSegment("second", 40, 16.0)
    with pytest.warns(LearningRateWarning, match=r"of 40 \(second\): the phase begins again with half the") as caught:
        found, driver = descended(phases=[PHASES[0], fast])
    rates = [16.0 / 2 ** (i + 1) for i in range(len(caught))]
    assert driver.notes[1:] == [f"phase second diverged and began again at learning rate {r:g}" for r in rates]
    assert driver.scale == 1.0  # another segment would begin at its own rate
    assert torch.isfinite(found).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearningRateWarning)
        with pytest.raises(NonFiniteError, match=r"\(it was 1\.5625e\+28\)"):
            descended(phases=[PHASES[0], replace(fast, lr=1e30)])


# Budgets


@pytest.mark.parametrize(("steps", "name"), [(3, "first"), (7, "first"), (9, "second")])
def test_a_budget_of_steps_ends_a_run_at_that_very_step(steps, name):
    seen = []
    stopped, driver = descended(replace(HOW, max_steps=steps), progress=seen.append)
    assert (driver.steps, len(seen), seen[-1].phase) == (steps, steps, name)
    assert driver.notes == ["begun", f"{steps} steps are spent"]
    exactly, _ = descended(phases=[replace(PHASES[0], steps=steps)] if steps <= 7 else [PHASES[0]])
    assert torch.equal(stopped, exactly) == (steps <= 7)


def test_a_budget_of_time_ends_a_run_and_counts_what_was_spent_before_an_interruption():
    start, driver = descended(replace(HOW, max_seconds=1e-9))
    assert driver.steps == 0
    assert driver.notes == ["begun", "1e-09 s are spent"]
    assert not torch.equal(start, descended()[0])
    checkpointer = stopped_at(4)
    state = checkpointer.last
    values = {**state.values, "driver": {**state.values["driver"], "seconds": 1e9}}
    checkpointer.save(State(values, state.arrays))
    _, driver = descended(replace(HOW, max_seconds=1e8), checkpointer=checkpointer)
    assert (driver.steps, driver.notes) == (3, ["begun", "1e+08 s are spent"])


# Going on


class Stopped(Exception):
    pass


def stopped_at(step, checkpointer=None, every=1, how=HOW):
    """Return what an interrupted run leaves behind: a checkpointer with the state of the step before."""
    seen = 0

    def progress(_):
        nonlocal seen
        seen += 1
        if seen == step:
            raise Stopped

    checkpointer = checkpointer or InMemory(every)
    with pytest.raises(Stopped):
        descended(how, checkpointer=checkpointer, progress=progress)
    return checkpointer.again()


@given(stop=st.integers(1, 12), every=st.integers(1, 5))
@settings(deadline=None, max_examples=8 * MANY)
def test_stopped_anywhere_it_goes_on_bit_for_bit(stop, every):
    whole, driver = descended()
    found, resumed = descended(checkpointer=stopped_at(stop, every=every))
    assert torch.equal(found, whole)
    assert (resumed.steps, resumed.notes) == (driver.steps, driver.notes)


def test_a_state_of_another_version_is_refused():
    checkpointer = InMemory()
    checkpointer.save(State({"phase": 0}))
    with pytest.raises(InputError, match="written by another version of mgraph; give the command again"):
        descended(checkpointer=checkpointer)
