"""Training that is interrupted anywhere and goes on ends where the uninterrupted one does, bit for bit."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mgraph.data.making import make_task
from mgraph.errors import NonFiniteError
from mgraph.methods.base import Start
from mgraph.methods.curves.path import BezierCurve, PolygonalChain
from mgraph.methods.curves.surface import BezierSurface
from mgraph.network.flat import FlatModel
from mgraph.progress import silent
from mgraph.train import updates
from mgraph.train.driver import LearningRateWarning
from mgraph.train.mode import train_mode
from mgraph.train.settings import TrainSettings
from mgraph.train.state import InMemory

MANY = int(os.environ.get("MGRAPH_EXAMPLES", "1"))  # so many times more of them: make stress


class Stopped(Exception):
    """Stands for whatever ends a process."""


def stop_at(calls):
    """A report that raises when it is called for the given time, counted from 1."""
    count = 0

    def progress(_):
        nonlocal count
        count += 1
        if count == calls:
            raise Stopped

    return progress


def interrupted(run, every, stops):
    """Run, saving at every ``every``-th step, interrupted after each of the ``stops``; return the result."""
    checkpointer = InMemory(every)
    for stop in stops:
        try:
            return run(stop_at(stop), checkpointer)
        except Stopped:
            checkpointer = checkpointer.again()
    return run(silent, checkpointer)


def task(count=40):
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((count, 6)).astype(np.float32), np.arange(count) % 3
    return make_task(train=(x, y), valid=(x, y), test=(x, y), classes=3)


def network(*, normalised=False, dropout=0.0):
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), *([nn.BatchNorm1d(8)] if normalised else []), nn.ReLU()]
    return FlatModel(nn.Sequential(*layers, *([nn.Dropout(dropout)] if dropout else []), nn.Linear(8, 3)))


def ends(method, flat):
    count = 4 if isinstance(method, BezierSurface) else 2
    rng = np.random.default_rng(5)
    return [(rng.standard_normal(flat.dimension) / 3).astype(np.float32) for _ in range(count)]


def connecting(method, data, **kind):
    """Return a function of progress and checkpointer that connects and gives everything that should be equal."""

    def run(progress, checkpointer):
        flat = network(**kind)
        given = ends(method, flat)
        family = method.family(len(given))
        outcome = method.run(flat, data, family, Start.between(family, given), progress, checkpointer)
        buffers = [b.numpy().tobytes() for b in flat.module.buffers()]
        return outcome.control_points.tobytes(), outcome.update, outcome.notes, buffers

    return run


TASK = task()
METHODS = {
    "sgd": BezierCurve(epochs=4, batch_size=16, weight_decay=1e-3),
    "nesterov": BezierCurve(epochs=4, batch_size=16, nesterov=True, weight_decay=1e-3, decay="control"),
    "adamw": PolygonalChain(bends=2, epochs=4, batch_size=16, optimizer="adamw", lr=0.01, weight_decay=0.1),
    "clipped": BezierCurve(bends=3, fixed=(2,), epochs=4, batch_size=16, clip=0.1, samples=2),
    "whole": BezierCurve(epochs=4, batch_size=13, batch="whole", samples=11, draw="lattice"),
    "arc": BezierCurve(bends=2, epochs=4, batch_size=16, measure="arc", gram_every=3, samples=2),
    "exact": BezierCurve(bends=2, epochs=4, batch_size=16, measure="arc", measure_gradient="exact", samples=2),
    "area": BezierSurface(epochs=2, batch_size=16, measure="area", gram_every=5, samples=4),
    "phases": BezierSurface(phases=("edges:2@0.05", "columns:2", "surface:2"), batch_size=16, samples=2),
    "train_only": BezierCurve(epochs=4, batch_size=16, train_only=("0.*",), measure="arc", gram_every=4),
    "cosine": BezierCurve(epochs=4, batch_size=39, schedule="cosine"),
}


@pytest.mark.parametrize("name", METHODS)
@given(
    kind=st.fixed_dictionaries({"normalised": st.booleans(), "dropout": st.sampled_from([0.0, 0.5])}),
    every=st.integers(1, 5),
    stops=st.lists(st.integers(1, 13), min_size=1, max_size=3),
)
@settings(max_examples=3 * MANY, deadline=None)
def test_a_connection_is_bit_identical(name, kind, every, stops):
    run = connecting(METHODS[name], TASK, **kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = run(silent, None)
        assert interrupted(run, every, stops) == whole


@pytest.mark.parametrize("stop", [3, 12, 13, 14, 30])
def test_it_stays_on_the_learning_rate_that_it_had_come_to(stop):
    """At lr 2000 the first attempts diverge: the attempt, its rate and its beginning are part of the state."""
    method = BezierSurface(phases=("edges:2@0.05", "surface:4@2e3"), batch_size=16, samples=2)
    run = connecting(method, TASK, normalised=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = run(silent, None)
        assert "began again" in " ".join(whole[2])
        assert interrupted(run, 1, [stop, 5]) == whole


def test_what_fails_fails_again_as_it_would_have():
    run = connecting(BezierCurve(epochs=4, batch_size=16, lr=1e28, momentum=0.0), TASK)
    messages = []
    for attempt in (lambda: run(silent, None), lambda: interrupted(run, 1, [4])):
        with pytest.warns(LearningRateWarning), pytest.raises(NonFiniteError) as failed:
            attempt()
        messages.append(str(failed.value))
    assert messages[0] == messages[1]


# What torch itself warns about while compiling is not ours.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("samples", [1, pytest.param(3, marks=pytest.mark.stress)])
def test_a_compiled_update_goes_on_compiled(samples):
    if not updates._compiler_works():
        pytest.skip("torch.compile does not work on this machine")
    method = BezierCurve(bends=2, epochs=4, batch_size=16, samples=samples, update="compiled", weight_decay=1e-3)
    run = connecting(method, TASK, normalised=True)
    whole = run(silent, None)
    assert whole[1] == "compiled"
    assert interrupted(run, 1, [3, 4]) == whole


@pytest.mark.parametrize("stops", [[2], [3], [4], [9], [3, 1, 7]])
def test_copies_of_epochs_are_kept_through_interruptions(stops):
    settings = TrainSettings(epochs=5, batch_size=16, keep=(1, 3), seed=2)

    def run(progress, checkpointer):
        checkpointer = checkpointer or InMemory()
        flat = network(normalised=True, dropout=0.3)

        def keep(_):
            checkpointer.append({"theta": flat.theta.numpy()})

        train_mode(flat, TASK, settings, collect=keep, progress=progress, checkpointer=checkpointer)
        kept = [checkpointer.appended(i)["theta"].tobytes() for i in range(checkpointer.count)]
        return flat.theta.numpy().tobytes(), [b.numpy().tobytes() for b in flat.module.buffers()], kept

    whole = run(silent, None)
    assert len(whole[2]) == 2
    for every in (1, 2, 5):
        assert interrupted(run, every, stops) == whole


def test_a_state_says_where_it_stands():
    checkpointer = InMemory(1)
    with pytest.raises(Stopped):
        connecting(METHODS["sgd"], TASK)(stop_at(5), checkpointer)
    assert checkpointer.last.where == "step 4 of 12 (curve)"
