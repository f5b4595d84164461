"""The training loop: batches, the schedules, progress, and the random streams of a run."""

import math

import pytest
import torch

from mgraph.data.splits import ArraySplit
from mgraph.errors import NonFiniteError
from mgraph.progress import Progress
from mgraph.train.loop import DivergedError, Streams, run_epochs
from mgraph.train.schedules import SCHEDULES, constant_schedule, cosine_schedule, curve_schedule


def run(count, batch_size, epochs=1, step=None, **further):
    """Return the batches, as lists of example numbers, and the learning rates."""
    split = ArraySplit(torch.arange(count).float()[:, None], torch.zeros(count, dtype=torch.int64))
    batches, rates = [], []

    def record(x, y, lr):
        batches.append(x[:, 0].int().tolist())
        rates.append(lr)
        return torch.tensor(1.0 if step is None else step(len(batches)))

    run_epochs(
        split,
        record,
        epochs=epochs,
        batch_size=batch_size,
        lr=2.0,
        order=torch.Generator().manual_seed(0),
        device=torch.device("cpu"),
        **further,
    )
    return batches, rates


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [
        (8, 4, [4, 4]),
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 4]),  # a last batch of one has no batch statistics
        (1, 4, [1]),
        (3, 8, [3]),
        (3, 1, [1, 1, 1]),  # asked for, so it is no leftover
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


def test_the_end_of_every_epoch_is_told():
    told = []
    run(20, 5, epochs=3, after_epoch=lambda epoch: told.append((epoch, len(seen))), report=(seen := []).append)
    assert told == [(1, 4), (2, 8), (3, 12)]


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
@pytest.mark.parametrize(("count", "per_epoch"), [(20, 5), (21, 5)])
def test_the_schedule_runs_over_all_steps(count, per_epoch, schedule):
    reports = []
    _, rates = run(count, 4, epochs=4, report=reports.append, phase="edge", schedule=schedule)
    total = 4 * per_epoch
    assert rates == [2.0 * schedule(i / total) for i in range(total)]
    assert reports == [Progress("edge", i, total, 1.0) for i in range(1, total + 1)]


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
        run(20, 4, epochs=2, step=lambda i: value if i >= 3 else 1.0)
    assert str(value) in str(error.value)
    assert isinstance(error.value, DivergedError)
    assert error.value.steps == 3


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
