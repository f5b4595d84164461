"""Cycles, insertion, budgets, divergence, and runs that go on where they were stopped."""

import os
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mgraph.data.splits import ArraySplit
from mgraph.errors import InputError, NonFiniteError
from mgraph.methods.neb.autoneb import gaps, relax
from mgraph.methods.neb.cycles import BandSettings, Stage
from mgraph.network.flat import FlatModel, combine
from mgraph.train.driver import LearningRateWarning
from mgraph.train.objective import Objective
from mgraph.train.state import InMemory

MANY = int(os.environ.get("MGRAPH_EXAMPLES", "1"))  # so many times more of them: make stress

GENERATOR = torch.Generator().manual_seed(3)
SPLIT = ArraySplit(torch.randn(50, 4, generator=GENERATOR), torch.arange(50) % 3)
HOW = BandSettings(pivots=2, cycles=("2x4@0.1", "1x3@0.01"), batch_size=16, insert=1, dense=3, seed=5)


def network(seed=0):
    """Dropout and BatchNorm: both have state besides the coordinates."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)]
        return nn.Sequential(*layers)


@cache
def mode(seed):
    """A network trained from a seed, without dropout, as one point."""
    flat = FlatModel(network(seed))
    flat.module[3].eval()
    for _ in range(100):
        flat.grad.zero_()
        F.cross_entropy(flat.module(SPLIT.inputs), SPLIT.targets).backward()
        flat.theta.sub_(flat.grad, alpha=1.0)
    return flat.unpack(flat.theta).numpy()


def line(flat, pivots):
    """A straight chain between two modes."""
    a, b = mode(1), mode(2)
    t = np.linspace(0.0, 1.0, pivots + 2)[:, None]
    points = ((1 - t) * a + t * b).astype(np.float32)
    points[0], points[-1] = a, b
    return points


def measured(flat):
    """The loss on all examples, with their own batch statistics, without dropout."""

    def measure(rows, coefficients, _):
        flat.module.train()
        flat.module[3].eval()
        found = []
        with torch.no_grad():
            for c in coefficients.tolist():
                combine(c, rows, flat.theta)
                found.append(float(F.cross_entropy(flat.module(SPLIT.inputs), SPLIT.targets)))
        return np.array(found)

    return measure


def relaxed(how=HOW, checkpointer=None, points=None, **options):
    flat = FlatModel(network())
    points = line(flat, how.pivots) if points is None else points
    options.setdefault("measure", measured(flat))
    loss = options.pop("loss", F.cross_entropy)
    return relax(
        Objective(flat, loss, SPLIT), points, how, options.pop("measure"), checkpointer=checkpointer, **options
    )


@cache
def uninterrupted():
    return relaxed()


# Gaps


def test_the_gap_is_the_excess_over_the_pivots_by_hand():
    # Three pivots 0, 2, 4 and one point inside each piece; range 0 to 5.
    values = np.array([0.0, 3.0, 2.0, 2.5, 4.0])
    # Piece 0: 3 against 1 between the pivots, 2 too much of a range of 4; piece 1: 2.5 against 3, nothing.
    assert gaps(values, 1) == [(0.5, 0, 0.5), (0.0, 1, 0.5)]


def test_where_the_excess_is_largest_is_where_the_pivot_goes():
    values = np.array([0.0, 1.0, 6.0, 0.0])  # against 0 everywhere, at a third and at two thirds
    (gap,) = gaps(values, 2)
    assert gap == (1.0, 0, pytest.approx(2 / 3))


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.integers(1, 5))
def test_a_chain_that_is_straight_in_the_loss_has_no_gap(pivots, inside):
    t = np.arange(len(pivots), dtype=np.float64)
    values = np.interp(np.linspace(0, t[-1], (len(pivots) - 1) * (inside + 1) + 1), t, pivots)
    assert all(share < 1e-9 for share, _, _ in gaps(values, inside)) or np.ptp(values) < 1e-6


def test_at_most_so_many_pivots_are_inserted_and_only_where_a_gap_asks():
    run = relaxed(replace(HOW, insert=1, gap=0.0))
    assert [r.pivots for r in run.history] == [2, 2, 3, 4]  # after the last cycle none: it would not be relaxed
    assert [r.pivots for r in relaxed(replace(HOW, insert=0)).history] == [2] * 4
    assert [r.pivots for r in relaxed(replace(HOW, gap=1.0)).history] == [2] * 4


def test_the_history_tells_what_each_cycle_came_to():
    run = relaxed()
    assert [r.cycle for r in run.history] == [0, 1, 2, 3]
    assert [r.lr for r in run.history] == [0.0, 0.1, 0.1, 0.01]
    assert run.best == min(run.history, key=lambda r: r.saddle)
    assert all(0 <= r.at <= 1 and r.length > 0 for r in run.history)
    assert run.ended == "all its cycles are done"


def test_the_chain_of_the_lowest_saddle_is_kept():
    flat = FlatModel(network())
    honest = measured(flat)

    def worse_and_worse(rows, coefficients, what):
        return honest(rows, coefficients, what) + {"start": 9.0, "dense 1": 0.0}.get(what, 5.0)

    how = replace(HOW, insert=0)
    run = relax(Objective(flat, F.cross_entropy, SPLIT), line(flat, 2), how, worse_and_worse)
    one = relaxed(replace(how, cycles=("1x4@0.1",)))
    assert run.best.cycle == 1
    assert "the chain after cycle 1 has the lowest saddle and is kept" in run.notes
    np.testing.assert_array_equal(run.points, one.points)


# Stops and budgets


def test_a_budget_of_steps_ends_a_cycle_in_between():
    run = relaxed(replace(HOW, max_steps=6))
    assert run.ended == "6 steps are spent"
    assert [r.cycle for r in run.history] == [0, 1, 2]
    np.testing.assert_array_equal(
        relaxed(replace(HOW, max_steps=4)).points, relaxed(replace(HOW, cycles=("1x4@0.1",))).points
    )


def test_a_budget_of_seconds_ends_it_with_what_there_is():
    points = line(FlatModel(network()), 2)
    run = relaxed(replace(HOW, max_seconds=1e-9), points=points)
    assert run.ended == "1e-09 s are spent"
    np.testing.assert_array_equal(run.points, points)


def test_it_stops_at_its_target():
    saddles = [r.saddle for r in relaxed().history]
    target = saddles[2]
    run = relaxed(replace(HOW, target=target))
    assert run.ended == f"the saddle is at most the target, {target:g}"
    assert run.best.saddle <= target
    assert len(run.history) == 1 + next(i for i, s in enumerate(saddles) if s <= target)


def test_a_saddle_that_no_longer_falls_ends_the_cycles_of_its_learning_rate():
    flat = FlatModel(network())
    constant = {"measure": lambda rows, coefficients, _: np.ones(len(coefficients))}
    how = replace(HOW, cycles=("4x2@0.1", "3x2@0.01"), stop=("saddle",))
    run = relax(Objective(flat, F.cross_entropy, SPLIT), line(flat, 2), how, **constant)
    assert [(r.cycle, r.lr) for r in run.history] == [(0, 0.0), (1, 0.1), (2, 0.1), (5, 0.01), (6, 0.01)]
    assert run.ended == "the saddle no longer falls"
    assert "after cycle 2 the saddle no longer falls: cycles at the next learning rate" in run.notes
    run = relax(Objective(flat, F.cross_entropy, SPLIT), line(flat, 2), replace(how, stop=("gaps",)), **constant)
    assert run.ended == "no gap asks for a pivot"
    assert (
        len(relax(Objective(flat, F.cross_entropy, SPLIT), line(flat, 2), replace(how, stop=()), **constant).history)
        == 8
    )


# Divergence


def test_a_cycle_that_diverges_begins_again_with_half_the_learning_rate():
    calls = 0

    def once_infinite(outputs, targets):
        nonlocal calls
        calls += 1
        loss = F.cross_entropy(outputs, targets)
        return loss * (float("inf") if calls == 10 else 1.0)

    with pytest.warns(LearningRateWarning, match=r"cycle begins again with half the learning rate, 0\.05"):
        run = relaxed(replace(HOW, cycles=("1x4@0.1",)), loss=once_infinite)
    assert run.notes[0] == "cycle 1 diverged and began again at learning rate 0.05"
    assert run.history[1].lr == 0.05
    assert np.isfinite(run.points).all()


@pytest.mark.filterwarnings("ignore::mgraph.train.driver.LearningRateWarning")
def test_a_cycle_that_diverges_at_every_learning_rate_is_given_up():
    with pytest.raises(NonFiniteError, match="lower the learning rate"):
        relaxed(replace(HOW, cycles=("1x5@1e25",), insert=0, spring=1.0))


def test_a_start_that_is_not_finite_is_refused():
    flat = FlatModel(network())
    with pytest.raises(NonFiniteError, match="not finite everywhere between the ends"):
        relax(Objective(flat, F.cross_entropy, SPLIT), line(flat, 2), HOW, lambda *a: np.full(len(a[1]), np.inf))


# Going on


@settings(deadline=None, max_examples=6 * MANY)
@given(st.integers(1, 11), st.integers(1, 9))
def test_stopped_anywhere_and_gone_on_with_it_ends_at_the_very_same_chain(every, stop):
    """States are saved at every ``every``-th step and after cycles; the ``stop``-th progress after one is the end."""
    whole = uninterrupted()
    steps = 0

    def interrupt(_):
        nonlocal steps
        steps += 1
        if steps == stop:
            raise KeyboardInterrupt

    checkpointer = InMemory(every=every)
    for _ in range(40):
        steps = 0
        try:
            run = relaxed(checkpointer=checkpointer, progress=interrupt)
            break
        except KeyboardInterrupt:
            torch.manual_seed(99)  # whatever happens in between
            checkpointer = checkpointer.again()
            stop += 2  # so that it gets somewhere
    assert whole.best.cycle > 0
    np.testing.assert_array_equal(run.points, whole.points)
    assert [(r.saddle, r.pivots, r.train_loss) for r in run.history] == [
        (r.saddle, r.pivots, r.train_loss) for r in whole.history
    ]


@pytest.mark.parametrize("changes", [{"optimizer": "adamw", "lr": 0.01}, {"nesterov": True}])
def test_with_other_optimisers_it_goes_on_at_the_very_same_chain(changes):
    how, steps = replace(HOW, gap=0.0, cycles=("3x4",), **changes), 0

    def interrupt(_):
        nonlocal steps
        steps += 1
        if steps == 7:
            raise KeyboardInterrupt

    checkpointer = InMemory(every=1)
    with pytest.raises(KeyboardInterrupt):
        relaxed(how, checkpointer=checkpointer, progress=interrupt)
    whole = relaxed(how)
    assert whole.history[-1].pivots == 4
    np.testing.assert_array_equal(relaxed(how, checkpointer=checkpointer.again()).points, whole.points)
    assert not np.array_equal(whole.points, relaxed(replace(HOW, gap=0.0, cycles=("3x4@0.01",))).points)


def test_going_on_after_the_last_state_only_returns_the_result():
    checkpointer = InMemory()
    whole = relaxed(checkpointer=checkpointer)
    again = relaxed(checkpointer=checkpointer.again(), measure=lambda *_: pytest.fail("nothing is left to measure"))
    np.testing.assert_array_equal(again.points, whole.points)
    assert again.history == whole.history


def test_a_state_is_saved_after_every_cycle_even_if_it_is_never_time():
    class Counting(InMemory):
        saved = 0

        def save(self, state):
            self.saved += 1
            super().save(state)

    checkpointer = Counting(every=0)
    relaxed(checkpointer=checkpointer)
    assert checkpointer.saved == 4  # the start and three cycles


def test_it_does_not_touch_the_random_state_of_the_program():
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    relaxed()
    torch.testing.assert_close(torch.rand(1), expected)


def test_the_same_seed_gives_the_same_chain_and_another_one_another():
    np.testing.assert_array_equal(relaxed().points, relaxed().points)
    assert not np.array_equal(relaxed().points, relaxed(replace(HOW, seed=6)).points)


# Settings


def test_stages_are_written_as_cycles_steps_and_learning_rate():
    assert Stage.parse("4x1000@0.1") == Stage(4, 1000, 0.1)
    assert Stage.parse("1x60") == Stage(1, 60)
    for wrong in ("4", "x5", "4x", "0x5", "4x0", "4x10@0", "4x10@1e400", "4x10@e", "-1x5", "4x10@-1"):
        with pytest.raises(InputError):
            Stage.parse(wrong)
    for wrong in ({"cycles": ()}, {"stop": ("often",)}, {"max_steps": 0}, {"max_seconds": 0}, {"target": 0}):
        with pytest.raises(InputError):
            BandSettings(**wrong)
