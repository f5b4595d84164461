"""Metrics of one point: means over examples with their standard errors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mgraph.data.splits import Split
from mgraph.data.task import Task
from mgraph.errors import InputError, MGraphError
from mgraph.network.flat import FlatModel
from mgraph.network.precision import computing_in

SPLITS = ("train", "valid", "test")
LOSS = "loss"
_BATCH = 1000


@dataclass(frozen=True)
class Measured:
    """A mean over ``count`` examples; its standard error, if single examples were seen.

    The standard error is s/√count, that of the mean as an estimate for data like these. There is no correction
    for the size of the split: a subset's mean lies closer to the whole split's than it says.
    """

    value: float
    standard_error: float | None
    count: int

    @classmethod
    def of(cls, values: Tensor) -> Measured:
        """Average per-example values, shape (N,), in float64."""
        values = values.double()
        error = float(values.std(correction=1)) / len(values) ** 0.5 if len(values) > 1 else None
        return cls(float(values.mean()), error, len(values))


@dataclass(frozen=True)
class Subset:
    """Which examples of a split were used; ``name`` is 'all' or a hash of their indices."""

    name: str = "all"
    order: Tensor | None = None

    @classmethod
    def random(cls, available: int, examples: int | None, seed: int = 0) -> Subset:
        """Take a fixed random subset, sorted; all examples if None or more than there are."""
        if examples is None or examples >= available:
            return cls()
        order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:examples]
        order = order.sort().values
        return cls(hashlib.blake2b(order.numpy().tobytes(), digest_size=8).hexdigest(), order)


@dataclass(frozen=True)
class Metric:
    """A metric beside the task's own: ``function(outputs, targets)``.

    It is given batches and returns one value for each example; or, ``whole``, the whole split at once, on the CPU,
    and may return one number instead. ``identity`` tells functions of the same name apart: the hash of a user's
    code, None where that is not known.
    """

    name: str
    function: Callable[[Tensor, Tensor], Any]
    whole: bool = False
    identity: str | None = "built in"


def outputs(
    flat: FlatModel, split: Split, subset: Subset | None = None, precision: str = "fp32"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (outputs, targets) by batches at the present θ and statistics, in eval mode, without gradients.

    Outputs are of float32 or better, also where the network computes in less. Batches have 1000 examples, the last one
    fewer; where that would change a number, or one example is too few, they are as equal as can be.
    """
    flat.module.eval()
    order = subset.order if subset else None
    for x, y in split.batches(
        _batch_size(flat, len(split) if order is None else len(order)), order=order, device=flat.device
    ):
        with torch.no_grad(), computing_in(precision, flat.device):
            out = flat.module(flat.inputs(x))
        yield _widened(out), y


def _batch_size(flat: FlatModel, examples: int) -> int:
    if not flat.habits.equal_batches:
        return _BATCH
    if flat.habits.never_alone and examples == 1:
        raise InputError("The network takes at least 2 examples in a batch, also in evaluation, and there is only 1.")
    return -(-examples // -(-examples // _BATCH))


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
    """Measure the task's loss, its metrics, and further ones, of the point on a split (train, valid or test).

    A metric of the task that returns one number for the first batch is one of the whole split, and is given all of it
    at once. Non-finite values are returned as they are: whoever stores or compares them must see them. Raises
    InputError for a user's metric that fails, or returns neither one number nor one for each example.
    """
    losses: list[Tensor] = []
    by_batch = dict(task.metrics) | {m.name: m.function for m in metrics if not m.whole}
    at_once = [m for m in metrics if m.whole]
    values: dict[str, list[Tensor]] = {}
    sizes: list[float] = []  # of the batches, in examples whose labels count
    examples = 0
    everything: list[tuple[Tensor, Tensor]] = []
    for out, y in outputs(flat, getattr(task, split), subset, precision):
        size = task.weight(y)
        if task.example_loss is None and size:
            losses.append(task.loss(out, y).double().cpu())
            sizes.append(size)
        out, y = task.without_void(out, y)
        if not len(y):
            continue
        examples += len(y)
        if task.example_loss is not None:
            losses.append(task.example_loss(out, y).double().cpu())
        for name, metric in list(by_batch.items()):
            scores = _of_examples(name, metric, out, y)
            if scores.ndim == 0 and name not in values and len(y) > 1:
                at_once.append(Metric(name, by_batch.pop(name), whole=True))
            else:
                values.setdefault(name, []).append(scores.reshape(len(y)).double().cpu())
        if at_once:
            everything.append((out.cpu(), y.cpu()))
    if task.example_loss is not None:
        loss = Measured.of(torch.cat(losses))
    else:  # only batch means are known: weigh them by size, and claim no standard error
        mean = (
            sum(n * float(batch) for n, batch in zip(sizes, losses, strict=True)) / sum(sizes)
            if sizes
            else float("nan")
        )
        loss = Measured(mean, None, examples)
    found = {LOSS: loss} | {name: Measured.of(torch.cat(parts)) for name, parts in values.items()}
    if at_once:
        out, y = (torch.cat(parts) for parts in zip(*everything, strict=True))
        found |= {m.name: _of_a_whole_split(m, out, y) for m in at_once}
    return found


def check_metrics(task: Task, out: Tensor, y: Tensor) -> None:
    """Raise InputError for a metric of the task that fails on a few examples, or returns what is no metric."""
    for name, metric in task.metrics.items():
        _of_examples(name, metric, out, y)


def _of_examples(name: str, metric: Callable[[Tensor, Tensor], Any], out: Tensor, y: Tensor) -> Tensor:
    """Return what a metric says of a batch: one value for each example, or one number (then it is of all at once)."""
    try:
        values = torch.as_tensor(metric(out, y))
    except MGraphError:
        raise
    except Exception as error:  # the user's own code
        raise InputError(f"The metric {name} failed: {type(error).__name__}: {error}.") from error
    if values.is_complex() or (values.ndim and tuple(values.shape) != (len(y),)):
        raise InputError(
            f"The metric {name} returned {values.dtype} of shape {list(values.shape)} for {len(y)} examples; it must "
            f"return one real number, or one for each example."
        )
    return values


def _of_a_whole_split(metric: Metric, out: Tensor, y: Tensor) -> Measured:
    try:
        values = torch.as_tensor(metric.function(out, y))
    except MGraphError:
        raise
    except Exception as error:  # the user's own code
        raise InputError(f"The metric {metric.name} failed: {type(error).__name__}: {error}.") from error
    if values.ndim == 0 and not values.is_complex():
        return Measured(float(values), None, len(y))
    if tuple(values.shape) == (len(y),) and not values.is_complex():
        return Measured.of(values.cpu())
    raise InputError(
        f"The metric {metric.name} returned {values.dtype} of shape {list(values.shape)} for {len(y)} examples; it "
        f"must return one real number, or one for each example."
    )


def _widened(out: Any) -> Any:
    half = isinstance(out, Tensor) and out.dtype in (torch.bfloat16, torch.float16)
    return out.float() if half else out
