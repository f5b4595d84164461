"""The training loop: batches, the schedule, progress, and the random streams of a run."""

import pytest
import torch

from mgraph.data.splits import ArraySplit
from mgraph.errors import NonFiniteError
from mgraph.train.loop import Progress, Streams, run_epochs
from mgraph.train.schedules import curve_schedule


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


def test_every_epoch_is_shuffled_anew():
    batches, _ = run(20, 20, epochs=3)
    assert len({tuple(b) for b in batches}) == 3


@pytest.mark.parametrize(("count", "per_epoch"), [(20, 5), (21, 5)])
def test_the_schedule_runs_over_all_steps(count, per_epoch):
    reports = []
    _, rates = run(count, 4, epochs=4, report=reports.append, phase="edge")
    total = 4 * per_epoch
    assert rates == [2.0 * curve_schedule(i / total) for i in range(total)]
    assert reports == [Progress("edge", i, total, 1.0) for i in range(1, total + 1)]


def test_the_schedule_is_constant_then_linear_then_one_percent():
    assert [curve_schedule(p) for p in (0.0, 0.49, 0.5)] == [1.0] * 3
    assert curve_schedule(0.7) == pytest.approx((1 + 0.01) / 2)
    assert curve_schedule(0.9 - 1e-12) == pytest.approx(0.01)
    assert [curve_schedule(p) for p in (0.9, 0.999)] == [0.01] * 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_stops_at_its_step(value):
    with pytest.raises(NonFiniteError, match=r"step 3 of 10 \(train\)") as error:
        run(20, 4, epochs=2, step=lambda i: value if i >= 3 else 1.0)
    assert str(value) in str(error.value)


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
