"""Metrics of one point: means over examples with their standard errors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mgraph.data.splits import Split
from mgraph.data.task import Task
from mgraph.errors import InputError
from mgraph.evaluate.regularised import RegularisedLoss
from mgraph.evaluate.running import Measured as Measured
from mgraph.evaluate.running import scaled, start, weights_of
from mgraph.fields import Fields, examples_in
from mgraph.metric import LOSS as THE_LOSS
from mgraph.metric import Metric
from mgraph.network.flat import FlatModel
from mgraph.network.precision import computing_in
from mgraph.specs import suggestion

SPLITS = ("train", "valid", "test")
LOSS = THE_LOSS.name
_BATCH = 1000


@dataclass(frozen=True)
class Subset:
    """Which examples of a split were used; ``name`` is 'all' or a hash of their indices."""

    name: str = "all"
    order: Tensor | None = None

    @classmethod
    def random(cls, available: int, examples: int | None, seed: int = 0) -> Subset:
        """Take a fixed random subset, sorted; all examples if None, or if there are no more than that."""
        if examples is None or examples >= available:
            return cls()
        order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:examples]
        order = order.sort().values
        return cls(hashlib.blake2b(order.numpy().tobytes(), digest_size=8).hexdigest(), order)


def check_splits(names: Sequence[str]) -> None:
    """Raise InputError for an unknown split, or if none is named."""
    if not names:
        raise InputError(f"At least one split is measured; choose from {', '.join(SPLITS)}.")
    for name in names:
        if name not in SPLITS:
            raise InputError(f"There is no split {name!r};{suggestion(name, SPLITS)} choose from {', '.join(SPLITS)}.")


def outputs(
    flat: FlatModel, split: Split, subset: Subset | None = None, precision: str = "fp32"
) -> Iterator[tuple[Any, Fields]]:
    """Yield (outputs, targets) by batches at the current θ and statistics, in eval mode, without gradients.

    Outputs are float32 or better, even if the network computes in less. Batches have 1000 examples (fewer if these are
    large), except the last; where a smaller last batch would change the results, or a single example is too few,
    batches are as equal as possible.
    """
    flat.module.eval()
    order = subset.order if subset else None
    size = _batch_size(flat, len(split) if order is None else len(order), split.batch_of(_BATCH))
    for x, y in split.batches(size, order=order, device=flat.device):
        with torch.no_grad(), computing_in(precision, flat.device):
            out = flat.run(x)
        yield _widened(out), y


def _batch_size(flat: FlatModel, examples: int, most: int) -> int:
    if not flat.habits.equal_batches:
        return most
    if flat.habits.never_alone and examples == 1:
        raise InputError("The network needs at least 2 examples in a batch, even in evaluation, and there is only 1.")
    return -(-examples // -(-examples // most))


@torch.no_grad()
def measure(
    flat: FlatModel,
    task: Task,
    split: str,
    subset: Subset | None = None,
    *,
    metrics: Sequence[Metric] = (),
    precision: str = "fp32",
) -> dict[str, Measured]:
    """Measure the task's loss, its metrics, and further ones, at the current point on a split (train, valid or test).

    Memory is bounded by one batch plus one number per example, as far as the metrics allow
    (:mod:`mgraph.evaluate.running`). Non-finite values are returned as they are, since code that stores or compares
    them must see them. Raises InputError for a user's metric that fails, or returns neither one number nor one per
    example.
    """
    examples = len(getattr(task, split)) if subset is None or subset.order is None else len(subset.order)
    of_outputs = [metric for metric in metrics if not isinstance(metric, RegularisedLoss)]
    found = judge(task, outputs(flat, getattr(task, split), subset, precision), examples, metrics=of_outputs)
    of_point = {m.name: m.at(flat.theta, found[LOSS]) for m in metrics if isinstance(m, RegularisedLoss)}
    return found | of_point


@dataclass(frozen=True)
class Judgement:
    """The result of one pass over a split: the numbers, and the scores of single examples.

    ``scores`` are by the task's primary metric, or else by its loss, shape (N,) in float64, and higher is better; the
    metric they are in comes with them. They are None if neither has a value per example. If examples count differently,
    scores are scaled so that their plain mean is the metric.
    """

    measured: dict[str, Measured]
    scores: tuple[Metric, Tensor] | None


@torch.no_grad()
def measure_with_scores(flat: FlatModel, task: Task, split: str) -> Judgement:
    """Measure the current point on a split as :func:`measure` does, and score its examples, in one pass."""
    data = task.splits[split]
    return _judged(task, outputs(flat, data), len(data), task.metrics)


def judge(
    task: Task, batches: Iterable[tuple[Any, Fields]], examples: int, *, metrics: Sequence[Metric] = ()
) -> dict[str, Measured]:
    """Measure outputs of any origin as :func:`measure` does: batches of (outputs, targets), ``examples`` in all."""
    return _judged(task, batches, examples, (*task.metrics, *metrics)).measured


@torch.no_grad()
def example_scores(task: Task, batches: Iterable[tuple[Any, Fields]], examples: int) -> tuple[Metric, Tensor] | None:
    """Return the scores of single examples, as in a :class:`Judgement`, without measuring anything else."""
    primary = task.primary
    return _judged(task, batches, examples, () if primary.name == LOSS else (primary,)).scores


def _judged(task: Task, batches: Iterable[tuple[Any, Fields]], examples: int, metrics: Sequence[Metric]) -> Judgement:
    running = {m.name: start(m, examples) for m in metrics}
    losses: list[Tensor] = []
    weights: list[Tensor] = []
    sizes: list[float] = []  # sizes of the batches, in examples whose labels count
    count = 0
    for out, y in batches:
        size = task.weight(y)
        if task.example_loss is None and size:
            losses.append(task.loss(out, y).double().cpu())
            sizes.append(size)
        out, y = task.without_void(out, y)
        if not examples_in(y):
            continue
        count += examples_in(y)
        if task.example_loss is not None:
            losses.append(task.example_loss(out, y).double().cpu())
            if task.example_weights is not None:
                weights.append(weights_of(task.example_weights, y))
        for metric in running.values():
            metric.add(out, y)
    scores = None
    if (primary := running.get(task.primary.name)) is not None and (found := primary.examples()) is not None:
        scores = task.primary, task.primary.sign * found
    if task.example_loss is not None and losses:
        each, counts = torch.cat(losses), torch.cat(weights) if weights else None
        loss = Measured.of(each, counts)
        scores = scores or (THE_LOSS, -scaled(each, counts))
    else:  # only batch means are known: weight them by size, and give no standard error
        mean = (
            sum(n * float(batch) for n, batch in zip(sizes, losses, strict=True)) / sum(sizes)
            if sizes
            else float("nan")
        )
        loss = Measured(mean, None, count)
    return Judgement({LOSS: loss} | {name: metric.result() for name, metric in running.items()}, scores)


@torch.no_grad()
def check_metrics(task: Task, out: Any, y: Fields) -> None:
    """Raise InputError for a metric of the task that fails on a few examples, or whose result is not a metric's."""
    for metric in task.metrics:
        running = start(metric, examples_in(y))
        running.add(out, y)
        running.result()


def _widened(out: Any) -> Any:
    half = isinstance(out, Tensor) and out.dtype in (torch.bfloat16, torch.float16)
    return out.float() if half else out
